"""The ``svp`` command: parses, calls, prints. Heavy imports wait for the command that needs them."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import jsonargparse
    from rich.console import Console
    from rich.table import Table

COMMANDS = {
    "train": "train an adapter on a folder of images",
    "eval": "score a trained adapter",
    "predict": "classify images with a trained adapter",
    "demo": "adapt a small Vim to handwritten digits, in about a minute, without network",
    "data": "list, describe and fetch data sets, check a folder of images",
    "models": "list and describe backbones, convert weights",
}

HELP = """usage: svp COMMAND ...

Adapt Vision Mamba (Vim) image models to your own images with few trained parameters.

{commands}

  svp train --data my_photos               one folder of images per class in my_photos/
  svp predict runs/RUN new_photos/         the classes of new images
  svp COMMAND --help                       options of a command
"""


class UsageError(Exception):
    """The command line is wrong; the message says what is right."""


class _Parser(argparse.ArgumentParser):
    """Takes options in full only, and leaves it to `main` to tell what is wrong."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 could not be done (or not wholly), 2 wrong usage."""
    # before PyTorch loads: threads that wait must not spin, or two busy programs stop each other
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text: print them nevertheless
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:9s} {text}" for name, text in COMMANDS.items())), end="")
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from svp import __version__

        print(f"svp {__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"svp: unknown command {command!r}; known: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    run: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "eval": _eval,
        "predict": _predict,
        "demo": _demo,
        "data": _data,
        "models": _models,
    }
    try:
        return run[command](rest)
    except KeyboardInterrupt:
        print("\nsvp: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away: nobody to tell
        return 1
    except UsageError as error:
        print(f"svp {command}: {error}\nsee svp {command} --help", file=sys.stderr)
        return 2
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("SVP_TRACEBACK"):
            raise
        print(f"svp {command}: error: {error}", file=sys.stderr)
        return 1


def _train(argv: list[str]) -> int:
    from svp.training.config import make_config, make_parser, merge_settings
    from svp.training.loop import train
    from svp.tuners import list_methods

    argv = _spelled_out(argv)
    first = _Parser(add_help=False)  # what decides which options there are
    for option in ("--config", "--out", "--recipe", "--resume", "--method.name"):
        first.add_argument(option)
    known = vars(first.parse_known_args(argv)[0])
    config_file = known["config"]
    if config_file is None and known["out"] and known["resume"] in ("true", "True"):
        saved = Path(known["out"]) / "config.yaml"  # `svp train --out RUN --resume` needs nothing more
        config_file = str(saved) if saved.is_file() else None
    named = {"method": known["method.name"], "recipe": known["recipe"]}
    settings = merge_settings({name: value for name, value in named.items() if value is not None}, config_file)
    method = settings["method"]["name"]
    if method not in list_methods():
        raise UsageError(f"unknown method {method!r}; known: {', '.join(list_methods())}")
    parser = make_parser(method)
    parser.add_argument("--config", help="YAML file of settings, such as a run's config.yaml; options given here win.")
    values = _parse(parser, argv)
    values.pop("config", None)
    config = make_config(values, config_file)
    try:
        train(config=config)
    except KeyboardInterrupt:
        where = config.out or "the run directory"
        print(f"\nsvp train: interrupted; go on with svp train --out {where} --resume", file=sys.stderr)
        return 130
    return 0


def _eval(argv: list[str]) -> int:
    parser = _Parser(prog="svp eval", description="Score a trained adapter.")
    parser.add_argument("run", metavar="RUN", help="run directory of `svp train`")
    parser.add_argument("--data", metavar="DIR", help="folder of class folders; the run's own test images if left out")
    _add_device_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    values = vars(parser.parse_args(argv))
    as_json = values.pop("json")
    from svp.training.use import evaluate

    scores = evaluate(**values)
    if not _is_first_process():
        return 0
    if as_json:
        print(_to_json(scores))
    else:
        _print_scores(scores)
    return 0


def _print_scores(scores: dict[str, Any]) -> None:
    from svp.terminal import make_console, make_table

    console = make_console()
    console.print(f"{scores['run']} on {scores['data']}", style="bold")
    if scores.get("how_chosen"):
        console.print(f"epoch chosen: {scores['how_chosen']}")
    table = make_table("class", "images", "accuracy", right=("images", "accuracy"))
    for name, row in scores["per_class"].items():
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
        table.add_row(name, str(row["n"]), accuracy)
    table.add_section()
    table.add_row("all, top-1", str(scores["n_test"]), f"{scores['top1']:.2%}")
    table.add_row("all, top-5", str(scores["n_test"]), f"{scores['top5']:.2%}")
    console.print(table)
    for image in scores["unreadable_test_images"]:
        print(f"warning: cannot read {image['path']}, counted as wrong: {image['reason']}", file=sys.stderr)


def _predict(argv: list[str]) -> int:
    parser = _Parser(prog="svp predict", description="Classify images with a trained adapter.")
    parser.add_argument("run", metavar="RUN", help="run directory of `svp train`")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="images, and folders of images (searched recursively)")
    parser.add_argument("--topk", type=int, default=5, metavar="N", help="classes per image (default: 5)")
    parser.add_argument("--format", default="table", choices=["table", "json", "csv"], help="of the output (default: table)")
    parser.add_argument("--out", metavar="FILE", help="write to this file instead of the screen")
    _add_device_options(parser)
    values = vars(parser.parse_args(argv))
    form, out = values.pop("format"), values.pop("out")
    target = Path(out).resolve() if out else None
    if target and not target.parent.is_dir():
        raise UsageError(f"--out {out}: the folder {target.parent} does not exist")
    if target and target.exists() and not target.is_file():
        raise UsageError(f"--out {out} exists and is no ordinary file; expected the name of a file to write")
    from svp.terminal import make_console
    from svp.training.use import predict

    with _progress("predicting") as progress:
        predictions = list(predict(**values, progress=progress))
    if not _is_first_process():
        return 0
    if form == "table":
        text = _as_text(_prediction_table(predictions), make_console(io.StringIO() if target else None))
    else:
        text = {"json": _as_json, "csv": _as_csv}[form](predictions)
    if target:
        from svp.paths import write_atomically

        write_atomically(target, lambda path: path.write_text(text, "utf-8", errors="backslashreplace", newline=""))
        print(f"{len(predictions)} predictions written to {out}")
    else:
        sys.stdout.write(text)
    failed = [p for p in predictions if p.error]
    for prediction in failed:
        print(f"svp predict: cannot read {prediction.path}: {prediction.error}", file=sys.stderr)
    return 1 if failed else 0


