"""The search over sets of methods: which together, then their options."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from svp.cli import main
from svp.studies import Trial, make_set_search, run_search, run_set_search
from svp.training import ConfigError

pytest.importorskip("optuna", reason="Optuna is not installed")


@pytest.fixture
def sets(values: dict[str, Any]) -> dict[str, Any]:
    part = {name: values[name] for name in ("name", "settings", "data")}
    return part | {
        "methods": {"bitfit": {}, "lora": {"rank": 2}},
        "space": {"lr": [0.01, 0.02], "lora": {"rank": [2, 4]}},
        "trials": [5, 1],
    }


def test_both_steps_run_once_and_no_set_twice(sets: dict[str, Any], tmp_path: Path) -> None:
    search = make_set_search(sets)
    ran: list[tuple[str, Path, list[Trial]]] = []

    def run(step: Any, folder: Path, workers: int, ray: str | None) -> list[Trial]:
        ran.append((step.name, folder, run_search(step, folder, workers, ray)))
        return ran[-1][2]

    (last,) = run_set_search(search, tmp_path / "out", run=run)
    (_, _, first), (name, folder, _) = ran
    assert len(first) == 5
    assert len({trial.directory for trial in first}) == len({str(trial.point) for trial in first}) < 5
    for trial in first:
        result = json.loads((trial.directory / "result.json").read_text())
        used = [name for name, on in trial.point.items() if on]
        assert result["method"] == ("+".join(used) or "linear")
        assert result["selection_top1"] == trial.top1
    chosen = json.loads((first[0].directory / "result.json").read_text())["method"]
    assert (name, folder) == ("small, options", tmp_path / "out" / "options" / chosen)  # another set would not go on there
    result = json.loads((last.directory / "result.json").read_text())
    assert result["method"] == chosen
    assert result["peak_lr"] == last.point["lr"]
    assert ("lora.rank" in last.point) == ("lora" in chosen)
    files = sorted(path for path in (tmp_path / "out").rglob("result.json"))
    assert run_set_search(search, tmp_path / "out") == [last]
    assert sorted(path for path in (tmp_path / "out").rglob("result.json")) == files


def test_a_set_that_another_process_is_at_is_not_run(sets: dict[str, Any], tmp_path: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    search = replace(make_set_search(sets).sets, space={"bitfit": (True,), "lora": (False,)}, trials=2)
    (tmp_path / "claims").mkdir()
    waiting = threading.Thread(target=run_search, args=(search, tmp_path))
    with FileLock(tmp_path / "claims" / "10"):
        waiting.start()
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
        while waiting.is_alive() and not (
            storage.get_all_studies() and any(len(t.params) == 2 for t in storage.get_all_trials(0))
        ):
            time.sleep(0.01)
        time.sleep(0.5)  # whoever does not wait begins
        (proposed,) = storage.get_all_trials(0)
        of_the_other = optuna.create_trial(params=proposed.params, distributions=proposed.distributions, value=0.5)
        optuna.load_study(study_name=search.name, storage=storage).add_trial(of_the_other)
    waiting.join()
    assert [(trial.state, trial.top1) for trial in run_search(search, tmp_path)] == [("complete", 0.5)] * 2
    assert not list(tmp_path.rglob("result.json"))


def test_options_stand_under_their_methods(sets: dict[str, Any], tmp_path: Path) -> None:
    search = make_set_search(sets)
    for used, names in ((("lora",), ["lr", "lora.rank"]), (("bitfit",), ["lr"]), (("bitfit", "lora"), ["lr", "lora.rank"])):
        best = Trial({name: name in used for name in ("bitfit", "lora")}, "complete", 0.5, 1, tmp_path)
        options = search.options(best)
        assert options is not None
        assert list(options.space) == names
        config = options.job(tmp_path, 0, {"lr": 0.02, "lora.rank": 4} if "lora" in used else {"lr": 0.02}).config
        assert (config.method, config.lr) == ("+".join(used), 0.02)
        if "lora" in used:
            assert (config.options if used == ("lora",) else config.options["lora"])["rank"] == 4
    without_lr = make_set_search(sets | {"space": {"lora": {"rank": [2, 4]}}})
    assert without_lr.options(Trial({"bitfit": True, "lora": False}, "complete", 0.5, 1, tmp_path)) is None
    config = search.sets.job(tmp_path, 0, {"bitfit": False, "lora": False}).config
    assert config.method == "linear"
    assert search.sets.describe({"bitfit": True, "lora": True}) == "bitfit+lora"


def test_command_line(sets: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "hybrid.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(sets | {"trials": [1, 1]}, sort_keys=False))
    assert main(["study", "sensitivity", str(file), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "trials of bitfit, lora on photos" in text
    assert f"best       {out / 'options'}" in text
    steps = [out / "sets", *(out / "options").iterdir()]
    assert len(steps) == 2
    assert all((step / name).is_file() for step in steps for name in ("search.md", "search.png"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": {}}, "a search over sets has no section 'grid'; known: name"),
        ({"methods": []}, "methods is .*expected a list of names"),
        ({"methods": ["lota"]}, "unknown method 'lota'"),
        ({"methods": {"lora": {"rang": 4}}}, "rang"),
        ({"trials": 5}, "trials is 5, expected two numbers"),
        ({"space": {"ssf": {}}}, "space.ssf is .*expected a setting such as lr"),
        ({"space": {"lora": {"rank": 4}}}, "space.lora.rank is 4, expected a range or a list"),
        ({"space": {"lora": {"rang": [4]}}}, "rang"),
        ({"settings": {"model": "vim_nano", "method": "svp"}}, "settings name a method"),
    ],
)
def test_errors_name_the_section(sets: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_set_search(sets | change)
