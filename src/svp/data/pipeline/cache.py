"""Images decoded once: uint8 pixels one after another in one flat buffer, in memory or in a file that is mapped into it.

A file lies in `$SVP_HOME/cache/images/<key>/`, where the key stands for the list of paths and for what is kept of an
image. Beside it `index.json` tells the shapes, a checksum, and size and time of change of every image file: a change of
any one, a damaged file or half a file of a killed process has the whole built again. It is deleted by hand.
"""

from __future__ import annotations

import io
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import PIL
import psutil
import torch
from PIL import Image
from torch import Tensor

from svp.data.fingerprints import file_state, fingerprint, state_text
from svp.data.pipeline.decoding import ImageReader, decoding
from svp.data.pipeline.shared import Shared
from svp.data.pipeline.stages import Stages
from svp.data.pipeline.threads import in_threads
from svp.errors import UnavailableError
from svp.paths import home, remove_leftovers, write_atomically

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
SharedPixels = Shared[Pixels]
"""What is kept of an image, by file, its state and how it is prepared."""

MAX_MEMORY = 0.5
"""Share of the available memory that kept images may take, over all processes."""

_FORMAT = 2


class CacheError(UnavailableError):
    """The images do not fit, or cannot be written; the message says where, and what to do."""


class KeptImages:
    """Images of different sizes in one buffer.

    Worker processes share it: forked ones have the same memory, spawned ones map the file, or get the buffer once
    through PyTorch's shared memory.
    """

    def __init__(self, flat: Tensor, shapes: Sequence[tuple[int, int]], file: Path | None = None) -> None:
        self._flat = flat
        self._shapes = np.asarray(shapes, dtype=np.int64).reshape(-1, 2)
        self._ends = 3 * self._shapes.prod(axis=1).cumsum()
        self.file = file

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, index: int) -> Tensor:
        """An image, uint8 (height, width, 3), in place: not to be written to."""
        height, width = self._shapes[index]
        end = self._ends[index]
        return self._flat[end - 3 * height * width : end].view(height, width, 3)

    @property
    def nbytes(self) -> int:
        return self._flat.numel()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({} if self.file is None else {"_flat": self.nbytes})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.file is not None:
            self._flat = _mapped(self.file, state["_flat"])


@dataclass(frozen=True)
class Place:
    """Where images are kept, and who is told.

    Attributes:
        mode: "memory" or "disk".
        processes: How many processes of this machine keep images in memory, each its own.
        say: Is told what is built, how large it is, and why once more.
        progress: Called after some images with the number of those done.
        shared: Images that were kept in memory before, by other runs of this process.
    """

    mode: Literal["memory", "disk"]
    processes: int = 1
    say: Callable[[str], object] = lambda _: None
    progress: Callable[[int], object] = lambda _: None
    shared: SharedPixels | None = None


def keep_images(paths: Sequence[Path], stages: Stages, place: Place, reader: ImageReader | None = None) -> KeptImages:
    """Decode all images, keep of each what `stages` says, and never do so again if they are kept on disk.

    Args:
        paths: The files.
        stages: What is kept of an image.
        place: Where.
        reader: Decodes a file; ``ImageReader()`` if None.

    Raises:
        UnreadableImageError: A file cannot be decoded.
        CacheError: Memory or disk are too small, or the disk cannot be written to.
    """
    reader = reader or ImageReader()
    if place.mode == "memory":
        _check_memory(_estimate(paths, stages), place)
        memory = io.BytesIO()
        shapes, _ = _write(memory, _decoded(paths, stages, reader, place.shared), place.progress)
        return KeptImages(torch.frombuffer(memory.getbuffer(), dtype=torch.uint8), shapes)
    return _keep_on_disk(paths, stages, place, reader)


def _keep_on_disk(paths: Sequence[Path], stages: Stages, place: Place, reader: ImageReader) -> KeptImages:
    folder = _folder(paths, stages, reader)
    state = _state(paths)
    found = _read(folder, state)
    if isinstance(found, KeptImages):
        return found
    if found is not None:
        place.say(f"{folder}: {found}; decoding the images again")
    shapes: list[tuple[int, int]] = []
    checksum = 0

    def write_images(temporary: Path) -> None:
        nonlocal shapes, checksum
        with temporary.open("wb") as file:
            shapes, checksum = _write(file, _decoded(paths, stages, reader), place.progress)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        _check_disk(_estimate(paths, stages), folder, place)
        write_atomically(folder / "images.bin", write_images)
        index = json.dumps({"state": state, "crc32": checksum, "shapes": shapes})
        write_atomically(folder / "index.json", lambda temporary: temporary.write_text(index, encoding="utf-8"))
    except OSError as error:
        reason = getattr(error.__cause__ or error, "strerror", None) or error  # `write_atomically` has advice of its own
        raise CacheError(
            f"cannot keep images in {folder}: {reason}. Make room there, set SVP_HOME to another place, or choose --cache "
            "memory or none"
        ) from error
    found = _read(folder, state)
    if not isinstance(found, KeptImages):
        raise CacheError(f"{folder}: {found or 'gone'} just after it was written: do two programs write there?")
    return found