def _as_json(predictions: Sequence[Any]) -> str:
    return _to_json([{**asdict(p), "path": str(p.path)} for p in predictions]) + "\n"


def _as_csv(predictions: Sequence[Any]) -> str:
    import csv

    topk = max((len(p.classes) for p in predictions), default=0)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["path", *(f"{kind}_{k + 1}" for k in range(topk) for kind in ("class", "probability")), "error"])
    for p in predictions:
        pairs = list(zip(p.classes, (f"{value:.6f}" for value in p.probabilities), strict=True))
        pairs += [("", "")] * (topk - len(pairs))
        writer.writerow([p.path, *(cell for pair in pairs for cell in pair), p.error or ""])
    return buffer.getvalue()


def _prediction_table(predictions: Sequence[Any]) -> Table:
    from svp.terminal import make_table

    topk = max((len(p.classes) for p in predictions), default=1)
    table = make_table("image", *(f"{k + 1}." for k in range(topk)))
    for p in predictions:
        cells = [f"{name} {value:.1%}" for name, value in zip(p.classes, p.probabilities, strict=True)]
        table.add_row(str(p.path), *(cells or [f"unreadable: {p.error}"]))
    return table


def _as_text(table: Table, console: Console) -> str:
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def _demo(argv: list[str]) -> int:
    parser = _Parser(prog="svp demo", description=COMMANDS["demo"].capitalize() + ".")
    parser.add_argument("--out", metavar="DIR", default="runs/demo", help="written anew (default: runs/demo)")
    values = vars(parser.parse_args(argv))
    from svp.demo import demo

    demo(**values)
    return 0


def _data(argv: list[str]) -> int:
    parser = _Parser(prog="svp data", description=COMMANDS["data"].capitalize() + ".")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_action(actions, "list", _list_data, "the data sets that --data takes by name")
    _add_action(actions, "info", _describe_data, "where a data set comes from, its size and terms", "NAME")
    fetch = _add_action(actions, "fetch", _fetch_data, "make or fetch a data set, print its folder", "NAME")
    check = _add_action(actions, "check", _check_data, "decode every image, name those that cannot be read", "FOLDER_OR_NAME")
    for action in (fetch, check):
        action.add_argument("--data-root", metavar="DIR", help="where named data sets lie ($SVP_HOME/data if left out)")
    check.add_argument("--json", action="store_true", help="print JSON instead of text")
    return _run_action(parser, argv)


def _list_data() -> None:
    from svp.data import dataset_info, list_datasets
    from svp.terminal import make_console, make_table

    table = make_table("name", "classes", "images", "title", right=("classes", "images"))
    for row in map(dataset_info, list_datasets()):
        table.add_row(row.name, str(row.classes), f"{row.images:,}", row.title)
    make_console().print(table)


def _describe_data(name: str) -> None:
    from svp.data import dataset_info

    row = dataset_info(name)
    for key in ("name", "title", "classes", "images", "source", "license"):
        print(f"{key:9s} {getattr(row, key)}")


