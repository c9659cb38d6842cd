"""Settings: where they come from, what is refused."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from svp.errors import InputError
from svp.training import ConfigError, TrainConfig, make_config
from svp.training.config import differences
from svp.tuners import SVP, Adapter, get_methods


def test_defaults_come_from_the_method() -> None:
    svp, linear = make_config({"data": "x"}), make_config({"data": "x", "method": "linear"})
    assert svp.method == "svp"
    assert svp.options["shared_layers"] == 8
    assert linear.options == {}
    assert linear.lr != svp.lr


def test_explicit_beats_file_beats_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: here\nrecipe: paper\nmixup: 0.3\nmethod: {shared_layers: 4}\naugment: {hflip: 0.1}\n")
    config = make_config({"epochs": 7, "method": {"hidden_dim": 16}}, file)
    assert (config.epochs, config.mixup, config.cutmix) == (7, 0.3, 1.0)
    assert (config.options["shared_layers"], config.options["hidden_dim"]) == (4, 16)
    assert (config.augment.hflip, config.augment.random_erasing) == (0.1, 0.25)


def test_another_method_drops_the_options_of_the_recipes_method() -> None:
    assert make_config({"data": "x", "recipe": "paper", "method": "linear"}).options == {}


def test_written_settings_read_back_equal(tmp_path: Path) -> None:
    config = make_config({"data": "x", "recipe": "paper", "method": {"name": "svp", "dropout": 0.1}})
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.to_dict()))
    assert make_config({}, file) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs is 0, expected 1 or more"),
        ({"epochs": "ten"}, "epochs"),
        ({"batch_size": 1}, "batch_size is 1, expected 2"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"mixup": 0.8, "batch_size": 9}, "even"),
        ({"test_fraction": 0.95}, "test_fraction is 0.95"),
        ({"model": "vim_huge"}, "unknown model 'vim_huge'; known: vim_nano, vim_tiny"),
        ({"method": "magic"}, "unknown method 'magic'; known: .*svp"),
        ({"method": {"name": "svp", "width": 3}}, "width"),
        ({"method": {"name": "svp", "shared_layers": 0}}, "shared_layers is 0"),
        ({"method": {"name": "svp", "cross": False, "inner": False}}, "cross and inner are both off"),
        ({"color": 3}, "color"),
        ({"schedule": "linear"}, "schedule"),
        ({"recipe": "nothing"}, "recipe 'nothing' is neither a file nor one of: demo, nano, paper, paper/cifar10, .*scratch"),
        ({"augment": {"hflip": 2.0}}, "hflip"),
        ({"augment": {"auto_augment": "strong"}}, "auto_augment"),
        ({"augment": {"crop": "center"}}, "crop"),
        ({"inputs": {"normalization": "cifar"}}, "normalization"),
        ({"inputs": {"crop_pct": 1.5}}, r"crop_pct \(=1.5\) must be above 0"),
        ({"inputs": {"crop_mode": "stretch"}}, "crop_mode"),
        ({"inputs": {"interpolation": "cubic"}}, "interpolation .*must be one of"),
        ({"inputs": "imagenet"}, "inputs is 'imagenet', expected settings"),
        ({"protocol": "test"}, "protocol"),
        ({"shots": 0}, "shots is 0, expected 1 or more"),
        ({"train_fraction": 0.0}, "train_fraction is 0.0, expected 0 < train_fraction <= 1"),
        ({"train_fraction": 1.5}, "train_fraction is 1.5"),
        ({"shots": 4, "train_fraction": 0.5}, "only one of them"),
        ({"lr_base_size": 0}, "lr_base_size is 0"),
    ],
)
def test_bad_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config({"data": "x", **values})


def test_data_is_required() -> None:
    with pytest.raises(ConfigError, match="data"):
        make_config({})


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*gone\.yaml"):
        make_config({}, tmp_path / "gone.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"bad\.yaml is not valid YAML"):
        make_config({}, tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds no settings"):
        make_config({}, tmp_path / "list.yaml")


def test_what_changes_the_training_is_a_difference() -> None:
    old = make_config({"data": "x"})
    changes = {"lr_base_size": 64, "shots": 3, "protocol": "trainval", "inputs": {"normalization": "none"}}
    for name, value in changes.items():
        (difference,) = differences(old, make_config({"data": "x", name: value}))
        assert difference.startswith(f"{name}: ")
    assert differences(old, make_config({"data": "x", "num_workers": 2, "out": "elsewhere"})) == []


def test_options_of_several_methods_are_layered_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: digits\nmethod:\n  name: svp+adapter\n  svp: {hidden_dim: 8, dropout: 0.1}\n")
    config = make_config({"method": {"svp": {"hidden_dim": 4}, "adapter": {"scale": 2.0}}}, file)
    assert config.method == "svp+adapter"
    assert config.options["svp"] == asdict(SVP(hidden_dim=4, dropout=0.1))
    assert config.options["adapter"] == asdict(Adapter(scale=2.0))
    assert make_config(config.to_dict()) == config
    assert config.lr == min(m.default_lr for m in get_methods("svp+adapter"))


def test_options_of_several_methods_stand_under_their_names() -> None:
    with pytest.raises(ConfigError, match="hidden_dim"):
        make_config({"data": "digits", "method": {"name": "svp+adapter", "hidden_dim": 4}})
    with pytest.raises(ConfigError, match=r"hidden_dim is 0, expected 1 or more"):
        make_config({"data": "digits", "method": {"name": "svp+adapter", "svp": {"hidden_dim": 0}}})


@pytest.mark.parametrize(
    ("method", "names", "dropout"),
    [
        ("svp", ["svp"], 0.0),
        ({"name": "svp", "dropout": 0.5}, ["svp"], 0.5),  # 0.1.0
        ({"svp": {"dropout": 0.5}}, ["svp"], 0.5),
        ({"dropout": 0.5}, ["svp"], 0.5),
        ("svp+lora", ["svp", "lora"], 0.0),
        ({"name": "svp+lora", "svp": {"dropout": 0.5}}, ["svp", "lora"], 0.5),  # 0.1.0
        ({"svp": {"dropout": 0.5}, "lora": {}}, ["svp", "lora"], 0.5),
    ],
)
def test_a_method_has_one_shape_and_those_of_0_1_0_are_read(method: object, names: list[str], dropout: float) -> None:
    written = make_config({"data": "x", "method": method}).to_dict()
    assert list(written["method"]) == names
    assert written["method"]["svp"]["dropout"] == dropout
    assert make_config(written).to_dict() == written


def test_options_alone_refine_the_method_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: x\nmethod:\n  lora: {rank: 4}\n  svp: {hidden_dim: 8}\n")
    method = make_config({"options": {"lora": {"alpha": 3.0}}}, file).to_dict()["method"]
    assert (method["lora"]["rank"], method["lora"]["alpha"], method["svp"]["hidden_dim"]) == (4, 3.0, 8)
    with pytest.raises(ConfigError, match=r"'lora\+svp'.* as in --method\.NAME\.rank"):
        make_config({"options": {"rank": 2}}, file)
    with pytest.raises(ConfigError, match="'svp' has no option 'lora'"):
        make_config({"data": "x", "options": {"lora": {"rank": 2}}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "linear"}, "schedule is 'linear', expected 'cosine' or 'released'"),
        ({"precision": "fp16"}, "precision is 'fp16', expected 'auto', 'fp32' or 'bf16'"),
        ({"device": "gpu"}, "device is 'gpu', expected auto, cpu, cuda, cuda:1, xpu, mps"),
        ({"protocol": "test"}, "protocol is 'test', expected 'validation', 'trainval' or 'paper'"),
        ({"cache": "ram"}, "cache is 'ram', expected 'none', 'memory' or 'disk'"),
        ({"epochs": "ten"}, "epochs is 'ten', expected a whole number"),
        ({"epochs": 2.5}, "epochs is 2.5, expected a whole number"),
        ({"lr": "high"}, "lr is 'high', expected 'auto', a number or null"),
        ({"mixup": None}, "mixup is None, expected a number"),
        ({"resume": "yes"}, "resume is 'yes', expected true or false"),
        ({"model": 3}, "model is 3, expected text"),
        ({"augment": {"hflip": 0.5}}, "augment is .*, expected AugmentConfig"),
    ],
)
def test_the_dataclass_itself_checks_every_setting(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(data="x", **values)


def test_methods_themselves_may_be_given() -> None:
    config = make_config({"data": "x", "method": SVP(hidden_dim=7)})
    assert (config.method, config.options["hidden_dim"]) == ("svp", 7)
    both = make_config({"data": "x", "method": [SVP(hidden_dim=7), Adapter()]})
    assert (both.method, both.options["svp"]["hidden_dim"]) == ("svp+adapter", 7)
    with pytest.raises(ConfigError, match=r"method is \[3\]"):
        make_config({"data": "x", "method": [3]})


def test_options_of_a_method_are_checked_and_read_as_settings_are(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("data: x\nmethod: {svp: {dropout: 1e-1}}\n")  # text to YAML 1.1
    assert make_config({}, tmp_path / "a.yaml").options["dropout"] == 0.1
    for options in ({"svp": {"hidden_dim": "wide"}}, {"lora": {"target_modules": 3}}, {"vpt_deep": {"position": "over"}}):
        with pytest.raises(ConfigError, match=next(iter(next(iter(options.values()))))):
            make_config({"data": "x", "method": options})