def _read(folder: Path, state: str) -> KeptImages | str | None:
    """The images, or what is wrong with them, or None where there are none."""
    file, index_file = folder / "images.bin", folder / "index.json"
    if not folder.is_dir():
        return None
    if not index_file.is_file() or not file.is_file():
        return "was never finished"
    try:
        index = json.loads(index_file.read_bytes())
        if index["state"] != state:
            return "image files have changed since"
        flat = _mapped(file, file.stat().st_size)
        if zlib.crc32(_as_bytes(index["shapes"]), zlib.crc32(flat.numpy().data)) == index["crc32"]:
            return KeptImages(flat, index["shapes"], file)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError):
        pass  # as what it holds instead may have it
    return "is damaged"


def _mapped(file: Path, nbytes: int) -> Tensor:
    """The file's bytes, read when they are first used; private to no process as long as nobody writes."""
    return torch.from_file(str(file), shared=False, size=nbytes, dtype=torch.uint8)


def _write(file: BinaryIO, images: Iterator[Pixels], progress: Callable[[int], object]) -> tuple[list[tuple[int, int]], int]:
    """Height and width of every image, and a checksum of the pixels and of these."""
    shapes, checksum = [], 0
    for pixels in images:
        height, width, _ = pixels.shape
        shapes.append((height, width))
        data = pixels.tobytes()
        file.write(data)
        checksum = zlib.crc32(data, checksum)
        progress(len(shapes))
    return shapes, zlib.crc32(_as_bytes(shapes), checksum)


def _as_bytes(shapes: Sequence[tuple[int, int]]) -> bytes:
    return np.asarray(shapes, dtype=np.int64).tobytes()


def _decoded(
    paths: Sequence[Path], stages: Stages, reader: ImageReader, shared: SharedPixels | None = None
) -> Iterator[Pixels]:
    def decode(path: Path) -> Pixels:
        with decoding(path):
            return np.asarray(stages.kept(reader.decode(path).image))

    def find(path: Path) -> Pixels:
        if shared is None:
            return decode(path)
        key = path.absolute(), file_state(path), stages.key, reader
        return shared.get(key, lambda: decode(path))

    return in_threads(find, paths)


def _estimate(paths: Sequence[Path], stages: Stages) -> int:
    """Bytes that will be kept, by the sizes in the files' headers."""
    if stages.kept_side is None:
        return len(paths) * stages.kept_bytes(1, 1)
    total = 0
    for path in paths:
        try:
            with Image.open(path) as image:
                total += stages.kept_bytes(*image.size)
        except Exception:  # as many kinds as there are decoders; `load_image` will say it better
            continue
    return total


def _check_memory(needed: int, place: Place) -> None:
    available = psutil.virtual_memory().available
    if needed * place.processes > MAX_MEMORY * available:
        times = f" in each of {place.processes} processes" if place.processes > 1 else ""
        raise CacheError(
            f"keeping the images in memory takes {_size(needed)}{times}, more than {MAX_MEMORY:.0%} of the {_size(available)} "
            "available: choose --cache disk or none"
        )
    place.say(f"keeping decoded images in memory: {_size(needed)}")


def _check_disk(needed: int, folder: Path, place: Place) -> None:
    free = shutil.disk_usage(folder).free
    if needed * 1.05 > free:
        raise CacheError(
            f"keeping the images in {folder} takes {_size(needed)}, and {_size(free)} are free: make room, set SVP_HOME to "
            "another place, or choose --cache memory or none"
        )
    place.say(f"keeping decoded images in {folder}: {_size(needed)}")


def _folder(paths: Sequence[Path], stages: Stages, reader: ImageReader) -> Path:
    names = [str(path.absolute()) for path in paths]
    key = [_FORMAT, PIL.__version__, stages.key, reader.value_range, names]  # another Pillow may decode otherwise
    text = json.dumps(key if reader.least_side is None else [*key, reader.least_side])
    return home() / "cache" / "images" / fingerprint(text)


def _state(paths: Sequence[Path]) -> str:
    """Stands for the content of the files, without reading them."""
    return fingerprint("".join(f"{state_text(path)}\n" for path in paths), 64)


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
