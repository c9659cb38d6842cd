"""The shipped recipes against what the releases say, and how settings inherit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import svp
from svp.data import InputConfig, eval_transform, train_transform
from svp.models import Origin
from svp.training import ConfigError, TrainConfig, list_recipes, make_config
from svp.training.recipes import RECIPES, merge, read_recipe, recipe_for
from svp.training.schedule import Schedule

RELEASED = json.loads((Path(__file__).parent.parent / "golden" / "recipe.json").read_text())
HTA = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR",
    "dtd": "DTD",
    "cub200": "CUB200",
    "nabirds": "NABIRDS",
    "stanford_dogs": "DOGS",
    "oxford_flowers": "FLOWERS",
    "food101": "FOOD",
    "gtsrb": "GTSRB",
    "svhn": "SVHN",
}
"""Our names of the release's."""


@pytest.fixture(autouse=True)
def _no_folder_of_a_data_sets_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def paper(data: str, **settings: Any) -> TrainConfig:
    return make_config({"data": data, "recipe": "paper", **settings})


def tuned_on_meta(config: TrainConfig, num_classes: int) -> Any:
    model = svp.create_model(config.model, num_classes=num_classes, device="meta")
    return svp.tune(model, config.method, **config.options)


def rates_per_epoch(config: TrainConfig, steps: int = 3) -> list[list[float]]:
    """Learning rate of every step of every epoch."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=config.peak_lr)
    schedule = Schedule(optimizer, config, steps)
    rates: list[list[float]] = []
    for epoch in range(config.epochs):
        rates.append([])
        for step in range(steps):
            schedule.set(epoch, step)
            rates[-1].append(optimizer.param_groups[0]["lr"])
    return rates


def released_rates(peak: float) -> list[float]:
    """The release's rule, as `recipe.json` words it."""
    line, defaults = RELEASED["command_line"], RELEASED["option_defaults"]
    low, start, warm, total = line["min_lr"], line["warmup_lr"], defaults["warmup_epochs"], line["epochs"]

    def value(t: int) -> float:
        if t < warm:
            return start + t * (peak - start) / warm
        return low + 0.5 * (peak - low) * (1 + math.cos(math.pi * t / total))

    return [value(max(epoch - 1, 0)) for epoch in range(total)]


# the released recipe -----------------------------------------------------------------------------------------------------


def test_every_data_set_of_the_release_has_its_recipe() -> None:
    assert set(HTA.values()) == set(RELEASED["per_dataset"])
    assert {path.stem for path in (RECIPES / "paper").glob("*.yaml")} == set(HTA)


@pytest.mark.parametrize("data", HTA)
def test_values_of_a_data_set_are_the_released_ones(data: str) -> None:
    row, line, defaults = RELEASED["per_dataset"][HTA[data]], RELEASED["command_line"], RELEASED["option_defaults"]
    config = paper(data)
    assert config.peak_lr == pytest.approx(row["lr_after_scaling"], rel=1e-12)
    released = {
        "lr": row["lr"],
        "weight_decay": row["weight_decay"],
        "mixup": row["mixup"],
        "cutmix": row["cutmix"],
        "seed": row["seed"],
        "batch_size": row["batch_size_used"],
        "lr_base_size": 512,
        "model": line["model"],
        "epochs": line["epochs"],
        "warmup_lr": line["warmup_lr"],
        "min_lr": line["min_lr"],
        "precision": {False: "fp32"}[line["amp"]],
        "warmup_epochs": defaults["warmup_epochs"],
        "clip_grad": defaults["clip_grad"],
        "label_smoothing": defaults["label_smoothing"],
        "drop_path": defaults["drop_path"],
    }
    assert {name: getattr(config, name) for name in released} == released
    assert config.method == "svp"
    assert (config.options["shared_layers"], config.options["hidden_dim"]) == (row["shared_layers"], line["inner_hidden"])
    assert (config.options["simam"], config.options["head"]) == (row["input_simam"], row["head"])
    assert config.options["dropout"] == defaults["prompt_dropout"]
    augment = config.augment
    assert (augment.auto_augment, augment.color_jitter) == (defaults["auto_augment"], defaults["color_jitter"])
    assert (augment.random_erasing, augment.train_interpolation) == (
        defaults["random_erasing_prob"],
        defaults["train_interpolation"],
    )
    assert (augment.crop, augment.scale_min, augment.hflip, augment.vflip) == ("random", 0.08, 0.5, 0.0)
    inputs = config.inputs.applied(InputConfig.of_model(svp.create_model(config.model, device="meta")))
    assert inputs == InputConfig(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875, "center", "bicubic")
    assert inputs.img_size == defaults["input_size"]
    assert inputs.crop_pct == defaults["eval_crop_ratio"]


@pytest.mark.parametrize("data", HTA)
def test_as_many_parameters_train_as_in_the_release(data: str) -> None:
    row = RELEASED["per_dataset"][HTA[data]]
    assert tuned_on_meta(paper(data), row["num_classes"]).num_trainable == row["trainable_parameters"]


