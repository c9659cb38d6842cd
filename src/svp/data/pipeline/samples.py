"""Images with more than 8 bits per sample: their samples, and 8 bits of these.

Samples without a value are black: NaN and infinities, what GDAL_NODATA names, -9999 and its like in signed samples.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from svp.data.pipeline.value_ranges import TOPS, SampleFacts, choose_range, smallest_top
from svp.inputs import ValueRange

Array = np.ndarray[Any, np.dtype[Any]]

_NO_VALUE = (-9999.0, -99999.0, -32768.0)  # usual in elevation models and satellite images
_HUGE = 1e19  # floats beyond stand for no value: 1e20, 9.97e36, the largest of the type
_ENDS = (-(2**31), -(2**31) + 1, 2**31 - 1)  # of 32-bit integers
_CHUNK = 1 << 20

_BITS_PER_SAMPLE, _PHOTOMETRIC, _EXTRA_SAMPLES, _PLANAR, _SAMPLE_FORMAT, _GDAL_NODATA = 258, 262, 338, 284, 339, 42113
_PLANES = "planes"
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


@dataclass(frozen=True)
class Samples:
    """The samples themselves.

    Attributes:
        values: (height, width) or (height, width, channels).
        missing: Where a sample has no value, as `values`; None if all have one.
        alpha: Opacity, 0..65535, (height, width); None if the image is opaque.
        premultiplied: Whether `values` are multiplied by it already.
        white_is_low: Whether the low end of the range is white.
        facts: What they are.
    """

    values: Array
    missing: Array | None
    alpha: Array | None
    premultiplied: bool
    white_is_low: bool
    facts: SampleFacts

    def to_8_bit(self, value_range: ValueRange) -> Array:
        """`values` as 8 bits: the low end of the range black, the high end white, what is beyond cut off."""
        by_type = value_range == "type"
        low, high = self._ends(value_range)
        high_bytes_only = by_type and self.values.ndim == 3 and self.values.dtype == np.uint16
        gray = (self.values >> 8).astype(np.uint8) if high_bytes_only else _as_8_bit(self.values, low, high)
        if self.white_is_low and not by_type:
            gray = 255 - gray
        if self.missing is not None:
            gray[self.missing] = 0
        return gray

    def to_rgb(self, value_range: ValueRange) -> Image.Image:
        """The same as an RGB image; transparency over white."""
        image = Image.fromarray(self.to_8_bit(value_range)).convert("RGB")
        if self.alpha is None:
            return image
        _, high = self._ends(value_range)
        top = 65535 if high > TOPS[-2] else smallest_top(float(self.alpha.max()), TOPS)
        alpha = Image.fromarray(_as_8_bit(self.alpha, 0, top))
        if self.premultiplied:
            white = Image.fromarray(255 - np.asarray(alpha)).convert("RGB")
            return Image.fromarray(np.minimum(np.asarray(image, np.uint16) + np.asarray(white), 255).astype(np.uint8))
        image.putalpha(alpha)
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")

    def _ends(self, value_range: ValueRange) -> tuple[float, float]:
        return choose_range([self.facts], value_range == "type") if isinstance(value_range, str) else value_range


def samples_of(values: Array) -> Samples:
    """The samples of an array, (height, width, channels), of which no more is known."""
    missing = _missing(values, None)
    return Samples(values, missing if missing.any() else None, None, False, False, _facts(values, missing, None))


def read_samples(
    image: ImageFile, reopen: Callable[[], ImageFile], bits: Callable[[], int | None], keep_all: bool = False
) -> Samples | None:
    """The samples of an opened file that is not decoded yet; None if they have 8 bits, or come from Pillow in 8 bits only.

    Args:
        image: The file.
        reopen: Opens it once more: color is decoded twice, for the high bytes and for the low bytes, as Pillow keeps 8 bits.
        bits: Finds the bits per sample that are used, where a PNG says so.
        keep_all: Leave opacity, and what is no color, among the values.
    """
    alpha, premultiplied = None, False
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image.load()
        values = _single_band(image)
    elif (layout := _wide_color(image)) is not None:
        values = _wide_samples(image, reopen, layout)
        premultiplied = _first(_tag(image, _EXTRA_SAMPLES), 0) == 1
        if keep_all:
            premultiplied = False
        elif layout[:2] == "LA":
            alpha, values = values[..., 1], values[..., 0]
        elif values.shape[-1] == 4:
            alpha, values = values[..., 3], values[..., :3]
            alpha = alpha if _says_alpha(image) else None
    else:
        return None
    if alpha is None and not keep_all and (transparent := _transparent_color(image)) is not None:
        same = values == np.asarray(transparent, values.dtype)
        alpha = np.where(same.all(-1) if same.ndim == 3 else same, 0, 65535).astype(np.uint16)
    missing = _missing(values, _tag(image, _GDAL_NODATA))
    return Samples(
        values,
        missing if missing.any() else None,
        alpha,
        premultiplied and alpha is not None,
        _tag(image, _PHOTOMETRIC) == 0 and values.ndim == 2,
        _facts(values, missing, bits() if image.format == "PNG" else _first(_tag(image, _BITS_PER_SAMPLE), 0)),
    )


def has_false_alpha(image: ImageFile) -> bool:
    """Whether Pillow takes for opacity what an opened TIFF or TGA does not call so."""
    return image.mode == "RGBA" and not _says_alpha(image)


def _says_alpha(image: ImageFile) -> bool:
    if image.format == "TGA" and image.fp is not None:
        image.fp.seek(17)
        return image.fp.read(1)[0] & 15 > 0  # number of attribute bits
    return image.format != "TIFF" or _first(_tag(image, _EXTRA_SAMPLES), 0) in (1, 2)


def _single_band(image: ImageFile) -> Array:
    values = np.asarray(image)
    if values.dtype.kind == "u":
        return values.astype(np.uint16)  # in the order of bytes of this machine
    unsigned_32 = image.mode == "I" and image.format == "TIFF" and _first(_tag(image, _SAMPLE_FORMAT), 1) == 1
    return values.view(np.uint32) if unsigned_32 and _first(_tag(image, _BITS_PER_SAMPLE), 1) == 32 else values


def _wide_color(image: ImageFile) -> str | None:
    """Raw mode of an image of several 16-bit samples in one plane."""
    if image.format not in ("PNG", "TIFF") or not image.tile or image.mode not in ("RGB", "RGBA", "LA"):
        return None
    raw = _raw_mode(image.tile[0].args)
    if _first(_tag(image, _PLANAR), 1) == 2:  # one band after the other
        sixteen = _first(_tag(image, _BITS_PER_SAMPLE), 8) == 16
        return _PLANES if sixteen and image.tile[0].codec_name == "raw" else None  # compressed, Pillow has the high bytes only
    return raw if raw.endswith((";16B", ";16L", ";16N")) else None


def _raw_mode(args: Any) -> str:
    return str(args[0] if isinstance(args, tuple) else args)


def _wide_samples(image: ImageFile, reopen: Callable[[], ImageFile], raw: str) -> Array:
    """(height, width, samples), uint16."""
    if raw == _PLANES:
        return np.stack([_plane(image, reopen, band) for band in range(len(image.getbands()))], axis=-1)
    if raw == "LA;16B":  # as four bytes of a pixel: Pillow has no raw mode for the low bytes alone
        image._mode = "RGBA"
        _decode_as(image, "RGBA")
        values = np.asarray(image).astype(np.uint16)
        return values[..., 0::2] << 8 | values[..., 1::2]
    plain = raw.replace("a;", "A;")  # premultiplied samples as they are
    with reopen() as other:
        _decode_as(other, plain[:-1] + _SWAPPED[plain[-1]])
        low = np.asarray(other)
    _decode_as(image, plain)
    return np.asarray(image).astype(np.uint16) << 8 | low


def _plane(image: ImageFile, reopen: Callable[[], ImageFile], band: int) -> Array:
    """A band that has the strips or tiles of its own."""
    number = len(image.tile) // len(image.getbands())
    with reopen() as other:
        other.tile = other.tile[band * number : (band + 1) * number]
        other._mode = "I;16"
        _decode_as(other, "I;16" if _tag_order(image) == "II" else "I;16B")
        return np.asarray(other)


def _tag_order(image: Any) -> str:
    return image.tag_v2.prefix.decode()


def _decode_as(image: ImageFile, raw: str) -> None:
    image.tile = [tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile]
    image.load()


def _transparent_color(image: Image.Image) -> tuple[int, ...] | int | None:
    color = image.info.get("transparency") if image.format == "PNG" else None
    return color if isinstance(color, int | tuple) else None


def _missing(values: Array, no_data: object) -> Array:
    missing = np.zeros(values.shape, bool)
    if values.dtype.kind == "f":
        missing |= ~(np.abs(values) < _HUGE)  # true of NaN as well
    if values.dtype.kind in "fi":
        missing |= np.isin(values, np.asarray(_NO_VALUE, values.dtype))
    if values.dtype.kind == "i":
        missing |= np.isin(values, np.asarray(_ENDS, values.dtype))
    try:
        named = float(str(no_data).rstrip("\0 "))
    except ValueError:
        return missing
    if math.isfinite(named):
        missing |= values == (np.float32(named) if values.dtype.kind == "f" else named)
    return missing


def _facts(values: Array, missing: Array, bits: object) -> SampleFacts:
    valid = values[~missing] if missing.any() else values
    least, greatest = (valid.min().item(), valid.max().item()) if valid.size else (0, 0)
    kind = {"f": "floating-point", "i": "signed"}.get(values.dtype.kind, f"{8 * values.dtype.itemsize}-bit")
    if kind == "signed" and least >= 0:
        kind = "32-bit"
    fewer = bits if isinstance(bits, int) and 8 < bits < 16 else None
    return SampleFacts(kind, least, greatest, fewer, bool(missing.any()))


def _tag(image: Image.Image, number: int) -> Any:
    tags = getattr(image, "tag_v2", None)
    return None if tags is None else tags.get(number)


def _first(value: Any, default: int) -> Any:
    value = value[0] if isinstance(value, tuple) and value else value
    return default if value is None or value == () else value


def _as_8_bit(values: Array, low: float, high: float) -> Array:
    """Low to 0, high to 255, rounded and cut off; uint8 of the same shape."""
    if values.dtype == np.uint16:
        return _table(low, high)[values]
    flat = values.reshape(-1)
    parts = [_mapped(flat[start : start + _CHUNK], low, high) for start in range(0, len(flat), _CHUNK)]
    return np.concatenate(parts).reshape(values.shape)


@lru_cache(maxsize=8)
def _table(low: float, high: float) -> Array:
    """What becomes of each value of 16 bits."""
    return _mapped(np.arange(65536), low, high)


def _mapped(values: Array, low: float, high: float) -> Array:
    scale = 255 / (high - low or 1)
    with np.errstate(over="ignore", invalid="ignore"):  # what has no value
        scaled = (values.astype(np.float32).astype(np.float64) * scale + (0.5 - low * scale)).astype(np.float32)  # 0.5 rounds
    return np.nan_to_num(scaled, nan=0.0).clip(0, 255).astype(np.uint8)
