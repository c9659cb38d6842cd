"""Settings: where they come from, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from svp.training import ConfigError, make_config
from svp.training.config import RECIPES, read_recipe
from svp.training.schedule import Schedule

RELEASED = json.loads((Path(__file__).parent.parent / "golden" / "recipe.json").read_text())


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
        ({"colour": 3}, "colour"),
        ({"schedule": "linear"}, "schedule"),
        ({"recipe": "nothing"}, "recipe 'nothing' is neither a file nor one of: paper, scratch"),
        ({"augment": {"hflip": 2.0}}, "hflip"),
        ({"augment": {"auto_augment": "strong"}}, "auto_augment"),
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


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_recipe_parses_and_sets_what_it_says(recipe: str) -> None:
    config = make_config({"data": "x", "recipe": recipe})
    written = config.to_dict()
    for name, value in read_recipe(recipe).items():
        if isinstance(value, dict):
            assert {**written[name], **value} == written[name]
        else:
            assert written[name] == value or written[name].get("name") == value


def learning_rates(lr: float, schedule: str, steps: int = 3, epochs: int = 100) -> list[list[float]]:
    config = make_config({"data": "x", "recipe": "paper", "lr": lr, "schedule": schedule, "epochs": epochs})
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=lr)
    plan = Schedule(optimizer, config, steps)
    rates = []
    for epoch in range(epochs):
        rates.append([])
        for step in range(steps):
            plan.set(epoch, step)
            rates[-1].append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("name", ["CUB200", "DOGS"])
def test_released_schedule_is_that_of_the_release_in_every_epoch(name: str) -> None:
    expected = RELEASED["learning_rate"]["used_per_epoch"][name]
    rates = learning_rates(RELEASED["per_dataset"][name]["lr_after_scaling"], "released")
    assert all(len(set(rate)) == 1 for rate in rates)
    assert [rate[0] for rate in rates] == pytest.approx(expected, rel=1e-12)


def test_cosine_schedule_warms_up_peaks_and_ends_low() -> None:
    rates = [rate for epoch in learning_rates(0.01, "cosine") for rate in epoch]
    assert rates[0] == pytest.approx(1e-5)
    assert max(rates) == pytest.approx(0.01)
    assert rates.index(max(rates)) == 15
    assert rates[15:] == sorted(rates[15:], reverse=True)
    assert rates[-1] < 1.1e-5