@pytest.mark.parametrize("data", HTA)
def test_the_learning_rate_of_every_epoch_is_the_released_one(data: str) -> None:
    row = RELEASED["per_dataset"][HTA[data]]
    rates = rates_per_epoch(paper(data))
    assert all(len(set(rate)) == 1 for rate in rates)
    expected = released_rates(row["lr_after_scaling"])
    used = RELEASED["learning_rate"]["used_per_epoch"].get(HTA[data], expected)
    assert used == pytest.approx(expected, rel=1e-12)
    assert [rate[0] for rate in rates] == pytest.approx(used, rel=1e-12)


@pytest.mark.parametrize("data", HTA)
def test_the_corrected_schedule_starts_at_once_peaks_and_ends_low(data: str) -> None:
    config = paper(data, schedule="cosine")
    rates = [rate for epoch in rates_per_epoch(config) for rate in epoch]
    warm = 3 * 5
    assert rates[0] == pytest.approx(config.warmup_lr)
    assert rates[1] > rates[0]
    assert rates[warm] == max(rates) == pytest.approx(config.peak_lr)
    cosine = [
        config.min_lr + (config.peak_lr - config.min_lr) * (1 + math.cos(math.pi * step / (300 - warm))) / 2
        for step in range(300 - warm)
    ]
    assert rates[warm:] == pytest.approx(cosine, rel=1e-9)


def test_the_learning_rate_scales_with_the_batch_and_can_be_given() -> None:
    assert paper("cifar10", batch_size=192).peak_lr == pytest.approx(2 * paper("cifar10").peak_lr)
    assert paper("cifar10", lr=0.002, lr_base_size=None).peak_lr == 0.002
    assert make_config({"data": "x", "lr": 0.01, "batch_size": 64}).peak_lr == 0.01


def test_a_folder_or_another_data_set_takes_the_base_recipe(tmp_path: Path) -> None:
    assert recipe_for("paper", "cifar10") == "paper/cifar10"
    base = read_recipe("paper")
    for data in ("digits", str(tmp_path), "cifar10/train"):
        config = paper(data)
        assert config.recipe == "paper"
        assert config.lr == base["lr"]
        assert not config.options["simam"]
    (tmp_path / "cifar10").mkdir()  # a folder of that name comes first when the data is opened, so here too
    assert paper("cifar10").recipe == "paper"
    named = make_config({"data": "cifar10", "recipe": "paper/cifar10"})
    assert (named.recipe, named.options["simam"]) == ("paper/cifar10", True)


