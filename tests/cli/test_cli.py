"""The command line, from the words typed to the exit code."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from svp.cli import COMMANDS, main
from tests.training.conftest import write_photos

FAST = [
    "--model",
    "vim_nano",
    "--weights",
    "random",
    "--img-size",
    "16",
    "--batch-size",
    "8",
    "--device",
    "cpu",
    "--epochs",
    "1",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("cli") / "photos")


@pytest.fixture(scope="module")
def run(photos: Path) -> Path:
    out = photos.parent / "run"
    assert (
        main(["train", "--data", str(photos), *FAST, "--method", "svp", "--method.shared_layers", "4", "--out", str(out)]) == 0
    )
    return out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from svp.cli import main; main(['--help']);"
        "heavy = {'torch', 'timm', 'numpy', 'PIL', 'jsonargparse', 'rich', 'yaml', 'accelerate'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in COMMANDS)


def test_importing_svp_imports_nothing_heavy() -> None:
    code = "import sys, svp; sys.exit(bool({'torch', 'timm', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_help_shows_options_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--method", "linear", "--help"])
    text = capsys.readouterr().out
    assert "--batch-size" in text
    assert "--method NAME" in text
    assert "shared_layers" not in text
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--method.shared_layers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "usage"),
        (["fly"], 2, "unknown command 'fly'; known: train"),
        (["train"], 1, "data is missing"),
        (["train", "--data", "x", "--colour", "3"], 2, "colour"),
        (["train", "--data", "x", "--epochs", "ten"], 2, "epochs"),
        (["train", "--data", "x", "--method", "magic"], 2, "unknown method 'magic'; known: full, linear, svp"),
        (["train", "--data", "no/such/folder", *FAST], 1, "no/such/folder does not exist"),
        (["train", "--data", "nothing", *FAST], 1, "neither a folder here nor a known data set"),
        (["eval", "nowhere"], 1, "nowhere holds no adapter.json"),
        (["models", "info"], 2, "expected list | info NAME | convert NAME"),
        (["models", "info", "resnet"], 1, "unknown model 'resnet'; known: vim_nano"),
        (["data", "info", "cats"], 1, "unknown data set 'cats'; known: digits"),
    ],
)
def test_wrong_usage(words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == code
    captured = capsys.readouterr()
    assert message in captured.err + captured.out


def test_options_reach_the_run(run: Path) -> None:
    assert json.loads((run / "adapter.json").read_text())["options"]["shared_layers"] == 4


def test_resume_needs_no_more_than_the_directory(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out


def test_eval(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--json", "--device", "cpu"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["top1"] == json.loads((run / "result.json").read_text())["top1"]
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    assert "green" in capsys.readouterr().out


def test_eval_on_other_classes_says_which(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_photos(tmp_path / "other", per_class=2)
    (other / "green").rename(other / "violet")
    assert main(["eval", str(run), "--data", str(other)]) == 1
    error = capsys.readouterr().err
    assert "violet" in error
    assert "green" in error


def test_predict_formats(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", str(run), str(photos / "blue"), str(photos / "green" / "00.jpg"), "--topk", "2", "--device", "cpu"]
    assert main([*words, "--format", "json"]) == 0
    predictions = json.loads(capsys.readouterr().out)
    assert len(predictions) == 15
    assert all(len(p["classes"]) == len(p["probabilities"]) == 2 and p["error"] is None for p in predictions)
    assert main([*words, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["class_1"] for row in rows] == [p["classes"][0] for p in predictions]
    assert main(words) == 0
    assert str(photos / "green" / "00.jpg") in capsys.readouterr().out
    assert main([*words, "--format", "json", "--out", str(tmp_path / "p.json")]) == 0
    assert json.loads((tmp_path / "p.json").read_text()) == predictions
    assert main([*words, "--out", str(tmp_path / "no" / "p.json")]) == 2


def test_predict_reports_unreadable_files_and_does_the_rest(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "good.jpg").write_bytes((photos / "blue" / "00.jpg").read_bytes())
    (tmp_path / "deep" / "bad.jpg").write_text("not an image")
    assert main(["predict", str(run), str(tmp_path / "deep"), "--format", "json", "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    by_name = {Path(p["path"]).name: p for p in json.loads(captured.out)}
    assert by_name["bad.jpg"]["error"]
    assert by_name["bad.jpg"]["classes"] == []
    assert by_name["good.jpg"]["classes"]
    assert "bad.jpg" in captured.err


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    assert "vim_small_patch16_stride8_224" in capsys.readouterr().out
    assert main(["models", "info", "vim_tiny"]) == 0
    text = capsys.readouterr().out
    assert "fedb1e60267f3bc7b2a8443f2ddead8d39e019d10247a87252162b3789801fd5" in text
    assert "76.1" in text
    assert "apache-2.0" in text
    assert "non-commercial" in text


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    from safetensors.torch import load_file

    state = {"a": torch.ones(2, 3)}
    torch.save({"model": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "old.pth")
    assert main(["models", "convert", str(tmp_path / "old.pth")]) == 0
    assert torch.equal(load_file(tmp_path / "old.safetensors")["a"], state["a"])
    assert main(["models", "convert", str(tmp_path / "old.pth")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_data(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    assert "digits" in capsys.readouterr().out
    assert main(["data", "info", "digits"]) == 0
    assert "1797" in capsys.readouterr().out
    assert main(["data", "check", str(photos)]) == 0
    assert "42 of 42 images can be read" in capsys.readouterr().out
    broken = write_photos(tmp_path / "broken", per_class=30)
    (broken / "blue" / "00.jpg").write_text("x")
    assert main(["data", "check", str(broken)]) == 1
    assert "00.jpg" in capsys.readouterr().err


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
