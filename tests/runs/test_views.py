"""Several views of an image, and the mean of what is said of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import svp
from svp.cli import main
from svp.errors import InputError
from svp.inputs import InputConfig, eval_transform
from svp.runs.views import AveragedViews, views_transform
from tests.training.conftest import COLORS, write_photos

PLAIN = InputConfig(img_size=28, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class LeftHalf(nn.Module):
    """Says whether the left half is bright: two classes, logits 0 and 10 (mean - 1/2)."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images[..., : images.shape[-1] // 2].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(bright), 10 * (bright - 0.5)], dim=1)


def ramp(width: int = 80, height: int = 60) -> Image.Image:
    """Brighter to the right."""
    return Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))).convert("RGB")


def test_a_flip_averages_probabilities_not_logits() -> None:
    image = eval_transform(PLAIN)(ramp())[None]
    one, other = (LeftHalf()(view).softmax(-1) for view in (image, image.flip(-1)))
    assert (one - other).abs().max() > 0.1
    said = AveragedViews(LeftHalf(), "flip")(image).softmax(-1)
    torch.testing.assert_close(said, (one + other) / 2)


@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_corners_are_those_of_a_larger_image(crop_pct: float) -> None:
    """Of what 28 pixels are cut out of 32, all 32 are seen; of what all is seen already, a larger picture."""
    inputs = dataclasses.replace(PLAIN, crop_pct=crop_pct)
    views = views_transform(inputs, "crops")(ramp())
    assert views.shape == (5, 3, 28, 28)
    assert torch.equal(views[0], eval_transform(inputs)(ramp()))
    assert torch.equal(views[1], views[3])  # the picture does not change from top to bottom
    left, middle, right = (views[i].mean() for i in (1, 0, 2))
    assert left < middle - 0.02
    assert right > middle + 0.02
    whole = eval_transform(dataclasses.replace(inputs, img_size=32, crop_pct=1.0))(ramp())
    assert torch.equal(views[1], whole[:, :28, :28])
    assert torch.equal(views[4], whole[:, 4:, 4:])


def test_crops_and_flips_are_ten_views() -> None:
    views = views_transform(PLAIN, "flip+crops")(ramp())
    every = torch.cat([views, views.flip(-1)])
    said = AveragedViews(LeftHalf(), "flip+crops")(views[None]).softmax(-1)
    torch.testing.assert_close(said[0], LeftHalf()(every).softmax(-1).mean(0))


def test_a_view_without_a_chance_leaves_the_loss_finite() -> None:
    sure = AveragedViews(lambda images: torch.tensor([[1000.0, -1000.0]]), "flip")
    assert torch.isfinite(sure(torch.zeros(1, 3, 8, 8))).all()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter without a run."""
    place = tmp_path_factory.mktemp("adapter")
    model = svp.create_model("vim_nano", num_classes=3, img_size=16, depth=2)
    svp.tune(model, "linear")
    with torch.no_grad():
        model.head.weight.normal_()
    svp.save_adapter(model, place, list(COLORS))
    return place


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", per_class=2)


@pytest.mark.parametrize("tta", ["flip", "flip+crops"])
def test_eval_and_predict_agree_and_say_it(
    adapter: Path, photos: Path, tta: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(adapter), "--data", str(photos), "--tta", tta, "--device", "cpu", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["tta"] == tta
    plain = svp.evaluate(adapter, photos, device="cpu")
    assert plain.tta == "none"
    assert scores["loss"] != plain.loss
    out = tmp_path / "out.csv"
    assert main(["predict", str(adapter), str(photos), "--tta", tta, "--device", "cpu", "--out", str(out)]) == 0
    assert f"views of each image (tta {tta})" in capsys.readouterr().err
    said = svp.predict(adapter, [photos], device="cpu", tta=tta, topk=3)
    probabilities = [dict(zip(p.classes, p.probabilities, strict=True))[p.path.parent.name] for p in said]
    assert -np.log(probabilities).mean() == pytest.approx(scores["loss"], rel=1e-4)
    assert main(["eval", str(adapter), "--data", str(photos), "--tta", tta, "--device", "cpu"]) == 0
    assert f"mean of {2 if tta == 'flip' else 10} views of each image" in capsys.readouterr().out


def test_settings_are_checked(adapter: Path, photos: Path) -> None:
    with pytest.raises(InputError, match="tta is 'both', expected 'none', 'flip', 'crops' or 'flip\\+crops'"):
        svp.evaluate(adapter, photos, tta="both")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="features are those of one view of an image, tta is 'flip'"):
        svp.predict(adapter, [photos], features=True, tta="flip")
