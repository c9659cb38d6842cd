"""From the bytes of a table to its rows: which encoding, which separator. What may be read in two ways is refused."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from svp.data.splits import DataError

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}

_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_KINDS = {
    b"PK\x03\x04": "an Excel workbook or another zip file",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a gzip file",
}


@dataclass(frozen=True)
class TableText:
    """The rows of a table.

    Attributes:
        header: Cells of the first line.
        rows: The other lines that hold anything: number of the line each ends on, and its cells.
        notes: What the user should know of how the table was read.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    notes: tuple[str, ...]


def read_table_text(file: Path, is_header: Callable[[Sequence[str]], bool]) -> TableText:
    """Read a table whatever its encoding and separator.

    Args:
        file: The table.
        is_header: Whether cells name the columns that a table must have: this tells which separator is meant.

    Raises:
        DataError: It is no text, or may be read in two ways; or a quote is not closed.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}).") from error
    text, notes = _decode(file, content)
    first_line = 1
    separator = None
    declared = re.match(r'"?sep=(.)"?[ ,;\t]*(\r\n|\r|\n|$)', text)  # Excel's own
    if declared:
        separator, text, first_line = declared[1], text[declared.end() :], 2
    if separator is None:
        separator = _find_separator(file, text, is_header)
    lines = _parse(file, text, separator, first_line)
    header = lines[0][1] if lines else ()
    return TableText(header, tuple((line, cells) for line, cells in lines[1:] if any(map(str.strip, cells))), tuple(notes))


def _decode(file: Path, content: bytes) -> tuple[str, list[str]]:
    for start, kind in _KINDS.items():
        if content.startswith(start):
            raise DataError(f"{file}: is {kind}, not a text table. Save it as CSV in UTF-8.")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content:
        encoding = _without_mark(content)
        if encoding is None:
            line = content[: content.index(b"\0")].count(b"\n") + 1
            raise DataError(f"{file}, line {line}: holds zero bytes, so it is no text. Save it as CSV in UTF-8.")
    try:
        text = content.decode("utf-8-sig" if encoding in (None, "utf-8") else encoding)
    except UnicodeDecodeError as error:
        if encoding is None:
            return _decode_western(file, content, error)
        line = content[: error.start].count(b"\n")
        raise DataError(
            f"{file}: not {encoding.upper()} text after line {line} ({error.reason}). Save it as CSV in UTF-8."
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{file}, line {line}: holds zero bytes, so it is no text. Save it as CSV in UTF-8.")
    return text, []


def _without_mark(content: bytes) -> str | None:
    """UTF-16 without its mark, told by the zero bytes of its ASCII letters."""
    head = content[:4000]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(content) % 2 == 0 and max(even, odd) > 0.4 * len(head) / 2 and min(even, odd) == 0:
        return "utf-16-le" if odd else "utf-16-be"
    return None


def _decode_western(file: Path, content: bytes, error: UnicodeDecodeError) -> tuple[str, list[str]]:
    """Windows-1252, if all that is not ASCII looks like letters of a western language."""
    line = content[: error.start].count(b"\n")
    refusal = DataError(
        f"{file}: not UTF-8 text after line {line} ({error.reason}), and which other encoding it is cannot be told. "
        "Save it as CSV in UTF-8."
    )
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        raise refusal from error
    words = {word for word in re.split(r"[\s,;|\"/\\()._-]+", text) if not word.isascii()}
    for written in words:
        word = re.sub("(?<=[A-Za-z])\u2019(?=[A-Za-z])", "", written)  # an apostrophe
        foreign = [sign for sign in word if not sign.isascii()]
        letters = all(sign.isalpha() and sign not in "\xaa\xba\u0192" for sign in foreign)
        if not letters or re.search(r"[^\x00-\x7f]{3}", word) or (len(foreign) > 1 and len(foreign) == len(word)):
            raise refusal from error
    if not words:  # nothing but no-break spaces
        raise refusal from error
    example = min(words, key=lambda word: (len(word), word))
    return text, [f"{file.name} is not UTF-8; read as Windows-1252, where a name is {example!r}. Save it as UTF-8 to be sure"]


def _find_separator(file: Path, text: str, is_header: Callable[[Sequence[str]], bool]) -> str:
    """The one separator that finds the columns in the first line."""
    found = [separator for separator in SEPARATORS if is_header(_first(file, text, separator))]
    if len(found) > 1:
        names = " and ".join(SEPARATORS[separator] for separator in found)
        raise DataError(f"{file}, line 1: may be read with {names} between the columns. Write only one of them.")
    if found:
        return found[0]
    return "\t" if file.suffix.lower() == ".tsv" else ","


def _first(file: Path, text: str, separator: str) -> Sequence[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t"), ())
    except csv.Error:
        return ()


def _parse(file: Path, text: str, separator: str, first_line: int) -> list[tuple[int, tuple[str, ...]]]:
    lines: list[tuple[int, tuple[str, ...]]] = []
    line = first_line - 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
        for cells in reader:
            line = reader.line_num + first_line - 1
            if cells or not lines:
                lines.append((line, tuple(cells)))
    except csv.Error as error:
        raise DataError(
            f"{file}, after line {line}: {error}. A quoted value ends with a quote; a quote in it is doubled."
        ) from error
    return lines
