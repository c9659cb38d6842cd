"""Images with another number of channels than three: how they are read, transformed and normalized."""

from __future__ import annotations

import gc
import random
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from svp.bands import EachBand
from svp.data import AugmentConfig, ImageReader, UnreadableImageError, eval_transform, find_images, train_transform
from svp.data.pipeline.bands import is_image_array
from svp.inputs import InputConfig
from svp.models import create_model

RNG = np.random.default_rng(0)


def write(path: Path, values: np.ndarray[Any, Any]) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".tif" and values.shape[-1] > 4:
        tifffile.imwrite(path, values, planarconfig="contig", photometric="minisblack")
    else:
        Image.fromarray(values).save(path)
    return path


def bands(path: Path, channels: int, **options: Any) -> np.ndarray[Any, Any]:
    read = ImageReader(channels=channels, **options)(path)
    assert isinstance(read, tuple)
    return np.stack([np.asarray(band) for band in read], axis=-1)


def noise(channels: int, dtype: type = np.uint8, top: int = 256) -> np.ndarray[Any, Any]:
    return RNG.integers(0, top, (20, 30, channels)).astype(dtype)


def test_gray_and_opacity_of_ordinary_files(tmp_path: Path) -> None:
    rgba = noise(4)
    path = write(tmp_path / "a.png", rgba)
    rgb = write(tmp_path / "b.png", rgba[..., :3])
    gray = np.asarray(Image.fromarray(rgba[..., :3]).convert("L"))
    np.testing.assert_array_equal(bands(path, 4), rgba)  # nothing is laid over white
    np.testing.assert_array_equal(bands(path, 2), np.stack([gray, rgba[..., 3]], axis=-1))
    np.testing.assert_array_equal(bands(rgb, 1), gray[..., None])
    np.testing.assert_array_equal(bands(rgb, 4), np.dstack([rgba[..., :3], np.full(gray.shape, 255, np.uint8)]))
    with pytest.raises(UnreadableImageError, match="has 3 channels, expected 5, as --channels says"):
        ImageReader(channels=5)(rgb)


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_bands_of_arrays_and_tiffs(name: str, tmp_path: Path) -> None:
    values = noise(13)
    path = write(tmp_path / name, values)
    np.testing.assert_array_equal(bands(path, 13), values)
    if name == "a.npy":
        first = write(tmp_path / "first.npy", np.moveaxis(values, -1, 0))
        np.testing.assert_array_equal(bands(first, 13), values)
        with pytest.raises(UnreadableImageError, match="holds 20 x 30 x 13 values, expected 3 channels"):
            ImageReader()(path)


def test_a_fourth_band_of_a_tiff_that_is_no_opacity(tmp_path: Path) -> None:
    values = noise(4, np.uint16, 4096)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=[0])
    expected = (values.astype(np.float64) * 255 / 4095 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(bands(tmp_path / "a.tif", 4, value_range=(0, 4095)), expected)


def test_more_than_8_bits_have_the_range_of_the_run(tmp_path: Path) -> None:
    values = noise(5, np.uint16, 10_000)
    path = write(tmp_path / "a.npy", values)
    read = ImageReader(value_range=(0, 10_000), channels=5).decode(path)
    expected = (values.astype(np.float64) * 255 / 10_000 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(np.stack(read.bands, axis=-1), expected)
    assert read.samples is not None
    assert (read.samples.kind, read.samples.greatest) == ("16-bit", values.max())
    floats = write(tmp_path / "b.npy", np.where(values == values.max(), np.nan, values / 10_000))
    assert ImageReader(channels=5).decode(floats).samples.no_data  # type: ignore[union-attr]
    np.testing.assert_array_equal(bands(write(tmp_path / "c.npy", values > 5000), 5), (values > 5000) * 255)
    with pytest.raises(UnreadableImageError, match="type complex128, expected numbers"):
        ImageReader(channels=5)(write(tmp_path / "d.npy", values * 1j))


def test_three_bands_of_an_array_are_rgb(tmp_path: Path) -> None:
    values = noise(3)
    image = ImageReader()(write(tmp_path / "a.npy", values))
    np.testing.assert_array_equal(np.asarray(image), values)


def test_size_is_limited_and_nothing_is_executed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npy", noise(5))
    with pytest.raises(UnreadableImageError, match="30 x 20 pixels, expected at most 599 in all"):
        ImageReader(channels=5, max_pixels=599)(path)
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableImageError):
        ImageReader(channels=5)(tmp_path / "b.npy")


def test_arrays_of_three_axes_are_images_and_others_lie_beside_them(tmp_path: Path) -> None:
    image = write(tmp_path / "image.npy", noise(5))
    write(tmp_path / "features.npy", RNG.normal(size=(7, 512)))
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    assert find_images([tmp_path]) == [image]


def test_without_tifffile_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tif", noise(5))
    tifffile.imwrite(tmp_path / "b.tif", noise(4), photometric="rgb", extrasamples=[0])
    opaque = write(tmp_path / "c.tif", noise(4))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "tifffile", None)
        for file, channels in ((path, 5), (tmp_path / "b.tif", 4)):
            with pytest.raises(UnreadableImageError, match=r"pip install 'vim-svp\[tiff\]'"):
                ImageReader(channels=channels)(file)
        read = bands(opaque, 4)
    np.testing.assert_array_equal(read, bands(opaque, 4))


