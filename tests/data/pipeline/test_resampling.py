"""The resize is Pillow's, to the bit, and a transform that uses it gives the same values."""

import pickle
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import MaybeToTensor
from torchvision import transforms as tv

from svp.data import AugmentConfig, InputConfig, eval_transform, train_transform
from svp.data.pipeline.faster import faster
from svp.data.pipeline.resampling import resize
from svp.inputs import Transform
from svp.resizing import LEAST

METHODS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Black and white, so that filters overshoot, in one half."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    values[: height // 2] = (values[: height // 2] > 127) * np.uint8(255)
    return Image.fromarray(values)


@pytest.mark.parametrize("method", METHODS)
def test_every_size_is_pillows(method: Image.Resampling) -> None:
    sizes = np.random.default_rng(1).integers(LEAST, 200, (60, 4)).tolist()
    for width, height, *size in [*sizes, [500, 375, 341, 256], [6, 7, 6, 7], [7, 1, 40, 1], [1, 5, 9, 300], [640, 40, 40, 2]]:
        image = noise(width, height)
        expected = image.resize(size, method)
        assert resize(image, tuple(size), method).tobytes() == expected.tobytes(), (width, height, size)


@pytest.mark.parametrize("method", METHODS)
def test_a_part_is_that_of_the_whole(method: Image.Resampling) -> None:
    image = noise(300, 200)
    whole = image.resize((120, 80), method)
    for kept in ((0, 0, 120, 80), (0, 0, LEAST, 1), (114, 79, 120, 80), (13, 7, 101, 66), (48, 28, 72, 52)):
        assert resize(image, (120, 80), method, kept).tobytes() == whole.crop(kept).tobytes(), kept


def outcome(transform: Transform, image: Image.Image) -> tuple[torch.Tensor, float]:
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    return transform(image), random.random()


class Turned(tv.Resize):  # type: ignore[misc]
    """A step of somebody's own."""

    def forward(self, img: Any) -> Any:
        return super().forward(img).rotate(90)


TRANSFORMS: dict[str, Any] = {
    "evaluation": eval_transform(InputConfig(96)),
    "squash": eval_transform(InputConfig(96, crop_mode="squash")),
    "border": eval_transform(InputConfig(96, crop_mode="border")),
    "lanczos": eval_transform(InputConfig(96, interpolation="lanczos")),
    "training": train_transform(InputConfig(96), AugmentConfig()),
    "random filter": train_transform(InputConfig(96), AugmentConfig(train_interpolation="random", scale_min=0.08)),
    "no variation": train_transform(InputConfig(96), AugmentConfig.none()),
    "another": tv.Compose([tv.Resize((32, 32)), tv.ToTensor()]),
    "bounded": tv.Compose([tv.Resize(96, max_size=110), tv.CenterCrop(90), MaybeToTensor()]),
    "own step": tv.Compose([Turned(96), tv.CenterCrop(90), MaybeToTensor()]),
    "any order": tv.RandomOrder([tv.Resize(96), tv.CenterCrop(90), MaybeToTensor()]),
    "nearest": tv.Compose([tv.Resize(96, tv.InterpolationMode.NEAREST_EXACT), tv.CenterCrop(90), MaybeToTensor()]),
    "one mean": tv.Compose([tv.Resize((150, 150)), MaybeToTensor(), tv.Normalize((0.5,), (0.25,))]),
    "gray": train_transform(InputConfig(96).of_channels(1), AugmentConfig()),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [(300, 200), (97, 301), (120, 119), (40, 32), (1800, 90)])
def test_a_transform_gives_the_same_values(name: str, size: tuple[int, int]) -> None:
    transform = TRANSFORMS[name]
    image: Any = noise(*size).split()[:1] if name == "gray" else noise(*size)
    quick = pickle.loads(pickle.dumps(faster(transform)))  # as it goes to a worker that is spawned
    for seen in (image, image if name == "gray" else image.convert("L").convert("RGB")):
        (expected, drawn), (actual, drawn_too) = outcome(transform, seen), outcome(quick, seen)
        assert torch.equal(actual, expected)
        assert drawn_too == drawn


@pytest.mark.parametrize(("name", "calls"), [("evaluation", 1), ("squash", 1), ("training", 1), ("border", 0), ("lanczos", 0)])
def test_the_kernel_does_it_where_it_can(name: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from svp.data.pipeline import resampling

    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resampling, "resize", lambda *arguments: made.append(arguments[1]) or resize(*arguments))
    outcome(faster(TRANSFORMS[name]), noise(300, 200))
    assert len(made) == calls
    outcome(faster(TRANSFORMS[name]), noise(1800, 90))  # too thin: a part of it would do
    assert len(made) == calls + (name == "training")  # the crop of which is not


def test_small_images_do_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("resampling", "kernels"):
        monkeypatch.setitem(sys.modules, f"svp.data.pipeline.{name}", None)  # whose import fails
    small = faster(train_transform(InputConfig(32), AugmentConfig()))
    assert outcome(small, noise(60, 50))[0].shape == (3, 32, 32)
    with pytest.raises(ImportError):
        outcome(small, noise(300, 200))