def test_the_data_of_a_config_file_decides_too(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: dtd\nrecipe: paper\n")
    config = make_config({}, tmp_path / "mine.yaml")
    assert (config.recipe, config.seed, config.options["shared_layers"]) == ("paper/dtd", 3407, 4)
    assert make_config({"data": "svhn", "seed": 1}, tmp_path / "mine.yaml").recipe == "paper/svhn"


# VTAB-1K -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["imagenet", "none"])
def test_vtab_resizes_and_does_nothing_else(normalization: str, tmp_path: Path) -> None:
    settings = {} if normalization == "imagenet" else {"inputs": {"normalization": normalization}}
    config = make_config({"data": "vtab_dtd", "recipe": "vtab", **settings})
    assert (config.protocol, config.batch_size, config.epochs, config.warmup_epochs) == ("trainval", 32, 100, 10)
    inputs = config.inputs.applied(InputConfig.of_model(svp.create_model(config.model, device="meta")))
    image = Image.radial_gradient("L").resize((300, 200)).convert("RGB")
    expected = torch.tensor(list(image.resize((224, 224), Image.Resampling.BICUBIC).tobytes())).reshape(224, 224, 3) / 255
    if normalization == "imagenet":
        expected = (expected - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    for transform in (train_transform(inputs, config.augment), eval_transform(inputs)):
        torch.testing.assert_close(transform(image), expected.permute(2, 0, 1), atol=1e-5, rtol=0)


def test_vtab_takes_one_setting_for_every_method() -> None:
    configs = [make_config({"data": "x", "recipe": "vtab", "method": method}) for method in svp.list_methods()]
    assert {(config.lr, config.weight_decay) for config in configs} == {(0.001, 0.0001)}


def test_inputs_of_a_run_are_kept_with_the_adapter(photos: Path, settings: dict[str, Any]) -> None:
    inputs = {"normalization": "none", "crop_mode": "squash", "crop_pct": 0.8}
    run = svp.train(photos, inputs=inputs, **settings | {"epochs": 1, "method": "linear"})
    kept = json.loads((run.directory / "adapter.json").read_text())["inputs"]
    assert kept == {
        "img_size": 16,
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
        "crop_pct": 0.8,
        "crop_mode": "squash",
        "interpolation": "bicubic",
        "value_range": "file",
    }
    written = make_config({}, run.directory / "config.yaml")
    assert written.inputs.interpolation == "bicubic"  # the model's own, written out
    assert svp.evaluate(run.directory, device="cpu").loss == pytest.approx(run.result.loss, rel=1e-5)
    again = svp.train(photos, inputs=inputs, resume=True, **settings | {"epochs": 1, "method": "linear"})
    assert again.result == run.result


# every recipe ------------------------------------------------------------------------------------------------------------

VARIANTS = [(recipe, {}) for recipe in list_recipes()] + [("vtab", {"inputs": {"normalization": "none"}})]


@pytest.mark.parametrize(("recipe", "more"), VARIANTS, ids=lambda value: str(value))
def test_every_recipe_builds_its_model_and_pipeline(recipe: str, more: dict[str, Any], photos: Path) -> None:
    config = make_config({"data": str(photos), "recipe": recipe, **more})
    if config.weights == "random":
        model = Origin(config.model, "random", seed=0).build(3)
        tuner = svp.tune(model, config.method, **config.options)
    else:  # no weights are needed to see that all fits
        tuner = tuned_on_meta(config, 3)
        model = tuner.model
    assert 0 < tuner.num_trainable <= sum(p.numel() for p in model.parameters())
    inputs = config.inputs.applied(InputConfig.of_model(model))
    with Image.open(photos / "blue" / "00.jpg") as image:
        for transform in (train_transform(inputs, config.augment), eval_transform(inputs)):
            pixels = transform(image)
            assert pixels.shape == (3, inputs.img_size, inputs.img_size)
            assert bool(torch.isfinite(pixels).all())
    written = config.to_dict()
    for name, value in {**read_recipe(recipe), "data": str(photos)}.items():
        if name not in more:
            assert written[name] == (merge(written[name], value) if isinstance(value, dict) else value)


# inheritance -------------------------------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_file_holds_what_differs_from_the_one_it_inherits(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="inherit: paper\nepochs: 50\nmethod: {shared_layers: 6}\naugment: {hflip: 0.1}\n",
        mine="inherit: base.yaml\nepochs: 7\nmethod: {hidden_dim: 16}\n",
    )
    config = make_config({"data": "x", "method": {"dropout": 0.2}}, tmp_path / "mine.yaml")
    assert (config.epochs, config.batch_size, config.recipe) == (7, 96, None)
    assert (config.augment.hflip, config.augment.random_erasing) == (0.1, 0.25)
    options = config.options
    assert (options["shared_layers"], options["hidden_dim"], options["dropout"]) == (6, 16, 0.2)
    recipe = make_config({"data": "x", "recipe": str(tmp_path / "mine.yaml")})
    assert (recipe.epochs, recipe.options["shared_layers"]) == (7, 6)


def test_files_are_found_beside_the_one_that_inherits(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    write(tmp_path / "a", base="epochs: 3\n")
    write(tmp_path / "a" / "b", mine="inherit: ../base.yaml\n")
    assert make_config({"data": "x"}, tmp_path / "a" / "b" / "mine.yaml").epochs == 3


def test_another_method_drops_the_options_of_the_inherited_one(tmp_path: Path) -> None:
    write(tmp_path, mine="inherit: paper\nmethod: linear\n")
    assert make_config({"data": "x"}, tmp_path / "mine.yaml").options == {}


def test_a_file_that_inherits_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, a="inherit: b.yaml\n", b="inherit: c.yaml\n", c="inherit: ../" + tmp_path.name + "/a.yaml\n")
    chain = r" inherits ".join(rf"\S*{name}\.yaml" for name in "abca")
    with pytest.raises(ConfigError, match=f"inherit from themselves: {chain}$"):
        make_config({"data": "x"}, tmp_path / "a.yaml")
    write(tmp_path, self="inherit: self.yaml\n")
    with pytest.raises(ConfigError, match="inherit from themselves"):
        make_config({"data": "x", "recipe": "self.yaml"})


@pytest.mark.parametrize(("parent", "shown"), [("gone.yaml", r"'gone\.yaml'"), ("3", "3"), ("[a, b]", r"\['a', 'b'\]")])
def test_a_missing_parent_is_named_with_its_heir(tmp_path: Path, parent: str, shown: str) -> None:
    write(tmp_path, mine=f"inherit: {parent}\n")
    with pytest.raises(
        ConfigError, match=rf"mine\.yaml inherits {shown}, which is neither .* nor one of: demo, nano, paper, paper/cifar10"
    ):
        make_config({"data": "x"}, tmp_path / "mine.yaml")


def test_a_recipe_in_a_recipe_is_pointed_to_inherit(tmp_path: Path) -> None:
    write(tmp_path, mine="recipe: paper\nepochs: 3\n")
    with pytest.raises(ConfigError, match="write 'inherit: paper' instead"):
        make_config({"data": "x", "recipe": "mine.yaml"})


def test_wrong_settings_of_an_inherited_file_name_that_file(tmp_path: Path) -> None:
    write(tmp_path, base="augment: strong\n", mine="inherit: base.yaml\n")
    with pytest.raises(ConfigError, match=r"augment is 'strong', expected settings \(in .*base\.yaml\)"):
        make_config({"data": "x"}, tmp_path / "mine.yaml")
