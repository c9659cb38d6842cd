"""A process killed at a bad moment, then resumed: it ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from svp.cli import main
from svp.training import loop
from svp.training.plan import StepTimes
from svp.training.setup import Prepared
from tests.processes import Python
from tests.training.conftest import write_photos

KILL_IN_A_WRITE = """
import os, signal, sys, torch
from svp.cli import main
real, calls = torch.save, [0]
def save(state, path):
    calls[0] += 1
    real(state, path)
    if calls[0] == 2:
        with open(path, "rb+") as file:
            file.truncate(os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
main(sys.argv[1:])
"""
PLAIN = """
import sys
from svp.cli import main
main(sys.argv[1:])
"""


def command(photos: Path, out: Path, *more: str) -> list[str]:
    words = ["train", "--data", photos, "--model", "vim_nano", "--weights", "random", "--img-size", 16, "--epochs", 4]
    words += ["--batch-size", 8, "--device", "cpu", "--mixup", 0.8, "--method.dropout", 0.1, "--out", out, *more]
    return [str(word) for word in words]


def svp_process(code: str, arguments: list[str], out: Path) -> Python:
    """Python running `code`, with as many threads as here, so that sums come out the same."""
    return Python(["-c", code, *arguments], out, os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())})


def trained(out: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = torch.load(out / "last" / "state.pt", weights_only=True)["trained"]
    return tensors


def assert_resumes_to(whole: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--out", str(out), "--resume"])
    assert "resuming after epoch" in capsys.readouterr().out
    for expected, found in [
        (trained(whole), trained(out)),
        (load_file(whole / "adapter.safetensors"), load_file(out / "adapter.safetensors")),
    ]:
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    for file, key in [("result.json", "top1"), ("splits.json", "train")]:
        assert json.loads((whole / file).read_text())[key] == json.loads((out / file).read_text())[key]
    assert not list(out.rglob("*.tmp"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted; the images lie beside it."""
    place = tmp_path_factory.mktemp("whole")
    main(command(write_photos(place / "photos"), place / "run"))
    return place / "run"


def test_in_the_middle_of_an_epoch(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = svp_process(PLAIN, command(whole.parent / "photos", tmp_path / "killed"), tmp_path / "shown")
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().splitlines()):
        assert process.poll() is None, process.errors
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    assert_resumes_to(whole, tmp_path / "killed", capsys)


@pytest.mark.exhaustive
def test_in_the_middle_of_a_checkpoint_write(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = svp_process(KILL_IN_A_WRITE, command(whole.parent / "photos", tmp_path / "killed"), tmp_path / "shown")
    assert process.wait() == -signal.SIGKILL
    assert len(torch.load(tmp_path / "killed" / "last" / "state.pt", weights_only=True)["metrics"]) == 1
    assert_resumes_to(whole, tmp_path / "killed", capsys)


@pytest.mark.exhaustive
@pytest.mark.parametrize("protocol", ["trainval", "paper"])
def test_under_the_other_protocols(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """Cut off by an exception: what lies on the disk then is what a kill between two writes leaves."""
    more = ("--protocol", protocol, "--shots", "8", "--epochs", "3")
    train_epoch = loop.train_epoch

    def failing(prepared: Prepared, epoch: int, times: StepTimes) -> float:
        if epoch == 2:
            raise Cut
        return train_epoch(prepared, epoch, times)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", failing)
        with pytest.raises(Cut):
            main(command(photos, tmp_path / "killed", *more))
    main(command(photos, tmp_path / "whole", *more))
    assert_resumes_to(tmp_path / "whole", tmp_path / "killed", capsys)


class Cut(BaseException):
    """What no handler expects."""
