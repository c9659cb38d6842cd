"""Image files as Pillow opens them, within the limits on their size, before anything is decoded."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from svp.data.pipeline.formats import RefusedError

MAX_ASPECT = 100_000
"""How many times as long as wide an image may be."""


def open_image(
    source: Path | io.BytesIO,
    formats: tuple[str, ...] | None = None,
    max_pixels: int | None = None,
    least_side: int | None = None,
) -> ImageFile:
    """What ``Image.open`` gives.

    Args:
        source: The file, or what it holds.
        formats: Pillow's names of the only formats that are tried; all if None.
        max_pixels: Larger images are refused; None leaves it to Pillow's guard against decompression bombs.
        least_side: Pixels that a JPEG has at least, at whatever part of its sides it is decoded; all if None.

    Raises:
        RefusedError: The image is too large, or too long for its width.
        Exception: Whatever Pillow fails with.
    """
    if max_pixels is None:
        try:
            file: Any = Image.open(source, formats=_known(formats))
        except Image.DecompressionBombError as error:
            with _open_without_limit(source, formats) as large:
                size, pixels = f"{large.width} x {large.height} pixels", large.width * large.height
            raise RefusedError(
                f"{size}, above the limit that guards against a decompression bomb; --max-pixels {pixels} reads it"
            ) from error
    else:
        file = _open_without_limit(source, formats)  # Pillow's own is one for the whole process
        if file.width * file.height > max_pixels:
            raise RefusedError(f"{file.width} x {file.height} pixels, expected at most {max_pixels:,} in all")
        _decode_small(file)
    if least_side is not None and file.format in ("JPEG", "MPO"):
        _decode_scaled(file, least_side)
    if max(file.size) > MAX_ASPECT * min(file.size):
        file.close()
        raise RefusedError(f"{file.width} x {file.height} pixels, expected one side at most {MAX_ASPECT:,} times the other")
    return file


def _known(formats: tuple[str, ...] | None) -> list[str] | None:
    """Those that Pillow has a reader for here."""
    if formats is None:
        return None
    Image.init()
    return [name for name in formats if name in Image.OPEN]


def _open_without_limit(source: Path | io.BytesIO, formats: tuple[str, ...] | None) -> ImageFile:
    """What ``Image.open`` gives, whatever the number of pixels."""
    Image.init()
    file = io.BytesIO(source.read_bytes()) if isinstance(source, Path) else source
    head = file.read(16)
    for name in _known(formats) or Image.ID:
        factory, accepts = Image.OPEN[name]
        with contextlib.suppress(Exception):  # of another format, or damaged
            if accepts is None or accepts(head) is True:
                file.seek(0)
                return factory(file, "")
    raise UnidentifiedImageError("not an image in a known format")


def _decode_small(file: Any) -> None:
    """Let a JPEG or JPEG 2000 above Pillow's limit be decoded at a half, quarter or eighth of its sides."""
    limit, factor = Image.MAX_IMAGE_PIXELS, 1
    while limit is not None and file.width * file.height > 2 * limit * factor**2 and factor < 8:
        factor *= 2
    if factor > 1 and file.format in ("JPEG", "MPO"):
        file.draft(file.mode, (file.width // factor, file.height // factor))
    elif factor > 1 and file.format == "JPEG2000":
        file.reduce = factor.bit_length() - 1


def _decode_scaled(file: Any, least_side: int) -> None:
    """Let a JPEG be decoded at the smallest of a half, quarter and eighth of its sides that leaves `least_side` pixels."""
    for factor in (8, 4, 2):
        width, height = file.width // factor, file.height // factor
        if min(width, height) >= least_side:
            file.draft(file.mode, (width, height))
            return
