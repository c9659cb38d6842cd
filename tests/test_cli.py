"""The frame of the command: help, wrong usage, and what an error becomes, in words and as an exit code."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest

from svp.cli import BUG, main
from svp.commands import COMMANDS, UsageError
from svp.errors import InputError, UnavailableError
from tests.commands.conftest import FAST


def run_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def run(argv: list[str]) -> int:
        raise error

    monkeypatch.setitem(sys.modules, "svp.commands.models", SimpleNamespace(run=run))
    return main(["models"])


@pytest.mark.parametrize("bug", [TypeError, ValueError, RuntimeError, KeyError, AssertionError])
def test_a_bug_shows_its_traceback_and_where_to_report_it(
    bug: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_raising(bug("our fault"), monkeypatch) == BUG
    *trace, last = capsys.readouterr().err.splitlines()
    assert trace[0].startswith("Traceback")
    assert "our fault" in trace[-1]
    assert "this is a bug in svp" in last
    assert "CONTRIBUTING.md" in last


@pytest.mark.parametrize("error", [InputError, UnavailableError, PermissionError])
def test_what_a_user_can_cause_is_one_line(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_raising(error("lr is -1"), monkeypatch) == 1
    assert capsys.readouterr().err == "svp models: error: lr is -1\n"


def test_its_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVP_TRACEBACK", "1")
    with pytest.raises(InputError):
        run_raising(InputError("lr is -1"), monkeypatch)


def test_wrong_usage_names_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(UsageError("--lr is missing"), monkeypatch) == 2
    assert capsys.readouterr().err == "svp models: --lr is missing\nsee svp models --help\n"


def test_an_interrupt_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(KeyboardInterrupt(), monkeypatch) == 130
    assert "interrupted" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from svp.cli import main; main(['--help']);"
        "heavy = {'torch', 'timm', 'numpy', 'PIL', 'jsonargparse', 'rich', 'yaml', 'accelerate'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in COMMANDS)


def test_importing_svp_imports_nothing_heavy() -> None:
    code = "import sys, svp; sys.exit(bool({'torch', 'timm', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=250).returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "usage"),
        (["fly"], 2, "unknown command 'fly'; known: train"),
        (["train"], 1, "data is missing"),
        (["train", "--data", "x", "--color", "3"], 2, "color"),
        (["train", "--data", "x", "--epochs", "ten"], 2, "epochs"),
        (
            ["train", "--data", "x", "--method", "magic"],
            2,
            "unknown method 'magic'; known: A, adapter, additional_scan, affix, ",
        ),
        (["train", "--data", "no/such/folder", *FAST], 1, "no/such/folder does not exist"),
        (["train", "--data", "nothing", *FAST], 1, "neither a folder here nor a known data set"),
        (["train", "--data", "x", "--conf", "c.yaml"], 2, "--conf"),
        (["train", "--data", "x", "--config"], 2, "--config"),
        (["eval", "nowhere", "--dev", "cpu"], 2, "--dev"),
        (["data", "check", "nowhere", "--js"], 2, "--js"),
        (["data", "fly"], 2, "'list', 'info', 'fetch', 'check'"),
        (["data", "fetch", "cats"], 1, "unknown data set 'cats'; known: digits"),
        (["eval", "nowhere"], 1, "nowhere holds no adapter.json"),
        (["models", "info"], 2, "name"),
        (["models", "info", "resnet"], 1, "unknown model 'resnet'; known: vim_nano"),
        (["data", "info", "cats"], 1, "unknown data set 'cats'; known: digits"),
    ],
)
def test_wrong_usage(words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == code
    captured = capsys.readouterr()
    assert message in captured.err + captured.out


@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("data", ["list", "info", "fetch", "check"]),
        ("models", ["list", "info", "convert"]),
        ("study", ["compare", "ablate", "sensitivity", "report"]),
    ],
)
def test_help_lists_the_actions(command: str, actions: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    # a long name's text stands in the next line
    described = {words[0]: (*words[1:], *following) for words, following in pairwise(lines) if words}
    assert all(len(described[action]) > 2 for action in actions)
