"""``svp models``."""

from __future__ import annotations

from pathlib import Path

from svp.commands import COMMANDS
from svp.commands.parsing import Parser, UsageError, add_action, run_action


def run(argv: list[str]) -> int:
    parser = Parser(prog="svp models", description=COMMANDS["models"].capitalize() + ".")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add_action(actions, "list", _list_models, "the backbones that --model takes")
    add_action(actions, "info", _describe_model, "a backbone's size, weights, accuracy and terms", "NAME")
    add_action(actions, "convert", _convert, "write a .pth checkpoint as .safetensors beside it", "FILE")
    return run_action(parser, argv)


def _list_models() -> None:
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


def _describe_model(name: str) -> None:
    from svp.models import model_info

    info = model_info(name)
    top1 = "not known" if info.imagenet_top1 is None else f"{info.imagenet_top1} % (published)"
    lines = {
        "name": info.name,
        "aliases": ", ".join(info.aliases) or "none",
        "parameters": f"{info.parameters:,}",
        "input": f"{info.img_size} x {info.img_size} pixels",
        "weights": info.weights,
        "sha256": info.sha256 or "checked against the Hub's own",
        "accuracy": f"ImageNet-1k top-1 {top1}",
        "license": info.license,
        "source": info.source,
    }
    print("\n".join(f"{key:11s} {text}" for key, text in lines.items()))


def _convert(name: str) -> None:
    from safetensors.torch import save_file

    from svp.models import read_weights
    from svp.paths import write_atomically

    source = Path(name)
    target = source.with_suffix(".safetensors")
    if target.exists():
        raise UsageError(f"{target} exists already")
    state = {name: tensor.contiguous() for name, tensor in read_weights(source).items()}
    write_atomically(target, lambda path: save_file(state, path))
    print(f"{len(state)} tensors written to {target}")
