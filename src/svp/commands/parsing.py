"""From a signature to a parser, through jsonargparse; what commands share: progress on the terminal, JSON.

The parameters of a function, or the fields of a dataclass, become the options of a command: the annotation is the type, the
default the default, and the line of ``Args:`` the help. Options are written with dashes; underscores are understood too.
Of a function, an option that is a sequence takes several values if its default is None, else it may be repeated.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import inspect
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import docstring_parser
import jsonargparse

from svp.commands import UsageError
from svp.settings import alternatives


class Parser(jsonargparse.ArgumentParser):
    """Takes options in full only, and leaves it to `main` to tell what is wrong."""

    def __init__(self, prog: str, description: str, usage: str, add_help: bool = True) -> None:
        super().__init__(
            prog=prog,
            description=description,
            usage=usage,
            add_help=add_help,
            formatter_class=_Formatter,
            allow_abbrev=False,
            print_config=None,
        )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        known = {option for action in self._actions if action.help != argparse.SUPPRESS for option in action.option_strings}
        raise UsageError(_readable(message, known)) from ex

    def allow_underscores(self) -> None:
        """Make ``--batch_size`` another spelling of ``--batch-size``, which help does not show."""
        for option, action in list(self._option_string_actions.items()):
            self._option_string_actions.setdefault("--" + option[2:].replace("-", "_"), action)


def _readable(message: str, known: Iterable[str] = ()) -> str:
    """A message of jsonargparse as svp's own are written: the option, its value and what was expected.

    Args:
        message: What jsonargparse says.
        known: Options that the parser shows; the most similar one is told for one that it doesn't know.
    """
    line = " ".join(message.split())
    if found := re.match(r"[Uu]nrecognized arguments: --([^\s=]+)", line):
        similar = difflib.get_close_matches("--" + found[1].replace("_", "-"), known, n=1, cutoff=0.75)
        return f"{line}; did you mean {similar[0]}?" if similar else line
    found = re.match(r'Parser key "([\w.]+\.)?(\w+)"', line)
    if not found:
        return line
    section = re.sub(r"^options\.", "method.", found[1] or "")
    if nested := re.search(r"NestedArg\(key='([^']+)'", line):  # an option below `--method` that is not there
        return _readable(f"unrecognized arguments: --{found[2]}.{nested[1]}", known)
    option, rest = f"--{section}{found[2].replace('_', '-')}", line[found.end() :]
    kinds = re.findall(r"Expected an? (<class '\w+'>|typing\.Literal\[.*?\])", rest)
    value = re.search(r"(?:Got|Given) value: (.*)$", rest)
    if not kinds or value is None:
        return option + rest
    words = [_KINDS.get(kind, kind.removeprefix("typing.Literal[").rstrip("]")) for kind in kinds]
    return f"{option} is {value[1]!r}, expected {' or '.join(filter(None, dict.fromkeys(words)))}"


_KINDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'NoneType'>": "",
}
"""Types as jsonargparse writes them, in words."""


class _Formatter(jsonargparse.DefaultHelpFormatter):
    """Options in one spelling, their help, and a default where it says something."""

    def __init__(self, prog: str, **options: Any) -> None:
        options |= {"max_help_position": 28, "width": 100}
        super().__init__(prog, **options)  # type: ignore[no-untyped-call]

    def _get_help_string(self, action: argparse.Action) -> str:
        default, text = action.default, action.help or ""
        if action.required or default is None or default is False or default in ("", [], argparse.SUPPRESS):
            return text
        return f"{text} (default: {str(default).lower() if default is True else default})"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy.copy(action)
        shown.option_strings = [option for option in action.option_strings if not option.endswith("+")]  # those that append
        return super()._format_action_invocation(shown)


def run_function(function: Callable[..., int | None], prog: str, argv: list[str]) -> int:
    """Call a function with what the command line says; its positional parameters are words, the others options."""
    described = docstring_parser.parse(inspect.getdoc(function) or "")
    text = "\n\n".join(filter(None, (described.short_description, described.long_description)))
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    words = [
        _metavar(p.name, p.annotation) + "..." * (get_origin(p.annotation) is Sequence)
        for p in parameters
        if p.kind is not p.KEYWORD_ONLY
    ]
    parser = Parser(prog, text, " ".join([prog, *words, "[OPTION]..."]))
    add_parameters(parser, function)
    parser.allow_underscores()
    return function(**parser.parse_args(argv).as_dict()) or 0


def run_action(actions: Mapping[str, Callable[..., Any]], prog: str, text: str, argv: list[str]) -> int:
    """Call the function that the first word names."""
    if argv and argv[0] in actions:
        return run_function(actions[argv[0]], f"{prog} {argv[0]}", argv[1:])
    if not argv or argv[0] not in ("-h", "--help"):
        known = ", ".join(map(repr, actions))
        raise UsageError(f"unknown action {argv[0]!r}, expected one of {known}" if argv else f"expected one of {known}")
    lines = [f"  {name:12s} {(inspect.getdoc(action) or '').splitlines()[0]}" for name, action in actions.items()]
    lines = [f"usage: {prog} ACTION ...", "", text, "", *lines, "", f"  {prog} ACTION --help    options of an action"]
    print("\n".join(lines))
    raise SystemExit(0)  # as argparse does


def add_parameters(
    container: Any, source: Any, only: Collection[str] | None = None, prefix: str = "", destination: str = ""
) -> None:
    """Add an option for every parameter of a function or field of a dataclass.

    Args:
        container: Parser, or group of it.
        source: Function or dataclass, with a line for each parameter in its docstring.
        only: Names to add; all if None.
        prefix: Put in front of the option, as "augment." in ``--augment.hflip``.
        destination: Put in front of the name in the parsed values; `prefix` if empty.
    """
    parsed = docstring_parser.parse(inspect.getdoc(source) or "")
    texts = {param.arg_name: " ".join((param.description or "").split()) for param in parsed.params}
    hints = get_type_hints(source)
    for name, default, positional in _parameters(source):
        if only is not None and name not in only:
            continue
        hint = hints[name]
        options: dict[str, Any] = {"type": hint, "help": texts.get(name, ""), "metavar": _metavar(name, hint)}
        if len(known := _choices(hint)) > _MOST_CHOICES:
            options["help"] += f" One of {', '.join(known)}."
        several = not is_dataclass(source) and Sequence in [get_origin(part) for part in alternatives(hint)]
        if several:
            del options["type"]  # text
        if positional:
            options |= {"nargs": "+" if default is MISSING else "*"} if several else {}
            container.add_argument(name, **options)
            continue
        if hint is bool and is_dataclass(source):  # a file may have set it: "false" takes it back
            options |= {"nargs": "?", "const": True}
        elif hint is bool:
            options = {"help": options["help"], "action": "store_true"}
        elif several:
            options |= {"nargs": "+"} if default is None else {"action": "append"}
            default = None if default is None else list(default)
        option = f"--{prefix}{name.rstrip('_').replace('_', '-')}"
        container.add_argument(option, dest=f"{destination or prefix}{name}", default=default, **options)


def _parameters(source: Any) -> Iterator[tuple[str, Any, bool]]:
    """Name, default (``MISSING`` if there is none) and whether it is a word of its own."""
    if is_dataclass(source):
        for field in fields(source):
            factory = field.default_factory
            yield field.name, field.default if factory is MISSING else factory(), False
        return
    for parameter in inspect.signature(source).parameters.values():
        default = MISSING if parameter.default is parameter.empty else parameter.default
        yield parameter.name, default, parameter.kind is not parameter.KEYWORD_ONLY


_MOST_CHOICES = 8
"""Choices that are shown beside an option; more are listed in its text."""


def _choices(hint: Any) -> list[str]:
    return [str(value) for part in alternatives(hint) if get_origin(part) is Literal for value in get_args(part)]


def _metavar(name: str, hint: Any) -> str:
    """N for whole numbers, X for others, the choices of a ``Literal``, else the last word of the name; RUN for ``with_``."""
    parts, choices = alternatives(hint), _choices(hint)
    if bool in parts:
        return "true|false"
    if int in parts or float in parts:
        return "|".join(["N" if int in parts else "X", *choices])
    if choices:
        return "{" + ",".join(choices) + "}" if len(choices) <= _MOST_CHOICES else "NAME"
    if name == "with_":  # a word of Python, and so no name of a parameter
        return "RUN"
    several = Sequence in [get_origin(part) for part in parts]
    return (name.removesuffix("s") if several else name).rpartition("_")[2].upper()


def file_to_write(option: str, name: str | None) -> Path | None:
    """The file that an option names, checked before any work; None if the option is not given."""
    target = Path(name).resolve() if name else None
    if target and not target.parent.is_dir():
        raise UsageError(f"{option} {name}: the folder {target.parent} does not exist")
    if target and target.exists() and not target.is_file():
        raise UsageError(f"{option} {name} exists and is no ordinary file; expected the name of a file to write")
    return target


def is_first_process() -> bool:
    """Whether this is the process that prints and writes, of those that torchrun or ``accelerate launch`` started."""
    return os.environ.get("RANK", "0") == "0"


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2)


@contextmanager
def progress_bar(title: str, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal's error stream, so that the output itself stays clean; nothing where there is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=hidden or not (console.is_terminal and is_first_process())) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
