"""Files that cannot be decoded: found before training, once, and reported by name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import PIL

from svp.data.fingerprints import fingerprint, state_text
from svp.data.pipeline.decoding import UnreadableImageError, load_image
from svp.data.pipeline.threads import in_threads
from svp.data.splits import DataError, ImageData, Split, enumerate_some
from svp.paths import home, write_atomically

Result = TypeVar("Result")

MAX_UNREADABLE = 0.05
"""Share of the training images that may be unreadable; more stops the run."""


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be decoded, and why."""

    path: Path
    reason: str


def decode_all(
    paths: Sequence[Path], decode: Callable[[Path], Result], progress: Callable[[int], object] | None = None
) -> tuple[dict[Path, Result], tuple[Unreadable, ...]]:
    """Decode files in threads: the results by path, and the files that cannot be decoded, both in the order given.

    Args:
        paths: The files.
        decode: Decodes one file.
        progress: Called after each file with the number of files done.
    """

    def attempt(path: Path) -> tuple[Path, Result | Unreadable]:
        try:
            return path, decode(path)
        except UnreadableImageError as error:
            return path, Unreadable(path, error.reason)

    decoded: dict[Path, Result] = {}
    unreadable: list[Unreadable] = []
    for done, (path, result) in enumerate(in_threads(attempt, paths), start=1):
        if isinstance(result, Unreadable):
            unreadable.append(result)
        else:
            decoded[path] = result
        if progress is not None:
            progress(done)
    return decoded, tuple(unreadable)


def find_unreadable(paths: Sequence[Path], progress: Callable[[int], object] | None = None) -> tuple[Unreadable, ...]:
    """Decode every file completely, in threads, and return those that fail, in the order given.

    Files found readable are remembered under `$SVP_HOME/cache` by path, size and time of change, and not decoded again.

    Args:
        paths: The files.
        progress: Called after each file with the number of files done.
    """
    known = _read_cache()

    def check(path: Path) -> str:
        entry = _entry(path)
        if entry not in known:
            load_image(path)
        return entry

    readable, unreadable = decode_all(paths, check, progress)
    if not known.issuperset(readable.values()):
        _write_cache(known.union(readable.values()))
    return unreadable


def remember_readable(paths: Iterable[Path]) -> None:
    """Spare `find_unreadable` files that were just decoded completely."""
    _write_cache(_read_cache() | {_entry(path) for path in paths})


def drop_unreadable(split: Split, unreadable: Sequence[Unreadable]) -> Split:
    """The split without the unreadable files, in the same order."""
    bad = {entry.path for entry in unreadable}
    return split.where(lambda path: path not in bad)


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


def _entry(path: Path) -> str:
    return fingerprint(f"{path.absolute()} {state_text(path)}")


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
