"""What earlier checks found of readable files, kept under `$SVP_HOME/cache`, so that a file is decoded for a check only once.

A file is known by its path, size and time of change. The facts lie in a SQLite database, from which a run reads those of its
own images: a run on 400 images does not pay for a million that were checked before. A place that cannot be written, or a
broken database, costs time and nothing else.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import PIL

from svp.data.fingerprints import fingerprint, state_text
from svp.data.pipeline.value_ranges import SampleFacts
from svp.errors import UnavailableError
from svp.paths import home

try:
    import sqlite3
except ImportError:  # a Python built without it remembers nothing
    sqlite3 = None  # type: ignore[assignment]

T = TypeVar("T")

_SECONDS_BETWEEN = 30.0
"""Seconds of checking after which what was found is kept."""

_AT_ONCE = 500
"""Entries that one query asks for."""


@dataclass(frozen=True)
class Found:
    """What is told of a readable file, beside its pixels.

    Attributes:
        samples: What its samples are, if they have more than 8 bits.
        note: What is odd about it, in words.
        content: What stands for its bytes, see `svp.data.fingerprints.content_fingerprint`.
        look: What it looks like in small, see `svp.data.near_copies.look_of`.
    """

    samples: SampleFacts | None = None
    note: str = ""
    content: str = ""
    look: bytes = b""

    @classmethod
    def from_json(cls, text: str) -> Found:
        values = json.loads(text)
        samples = values.get("samples")
        look = b64decode(values.get("look", ""))
        return cls(None if samples is None else SampleFacts(**samples), str(values.get("note", "")), values["content"], look)

    def to_json(self) -> str:
        """Only what is odd, as most files are not."""
        values: dict[str, Any] = {"note": self.note, "content": self.content, "look": b64encode(self.look).decode()}
        if self.samples is not None:
            values["samples"] = asdict(self.samples)
        return json.dumps({name: value for name, value in values.items() if value})


class Memory:
    """What earlier checks found of some files, and what this one finds; written at the end, and now and then before.

    Args:
        paths: The files.
        max_pixels: Largest image that the check decodes; a file that is readable by one limit may not be by another.
    """

    def __init__(self, paths: Sequence[Path], max_pixels: int | None) -> None:
        self._max_pixels = max_pixels
        entries = {path: self._entry(path) for path in paths}
        kept = _read(list(entries.values()))
        self.known = {path: kept[entry] for path, entry in entries.items() if entry in kept}
        self._new: dict[str, Found] = {}
        self._next = time.monotonic() + _SECONDS_BETWEEN

    def _entry(self, path: Path) -> str:
        limit = "" if self._max_pixels is None else f" {self._max_pixels}"
        return fingerprint(f"{path.absolute()} {state_text(path)}{limit}")

    def add(self, path: Path, found: Found) -> None:
        """Called from several threads."""
        self._new[self._entry(path)] = found

    def write_now_and_then(self) -> None:
        """Write if that was long ago, as measured by the time that writing takes."""
        if (started := time.monotonic()) > self._next:
            self.write()
            ended = time.monotonic()
            self._next = ended + max(_SECONDS_BETWEEN, 20 * (ended - started))

    def write(self) -> None:
        """Keep what is new, if anything is."""
        new = self._new.copy()
        _write(new)
        for entry in new:
            del self._new[entry]


def _read(entries: Sequence[str]) -> dict[str, Found]:
    def read(database: Any) -> dict[str, Found]:
        kept: dict[str, Found] = {}
        for start in range(0, len(entries), _AT_ONCE):
            some = entries[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(some))
            rows = database.execute(f"SELECT entry, found FROM readable WHERE entry IN ({marks})", some)
            kept.update((entry, Found.from_json(text)) for entry, text in rows)
        return kept

    return _with_database(read) or {}


def _write(found: Mapping[str, Found]) -> None:
    def write(database: Any) -> None:
        rows = [(entry, facts.to_json()) for entry, facts in found.items()]
        database.executemany("INSERT OR REPLACE INTO readable VALUES (?, ?)", rows)

    if found:
        _with_database(write)


def _with_database(work: Callable[[Any], T]) -> T | None:
    """What `work` gives on the open database, its changes kept; None where there can be none. A broken one is removed."""
    if sqlite3 is None:
        return None
    try:
        file = home() / "cache" / f"readable-4-pillow-{PIL.__version__}.sqlite"  # another release may read other files
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=10)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS readable (entry TEXT PRIMARY KEY, found TEXT) WITHOUT ROWID")
            return work(database)
    except (OSError, UnavailableError, sqlite3.OperationalError):  # it cannot be written, or another process holds it too long
        return None
    except (sqlite3.DatabaseError, ValueError, KeyError, TypeError, AttributeError):  # none of ours
        with suppress(OSError):
            file.unlink()
        return None
