"""Images of any number of channels: the bands of an array or a TIFF, and gray, RGB and opacity one from another.

Satellite and microscope images come as TIFFs of many bands or as NumPy arrays. A band is a gray image of 8 bits, like all
that is prepared for a model; which values become black and white is said by the same range as of other images.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from svp.data.pipeline.formats import ARRAY_SUFFIX, RefusedError
from svp.data.pipeline.samples import Samples, samples_of
from svp.data.pipeline.value_ranges import SampleFacts
from svp.inputs import ValueRange

Array = np.ndarray[Any, np.dtype[Any]]
Bands = tuple[Image.Image, ...]

_ORDINARY = 4
"""Most channels that Pillow reads: RGB and opacity."""

NEEDS_TIFFFILE = "a TIFF of more channels than RGB and opacity needs tifffile: pip install 'vim-svp[tiff]'"

ARRAY_HEADERS = threading.Lock()
"""Who reads the header of a NumPy array holds it: NumPy parses it as Python, and where a garbage collection lets another
thread do so meanwhile, Python 3.11 raises SystemError (python/cpython#106905)."""


def is_image_array(path: Path) -> bool:
    """Whether a file is a NumPy array of three axes, as images have: other arrays may lie beside images."""
    try:
        return path.suffix.lower() == ARRAY_SUFFIX and _open_array(path).ndim == 3
    except (OSError, ValueError):
        return False


def _open_array(path: Path) -> np.ndarray[Any, Any]:
    """A NumPy array whose values are read when they are used."""
    with ARRAY_HEADERS:
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def read_bands(
    path: Path, channels: int, max_pixels: int | None, value_range: ValueRange
) -> tuple[Bands, SampleFacts | None] | None:
    """Bands of a NumPy array, or of a TIFF with more of them than Pillow reads, and what their samples are if not of 8 bits.

    Args:
        path: The file.
        channels: Number of bands that is expected; they are the last axis of the file, or the first.
        max_pixels: Largest image that is read, in pixels; Pillow's limit if None.
        value_range: Values that become black and white where samples have more than 8 bits.

    Returns:
        None if the file is neither.

    Raises:
        RefusedError: It has another number of bands, too many pixels, or no numbers.
    """
    suffix = path.suffix.lower()
    values: np.ndarray[Any, Any] | None
    if suffix == ARRAY_SUFFIX:
        values = _open_array(path)
    elif suffix in (".tif", ".tiff") and channels >= _ORDINARY:
        values = _read_tiff(path, channels)
    else:
        values = None
    if values is None:
        return None
    values = _bands_last(values, channels)
    height, width, _ = values.shape
    limit = max_pixels if max_pixels is not None else 2 * (Image.MAX_IMAGE_PIXELS or 2**62)
    if height * width > limit:
        raise RefusedError(f"{width} x {height} pixels, expected at most {limit:,} in all; --max-pixels sets another limit")
    values = _as_usual_type(np.array(values))
    if values.dtype == np.uint8:
        return _split(values), None
    samples = samples_of(values)
    return bands_of(samples, value_range), samples.facts


def bands_of(samples: Samples, value_range: ValueRange) -> Bands:
    """Each channel of `samples`, without regard to its meaning."""
    gray = samples.to_8_bit(value_range)
    return _split(gray if gray.ndim == 3 else gray[..., None])


def with_opacity(image: Image.Image) -> Bands:
    """Red, green, blue and opacity of an 8-bit image, nothing laid over anything."""
    return image.convert("RGBA").split()


def adapt_bands(bands: Sequence[Image.Image], channels: int) -> Bands:
    """Gray, gray and opacity, RGB, or RGB and opacity, one from another; what is not there is opaque.

    Raises:
        RefusedError: `channels` is none of 1 to 4, and not the number of `bands`.
    """
    if len(bands) == channels:
        return tuple(bands)
    if channels > _ORDINARY:
        raise RefusedError(f"has {len(bands)} channels, expected {channels}, as --channels says")
    alpha = bands[-1] if len(bands) in (2, 4) else Image.new("L", bands[0].size, 255)
    colors = tuple(bands[:3]) if len(bands) >= 3 else (bands[0],) * 3
    gray = bands[0] if len(bands) < 3 else Image.merge("RGB", colors).convert("L")
    by_number: dict[int, Bands] = {1: (gray,), 2: (gray, alpha), 3: colors, 4: (*colors, alpha)}
    return by_number[channels]


def _split(values: Array) -> Bands:
    return tuple(Image.fromarray(np.ascontiguousarray(values[..., i])) for i in range(values.shape[-1]))


def _bands_last(values: Array, channels: int) -> Array:
    if values.ndim == 2 and channels == 1:
        return values[..., None]
    if values.ndim == 3 and channels == values.shape[-1]:
        return values
    if values.ndim == 3 and channels == values.shape[0]:
        return np.moveaxis(values, 0, -1)
    shape = " x ".join(map(str, values.shape))
    raise RefusedError(f"holds {shape} values, expected {channels} channels as the last axis or the first; see --channels")


def _as_usual_type(values: Array) -> Array:
    """uint8, uint16, uint32, int32, float32 or float64, whichever holds the values."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "u":
        return values.astype(values.dtype.newbyteorder("=")) if size <= 4 else values.astype(np.float64)
    if kind == "i":
        return values.astype(np.int32 if size <= 4 else np.float64)
    if kind == "f":
        return values.astype(np.float32)
    raise RefusedError(f"holds values of type {values.dtype}, expected numbers")


def _read_tiff(path: Path, channels: int) -> Array | None:
    """The samples of a TIFF; None if Pillow reads as many channels."""
    try:
        tifffile = importlib.import_module("tifffile")
    except ImportError:
        if channels == _ORDINARY:
            return None
        raise RefusedError(NEEDS_TIFFFILE) from None
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        if channels == _ORDINARY and (page.samplesperpixel != _ORDINARY or page.photometric.name == "SEPARATED"):
            return None
        values: Array = tifffile.memmap(path, mode="r") if page.is_memmappable and len(file.pages) == 1 else file.asarray()
    return values
