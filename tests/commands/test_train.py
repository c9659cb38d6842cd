"""``svp train``: settings from the command line and from files, what is printed, and Ctrl-C."""

from __future__ import annotations

import _thread
import io
import json
import re
import shlex
import threading
from pathlib import Path

import pytest
from rich.console import Console

from svp.cli import main
from svp.data import AugmentConfig
from svp.training.config_sources import make_config
from svp.training.display import Display
from svp.tuners import SVP
from tests.commands.conftest import FAST
from tests.training.conftest import write_photos


def test_help_shows_options_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--method", "linear", "--help"])
    text = capsys.readouterr().out
    assert "--batch-size" in text
    assert "--method NAME" in text
    assert "shared-layers" not in text
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--method.svp.shared-layers N" in capsys.readouterr().out


def test_options_reach_the_run(run: Path) -> None:
    assert json.loads((run / "adapter.json").read_text())["method"]["svp"]["shared_layers"] == 4


@pytest.mark.parametrize("resume", [["--resume"], ["--resume", "true"], ["--resume=true"], ["--resume=True"]])
def test_resume_needs_no_more_than_the_directory(run: Path, resume: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *resume, "--out", str(run)]) == 0
    assert "finished already" in capsys.readouterr().out


def test_resume_of_a_misspelled_directory_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", "--out", str(tmp_path / "rum")]) == 1
    assert f"{tmp_path / 'rum'} holds no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: null", "method is None, expected a name"),
        ("method: {name: [1]}", r"method\.name is \[1\]"),
        ("options: 3", "options is 3, expected settings"),
        ("recipe: 4", "recipe is 4, expected a name or a file"),
        ("augment: 5", "augment is 5, expected settings"),
        ("3: 4", "3 is not the name of a setting"),
        ("method: {3: 4}", "3 is not the name of a setting"),
    ],
)
def test_odd_yaml_names_setting_and_file(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    for option in ("--config", "--recipe"):
        assert main(["train", "--data", "x", option, str(file)]) == 1
        error = capsys.readouterr().err
        assert re.search(message, error)
        assert str(file) in error


def test_a_binary_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x80")
    assert main(["train", "--data", "x", "--config", str(tmp_path / "b.yaml")]) == 1
    assert "b.yaml is not valid YAML" in capsys.readouterr().err


def test_config_takes_dataclasses() -> None:
    config = make_config({"data": "x", "augment": AugmentConfig(hflip=0.25), "options": SVP(shared_layers=4)})
    assert config.augment == AugmentConfig(hflip=0.25)
    assert config.options["shared_layers"] == 4


def test_without_network_the_file_and_its_place_are_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SVP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    assert main(["train", "--data", str(photos), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "vim_t_midclstok_76p1acc.pth" in error
    assert str(tmp_path / "home" / "weights" / "vim_t_midclstok_76p1acc.pth") in error


def test_consoles_print_what_they_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold]x[/] :dog: " + "long/path/" * 30
    display = Display()
    display.say(text)
    display.table(text, [(text, text)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[1].rstrip() == text
    assert any(line.count(text) == 2 for line in lines)


def test_the_bar_of_a_terminal_reads_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    display = Display()
    display.console = Console(file=io.StringIO(), force_terminal=True, markup=False, emoji=False)
    with display.progress("a[/b]", 1) as (bar, task):
        bar.update(task, advance=1, note="c[/d]")
        bar.refresh()
    assert "a[/b]" in display.console.file.getvalue()  # type: ignore[attr-defined]


def test_an_interrupted_run_prints_the_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "my photos")
    monkeypatch.chdir(tmp_path)
    stopped = threading.Event()

    def interrupt_after_an_epoch() -> None:
        while not stopped.wait(0.02):
            if any(file.read_text().count("\n") for file in Path("runs").glob("*/metrics.jsonl")):
                _thread.interrupt_main()
                return

    watcher = threading.Thread(target=interrupt_after_an_epoch, daemon=True)
    watcher.start()
    try:
        code = main(["train", "--data", str(photos), *FAST, "--epochs", "100000", "--method", "linear"])
    finally:
        stopped.set()
        watcher.join()
    assert code == 130
    printed = capsys.readouterr().err.splitlines()[-1]
    words = shlex.split(printed.partition("go on with ")[2])
    assert words[:2] == ["svp", "train"]
    directory = Path(words[words.index("--out") + 1])
    assert " " in str(directory)
    assert (directory / "config.yaml").is_file()
