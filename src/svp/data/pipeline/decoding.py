"""Image files to RGB, or to as many bands as a model takes."""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from svp.data.pipeline.formats import HEAD, RefusedError, enable_heif, is_heif, what_it_is
from svp.data.pipeline.opening import open_image
from svp.data.pipeline.repair import (
    exif_orientation,
    find_exif,
    has_end_mark,
    lacks_end,
    significant_bits,
    with_end_mark,
    without_side_data,
)
from svp.data.pipeline.value_ranges import SampleFacts
from svp.errors import InputError
from svp.inputs import InputConfig, Picture, Transform, ValueRange

if TYPE_CHECKING:
    from torch import Tensor

    from svp.data.pipeline.samples import Samples

NO_END_MARK = "a JPEG without its end mark; all pixels are there"

_ORIENTATION, _SAMPLES_PER_PIXEL = 0x0112, 277
_OF_BANDS = (".npy", ".tif", ".tiff")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(InputError):
    """A file cannot be decoded; the message holds its path and `reason`.

    It can be made from the message alone, as a data loader does to raise it again outside its worker.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class DecodedImage:
    """An image file, decoded.

    Attributes:
        image: RGB.
        mode: Pillow's name of what the file holds: "RGB", "L" (gray), "RGBA", "P" (palette), "I;16", "CMYK", ...; "array".
        samples: What its samples are, if they have more than 8 bits.
        note: What is odd about the file, in words; empty if nothing is.
        bands: Its channels, where another number than three is asked for; `image` then shows it, as far as it can.
    """

    image: Image.Image
    mode: str
    samples: SampleFacts | None = None
    note: str = ""
    bands: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class ImageReader:
    """`load_image` with its options; what is found in a file besides its pixels is told by `decode`.

    Attributes:
        value_range: Values that become black and white in images with more than 8 bits per sample.
        max_pixels: Largest image that is decoded, in pixels; Pillow's guard against decompression bombs if None.
        formats: Pillow's names of the only formats that are tried; all if None.
        channels: 3 for RGB; 1 is gray, 2 gray and opacity, 4 RGB and opacity, where a TIFF may hold other bands; more are
            those of a NumPy array (.npy) or TIFF.
        least_side: Shortest side in pixels that is enough: a JPEG with at least twice as many is decoded at a half, quarter or
            eighth of its sides, which takes half of the time or less, and looks as if it had been shrunk; whole if None.
    """

    value_range: ValueRange = "file"
    max_pixels: int | None = None
    formats: tuple[str, ...] | None = None
    channels: int = 3
    least_side: int | None = None

    @classmethod
    def of(cls, inputs: InputConfig, max_pixels: int | None = None, formats: tuple[str, ...] | None = None) -> ImageReader:
        """The reader of images that are prepared so."""
        return cls(inputs.value_range, max_pixels, formats, inputs.channels)

    def __call__(self, path: str | Path) -> Picture:
        """Decode a file as `load_image` does: to RGB, or to bands if another number of channels than three is asked for."""
        decoded = self.decode(path)
        return decoded.bands or decoded.image

    def decode(self, path: str | Path) -> DecodedImage:
        """Decode a file as `load_image` does, and say what was found.

        Raises:
            UnreadableImageError: It cannot be decoded.
        """
        path = Path(path)
        with decoding(path):
            try:
                return self._decode_bands(path) or self._decode(path)
            except (RefusedError, MemoryError):
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # no such file, for example
                return self._decode_again(path, error)

    def _decode_bands(self, path: Path) -> DecodedImage | None:
        """Decode a file that holds bands and no colors; None if it is no such file."""
        if path.suffix.lower() not in _OF_BANDS:
            return None
        from svp.data.pipeline.bands import read_bands

        if (read := read_bands(path, self.channels, self.max_pixels, self.value_range)) is None:
            return None
        bands, facts = read
        if self.channels == 3:
            return DecodedImage(Image.merge("RGB", bands), "array", facts)
        return DecodedImage(bands[0], "array", facts, bands=bands)

    def _decode_again(self, path: Path, error: Exception) -> DecodedImage:
        """Decode a file that a decoder has stumbled over, without what is in its way; raise `error` if that does not help."""
        content = path.read_bytes()
        if is_heif(content[:HEAD]) and enable_heif():
            return self._decode(path)
        whole = with_end_mark(content)
        if content.startswith(b"\xff\xd8") and whole is None and not has_end_mark(content):
            raise error
        attempts = [] if whole is None else [whole]
        if (pixels_alone := without_side_data(whole or content)) is not None:
            attempts.append(pixels_alone)
        for attempt in attempts:
            with contextlib.suppress(Exception):
                found = self._decode(attempt, exif_orientation(find_exif(content)))
                return found if whole is None else replace(found, note=NO_END_MARK)
        raise error

    def _decode(self, source: Path | bytes, orientation: int | None = None) -> DecodedImage:
        """Decode a file, or what it holds.

        Args:
            source: The file or its bytes.
            orientation: How it is to be turned, 1..8; by its EXIF data if None.
        """

        from svp.data.pipeline.samples import has_false_alpha, read_samples  # NumPy, which listing files does without

        def reopen() -> ImageFile:
            return open_image(
                io.BytesIO(source) if isinstance(source, bytes) else source, self.formats, self.max_pixels, self.least_side
            )

        with reopen() as file:
            mode = file.mode
            if isinstance(source, Path) and file.format in ("JPEG", "MPO"):
                _check_end(source)
            samples = read_samples(file, reopen, lambda: significant_bits(_head(source)), self.channels in (2, 4))
            bands: tuple[Image.Image, ...] = ()
            if self.channels != 3:
                bands, image = self._bands(file, samples)
            elif samples is None:
                image = _to_rgb(file, not has_false_alpha(file))
            else:
                image = samples.to_rgb(self.value_range)
            facts = None if samples is None else samples.facts
            turn = _TURNS.get(_orientation(file) if orientation is None else orientation)
        if turn is not None:
            image, bands = image.transpose(turn), tuple(band.transpose(turn) for band in bands)
        return DecodedImage(image, mode, facts, bands=bands)

    def _bands(self, file: ImageFile, samples: Samples | None) -> tuple[tuple[Image.Image, ...], Image.Image]:
        """As many bands as asked for of what Pillow opens, and an image that shows them."""
        from svp.data.pipeline.bands import NEEDS_TIFFFILE, adapt_bands, bands_of, with_opacity
        from svp.data.pipeline.samples import has_false_alpha

        if self.channels == 4 and getattr(file, "tag_v2", {}).get(_SAMPLES_PER_PIXEL) == 4 and file.mode in ("RGB", "RGBX"):
            raise RefusedError(NEEDS_TIFFFILE)
        if self.channels in (2, 4):
            bands = with_opacity(file) if samples is None else bands_of(samples, self.value_range)
            bands = adapt_bands(bands, self.channels)
            return bands, bands[0] if self.channels == 2 else Image.merge("RGB", bands[:3])
        rgb = _to_rgb(file, not has_false_alpha(file)) if samples is None else samples.to_rgb(self.value_range)
        bands = adapt_bands(rgb.split(), self.channels)
        return bands, bands[0]


def load_image(
    path: str | Path,
    formats: tuple[str, ...] | None = None,
    max_pixels: int | None = None,
    value_range: ValueRange = "file",
) -> Image.Image:
    """Decode a file completely: RGB, upright by its EXIF orientation, transparency over white, first frame.

    Of images with more than 8 bits per sample, a range of values becomes black to white; samples without a value (NaN,
    GDAL_NODATA, -9999) are black. JPEGs far above Pillow's limit on pixels are decoded at a smaller size.

    Args:
        path: The file.
        formats: Pillow's names of the only formats that are tried; all if None.
        max_pixels: Larger images are refused before they are decoded; None leaves it to Pillow's guard against
            decompression bombs.
        value_range: The values that become black and white; "file" takes 0 and the largest of the fewest usual bits (8, 10,
            12, 14, 16) that hold all values of the file, 0..1 for floats, and the file's own smallest and largest value where
            that does not fit.

    Raises:
        UnreadableImageError: Whatever stops the file from being decoded: absent, cut short, no image, of a size that
            only a decompression bomb has, or above `max_pixels`.
    """
    return ImageReader(value_range, max_pixels, formats).decode(path).image


def load_prepared(path: Path, transform: Transform, read: Callable[[Path], Picture]) -> Tensor:
    """Decode a file and transform it.

    Args:
        path: The file.
        transform: Prepares the image for the model.
        read: Decodes the file, as `load_image` does.

    Raises:
        UnreadableImageError: The image cannot be decoded, or not be transformed, for whatever reason.
    """
    with decoding(path):
        return transform(read(path))


@contextlib.contextmanager
def decoding(path: str | Path) -> Iterator[None]:
    """Turn whatever a decoder fails with into an `UnreadableImageError` that names the file and says what it is."""
    try:
        yield
    except UnreadableImageError:
        raise
    except Exception as error:  # on arbitrary bytes decoders fail in any way: IndexError, struct.error, ...
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # too many open files: says nothing of the image
        reason = _reason(error, Path(path))
        raise UnreadableImageError(f"{path}: {reason}", reason) from error


def _orientation(image: Image.Image) -> Any:
    """The tag of orientation, whatever else is in the EXIF data."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # as many kinds as there are ways to write EXIF wrongly
        exif = image.info.get("exif")
        return exif_orientation(exif) if isinstance(exif, bytes) else 1


def _to_rgb(image: Image.Image, transparent: bool) -> Image.Image:
    image.load()
    if transparent and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")  # copies, so the decoded file can be closed


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD]
    with source.open("rb") as file:
        return file.read(HEAD)


def _check_end(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - HEAD, 0))
        tail = file.read()
    if lacks_end(tail) and not has_end_mark(path.read_bytes()):
        raise ValueError("the file is cut short and filled up with zeros")


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    try:
        head = _head(path)
    except OSError:
        head = b" "
    if (words := what_it_is(head)) is not None:
        return words
    if isinstance(error, UnidentifiedImageError) and head.startswith((b"II", b"MM")):
        return "a TIFF that is damaged or of a kind that Pillow does not read; save it with 8 or 16 bits per sample"
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    return " ".join(str(error).split()) or type(error).__name__
