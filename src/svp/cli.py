"""The ``svp`` command: parses, calls, prints. Heavy imports wait for the command that needs them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

COMMANDS = {
    "train": "train an adapter on a folder of images",
    "eval": "score a trained adapter",
    "predict": "classify images with a trained adapter",
    "demo": "adapt a small Vim to handwritten digits, in about a minute, without network",
    "data": "list and describe data sets, check a folder of images",
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 could not be done (or not wholly), 2 wrong usage."""
    # before PyTorch loads: threads that wait must not spin, or two busy programs stop each other
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
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
    from svp.training.config import make_config, make_parser, read_recipe, read_yaml
    from svp.training.loop import train
    from svp.tuners import list_methods

    argv = _spelled_out(argv, flags=("--resume", "--grad_checkpointing"))
    config_file = _value_of(argv, "--config")
    out = _value_of(argv, "--out")
    if config_file is None and out and "--resume" in argv and (Path(out) / "config.yaml").is_file():
        config_file = str(Path(out) / "config.yaml")  # `svp train --out RUN --resume` needs nothing more
    settings = read_yaml(config_file) if config_file else {}
    recipe = _value_of(argv, "--recipe") or settings.get("recipe")
    sources = [{"method": _value_of(argv, "--method.name")}, settings, read_recipe(recipe) if recipe else {}]
    method = next((name for name in map(_method_name, sources) if name), "svp")  # its options are parsed too
    if method not in list_methods():
        raise UsageError(f"unknown method {method!r}; known: {', '.join(list_methods())}")
    parser = make_parser(method)
    parser.add_argument("--config", help="YAML file of settings, such as a run's config.yaml; options given here win.")
    values = _parse(parser, argv, defaults=False)
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
    from jsonargparse import ArgumentParser

    from svp.training.use import evaluate

    parser = ArgumentParser(prog="svp eval", description="Score a trained adapter.", exit_on_error=False)
    parser.add_argument("run", help="run directory of `svp train`")
    parser.add_argument("--data", type=str | None, help="folder of class folders; the run's own test images if left out")
    _add_device_options(parser)
    parser.add_argument("--json", type=bool, default=False, help="print JSON instead of a table")
    values = _parse(parser, _spelled_out(argv, flags=("--json",)))
    as_json = values.pop("json")
    scores = evaluate(**values)
    if as_json:
        print(json.dumps(scores, indent=2))
    else:
        _print_scores(scores)
    return 0


def _print_scores(scores: dict[str, Any]) -> None:
    table = _table("class", "images", "accuracy", title=f"{scores['run']} on {scores['data']}")
    for name, row in scores["per_class"].items():
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
        table.add_row(name, str(row["n"]), accuracy)
    table.add_section()
    table.add_row("all, top-1", str(scores["n_test"]), f"{scores['top1']:.2%}")
    table.add_row("all, top-5", str(scores["n_test"]), f"{scores['top5']:.2%}")
    _console().print(table)
    for image in scores["unreadable_test_images"]:
        print(f"warning: cannot read {image['path']}, counted as wrong: {image['reason']}", file=sys.stderr)


def _predict(argv: list[str]) -> int:
    from jsonargparse import ArgumentParser

    from svp.training.use import predict

    parser = ArgumentParser(prog="svp predict", description="Classify images with a trained adapter.", exit_on_error=False)
    parser.add_argument("run", help="run directory of `svp train`")
    parser.add_argument("paths", nargs="+", type=str, help="images, and folders of images (searched recursively)")
    parser.add_argument("--topk", type=int, default=5, help="classes per image")
    parser.add_argument("--format", default="table", choices=["table", "json", "csv"], help="of the output")
    parser.add_argument("--out", type=str | None, help="write to this file instead of the screen")
    _add_device_options(parser)
    values = _parse(parser, _spelled_out(argv))
    form, out = values.pop("format"), values.pop("out")
    if out and not Path(out).resolve().parent.is_dir():
        raise UsageError(f"--out {out}: the folder {Path(out).resolve().parent} does not exist")
    with _progress("predicting") as progress:
        predictions = list(predict(**values, progress=progress))
    text = {"table": _as_table, "json": _as_json, "csv": _as_csv}[form](predictions)
    if out:
        from svp.paths import write_atomically

        write_atomically(Path(out), lambda path: path.write_text(text, encoding="utf-8", newline=""))
        print(f"{len(predictions)} predictions written to {out}")
    else:
        sys.stdout.write(text)
    failed = [p for p in predictions if p.error]
    for prediction in failed:
        print(f"svp predict: cannot read {prediction.path}: {prediction.error}", file=sys.stderr)
    return 1 if failed else 0


def _as_json(predictions: Sequence[Any]) -> str:
    return json.dumps([{**asdict(p), "path": str(p.path)} for p in predictions], indent=2) + "\n"


def _as_csv(predictions: Sequence[Any]) -> str:
    import csv
    import io

    topk = max((len(p.classes) for p in predictions), default=0)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["path", *(f"{kind}_{k + 1}" for k in range(topk) for kind in ("class", "probability")), "error"])
    for p in predictions:
        pairs = list(zip(p.classes, (f"{value:.6f}" for value in p.probabilities), strict=True))
        pairs += [("", "")] * (topk - len(pairs))
        writer.writerow([p.path, *(cell for pair in pairs for cell in pair), p.error or ""])
    return buffer.getvalue()


