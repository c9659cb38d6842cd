"""``svp hub``."""

from __future__ import annotations

from collections.abc import Callable

from svp.commands import COMMANDS
from svp.commands.parsing import run_action


def run(argv: list[str]) -> int:
    actions: dict[str, Callable[..., int | None]] = {"push": push}
    return run_action(actions, "svp hub", f"{COMMANDS['hub'].capitalize()}.", argv)


def push(run: str, repo: str, *, private: bool = False, peft: bool = False, dry_run: bool = False) -> None:
    """Put a trained adapter on the Hugging Face Hub, with a model card.

    The token is that of `hf auth login`, or HF_TOKEN. Others use the adapter as hf-hub:OWNER/NAME wherever a run is named.

    Args:
        run: Run directory of `svp train`.
        repo: OWNER/NAME; made if it is not there.
        private: Make a new repository a private one.
        peft: Send the adapter in the files of PEFT besides (lora, dora, lora_partial).
        dry_run: Show what would be sent, and send nothing.
    """
    from svp.runs.hub import push_to_hub

    pushed = push_to_hub(run, repo, private=private, with_peft=peft, dry_run=dry_run)
    print(f"{'would be sent' if dry_run else 'sent'} to {repo}:")
    for name, content in pushed.files.items():
        print(f"  {name:26s}{len(content):12,} bytes")
    if dry_run:
        print(f"\nREADME.md:\n\n{pushed.card}", end="")
    else:
        print(f"at {pushed.url}\nnext: svp predict hf-hub:{repo} IMAGE_OR_FOLDER")
