"""The command line, from the words typed to the exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rich.console import Console

from svp.cli import main
from svp.commands import COMMANDS
from svp.commands.eval import _print_scores
from svp.data import AugmentConfig
from svp.training.config import make_config
from svp.training.display import Display
from svp.tuners.svp import SVPConfig
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
    assert "shared-layers" not in text
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--method.svp.shared-layers N" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "usage"),
        (["fly"], 2, "unknown command 'fly'; known: train"),
        (["train"], 1, "data is missing"),
        (["train", "--data", "x", "--colour", "3"], 2, "colour"),
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


def test_options_reach_the_run(run: Path) -> None:
    assert json.loads((run / "adapter.json").read_text())["options"]["shared_layers"] == 4


@pytest.mark.parametrize("resume", [["--resume"], ["--resume", "true"], ["--resume=true"], ["--resume=True"]])
def test_resume_needs_no_more_than_the_directory(run: Path, resume: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *resume, "--out", str(run)]) == 0
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
    assert "blue/00.jpg: not an image in a known format" in capsys.readouterr().out


def test_data_check_as_json(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(photos), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == ["amber", "blue", "green"]
    assert sum(found["images"].values()) == 42
    assert found["unreadable"] == []
    broken = write_photos(tmp_path / "broken", per_class=30)
    (broken / "blue" / "00.jpg").write_text("x")
    assert main(["data", "check", str(broken), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["unreadable"][0]["path"].endswith("00.jpg")


def test_data_fetch_and_check_use_the_data_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "digits", "--data-root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'digits'}\n"
    assert len(list((tmp_path / "digits").rglob("*.png"))) == 1797
    (tmp_path / "digits" / "0" / "more.png").write_bytes((tmp_path / "digits" / "0" / "0000.png").read_bytes())
    assert main(["data", "check", "digits", "--data-root", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "1798 of 1798" in text
    assert "error: train: 1,798 images, the catalogue says 1,797" in text


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


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_the_first_process_prints_and_writes(
    run: Path, photos: Path, tmp_path: Path, rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    out = tmp_path / "p.csv"
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    assert main(["predict", str(run), str(photos / "blue"), "--device", "cpu", "--out", str(out)]) == 0
    assert out.exists() == bool(capsys.readouterr().out) == (rank == "0")


def test_eval_says_how_the_epoch_was_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"cat [big]": {"n": 2, "accuracy": 0.5}}
    scores = {"run": "r[/b]", "data": "d", "per_class": rows, "n_test": 2, "top1": 0.5, "top5": 1.0}
    _print_scores({**scores, "how_chosen": "by lot", "unreadable_test_images": []})
    text = capsys.readouterr().out
    assert "by lot" in text
    assert "r[/b] on d" in text
    assert "cat [big]" in text


def test_predict_checks_out_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe"):
        assert main(["predict", "no-run", "no-image", "--out", str(tmp_path / name)]) == 2
        assert "no ordinary file" in capsys.readouterr().err


def test_odd_names_come_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Spaces, markup, emoji codes, other scripts, and bytes that are no text."""
    photos = write_photos(tmp_path / "my [bold]photos[/b] ü")
    names = ("cat [big]", ":dog: grün", "猫 [red]")
    for old, new in zip(("amber", "blue", "green"), names, strict=True):
        (photos / old).rename(photos / new)
    run, new = tmp_path / "a run [/b]", tmp_path / "new :dog:"
    (new / "a[").mkdir(parents=True)  # so that a path reads like a closing tag
    odd = new / os.fsdecode(b"a[/b] \xff.jpg")
    shutil.copy(photos / names[0] / "00.jpg", odd)
    (new / "a[" / "bad].jpg").write_text("x")
    assert main(["train", "--data", str(photos), *FAST, "--method", "linear", "--out", str(run)]) == 0
    text = capfd.readouterr().out
    assert all(name in text for name in (*names, str(run)))
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    text = capfd.readouterr().out
    assert all(name in text for name in (*names, str(run)))

    monkeypatch.setenv("FORCE_COLOR", "1")
    words = ["predict", str(run), str(new), "--device", "cpu"]
    for form in ("table", "csv", "json"):
        out = tmp_path / f"p [b].{form}"
        assert main([*words, "--format", form, "--out", str(out)]) == 1
        assert str(out) in capfd.readouterr().out
        text = out.read_text(encoding="utf-8")
        assert "a[/b] \\udcff.jpg" in text
        assert "\x1b" not in text
        if form == "json":
            assert set(json.loads(text)[0]["classes"]) == set(names)
        else:
            assert all(name in text for name in names)
    assert main(words) == 1
    captured = capfd.readouterr()
    assert "a[/b] \\udcff.jpg" in captured.out
    assert "a[/bad].jpg" in captured.err


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
    config = make_config({"data": "x", "augment": AugmentConfig(hflip=0.25), "options": SVPConfig(shared_layers=4)})
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