def _as_table(predictions: Sequence[Any]) -> str:
    topk = max((len(p.classes) for p in predictions), default=1)
    table = _table("image", *(f"{k + 1}." for k in range(topk)))
    for p in predictions:
        cells = [f"{name} {value:.1%}" for name, value in zip(p.classes, p.probabilities, strict=True)]
        table.add_row(str(p.path), *(cells or [f"unreadable: {p.error}"]))
    console = _console()
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def _demo(argv: list[str]) -> int:
    from jsonargparse import ArgumentParser

    from svp.demo import demo

    parser = ArgumentParser(prog="svp demo", description=COMMANDS["demo"].capitalize() + ".", exit_on_error=False)
    parser.add_argument("--out", type=str, default="runs/demo", help="folder of the demo's runs; written anew")
    demo(**_parse(parser, _spelled_out(argv)))
    return 0


def _data(argv: list[str]) -> int:
    from svp.data import check_unreadable, dataset_info, find_unreadable, list_datasets, open_data

    action, rest = _action(argv, {"list": 0, "info": 1, "check": 1})
    if action == "list":
        table = _table("name", "classes", "images", "title")
        for row in map(dataset_info, list_datasets()):
            table.add_row(row.name, str(row.classes), f"{row.images:,}", row.title)
        _console().print(table)
        return 0
    if action == "info":
        row = dataset_info(rest[0])
        for name in ("name", "title", "classes", "images", "source", "license"):
            print(f"{name:9s} {getattr(row, name)}")
        return 0
    data = open_data(rest[0])
    print(data.summary())
    with _progress("decoding") as progress:
        paths = [*data.train.paths, *data.val.paths, *data.test.paths]
        unreadable = find_unreadable(paths, lambda done: progress(done, len(paths)))
    for image in unreadable:
        print(f"unreadable: {image.path}: {image.reason}", file=sys.stderr)
    check_unreadable(data, unreadable)
    print(f"{len(paths) - len(unreadable)} of {len(paths)} images can be read")
    return 1 if unreadable else 0


def _models(argv: list[str]) -> int:
    from svp.models import list_models, model_info

    action, rest = _action(argv, {"list": 0, "info": 1, "convert": 1})
    if action == "list":
        table = _table("name", "short", "parameters", "pixels", "ImageNet top-1", "weights")
        for info in map(model_info, list_models()):
            top1 = "" if info.imagenet_top1 is None else f"{info.imagenet_top1} %"
            table.add_row(
                info.name,
                *info.aliases[:1] or [""],
                f"{info.parameters / 1e6:.1f} M",
                str(info.img_size),
                top1,
                info.weights,
            )
        _console().print(table)
        return 0
    if action == "info":
        info = model_info(rest[0])
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
        print("\n".join(f"{name:11s} {text}" for name, text in lines.items()))
        return 0
    return _convert(Path(rest[0]))


def _convert(source: Path) -> int:
    from safetensors.torch import save_file

    from svp.models import read_weights
    from svp.paths import write_atomically

    target = source.with_suffix(".safetensors")
    if target.exists():
        raise UsageError(f"{target} exists already")
    state = {name: tensor.contiguous() for name, tensor in read_weights(source).items()}
    write_atomically(target, lambda path: save_file(state, path))
    print(f"{len(state)} tensors written to {target}")
    return 0


# helpers ---------------------------------------------------------------------------------------------------------------


def _parse(parser: ArgumentParser, argv: list[str], defaults: bool = True) -> dict[str, Any]:
    """Parse into nested plain values; --help prints option names as they are documented, with dashes."""
    from argparse import ArgumentError

    if "-h" in argv or "--help" in argv:
        print(
            re.sub(r"(--\w+)", lambda m: m[1].replace("_", "-"), parser.format_help()).replace(
                "--method.name NAME", "--method NAME"
            ),
            end="",
        )
        raise SystemExit(0)
    try:
        values: dict[str, Any] = parser.parse_args(argv, defaults=defaults).as_dict()
    except ArgumentError as error:
        raise UsageError(re.sub(r"\s+", " ", str(error))) from error
    return values


def _spelled_out(argv: Sequence[str], flags: Sequence[str] = ()) -> list[str]:
    """Options as the parser knows them: dashes to underscores, ``--method NAME`` to ``--method.name``, flags with a value."""
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


def _value_of(argv: Sequence[str], option: str) -> str | None:
    for position, word in enumerate(argv):
        if word == option and position + 1 < len(argv):
            return argv[position + 1]
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None


def _method_name(settings: dict[str, Any]) -> str | None:
    method = settings.get("method")
    name = method.get("name") if isinstance(method, dict) else method
    return str(name) if name is not None else None


def _add_device_options(parser: ArgumentParser) -> None:
    parser.add_argument("--batch_size", type=int, default=32, help="images at a time")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto takes a GPU if there is one")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="auto is bf16 on a GPU")


def _action(argv: list[str], actions: dict[str, int]) -> tuple[str, list[str]]:
    """The word behind the command and its arguments, counted."""
    usage = " | ".join(name + " NAME" * count for name, count in actions.items())
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {usage}")
        raise SystemExit(0 if argv else 2)
    action, *rest = argv
    if action not in actions or len(rest) != actions[action]:
        raise UsageError(f"expected {usage}")
    return action, rest


def _console() -> Any:
    from rich.console import Console

    # a log or a pipe has no width of its own: do not fold long paths
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _table(*columns: str, title: str | None = None) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal's error stream, so that the output itself stays clean; nothing where there is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    sys.exit(main())
