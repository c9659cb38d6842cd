"""``svp train`` interrupted: what it prints can be pasted."""

from __future__ import annotations

import _thread
import shlex
import threading
from pathlib import Path

import pytest

from svp.cli import main
from tests.commands.test_cli import FAST
from tests.training.conftest import write_photos


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
