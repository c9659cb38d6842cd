"""``svp models``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from svp.commands import COMMANDS, UsageError
from svp.commands.parsing import run_action


def run(argv: list[str]) -> int:
    actions: dict[str, Callable[..., int | None]] = {"list": list_backbones, "info": describe, "convert": convert}
    return run_action(actions, "svp models", f"{COMMANDS['models'].capitalize()}.", argv)


def list_backbones() -> None:
    """List the backbones that --model takes."""
    from svp.models import list_models, model_info
    from svp.terminal import make_console, make_table

    numbers = ("parameters", "pixels", "top-1")
    table = make_table("name", "short", *numbers, right=numbers)
    for info in map(model_info, list_models()):
        short = info.aliases[0] if info.aliases else ""
        top1 = "" if info.imagenet_top1 is None else f"{info.imagenet_top1} %"
        table.add_row(info.name, short, f"{info.parameters / 1e6:.1f} M", str(info.img_size), top1)
    console = make_console()
    console.print(table)
    console.print("top-1 on ImageNet as published; where the weights come from and their terms: svp models info NAME")


def describe(name: str) -> None:
    """Describe a backbone: its size, weights, accuracy and terms.

    Args:
        name: Name of the backbone or its short form, and after a dot the tag of its weights if they are not the default.
    """
    from svp.models import model_info

    info = model_info(name)
    accuracy = {} if info.imagenet_top1 is None else {"accuracy": f"ImageNet-1k top-1 {info.imagenet_top1} % (published)"}
    lines = {
        "name": info.name,
        "aliases": ", ".join(info.aliases) or "none",
        "parameters": f"{info.parameters:,}",
        "compute": f"{count_flops(info.name) / 1e9:.2f} GFLOPs per image, a multiplication and an addition counted as two",
        "input": f"{info.img_size} x {info.img_size} pixels",
        "weights": info.weights,
        "tags": ", ".join(info.tags) or "none",
        "sha256": info.sha256 or "checked against the Hub's own",
        **accuracy,
        "license": info.license,
        "source": info.source,
    }
    print("\n".join(f"{key:11s} {text}" for key, text in lines.items()))


def count_flops(name: str) -> int:
    """Floating point operations of a backbone for one image of its own size, counted by PyTorch without any arithmetic."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from svp.models import create_model

    model = create_model(name, device="meta").eval()
    height, width = model.patch_embed.img_size
    counter = FlopCounterMode(display=False)
    # PyTorch counts attention in its parts only
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model.to_empty(device="cpu")
        model(torch.empty(1, 3, height, width))
    return counter.get_total_flops()


def convert(file: str) -> None:
    """Write a .pth checkpoint as .safetensors beside it.

    Args:
        file: Checkpoint to read.
    """
    from safetensors.torch import save_file

    from svp.models import read_weights
    from svp.paths import write_atomically

    source = Path(file)
    target = source.with_suffix(".safetensors")
    if target.exists():
        raise UsageError(f"{target} exists already")
    state = {name: tensor.contiguous() for name, tensor in read_weights(source).items()}
    write_atomically(target, lambda path: save_file(state, path))
    print(f"{len(state)} tensors written to {target}")
