"""``svp train``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svp.commands.parsing import Parser, UsageError

if TYPE_CHECKING:
    import jsonargparse


def run(argv: list[str]) -> int:
    from svp.training.config import make_config, make_parser, merge_settings
    from svp.training.loop import train
    from svp.tuners import get_methods

    argv = _spelled_out(argv)
    first = Parser(add_help=False)  # what decides which options there are
    for option in ("--config", "--out", "--data", "--recipe", "--resume", "--method.name"):
        first.add_argument(option)
    known = vars(first.parse_known_args(argv)[0])
    config_file = known["config"]
    if config_file is None and known["out"] and known["resume"] in ("true", "True"):
        saved = Path(known["out"]) / "config.yaml"  # `svp train --out RUN --resume` needs nothing more
        config_file = str(saved) if saved.is_file() else None
    named = {"data": known["data"], "method": known["method.name"], "recipe": known["recipe"]}
    settings = merge_settings({name: value for name, value in named.items() if value is not None}, config_file)
    method = settings["method"]["name"]
    try:
        get_methods(method)
    except ValueError as error:
        raise UsageError(str(error)) from error
    parser = make_parser(method)
    parser.add_argument("--config", help="YAML file of settings, such as a run's config.yaml; options given here win.")
    values = _parse(parser, argv, method)
    values.pop("config", None)
    config = make_config(values, config_file)
    try:
        train(config=config)
    except KeyboardInterrupt:
        where = config.out or "the run directory"
        print(f"\nsvp train: interrupted; go on with svp train --out {where} --resume", file=sys.stderr)
        return 130
    return 0


def _parse(parser: jsonargparse.ArgumentParser, argv: list[str], method: str) -> dict[str, Any]:
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
        message = re.sub(r"\s+", " ", str(error))
        if "--method." in message and "+" in method:
            message += "; of several methods, each has its options under its name, as in --method.svp.hidden_dim"
        raise UsageError(message) from error
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
