"""Settings are checked where they are set, and a trained model is used the same way everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import svp
from svp.errors import InputError
from svp.runs.devices import make_accelerator, separate_accelerate_state
from svp.runs.predict import logits_and_features
from tests.models.small import small_vim
from tests.training.conftest import write_photos


@pytest.fixture(scope="module")
def nameless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter without names of classes."""
    place = tmp_path_factory.mktemp("nameless")
    model = small_vim(num_classes=3)
    svp.tune(model, "linear")
    svp.save_adapter(model, place)
    return place


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"device": "gpu"}, "device is 'gpu', expected auto, cpu, cuda, cuda:1, xpu, mps"),
        ({"precision": "fp16"}, "precision is 'fp16', expected 'auto', 'fp32' or 'bf16'"),
        ({"batch_size": 0}, "batch_size is 0, expected 1 or more"),
    ],
)
def test_settings_are_checked(setting: dict[str, Any], message: str, nameless: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", per_class=1)
    with pytest.raises(InputError, match=message):
        svp.predict(nameless, [photos], **setting)
    with pytest.raises(InputError, match=message):
        svp.evaluate(nameless, photos, **setting)
    if "device" in setting:
        with pytest.raises(InputError, match=message):
            svp.open_run(nameless, **setting)


def test_classes_without_names_are_numbers_for_evaluate_as_for_predict(nameless: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", per_class=2)
    for number, folder in enumerate(sorted(photos.iterdir())):
        folder.rename(photos / str(number))
    scores = svp.evaluate(nameless, photos, device="cpu")
    assert list(scores.per_class) == ["0", "1", "2"]
    said = [prediction.classes[0] for prediction in svp.predict(nameless, [photos], device="cpu")]
    right = [name == path.parent.name for name, path in zip(said, sorted(photos.rglob("*.jpg")), strict=True)]
    assert scores.top1 == np.mean(right)


def test_features_are_what_enters_the_head(nameless: Path) -> None:
    model = svp.open_run(nameless, "cpu").model
    images = torch.randn(2, 3, *model.patch_embed.img_size)
    with torch.no_grad():
        logits, features = logits_and_features(model, images)
        torch.testing.assert_close(features, model.forward_head(model.forward_features(images), pre_logits=True))
        torch.testing.assert_close(model.head(features), logits)
    assert not model.head._forward_pre_hooks


def test_an_accelerator_of_the_caller_stays_as_it_is(nameless: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", per_class=1)
    with separate_accelerate_state():
        own = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)
        list(svp.predict(nameless, [photos], device="cpu", precision="fp32"))
        assert own.mixed_precision == "bf16"
        assert own.gradient_accumulation_steps == 4
        assert own.num_processes == 1
        assert str(own.device) == "cpu"


def test_two_precisions_in_one_process() -> None:
    for precision, expected in (("bf16", "bf16"), ("fp32", "no"), ("bf16", "bf16")):
        with separate_accelerate_state():
            assert make_accelerator("cpu", precision).mixed_precision == expected
