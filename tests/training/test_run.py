"""A run from images to result, and what it leaves behind."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import svp
from svp.data import DataError
from svp.models import WeightsError
from svp.runs import RunError
from svp.training import ConfigError, Run, make_config
from svp.training.machine import peak_memory_mb, reset_peak_memory
from tests.training.conftest import write_photos


@pytest.mark.usefixtures("drawn")
def test_a_run_learns_and_leaves_what_it_promises(photos: Path, settings: dict[str, Any]) -> None:
    run = svp.train(photos, **settings | {"epochs": 6})
    assert run.result.top1 > 0.8
    files = {path.relative_to(run.directory).as_posix() for path in run.directory.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml",
        "metrics.jsonl",
        "splits.json",
        "adapter.safetensors",
        "adapter.json",
        "last/state.pt",
        "result.json",
        "test_predictions.csv",
        "curves.png",
        "curves.pdf",
    }
    result = json.loads((run.directory / "result.json").read_text())
    assert result == json.loads(json.dumps(run.result.to_dict()))
    assert result["n_test"] == sum(row["n"] for row in result["per_class"].values()) == 6
    rows = list(csv.DictReader((run.directory / "test_predictions.csv").open()))
    assert len(rows) == 6
    assert sum(row["label"] == row["predicted"] for row in rows) == 6 * result["top1"]
    assert result["advice"][0].startswith(f"It is right on {result['top1']:.0%} of 6 test images")
    assert result["how_chosen"].startswith("best top-1 on 6 validation images")
    assert result["trainable_parameters"] == result["trainable_parameters_without_head"] + 3 * 32 + 3
    assert {"torch", "timm", "svp", "python"} <= result["versions"].keys()
    assert result["peak_memory_mb"] > 50
    metrics = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in metrics] == list(range(6))
    best = max(metrics, key=lambda row: (row["selection_top1"], -row["selection_loss"]))
    assert result["epoch_chosen"] == best["epoch"] + 1
    assert Image.open(run.directory / "curves.png").size[0] > 600

    again = svp.evaluate(run.directory, device="cpu")
    assert again.top1 == result["top1"]
    assert again.loss == pytest.approx(result["loss"], rel=1e-5)
    predictions = list(svp.predict(run.directory, [photos / "blue"], topk=2, device="cpu"))
    assert len(predictions) == 14
    assert sum(p.classes[0] == "blue" for p in predictions) > 11
    assert all(p.probabilities[0] >= p.probabilities[1] for p in predictions)


EVERY_DAY = ("svp", "full", "lora", "vpt_deep")


@pytest.mark.parametrize(
    "method",
    [
        *EVERY_DAY,
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in [*svp.list_methods(), "svp+adapter"]
            if name not in EVERY_DAY
        ),
    ],
)
def test_every_method_trains_and_its_adapter_gives_the_same_scores(
    method: str, photos: Path, settings: dict[str, Any]
) -> None:
    run = svp.train(photos, method=method, **settings | {"epochs": 1})
    assert svp.evaluate(run.directory, device="cpu").loss == pytest.approx(run.result.loss, rel=1e-5)


def test_a_vision_transformer_trains(photos: Path, settings: dict[str, Any]) -> None:
    vit = dict(model="deit_small_patch16_224", weights="random", img_size=32, method="vpt_deep", drop_path=0.1, epochs=1)
    run = svp.train(photos, **settings | vit)
    model = svp.load_adapter(run.directory)
    assert [block.drop_path1.__class__.__name__ for block in model.blocks[-2:]] == ["Identity", "Identity"]
    assert svp.evaluate(run.directory, device="cpu").loss == pytest.approx(run.result.loss, rel=1e-5)


def test_the_same_seed_gives_the_same_numbers(photos: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    options = dict(options={"dropout": 0.2}, mixup=0.8, cutmix=1.0, drop_path=0.1)
    runs = [svp.train(photos, **settings | options | {"out": str(tmp_path / name)}) for name in "ab"]
    other = svp.train(photos, **settings | options | {"out": str(tmp_path / "c"), "seed": 1})
    first, second, third = (load_file(run.directory / "adapter.safetensors") for run in (*runs, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_paper_protocol_trains_on_more_and_says_so(photos: Path, settings: dict[str, Any]) -> None:
    run = svp.train(photos, protocol="paper", **settings | {"epochs": 1})
    assert run.result.protocol == "paper"
    assert "best top-1 on test" in run.result.how_chosen
    row = json.loads((run.directory / "metrics.jsonl").read_text())
    assert row["selection_split"] == "test"
    assert row["selection_top1"] == run.result.top1


def test_a_full_training_serves_as_backbone(photos: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    base = svp.train(photos, method="full", **settings)
    run = svp.train(photos, **settings | {"weights": str(base.directory), "out": str(tmp_path / "svp")})
    assert str(base.directory.name) in json.loads((run.directory / "adapter.json").read_text())["backbone"]["weights"]
    assert svp.evaluate(run.directory, device="cpu").top1 == run.result.top1
    # other weights in the same file: the adapter must notice
    weights = load_file(base.directory / "adapter.safetensors")
    weights["norm_f.weight"] *= 1.01
    save_file(weights, base.directory / "adapter.safetensors")
    with pytest.raises(WeightsError, match=r"hash [0-9a-f]{64}; this backbone has hash [0-9a-f]{64}"):
        svp.evaluate(run.directory, device="cpu")


def test_a_run_is_not_overwritten(photos: Path, settings: dict[str, Any], finished: Run) -> None:
    with pytest.raises(RunError, match="holds a run already: go on with it by --resume"):
        svp.train(photos, **settings | {"out": str(finished.directory)})


def test_a_folder_of_something_else_is_not_written_into(photos: Path, settings: dict[str, Any]) -> None:
    out = Path(settings["out"])
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="is not empty and no run directory"):
        svp.train(photos, **settings)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_runs_without_a_name_are_numbered(
    photos: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings | {"out": None, "epochs": 1, "method": "linear"}
    names = [svp.train(photos, **settings).directory.as_posix() for _ in range(2)]
    assert names == ["runs/photos-test_vim-linear-0", "runs/photos-test_vim-linear-0-2"]


def test_few_images_are_enough(tmp_path: Path, settings: dict[str, Any]) -> None:
    photos = write_photos(tmp_path / "few", per_class=3)
    run = svp.train(photos, **settings | {"epochs": 1, "batch_size": 64})
    assert run.result.n_test == 3


def test_scores_on_another_folder(finished: Run, tmp_path: Path) -> None:
    other = write_photos(tmp_path / "other", per_class=4, seed=9)
    scores = svp.evaluate(finished.directory, other, device="cpu")
    assert scores.n_test == 12
    (other / "purple").mkdir()
    Image.new("RGB", (8, 8)).save(other / "purple" / "a.png")
    with pytest.raises(DataError, match="purple"):
        svp.evaluate(finished.directory, other, device="cpu")


def test_new_images_in_the_folder_do_not_leak_into_the_score(photos: Path, settings: dict[str, Any]) -> None:
    run = svp.train(photos, **settings | {"epochs": 1})
    write_photos(photos / "more", per_class=5, seed=3)
    for name in ("amber", "blue", "green"):
        for image in (photos / "more" / name).iterdir():
            image.rename(photos / name / f"new-{image.name}")
    assert svp.evaluate(run.directory, device="cpu").n_test == run.result.n_test == 6


def test_predict_checks_its_arguments(photos: Path, finished: Run) -> None:
    with pytest.raises(ValueError, match="topk is 0"):
        svp.predict(finished.directory, [photos], topk=0)
    with pytest.raises(DataError, match="gone"):
        svp.predict(finished.directory, [photos / "gone"])
    with pytest.raises(WeightsError, match=r"holds no adapter\.json"):
        svp.predict(photos, [photos])


def test_a_gpu_that_is_not_there_is_an_error(photos: Path, settings: dict[str, Any]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match=r"device is 'cuda', but PyTorch finds no cuda:0 here, only .*cpu"):
        svp.train(photos, **settings | {"device": "cuda"})


def test_settings_of_the_wrong_name_are_refused(photos: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="shared_layer"):
        svp.train(photos, shared_layer=3, **settings)


def test_written_settings_leave_nothing_to_the_place_or_the_machine(
    photos: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("epochs: 1\n")
    run = svp.train("photos", **settings | {"recipe": "mine.yaml", "epochs": 2})
    config = yaml.safe_load((run.directory / "config.yaml").read_text())
    assert config["data"] == str(photos)
    assert (config["model"], config["precision"], config["img_size"]) == ("test_vim", "fp32", 16)
    assert "recipe" not in config
    recipe.unlink()
    monkeypatch.chdir("/")
    assert make_config({}, run.directory / "config.yaml").epochs == 2


def test_precision_can_change_within_a_process(finished: Run) -> None:
    losses = [svp.evaluate(finished.directory, device="cpu", precision=precision).loss for precision in ("fp32", "bf16")]
    assert losses[0] == pytest.approx(finished.result.loss, rel=1e-5)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the mark can be reset on Linux alone")
def test_peak_memory_is_that_of_the_run_not_of_the_process() -> None:
    device = torch.device("cpu")
    reset_peak_memory(device)
    before = peak_memory_mb(device)
    block = np.ones(40_000_000)  # 320 MB
    assert 250 < peak_memory_mb(device) - before < 450
    del block
    assert peak_memory_mb(device) - before > 250
    reset_peak_memory(device)
    assert peak_memory_mb(device) - before < 50
