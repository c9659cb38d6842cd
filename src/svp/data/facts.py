"""What the files of a data set are, as far as it can be told without a model: one decode per image, in threads."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from svp.data.pipeline.decoding import decoding, to_rgb
from svp.data.unreadable import Unreadable, decode_all


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image that can be decoded.

    Attributes:
        width: Pixels, upright.
        height: Pixels, upright.
        mode: Pillow's name of what the file holds: "RGB", "L" (gray), "RGBA", "P" (palette), "I;16", "CMYK", ...
        file_digest: Equal for files of equal bytes.
        pixel_digest: Equal for images that a model sees as equal: size and RGB values as `load_image` gives them.
    """

    width: int
    height: int
    mode: str
    file_digest: bytes
    pixel_digest: bytes


def read_facts(path: Path) -> ImageFacts:
    """Decode a file completely.

    Raises:
        UnreadableImageError: It cannot be.
    """
    with decoding(path):
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as file:
            image, mode = to_rgb(file), file.mode
    pixels = hashlib.blake2b(image.tobytes(), digest_size=16, person=b"%dx%d" % image.size)
    return ImageFacts(*image.size, mode, hashlib.blake2b(content, digest_size=16).digest(), pixels.digest())


def read_all_facts(
    paths: Sequence[Path], progress: Callable[[int], object] | None = None
) -> tuple[dict[Path, ImageFacts], tuple[Unreadable, ...]]:
    """Facts of the files that can be decoded, and the others; for the arguments see `decode_all`."""
    return decode_all(paths, read_facts, progress)
