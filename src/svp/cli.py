"""The ``svp`` command. Heavy imports wait for the command that needs them."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from svp import __version__
from svp.commands import COMMANDS, UsageError
from svp.errors import SvpError, WriteError
from svp.paths import explain
from svp.process import prepare

BUG = 70  # EX_SOFTWARE of sysexits.h
REPORT = (
    "Please report it with the traceback above, as CONTRIBUTING.md says, and name the versions: "
    f"svp {__version__}, Python {sys.version.split()[0]}"
)

HELP = """usage: svp COMMAND ...

Adapt Vision Mamba (Vim) image models to your own images with few trained parameters.

{commands}

  svp train --data my_photos               one folder of images per class in my_photos/
  svp predict runs/RUN new_photos/         the classes of new images
  svp COMMAND --help                       options of a command
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, done; 1, failed in whole or in part; 2, wrong usage; 70, a bug in svp; 130, interrupted.
    """
    prepare()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text: print them nevertheless
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:9s} {text}" for name, text in COMMANDS.items())), end="")
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"svp {__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"svp: unknown command {command!r}; known: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        code: int = import_module(f"svp.commands.{command}").run(rest)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("\nsvp: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _forget_output()  # the reader went away: nobody to tell
        return 1
    except UsageError as error:
        print(f"svp {command}: {error}\nsee svp {command} --help", file=sys.stderr)
        return 2
    except (SvpError, OSError) as error:
        if os.environ.get("SVP_TRACEBACK"):
            raise
        text = explain(error) if isinstance(error, OSError) else str(error)
        if isinstance(error, WriteError) and command in ("train", "predict"):
            text += "; --resume goes on from what is finished"
        print(f"svp {command}: error: {text}", file=sys.stderr)
        _forget_output()
        return 1
    except Exception:
        traceback.print_exc()
        print(f"svp {command}: this is a bug in svp. {REPORT}", file=sys.stderr)
        return BUG


def _forget_output() -> None:
    """Let what cannot be printed not fail once more as Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