def _fetch_data(name: str, data_root: str | None) -> None:
    from svp.data import dataset_info, open_data

    print(open_data(dataset_info(name).name, data_root).root.resolve())


def _check_data(name: str, data_root: str | None, json: bool) -> int:
    from svp.data import check_unreadable, find_unreadable, open_data

    data = open_data(name, data_root)
    if not json:
        print(data.summary())
    parts = {"train": data.train, "val": data.val, "test": data.test}
    paths = [path for split in parts.values() for path in split.paths]
    with _progress("decoding") as progress:
        unreadable = find_unreadable(paths, lambda done: progress(done, len(paths)))
    if json:
        found = {
            "name": data.name,
            "root": str(data.root),
            "classes": data.class_names,
            "images": {part: len(split) for part, split in parts.items()},
            "origin": {part: split.origin for part, split in parts.items()},
            "ignored": [str(path) for path in data.ignored],
            "unreadable": [{"path": str(image.path), "reason": image.reason} for image in unreadable],
        }
        print(_to_json(found))
    else:
        for image in unreadable:
            print(f"unreadable: {image.path}: {image.reason}", file=sys.stderr)
    check_unreadable(data, unreadable)
    if not json:
        print(f"{len(paths) - len(unreadable)} of {len(paths)} images can be read")
    return 1 if unreadable else 0


def _models(argv: list[str]) -> int:
    parser = _Parser(prog="svp models", description=COMMANDS["models"].capitalize() + ".")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_action(actions, "list", _list_models, "the backbones that --model takes")
    _add_action(actions, "info", _describe_model, "a backbone's size, weights, accuracy and terms", "NAME")
    _add_action(actions, "convert", _convert, "write a .pth checkpoint as .safetensors beside it", "FILE")
    return _run_action(parser, argv)


def _list_models() -> None:
    from svp.models import list_models, model_info
    from svp.terminal import make_console, make_table

    numbers = ("parameters", "pixels", "ImageNet top-1")
    table = make_table("name", "short", *numbers, "weights", right=numbers)
    for info in map(model_info, list_models()):
        short = info.aliases[0] if info.aliases else ""
        top1 = "" if info.imagenet_top1 is None else f"{info.imagenet_top1} %"
        table.add_row(info.name, short, f"{info.parameters / 1e6:.1f} M", str(info.img_size), top1, info.weights)
    make_console().print(table)


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


# helpers ---------------------------------------------------------------------------------------------------------------


def _parse(parser: jsonargparse.ArgumentParser, argv: list[str]) -> dict[str, Any]:
    """The nested values given; --help prints option names as they are documented, with dashes."""
    if "-h" in argv or "--help" in argv:
        print(
            re.sub(r"(--\w+)", lambda m: m[1].replace("_", "-"), parser.format_help()).replace(
                "--method.name NAME", "--method NAME"
            ),
            end="",
        )
        raise SystemExit(0)
    try:
        values: dict[str, Any] = parser.parse_args(argv, defaults=False).as_dict()
    except argparse.ArgumentError as error:
        raise UsageError(re.sub(r"\s+", " ", str(error))) from error
    return values


def _spelled_out(argv: Sequence[str]) -> list[str]:
    """Options as jsonargparse knows them: with underscores, ``--method NAME`` as ``--method.name``, flags with a value."""
    flags = ("--resume", "--grad_checkpointing")
    spelled: list[str] = []
    for position, word in enumerate(argv):
        if not word.startswith("--") or word == "--":
            spelled.append(word)
            continue
        option, equals, value = word.partition("=")
        option = "--" + option[2:].replace("-", "_")
        option = "--method.name" if option == "--method" else option
        spelled.append(option + equals + value)
        following = argv[position + 1] if position + 1 < len(argv) else ""
        if option in flags and not equals and following.lower() not in ("true", "false"):
            spelled.append("true")
    return spelled


def _add_device_options(parser: _Parser) -> None:
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at a time (default: 32)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto takes a GPU if there is one")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="auto is bf16 on a GPU")


def _add_action(actions: Any, name: str, run: Callable[..., int | None], text: str, argument: str | None = None) -> _Parser:
    parser: _Parser = actions.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    if argument:
        parser.add_argument("name", metavar=argument)
    return parser


def _run_action(parser: _Parser, argv: list[str]) -> int:
    values = vars(parser.parse_args(argv))
    return values.pop("run")(**values) or 0


def _is_first_process() -> bool:
    """Of those that torchrun or ``accelerate launch`` started; the others print and write nothing."""
    return os.environ.get("RANK", "0") == "0"


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=2)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal's error stream, so that the output itself stays clean; nothing where there is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (console.is_terminal and _is_first_process())) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    sys.exit(main())
