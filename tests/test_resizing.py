"""Thin images: the same numbers as torchvision's resize and crop, without what the crop throws away."""

import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from svp.data import AugmentConfig, InputConfig, eval_transform, train_transform
from svp.resizing import CentralResize

MODES = [mode for mode in InterpolationMode if mode is not InterpolationMode.NEAREST_EXACT]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(160, 10), (1000, 1), (3001, 37), (2999, 150), (4001, 40)])
@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize(("resized", "kept"), [(36, 32), (21, 20), (16, 16)])
def test_numbers_are_those_of_resize_then_crop(
    mode: InterpolationMode, size: tuple[int, int], upright: bool, resized: int, kept: int
) -> None:
    image = noise(*(size[::-1] if upright else size))
    expected = np.asarray(CenterCrop(kept)(Resize(resized, mode)(image)))
    found = CentralResize(resized, kept, mode)(image)
    assert max(found.size) == max(resized, kept)  # nothing else was made
    np.testing.assert_array_equal(np.asarray(CenterCrop(kept)(found)), expected)


@pytest.mark.parametrize("size", [(20_000, 2), (2, 20_000), (65_000, 1)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_thin_image_takes_little_time_and_memory(size: tuple[int, int], crop_mode: Any) -> None:
    image, inputs = Image.new("RGB", size, (200, 30, 30)), InputConfig(crop_mode=crop_mode)
    prepare = [
        eval_transform(inputs),
        train_transform(inputs, AugmentConfig(crop="none")),
        train_transform(inputs, AugmentConfig()),
    ]
    for transform in prepare:
        seconds = []
        for _ in range(3):
            start = time.process_time()
            assert transform(image).shape == (3, 224, 224)
            seconds.append(time.process_time() - start)
        assert min(seconds) < 0.2
    tracemalloc.start()
    prepare[0](image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_other_images_are_resized_as_before() -> None:
    image = noise(150, 10)
    expected = Resize(36, InterpolationMode.BICUBIC)(image)
    np.testing.assert_array_equal(np.asarray(CentralResize(36, 32, InterpolationMode.BICUBIC)(image)), np.asarray(expected))
