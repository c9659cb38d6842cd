"""What follows from a study's YAML file, without running anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from svp.studies import Study, make_study, read_ablation, read_sensitivity, read_study
from svp.studies.study import run_name
from svp.studies.study_file import to_yaml_values
from svp.training import ConfigError, make_config


def settings_of(study: Study, method: str) -> Any:
    return next(cell for cell in study.cells if cell.method == method).config


def test_later_layers_win(values: dict[str, Any]) -> None:
    values["settings"] |= {"lr": 0.1, "method": {"name": "svp", "shared_layers": 4}}
    values["data"]["few"] = {**values["data"]["photos"], "shots": 3, "batch_size": 4}
    values["methods"] = {
        "linear": {},
        "svp": {"batch_size": 6},
        "inner": {"method": {"name": "svp", "cross": False}, "lr": 0.2},
    }
    study = make_study(values)
    cells = {(cell.data, cell.method): cell for cell in study.cells}
    assert len(cells) == 6
    assert cells["photos", "linear"].config.options == {}  # options of the shared method mean nothing to another one
    assert cells["photos", "svp"].config.options["shared_layers"] == 4
    assert cells["photos", "inner"].config.options["cross"] is False
    assert cells["photos", "inner"].candidates == (0.2,)
    assert cells["photos", "linear"].candidates == (0.1,)
    assert (cells["few", "linear"].config.shots, cells["photos", "linear"].config.shots) == (3, None)
    assert (cells["few", "linear"].config.batch_size, cells["few", "svp"].config.batch_size) == (4, 6)


def test_a_label_names_the_method_unless_it_says_another(values: dict[str, Any]) -> None:
    values["methods"] = {"svp": {"method": {"cross": False}}, "my own": {"method": "linear"}}
    study = make_study(values)
    assert settings_of(study, "svp").options["cross"] is False
    assert settings_of(study, "my own").method == "linear"


def test_lists_of_names_and_of_settings(values: dict[str, Any], tmp_path: Path) -> None:
    folder = values["data"]["photos"]["data"]
    values |= {"methods": ["linear", "svp"], "data": [folder, {"data": folder, "shots": 2}]}
    study = make_study(values)
    assert list(study.methods) == ["linear", "svp"]
    assert list(study.data) == ["photos", "photos, shots 2"]


def test_every_method_has_the_candidates_it_does_not_bring(values: dict[str, Any]) -> None:
    values["methods"] = {"linear": {}, "svp": {"lr": ["1e-3", 0.1]}, "bitfit": {"lr": 0.5}}
    values["tune"] = {"lr": [0.03, 0.01], "seed": 7}
    study = make_study(values)
    assert [cell.candidates for cell in study.cells] == [(0.01, 0.03), (0.001, 0.1), (0.5,)]
    assert study.tuning_seed == 7


def test_a_rate_is_chosen_on_validation_images_where_runs_have_folds(values: dict[str, Any], tmp_path: Path) -> None:
    values["settings"]["folds"] = 2
    cell = make_study(values).cells[0]
    tuning, counts = (cell.job(tmp_path, 0.01, 0, tuning=tuning).config for tuning in (True, False))
    assert (tuning.protocol, tuning.folds) == ("validation", None)
    assert (counts.protocol, counts.folds) == ("trainval", 2)


def test_a_study_survives_yaml(values: dict[str, Any], tmp_path: Path) -> None:
    values |= {"tune": {"lr": [0.1, 0.2]}, "seeds": [3, 4], "reference": "linear"}
    del values["methods"]["bias"]["lr"]
    study = make_study(values)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(to_yaml_values(study), sort_keys=False))
    assert read_study(tmp_path / "study.yaml") == study


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": ["svp"]}, "no section 'method': it belongs under 'settings'; known: name, settings, data, methods"),
        ({"color": 1}, "no section 'color'; known"),
        ({"methods": {}}, "the study has no methods"),
        ({"methods": {"magic": {}}}, "methods.magic: unknown method 'magic'.*name it: 'magic': "),
        (
            {"methods": {"svp": {"cross": False}}},
            "methods.svp has no setting 'cross' .an option of a method stands under method",
        ),
        ({"methods": ["svp", "svp"]}, "'svp' stands there twice"),
        ({"methods": {"svp": {"method": {"hidden_dim": 0}}}}, "small: svp on photos: svp: hidden_dim is 0"),
        ({"methods": {"svp": {"lr": [0.1, -1]}}}, "svp on photos: lr is .*expected a list of numbers above 0"),
        ({"data": [3]}, "data is 3, expected settings"),
        ({"data": {"photos": {"seed": 3}}}, "data.photos has no setting 'seed' .the study sets it"),
        ({"settings": {"out": "x"}}, "settings has no setting 'out'"),
        ({"seeds": 3}, "seeds is 3, expected a list of whole numbers"),
        ({"seeds": [0, -1]}, "seeds is"),
        ({"tune": {"lr": [0.1], "wd": 3}}, "tune is .* expected .lr: "),
        ({"tune": {"lr": ["low"]}}, "tune.lr is"),
        ({"tune": {"lr": [0.1, 0.2]}}, "no method has learning rates to choose from"),
        ({"reference": "svp"}, "reference is 'svp', expected one of the methods: linear, bias"),
        ({"name": 3}, "name is 3"),
    ],
)
def test_errors_name_the_section(values: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_study(values | change)


def test_a_run_is_named_by_what_changes_its_outcome() -> None:
    def name(**explicit: Any) -> str:
        return run_name(make_config({"data": "digits", **explicit}))

    base = name()
    assert base == name(out="elsewhere", resume=True, device="cpu", num_workers=3, lr=0.005)  # svp's own learning rate
    assert base == name(method={"name": "svp", "shared_layers": 8}, augment={"hflip": 0.5})
    others = [
        name(seed=1),
        name(lr=0.1),
        name(weight_decay=0.3),
        name(method={"name": "svp", "shared_layers": 4}),
        name(method="linear"),
        name(augment={"hflip": 0.4}),
        name(data="cifar10"),
        name(epochs=3),
        name(protocol="trainval"),
    ]
    assert len({base, *others}) == 1 + len(others)
    old = "digits-svp-lr0.01-seed0-346ebd95"  # of `model="vim_nano"` before tags of weights were recorded
    assert name(model="vim_nano.tiny_in200", lr=0.01) == old
    assert name(model="vim_nano", weights="random", lr=0.01) != old


READERS = {"compare": read_study, "ablate": read_ablation, "sensitivity": read_sensitivity}
STUDIES = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_of_the_repository_are_valid_and_say_how_they_are_run(path: Path) -> None:
    command = re.search(r"^#   svp study (\w+) (benchmarks/\S+)", path.read_text(), re.MULTILINE)
    assert command, "a comment with the command"
    assert command[2] == f"benchmarks/{path.name}"
    assert READERS[command[1]](path).name == path.stem
