"""Names of classes and files: equal however they are composed, and what tells two names apart that look alike."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from svp.data.splits import DataError, enumerate_some


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC): macOS decomposes accents, other systems do not."""
    return unicodedata.normalize("NFC", name)


def check_class_name(name: str, where: object) -> str:
    """The composed name of a class.

    Raises:
        DataError: It holds bytes that are no UTF-8 text, so that nothing could show it.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the name {name!r} is not UTF-8. Rename it.") from error
    return composed(name)


def explain_nearly_equal(unknown: Iterable[str], known: Sequence[str]) -> str:
    """A sentence for each unknown name that is a known one but for spaces or case; "" if there is none."""
    by_look = {_look(name): name for name in known}
    found = []
    for name in unknown:
        other = by_look.get(_look(name))
        if other is not None:
            found.append(f"{name!r} and {other!r} differ in {_difference(name, other)} alone")
    return f" {enumerate_some(found, 5)}." if found else ""


def note_nearly_equal(class_names: Sequence[str]) -> tuple[str, ...]:
    """A warning about classes whose names are the same but for spaces or case."""
    first: dict[str, str] = {}
    notes = []
    for name in class_names:
        other = first.setdefault(_look(name), name)
        if other != name:
            notes.append(f"warning: the classes {other!r} and {name!r} differ in {_difference(other, name)} alone")
    return tuple(notes)


def _look(name: str) -> str:
    """What is left of a name without case, spaces and compatibility forms."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def _difference(one: str, other: str) -> str:
    spaces = "".join(one.split()) != one or "".join(other.split()) != other
    if one.casefold() == other.casefold():
        return "upper case"
    if spaces and "".join(one.split()) == "".join(other.split()):
        return "a space"
    return "spaces and upper case" if spaces else "the form of letters"


def find_file(path: Path) -> Path | None:
    """The file of this path, however its names are composed; None if there is none."""
    if path.is_file():
        return path
    if path.as_posix().isascii():
        return None
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        step = found / part
        if not os.path.lexists(step):
            listed = _names_in(found).get(composed(part))
            if listed is None:
                return None
            step = found / listed
        found = step
    return found if found.is_file() else None


@lru_cache(maxsize=64)
def _names_in(folder: Path) -> dict[str, str]:
    """Names in a folder by their composed form."""
    try:
        return {composed(name): name for name in sorted(path.name for path in folder.iterdir())}
    except OSError:
        return {}
