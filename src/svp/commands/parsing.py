"""What the commands share: parsers, progress on the terminal, JSON."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from svp.errors import InputError


class UsageError(InputError):
    """The command line is wrong; the message says what is right."""


class Parser(argparse.ArgumentParser):
    """Takes options in full only, and leaves it to `main` to tell what is wrong."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def add_device_options(parser: Parser) -> None:
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at a time (default: 32)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto takes a GPU if there is one")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="auto is bf16 on a GPU")


def add_compare_options(parser: Parser, out: str) -> None:
    parser.add_argument(
        "--compare", action="append", default=[], metavar="RUN", help="another run on the same backbone; may be repeated"
    )
    parser.add_argument("--out", metavar="DIR", help=f"folder of the figures (default: {out})")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto takes a GPU if there is one")


def add_action(actions: Any, name: str, run: Callable[..., int | None], text: str, argument: str | None = None) -> Parser:
    parser: Parser = actions.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    if argument:
        parser.add_argument("name", metavar=argument)
    return parser


def run_action(parser: Parser, argv: list[str]) -> int:
    values = vars(parser.parse_args(argv))
    return values.pop("run")(**values) or 0


def file_to_write(option: str, name: str | None) -> Path | None:
    """The file that an option names, checked before any work; None if the option is not given."""
    target = Path(name).resolve() if name else None
    if target and not target.parent.is_dir():
        raise UsageError(f"{option} {name}: the folder {target.parent} does not exist")
    if target and target.exists() and not target.is_file():
        raise UsageError(f"{option} {name} exists and is no ordinary file; expected the name of a file to write")
    return target


def is_first_process() -> bool:
    """Of those that torchrun or ``accelerate launch`` started; the others print and write nothing."""
    return os.environ.get("RANK", "0") == "0"


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal's error stream, so that the output itself stays clean; nothing where there is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (console.is_terminal and is_first_process())) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
