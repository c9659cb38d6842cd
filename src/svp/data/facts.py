"""What the files of a data set are, as far as it can be told without a model: one decode per image, in threads."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from svp.data.fingerprints import content_fingerprint
from svp.data.near_copies import look_of
from svp.data.pipeline.decoding import ImageReader
from svp.data.pipeline.value_ranges import SampleFacts
from svp.data.unreadable import Unreadable, decode_all


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image that can be decoded.

    Attributes:
        width: Pixels, upright.
        height: Pixels, upright.
        mode: Pillow's name of what the file holds: "RGB", "L" (gray), "RGBA", "P" (palette), "I;16", "CMYK", ...
        file_digest: Equal for files of equal bytes.
        pixel_digest: Equal for images that a model sees as equal: size and RGB values, or bands, as `ImageReader` gives them.
        samples: What the samples are, if they have more than 8 bits.
        note: What is odd about the file, in words; empty if nothing is.
        content: Stands for the bytes of the file, as a run remembers them.
        look: What it looks like in small, see `svp.data.near_copies.look_of`.
    """

    width: int
    height: int
    mode: str
    file_digest: bytes
    pixel_digest: bytes
    samples: SampleFacts | None = None
    note: str = ""
    content: str = ""
    look: bytes = b""


def read_facts(path: Path, max_pixels: int | None = None, channels: int = 3) -> ImageFacts:
    """Decode a file completely.

    Args:
        path: The file.
        max_pixels: Largest image that is decoded, in pixels; Pillow's limit if None.
        channels: What it is read with, see `ImageReader`.

    Raises:
        UnreadableImageError: It cannot be.
    """
    decoded = ImageReader(max_pixels=max_pixels, channels=channels).decode(path)
    width, height = decoded.image.size
    pixels = hashlib.blake2b(digest_size=16, person=b"%dx%d" % (width, height))
    for band in decoded.bands or (decoded.image,):
        pixels.update(band.tobytes())
    content = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    small = look_of(decoded.image)
    return ImageFacts(
        width, height, decoded.mode, content, pixels.digest(), decoded.samples, decoded.note, content_fingerprint(path), small
    )


def read_all_facts(
    paths: Sequence[Path],
    progress: Callable[[int], object] | None = None,
    max_pixels: int | None = None,
    channels: int = 3,
) -> tuple[dict[Path, ImageFacts], tuple[Unreadable, ...]]:
    """Facts of the files that can be decoded, and the others; for the arguments see `decode_all` and `read_facts`."""
    return decode_all(paths, lambda path: read_facts(path, max_pixels, channels), progress)
