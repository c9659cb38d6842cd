"""Image files to RGB, and the files that cannot be: found before training, once, and reported by name."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from svp.data.splits import DataError, ImageData, Split, enumerate_some
from svp.errors import InputError
from svp.paths import home, write_atomically

MAX_UNREADABLE = 0.05
"""Share of the training images that may be unreadable; more stops the run."""


class UnreadableImageError(InputError):
    """A file cannot be decoded; the message holds its path and `reason`.

    It can be made from the message alone, as a data loader does to raise it again outside its worker.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be decoded, and why."""

    path: Path
    reason: str


def load_image(path: str | Path, formats: tuple[str, ...] | None = None, max_pixels: int | None = None) -> Image.Image:
    """Decode a file completely: RGB, upright by its EXIF orientation, transparency over white, first frame.

    16-bit grey is scaled from 0..65535. 32-bit integers and floats are scaled from the smallest usual range that holds
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


def find_unreadable(paths: Sequence[Path], progress: Callable[[int], None] | None = None) -> tuple[Unreadable, ...]:
    """Decode every file completely, in threads, and return those that fail, in the order given.

    Files found readable are remembered under `$SVP_HOME/cache` by path, size and time of change, and not decoded again.

    Args:
        progress: Called after each file with the number of files done.
    """
    known = _read_cache()
    readable: set[str] = set()

    def check(path: Path) -> Unreadable | None:
        fingerprint = _fingerprint(path)
        if fingerprint not in known:
            try:
                load_image(path)
            except UnreadableImageError as error:
                return Unreadable(path, error.reason)
        readable.add(fingerprint)
        return None

    unreadable = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without the interpreter lock
        for done, result in enumerate(pool.map(check, paths), start=1):
            if result is not None:
                unreadable.append(result)
            if progress is not None:
                progress(done)
    if not readable <= known:
        _write_cache(known | readable)
    return tuple(unreadable)


def remember_readable(paths: Iterable[Path]) -> None:
    """Spare `find_unreadable` files that were just decoded completely."""
    _write_cache(_read_cache() | {_fingerprint(path) for path in paths})


def drop_unreadable(split: Split, unreadable: Sequence[Unreadable]) -> Split:
    """The split without the unreadable files, in the same order."""
    bad = {entry.path for entry in unreadable}
    kept = [(path, label) for path, label in zip(split.paths, split.labels, strict=True) if path not in bad]
    return Split(tuple(path for path, _ in kept), tuple(label for _, label in kept), split.origin)


def check_unreadable(data: ImageData, unreadable: Sequence[Unreadable]) -> None:
    """Refuse a data set that is mostly broken, or broken where it hurts.

    Raises:
        DataError: More than `MAX_UNREADABLE` of the training images are unreadable, or a class keeps no training
            image, or a part keeps no image at all.
    """
    bad = {entry.path: entry for entry in unreadable}
    for part, split in {"training": data.train, "validation": data.val, "test": data.test}.items():
        broken = [bad[path] for path in split.paths if path in bad]
        listed = enumerate_some([f"{entry.path} ({entry.reason})" for entry in broken], most=5)
        found = f"{data.root}: {len(broken)} of {len(split)} {part} images cannot be read"
        remedy = f"{listed}. Repair or remove these files."
        kept = set(drop_unreadable(split, broken).labels)
        lost = [data.class_names[label] for label in sorted(set(split.labels) - kept)]
        if part == "training" and len(broken) > MAX_UNREADABLE * len(split):
            raise DataError(f"{found}, more than {MAX_UNREADABLE:.0%}: {remedy}")
        if part == "training" and lost:
            raise DataError(f"{found}, which leaves none of {enumerate_some(lost)}: {remedy}")
        if broken and not kept:
            raise DataError(f"{found}, which leaves none: {remedy}")


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


def _fingerprint(path: Path) -> str:
    """Stands for the content of a file, without reading it; of an absent file, for its absence."""
    try:
        status = path.stat()
        state = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        state = "absent"
    return hashlib.sha256(f"{path.absolute()} {state}".encode(errors="surrogateescape")).hexdigest()[:24]


def _cache_file() -> Path:
    return home() / "cache" / f"readable-pillow-{PIL.__version__}.json"  # another release may read other files


def _read_cache() -> frozenset[str]:
    try:
        entries = json.loads(_cache_file().read_bytes())
        return frozenset(entry for entry in entries if isinstance(entry, str))
    except (OSError, ValueError, TypeError, RuntimeError):  # RuntimeError: no home, or nested too deep
        return frozenset()


def _write_cache(fingerprints: frozenset[str]) -> None:
    """Replace the cache file as a whole; a place that cannot be written costs the next run time, nothing else."""
    with contextlib.suppress(OSError, RuntimeError):
        file = _cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(sorted(fingerprints))
        write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