def test_mean_and_std_follow_the_weights() -> None:
    def inputs(channels: int) -> InputConfig:
        return InputConfig.of_model(create_model("vim_tiny", in_chans=channels, device="meta"))

    r, g, b = inputs(3).mean
    assert inputs(1).mean == ((r + g + b) / 3,)
    assert inputs(5).mean == (r, g, b, r, g)
    assert InputConfig.from_dict(inputs(5).to_dict()) == inputs(5)


@pytest.mark.parametrize("crop_mode", ["center", "border"])
def test_evaluation_prepares_each_band_as_a_gray_image(crop_mode: Any) -> None:
    inputs = InputConfig(16, crop_mode=crop_mode)
    values = noise(3)
    expected = eval_transform(inputs)(Image.fromarray(values))
    five = inputs.of_channels(5)
    made = eval_transform(five)([Image.fromarray(values[..., i % 3]) for i in range(5)])
    torch.testing.assert_close(made, expected[[0, 1, 2, 0, 1]], rtol=0, atol=0)


def test_training_varies_all_bands_alike_and_leaves_out_what_is_for_colors() -> None:
    plain = AugmentConfig(auto_augment=None, color_jitter=0.0, random_erasing=0.5, vflip=0.5, train_interpolation="random")
    inputs = InputConfig(16, mean=(0.5,) * 4, std=(0.25,) * 4)
    image = [Image.fromarray(noise(1)[..., 0])] * 4
    for seed in range(5):
        made = []
        for augment in (plain, replace(plain, auto_augment="rand-m9", color_jitter=0.4)):
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
            made.append(train_transform(inputs, augment)(image))
        assert torch.equal(made[0], made[1])
        assert made[0].shape == (4, 16, 16)
        assert torch.equal(made[0], made[0][:1].expand(4, -1, -1))


def test_what_other_threads_draw_during_evaluation_stays_drawn() -> None:
    drawn = []

    def draw(band: Any) -> torch.Tensor:
        drawn.append(random.random())
        return torch.zeros(1, 2, 2)

    EachBand([draw, draw])([None, None])  # type: ignore[list-item]
    EachBand([draw, draw], random=True)([None, None])  # type: ignore[list-item]
    assert drawn[0] != drawn[1]
    assert drawn[2] == drawn[3]
    assert not cast(Any, eval_transform(InputConfig().of_channels(5))).random


def test_an_array_is_opened_while_another_is(tmp_path: Path) -> None:
    """Each garbage collection that comes between gives another thread the time to open one."""
    path = write(tmp_path / "a.npy", np.zeros([1] * 30))  # its header is long: not an image, as it has not three axes
    here, others = threading.get_ident(), list[Future[bool]]()

    def open_another(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and threading.get_ident() == here:
            others.append(pool.submit(is_image_array, path))
            wait(others, timeout=0.01)

    before = gc.get_threshold()
    with ThreadPoolExecutor(1) as pool:
        gc.callbacks.append(open_another)
        gc.set_threshold(10)
        try:
            assert not any(is_image_array(path) for _ in range(5))
        finally:
            gc.set_threshold(*before)
            gc.callbacks.remove(open_another)
    assert others
    assert not any(other.result() for other in others)
