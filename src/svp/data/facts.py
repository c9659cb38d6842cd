"""What the files of a data set are, as far as it can be told without a model: one decode per image, in threads."""

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from svp.data.pipeline.images import Unreadable, UnreadableImageError, decoding, to_rgb


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image that can be decoded.

    Attributes:
        width: Pixels, upright.
        height: Pixels, upright.
        mode: Pillow's name of what the file holds: "RGB", "L" (grey), "RGBA", "P" (palette), "I;16", "CMYK", ...
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
    paths: Sequence[Path], progress: Callable[[int], None] | None = None
) -> tuple[dict[Path, ImageFacts], tuple[Unreadable, ...]]:
    """Facts of the files that can be decoded, and the others, in the order given.

    Args:
        progress: Called after each file with the number of files done.
    """

    def read(path: Path) -> ImageFacts | Unreadable:
        try:
            return read_facts(path)
        except UnreadableImageError as error:
            return Unreadable(path, error.reason)

    facts: dict[Path, ImageFacts] = {}
    unreadable: list[Unreadable] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without the interpreter lock
        for done, (path, result) in enumerate(zip(paths, pool.map(read, paths), strict=True), start=1):
            if isinstance(result, Unreadable):
                unreadable.append(result)
            else:
                facts[path] = result
            if progress is not None:
                progress(done)
    return facts, tuple(unreadable)
