"""Image files to RGB."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from PIL import Image, ImageOps, UnidentifiedImageError

from svp.errors import InputError


class UnreadableImageError(InputError):
    """A file cannot be decoded; the message holds its path and `reason`.

    It can be made from the message alone, as a data loader does to raise it again outside its worker.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


def load_image(path: str | Path, formats: tuple[str, ...] | None = None, max_pixels: int | None = None) -> Image.Image:
    """Decode a file completely: RGB, upright by its EXIF orientation, transparency over white, first frame.

    16-bit gray is scaled from 0..65535. 32-bit integers and floats are scaled from the smallest usual range that holds
    them, 0..1 (floats only), 0..255 or 0..65535, and otherwise from their own minimum..maximum.

    Args:
        path: The file.
        formats: Pillow's names of the only formats that are tried; all if None.
        max_pixels: Larger images are refused before they are decoded; None leaves it to Pillow's guard against
            decompression bombs.

    Raises:
        UnreadableImageError: Whatever stops the file from being decoded: absent, cut short, no image, of a size that
            only a decompression bomb has, or above `max_pixels`.
    """
    with decoding(path), Image.open(path, formats=formats) as file:
        if max_pixels is not None and file.width * file.height > max_pixels:
            raise ValueError(f"{file.width} x {file.height} pixels, expected at most {max_pixels:,} in all")
        return to_rgb(file)


@contextlib.contextmanager
def decoding(path: str | Path) -> Iterator[None]:
    """Turn whatever a decoder fails with into an `UnreadableImageError` that names the file."""
    try:
        yield
    except Exception as error:  # on arbitrary bytes decoders fail in any way: IndexError, struct.error, ...
        reason = _reason(error)
        raise UnreadableImageError(f"{path}: {reason}", reason) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image as `load_image` gives it."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _as_8_bit(image)  # Pillow alone would clip at 255
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")  # copies, so the decoded file can be closed


def _as_8_bit(image: Image.Image) -> Image.Image:
    floating = image.mode == "F"
    low, high = 0.0, 65535.0
    if not image.mode.startswith("I;16"):
        least, most = cast(tuple[float, float], image.getextrema())  # of the one band
        usual = [top for top in (1, 255, 65535) if least >= 0 and most <= top and (floating or top > 1)]
        low, high = (0, usual[0]) if usual else (least, most)
    scale = 255 / (high - low or 1)
    return image.convert("F").point(lambda value: value * scale + (0.5 - low * scale)).convert("L")  # 0.5 rounds


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
