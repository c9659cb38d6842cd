"""Studies that run: what is run, what is not run again, what is chosen, what goes wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from svp.models import WeightsError
from svp.studies import Job, collect, make_search, make_study, read_folder, run_search, run_study
from svp.studies.display import _Progress
from svp.training import ConfigError


def run(values: dict[str, Any], folder: Path, **options: Any) -> tuple[list[Job], dict[str, str]]:
    """The runs that were made, and the reasons of those that failed."""
    made: list[Job] = []
    failed: dict[str, str] = {}

    def report(job: Job, failure: str | None) -> None:
        made.append(job)
        if failure:
            failed[str(job)] = failure

    run_study(make_study(values), folder, report=report, **options)
    return made, failed


def test_only_what_is_missing_is_run(values: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    made, failed = run(values, folder)
    assert [str(job) for job in made] == ["photos, linear, lr 0.01, seed 0", "photos, bias, lr 0.01, seed 0"]
    assert not failed
    assert run(values, folder)[0] == []
    values["methods"] = {"probe": values["methods"]["linear"] | {"method": "linear"}}  # another label, the same run
    values["seeds"] = [1, 0]
    assert [str(job) for job in run(values, folder)[0]] == ["photos, probe, lr 0.01, seed 1"]
    assert set(read_folder(folder).findings["photos", "probe"].results) == {0, 1}
    shutil.rmtree(made[0].directory / "last")
    (made[0].directory / "result.json").unlink()
    assert [job.directory for job in run(values, folder)[0]] == [made[0].directory]


@pytest.mark.usefixtures("newer_weights")
def test_a_folder_without_tags_is_of_the_first_weights(values: dict[str, Any], tmp_path: Path) -> None:
    def directories(model: str) -> set[Path]:
        settings = values["settings"] | {"model": model, "weights": "published"}
        return {job.directory for job in collect(make_study(values | {"settings": settings}), tmp_path / "study").jobs}

    values["settings"]["model"], values["methods"] = "vim_nano", {"linear": {"lr": 0.01}}
    run(values, tmp_path / "study")  # with random weights, to which a tag does not matter
    file = tmp_path / "study" / "study.yaml"
    written = yaml.safe_load(file.read_text())
    assert written["settings"].pop("model") == "vim_nano.newer"
    assert read_folder(file.parent).is_complete
    for weights, found in (("random", True), ("published", False)):
        written["settings"] |= {"model": "vim_nano", "weights": weights}  # as 0.1.0 wrote it
        file.write_text(yaml.safe_dump(written))
        assert read_folder(file.parent).is_complete == found
    assert {job.directory for job in read_folder(file.parent).jobs} == directories("vim_nano.tiny_in200")
    assert directories("vim_nano") == directories("vim_nano.newer") != directories("vim_nano.tiny_in200")


@pytest.mark.parametrize("kind", ["study", "search"])
def test_without_network_the_embedded_model_is_named_before_any_work(
    values: dict[str, Any], tmp_path: Path, svp_home: Path, kind: str
) -> None:
    del values["settings"]["model"], values["settings"]["weights"]  # what is left is vim_tiny with its published weights
    folder = tmp_path / "study"
    part = {name: values[name] for name in ("name", "settings", "data")} | {"space": {"lr": [0.1]}, "trials": 1}
    start = partial(run, values, folder) if kind == "study" else partial(run_search, make_search(part), folder)
    with pytest.raises(WeightsError, match=r"cannot download .* The weights of vim_nano alone are embedded"):
        start()
    assert not (folder / "logs").exists()


def test_the_learning_rate_is_chosen_on_validation_images(values: dict[str, Any], tmp_path: Path) -> None:
    values["methods"] = {"linear": {}}
    values["tune"] = {"lr": [1e-9, 0.05], "seed": 1}
    values["seeds"] = [0, 1]
    folder = tmp_path / "study"
    made, _ = run(values, folder)
    assert [(job.config.lr, job.config.seed, job.purpose) for job in made[:2]] == [(1e-9, 1, "tune"), (0.05, 1, "tune")]
    finding = read_folder(folder).findings["photos", "linear"]
    # the other seed alone is left to run: seed 1 has run with the one that was chosen
    assert [(job.config.lr, job.config.seed, job.purpose) for job in made[2:]] == [(finding.lr, 0, "seed")]
    assert finding.at_edge
    for validation, test in (((0.9, 0.1), (0.0, 1.0)), ((0.1, 0.9), (1.0, 0.0))):
        for job, selection, top1 in zip(made, validation, test, strict=False):
            row = json.loads((job.directory / "metrics.jsonl").read_text()) | {"selection_value": selection}
            (job.directory / "metrics.jsonl").write_text(json.dumps(row) + "\n")
            result = json.loads((job.directory / "result.json").read_text()) | {"top1": top1, "selection_top1": selection}
            (job.directory / "result.json").write_text(json.dumps(result))
        # whatever test says
        assert read_folder(folder).findings["photos", "linear"].lr == (1e-9 if validation[0] > validation[1] else 0.05)


def test_candidates_that_stop_early_are_compared_by_their_loss_and_the_best_goes_on(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["settings"]["epochs"] = 3
    values["methods"] = {"linear": {}, "bias": {"method": "bitfit", "lr": 0.01}}
    values |= {"tune": {"lr": [1e-9, 0.05], "seed": 0, "epochs": 1}, "seeds": [0, 1]}
    folder = tmp_path / "study"
    counts: list[tuple[int, int]] = []
    made, failed = run(values, folder, begin=lambda missing, total: counts.append((missing, total)))
    assert not failed
    assert counts == [(len(made), len(made))]
    rates = [(job.method, job.config.lr, job.config.seed, job.until) for job in made]
    # every method has a seed before one has the next
    chosen = [("linear", 0.05, 0, None), ("bias", 0.01, 0, None), ("linear", 0.05, 1, None), ("bias", 0.01, 1, None)]
    assert rates == [("linear", 1e-9, 0, 1), ("linear", 0.05, 0, 1), *chosen]
    assert made[2].directory == made[1].directory  # it goes on
    assert "resuming after epoch 1" in made[2].log.read_text()
    assert [len((job.directory / "metrics.jsonl").read_text().splitlines()) for job in (made[0], made[2])] == [1, 3]
    rows = [json.loads(line) for line in (made[2].directory / "metrics.jsonl").read_text().splitlines()]
    rows[0] |= {"selection_loss": 9.0, "selection_top1": 1.0, "selection_value": 1.0}  # a better top-1 does not count
    (made[2].directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_folder(folder).findings["photos", "linear"].lr == 1e-9


def test_candidates_may_end_before_they_would_be_stopped(values: dict[str, Any], tmp_path: Path) -> None:
    values["methods"] = {"linear": {}}
    values |= {"tune": {"lr": [1e-9, 0.05], "epochs": 9}, "seeds": [0]}
    progress = _Progress()
    progress.begin(2)
    made, failed = run(values, tmp_path / "study")
    assert [job.until for job in made] == [9, 9]
    assert not failed
    assert re.search(r"validation loss \d\.\d{3} after epoch 1;", progress.line(made[0], None))


def test_candidates_run_on_the_training_part_even_if_the_seeds_do_not(values: dict[str, Any], tmp_path: Path) -> None:
    values["settings"]["protocol"] = "trainval"
    values["methods"] = {"linear": {"lr": [0.01, 0.02]}}
    made, _ = run(values, tmp_path / "study")
    assert [(job.purpose, job.config.protocol) for job in made] == [
        ("tune", "validation"),
        ("tune", "validation"),
        ("seed", "trainval"),
    ]


def test_a_run_that_fails_stops_no_other(values: dict[str, Any], tmp_path: Path) -> None:
    values["data"] = {"gone": {"data": str(tmp_path / "gone")}, **values["data"]}
    folder = tmp_path / "study"
    made, failed = run(values, folder)
    assert len(made) == 4
    assert {name.split(",")[0] for name in failed} == {"gone"}
    assert "gone does not exist" in failed["gone, linear, lr 0.01, seed 0"]
    comparison = read_folder(folder)
    assert not comparison.is_complete
    assert [job.data for job in comparison.failed] == ["gone", "gone"]
    assert "Traceback" in comparison.failed[0].log.read_text()
    shutil.copytree(tmp_path / "photos", tmp_path / "gone")
    assert [job.data for job in run(values, folder)[0]] == ["gone", "gone"]
    assert read_folder(folder).is_complete
    assert not read_folder(folder).failed


def test_a_candidate_that_diverges_is_not_chosen_nor_tried_again(values: dict[str, Any], tmp_path: Path) -> None:
    values["methods"] = {"svp": {}}
    values["settings"]["epochs"] = 2
    values["tune"] = {"lr": [0.01, 1e30]}
    folder = tmp_path / "study"
    assert len(run(values, folder)[0]) == 2
    comparison = read_folder(folder)
    finding = comparison.findings["photos", "svp"]
    assert finding.lr == 0.01
    assert finding.validation[1e30] is None
    assert comparison.is_complete
    assert not comparison.failed
    assert run(values, folder)[0] == []


def test_nothing_is_chosen_before_all_candidates_have_ended(values: dict[str, Any], tmp_path: Path) -> None:
    values["methods"] = {"linear": {"lr": [0.01, 0.02]}}
    folder = tmp_path / "study"
    made, _ = run(values, folder)
    (made[0].directory / "result.json").unlink()
    assert collect(make_study(values), folder).findings["photos", "linear"].lr is None


def test_processes_share_the_runs(values: dict[str, Any], tmp_path: Path, two_threads: None) -> None:
    values["settings"]["model"] = "vim_nano"
    values["methods"] = {"linear": {"lr": 0.01}}
    values["seeds"] = [0, 1]
    made, failed = run(values, tmp_path / "two", workers=2)
    assert not failed
    assert len(made) == 2
    comparison = read_folder(tmp_path / "two")
    assert comparison.is_complete
    assert comparison.results[0].threads == 1


@pytest.mark.exhaustive
def test_processes_give_the_same_and_one_that_is_killed_is_replaced(
    values: dict[str, Any], tmp_path: Path, two_threads: None
) -> None:
    values["settings"]["model"] = "vim_nano"
    values["methods"] = {"linear": {"lr": 0.01}}
    values["seeds"] = [0, 1, 2]  # one worker has more than one of them
    values["settings"]["epochs"] = 3
    killed: list[int] = []

    def kill_one() -> None:
        while not list((tmp_path / "two" / "runs").glob("*/metrics.jsonl")):
            time.sleep(0.02)
        children = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
        os.kill(children[0].pid, signal.SIGKILL)
        killed.append(children[0].pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    made, failed = run(values, tmp_path / "two", workers=2)
    assert killed
    assert not failed
    assert len(made) == 3
    run(values, tmp_path / "one")
    two, one = read_folder(tmp_path / "two"), read_folder(tmp_path / "one")
    assert two.is_complete
    assert two.results[0].threads == 1
    for key, finding in one.findings.items():
        assert finding.top1 == two.findings[key].top1


def test_tables_of_labels_are_refused_before_any_run(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{k}.jpg,{'a;b' if k % 2 else 'b'}\n" for k in range(12)))
    for k in range(12):
        (tmp_path / f"{k}.jpg").touch()
    values["data"] = {"labels": {"data": str(tmp_path / "labels.csv")}}
    with pytest.raises(ConfigError, match=r"labels.csv is of several labels per image, and a study compares classifiers"):
        run(values, tmp_path / "study")
    assert not (tmp_path / "study").exists()
