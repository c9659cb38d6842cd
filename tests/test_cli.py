"""The command's frame: what an error becomes, in words and as an exit code."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from svp.cli import BUG, main
from svp.commands import UsageError
from svp.errors import InputError, UnavailableError


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
