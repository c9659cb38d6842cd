"""What strangers hand in: images and zips of images, read within limits."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from svp.data import IMAGE_SUFFIXES, DataError, ImageReader, UnreadableImageError
from svp.data.pipeline.bands import ARRAY_HEADERS
from svp.data.pipeline.formats import ARRAY_SUFFIX, EXPECTED_IMAGES, FORMATS_FOR_STRANGERS, HEAD, begins_as_image
from svp.errors import InputError
from svp.inputs import InputConfig, Picture

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """How much is taken in.

    Args:
        max_pixels: Largest image accepted, in pixels; a larger one is refused before it is decoded.
        max_file_size: Largest image file accepted, in bytes.
        max_images: Largest number of images in a batch.
        max_upload_size: Largest upload accepted, in bytes; a zip is also measured by what it holds once unpacked.
    """

    max_pixels: int = 50_000_000
    max_file_size: int = 32_000_000
    max_images: int = 1000
    max_upload_size: int = 512_000_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"{name} is {value}, expected 1 or more")


@dataclass(frozen=True)
class Upload:
    """A file that was handed in: the name its owner knows it by, and where it lies now."""

    name: str
    path: Path


def read_image(path: Path, limits: Limits, inputs: InputConfig | None = None) -> Picture:
    """Decode an image as ``svp.data.load_image`` does.

    Args:
        path: The file.
        limits: How much is taken in.
        inputs: Says which channels are read, and which values become black and white; RGB if None.

    Raises:
        UnreadableImageError: No image of a known format, damaged, or beyond the limits.
    """
    size = path.stat().st_size
    if size > limits.max_file_size:
        reason = f"{size / 1e6:,.1f} MB, expected at most {limits.max_file_size / 1e6:,.1f} MB"
        raise UnreadableImageError(f"{path}: {reason}", reason)
    return ImageReader.of(inputs or InputConfig(), limits.max_pixels, FORMATS_FOR_STRANGERS)(path)


def gather_images(uploads: Sequence[Upload], limits: Limits, folder: Path) -> list[Upload]:
    """The images among the uploads, and those in the zips among them, which are unpacked into `folder`.

    By their suffix or first bytes, as ``svp.data.find_images`` has it for folders; what is hidden is left out. Members of a
    zip are written under names of our own, whatever they are called.

    Raises:
        DataError: No image, too many of them, or a zip that is damaged, encrypted, or holds more than the limits allow.
    """
    if not uploads:
        raise DataError("no files; expected images, a folder of images, or a zip of images")
    images: list[Upload] = []
    left = limits.max_upload_size
    for upload in uploads:
        if upload.path.suffix.lower() != ".zip":
            images += [upload] if _is_image(upload.name, partial(FileIO, upload.path)) else []
            continue
        try:
            with zipfile.ZipFile(upload.path) as archive:
                files = [member for member in archive.infolist() if not member.is_dir()]
                members = [member for member in files if _is_image(member.filename, partial(archive.open, member))]
                _check_number(len(images) + len(members), limits)
                for member in members:
                    path = folder / f"{len(images):06d}{Path(member.filename).suffix.lower()}"
                    with archive.open(member) as source, path.open("wb") as target:
                        left -= _copy(source, target, left, upload.name)
                    images.append(Upload(member.filename, path))
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
            # RuntimeError: encrypted; NotImplementedError: an unknown compression
            raise DataError(f"{upload.name}: the zip cannot be read ({error})") from error
    _check_number(len(images), limits)
    if not images:
        names = ", ".join(upload.name for upload in uploads[:3])
        raise DataError(f"no images in {names}; expected {EXPECTED_IMAGES}, or a zip of such")
    return images


def _copy(source: IO[bytes], target: IO[bytes], most: int, name: str) -> int:
    """Copy a member, counting what really comes out of it: what a zip says of its sizes may be a lie."""
    size = 0
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > most:
            raise DataError(f"{name}: the zip holds more once unpacked than is taken")
        target.write(chunk)
    return size


def _check_number(number: int, limits: Limits) -> None:
    if number > limits.max_images:
        raise DataError(f"{number:,} images, expected at most {limits.max_images:,} at a time")


def _is_image(name: str, open_file: Callable[[], IO[bytes]]) -> bool:
    path = PurePosixPath(name)
    if any(part.startswith((".", "__MACOSX")) for part in path.parts):
        return False
    if path.suffix.lower() == ARRAY_SUFFIX:
        with open_file() as file:
            return _is_image_array(file)
    if path.suffix:
        return path.suffix.lower() in IMAGE_SUFFIXES
    with open_file() as file:
        return begins_as_image(file.read(HEAD))


def _is_image_array(file: IO[bytes]) -> bool:
    """Whether this is a NumPy array of three axes, by its header: see `svp.data.pipeline.bands.is_image_array`."""
    try:
        major, _ = np.lib.format.read_magic(file)
        with ARRAY_HEADERS:
            shape, *_ = (np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0)(file)
    except ValueError:
        return False
    return len(shape) == 3
