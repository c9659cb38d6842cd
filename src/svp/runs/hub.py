"""Sharing an adapter on the Hugging Face Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from svp.errors import InputError
from svp.hub import HubError, check_name, endpoint, explained, is_on_hub
from svp.runs.directory import RunDirectory
from svp.runs.model_card import make_card
from svp.tuners import AdapterInfo, get_methods, load_adapter
from svp.tuners.peft_files import write_peft


@dataclass(frozen=True)
class Pushed:
    """What was sent, or would be.

    Args:
        repo: OWNER/NAME.
        files: Contents by name; the card is README.md.
        url: Page of the commit; None if nothing was sent.
    """

    repo: str
    files: dict[str, bytes]
    url: str | None = None

    @property
    def card(self) -> str:
        """The model card."""
        return self.files["README.md"].decode()


def push_to_hub(
    run: str | Path,
    repo: str,
    *,
    private: bool = False,
    with_peft: bool = False,
    dry_run: bool = False,
    token: str | None = None,
) -> Pushed:
    """Put the adapter pair of a run and a model card on the Hugging Face Hub: what ``svp hub push`` does.

    Nothing else of the run is sent: no images, no names of files, no settings but those in the card. The repository is made
    if need be. `$HF_ENDPOINT` names another Hub.

    Args:
        run: Run directory, or any directory with an adapter pair.
        repo: OWNER/NAME.
        private: Make a new repository a private one; one that is there stays as it is.
        with_peft: Send the adapter in PEFT's files besides, see ``svp.tuners.peft_files``.
        dry_run: Send nothing, and ask the Hub nothing.
        token: Token with the right to write; that of `hf auth login` or `$HF_TOKEN` if None.

    Raises:
        RunError: The run is not finished.
        WeightsError: There is no adapter, or it is damaged.
        InputError: `repo` is no name; others could not load the adapter; PEFT cannot express it.
        HubError: No token, no permission, no network.
    """
    check_name(repo)
    if is_on_hub(run):
        raise InputError(f"{run} is on the Hub already: name a run directory")
    place = RunDirectory(Path(run))
    info = place.read_adapter()
    result = place.read_result() if place.config_file.is_file() or place.result_file.is_file() else None
    files = {
        "README.md": make_card(info, result, repo, with_peft).encode(),
        "adapter.json": _description(place.path, info),
        "adapter.safetensors": (place.path / "adapter.safetensors").read_bytes(),
    }
    if with_peft:
        with TemporaryDirectory() as folder:
            write_peft(load_adapter(place.path), folder)
            files |= {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}
    if dry_run:
        return Pushed(repo, files)
    return Pushed(repo, files, _send(repo, files, private, token))


def _description(folder: Path, info: AdapterInfo) -> bytes:
    """``adapter.json`` without a path of this machine.

    Raises:
        InputError: The backbone's weights are in a file that nobody else has.
    """
    content = (folder / "adapter.json").read_bytes()
    weights = info.backbone.weights
    if weights in ("published", "random"):
        return content
    if not any(method.self_contained for method in get_methods(info.method)):
        raise InputError(
            f"the adapter needs the backbone's weights in {weights}, which others do not have: only adapters on published or "
            "random weights, or of the method full, can be shared"
        )
    values = json.loads(content)
    values["backbone"]["weights"] = Path(weights).name
    return (json.dumps(values, indent=2) + "\n").encode()


def _send(repo: str, files: dict[str, bytes], private: bool, token: str | None) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    token = token or get_token()
    if not token:
        raise HubError("there is no token for the Hugging Face Hub: log in by `hf auth login`, or set HF_TOKEN")
    hub = HfApi(endpoint=endpoint(), token=token, library_name="svp")
    with explained(repo):
        if not hub.repo_exists(repo):
            hub.create_repo(repo, private=private or None, exist_ok=True)
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = hub.create_commit(repo, additions, commit_message="Upload an adapter of svp")
    return commit.commit_url
