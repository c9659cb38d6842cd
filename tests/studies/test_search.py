"""A search with Optuna: trials are runs, the journal is shared, test images take no part."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from svp.cli import main
from svp.data.pipeline.decoding import ImageReader
from svp.studies import Range, Trial, make_search, run_search
from svp.studies.figures import write_search_figure
from svp.studies.tables import search_table
from svp.training import ConfigError

optuna = pytest.importorskip("optuna", reason="Optuna is not installed")


@pytest.fixture
def search(values: dict[str, Any]) -> dict[str, Any]:
    part = {name: values[name] for name in ("name", "settings", "data")}
    return part | {"space": {"lr": {"low": 1e-3, "high": 0.1, "log": True}, "hidden_dim": [4, 8]}, "trials": 2}


def test_a_search_goes_on_where_it_was(search: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "search"
    search["settings"]["num_workers"] = 0
    decode, decoded_in = ImageReader.decode, set[int]()

    def watched(reader: ImageReader, path: Path) -> Any:
        decoded_in.add(len(list((folder / "logs").iterdir())))
        return decode(reader, path)

    monkeypatch.setattr(ImageReader, "decode", watched)
    first = run_search(make_search(search), folder)
    assert decoded_in == {1}  # the first trial decodes the images, for all
    assert [trial.state for trial in first] == ["complete"] * 2
    assert run_search(make_search(search), folder) == first
    trials = run_search(make_search(search | {"trials": 3}), folder)
    assert len(trials) == 3
    for trial in trials:
        result = json.loads((trial.directory / "result.json").read_text())
        assert result["selection_top1"] == trial.top1
        assert result["options"]["hidden_dim"] == trial.point["hidden_dim"] in (4, 8)
        assert result["peak_lr"] == trial.point["lr"]
        assert 1e-3 <= trial.point["lr"] <= 0.1
    assert trials[0].top1 == max(trial.top1 or 0 for trial in trials)
    assert len({trial.point["lr"] for trial in trials}) == 3


@pytest.mark.usefixtures("newer_weights")
def test_a_search_goes_on_with_the_weights_that_it_began_with(search: dict[str, Any], tmp_path: Path) -> None:
    settings = search["settings"] | {"model": "vim_nano", "weights": "published"}
    search |= {"settings": settings, "space": {"lr": [0.1]}, "trials": 1}

    def ended(folder: str, **attributes: str) -> Path:
        (tmp_path / folder).mkdir()
        journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / folder / "journal.log"))
        storage = optuna.storages.JournalStorage(journal)
        study = optuna.create_study(study_name="small", storage=storage)
        for name, value in attributes.items():
            study.set_user_attr(name, value)
        lr = optuna.distributions.CategoricalDistribution([0.1])
        study.add_trial(optuna.create_trial(params={"lr": 0.1}, distributions={"lr": lr}, value=0.5))
        return run_search(make_search(search), tmp_path / folder)[0].directory

    old, new = ended("old"), ended("new", model="vim_nano.newer")
    assert old.name != new.name
    settings["model"] = "vim_nano.tiny_in200"
    assert ended("named").name == old.name


def test_what_is_hopeless_is_stopped(search: dict[str, Any], tmp_path: Path) -> None:
    search |= {"space": {"lr": [1e-9, 0.05]}, "trials": 8}
    search["settings"] |= {"method": "linear", "epochs": 2}
    trials = run_search(make_search(search), tmp_path / "search")
    assert {trial.state for trial in trials} == {"complete", "pruned"}
    for trial in trials:
        assert (trial.directory / "result.json").is_file() == (trial.state == "complete")
        assert trial.epochs == 2


@pytest.mark.exhaustive
def test_processes_share_the_journal(search: dict[str, Any], tmp_path: Path) -> None:
    search["settings"]["model"] = "vim_nano"
    trials = run_search(make_search(search | {"trials": 4}), tmp_path / "search", workers=2)
    assert len(trials) in (4, 5)
    assert {trial.state for trial in trials} == {"complete"}
    assert len({trial.point["lr"] for trial in trials}) == len(trials)  # no two of them drew the same


def test_trials_that_fail_are_kept_apart(search: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    search |= {"space": {"lr": [1e30]}, "trials": 1}
    search["settings"]["epochs"] = 2
    (trial,) = run_search(make_search(search), tmp_path / "search")
    assert (trial.state, trial.epochs) == ("fail", 0)
    assert "NonFiniteLossError" in next((tmp_path / "search" / "logs").iterdir()).read_text()
    out, err = capfd.readouterr()
    assert re.search(r"^\[1/1\] lr 1e\+30: fail: .*loss", out, re.MULTILINE)
    assert "Traceback" not in out + err


def test_the_same_command_tries_again_what_failed(search: dict[str, Any], tmp_path: Path) -> None:
    search |= {"space": {"lr": [0.01]}, "trials": 1}
    search["settings"]["method"] = "linear"
    folder, photos = tmp_path / "search", tmp_path / "photos"
    photos.rename(tmp_path / "elsewhere")
    assert [trial.state for trial in run_search(make_search(search), folder)] == ["fail"]
    (tmp_path / "elsewhere").rename(photos)
    for _ in range(2):  # once more, and then there is nothing to do
        assert [trial.state for trial in run_search(make_search(search), folder)] == ["complete", "fail"]


def test_options_that_do_not_fit_are_an_answer(search: dict[str, Any], tmp_path: Path) -> None:
    made = make_search(search | {"space": {"hidden_dim": [100_000]}, "trials": 1})
    for _ in range(2):
        assert [trial.state for trial in run_search(made, tmp_path / "search")] == ["fail"]


def test_command_line(search: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "find.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(search, sort_keys=False))
    assert main(["study", "sensitivity", str(file), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "[2/2] lr " in text
    assert f"best       {out}" in text
    assert "test top-1" not in text
    assert "complete" in (out / "search.md").read_text()


def test_the_figure_is_an_image(search: dict[str, Any], tmp_path: Path) -> None:
    made = make_search(search)
    trials = [
        Trial({"lr": 0.01 * (i + 1), "hidden_dim": 4 * (1 + i % 2)}, state, 0.5 + i / 10, 2, tmp_path / "trial0000-x")
        for i, state in enumerate(["complete", "complete", "pruned"])
    ]
    assert np.asarray(Image.open(write_search_figure(made, trials, tmp_path)[0]).convert("L")).std() > 5
    assert search_table(made, trials).rows[2] == ("trial0000", "0.03", "4", "70.00", "pruned")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": {}}, "a search has no section 'grid'; known: name"),
        ({"trials": "many"}, "trials is 'many', expected a number of runs"),
        ({"space": {}}, "space is .*expected options with ranges or values"),
        ({"space": {"lr": {"low": 1, "high": 0.1}}}, "space.lr is .*expected low < high"),
        ({"space": {"lr": {"low": 0, "high": 0.1, "log": True}}}, "above 0 with log"),
        ({"space": {"lr": {"low": "a", "high": 0.1}}}, "space.lr is .*expected numbers"),
        ({"space": {"lr": 0.1}}, "space.lr is 0.1, expected a range or a list of values"),
        ({"space": {"color": [1]}}, "color"),
        ({"data": ["digits", "cifar10"]}, "data has 2 data sets, a search expects one"),
    ],
)
def test_errors_name_the_section(search: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_search(search | change)


def test_ranges(search: dict[str, Any]) -> None:
    made = make_search(search | {"space": {"hidden_dim": {"low": 4, "high": 8}, "lr": {"low": "1e-3", "high": 1}}})
    assert made.space == {"hidden_dim": Range(4, 8), "lr": Range(0.001, 1.0)}
    assert isinstance(made.space["hidden_dim"].low, int)
