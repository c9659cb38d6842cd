"""A table of the user's own that says what every image is: ``path,label[,split]``, as CSV or tab-separated.

    path,label,split
    scans/0001.png,benign,train
    scans/0002.png,malignant,test

The first line names the columns, in any order; further columns are ignored. A path is absolute or relative to the
table's folder. The split is train, val or test, or another of `PART_NAMES`; empty for train. Without that column all rows are
training rows, and validation and test images are split off as from a folder.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path

from svp.data.sources.source import part_of
from svp.data.splits import DataError, Parts, Split, enumerate_some

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def is_table(path: Path) -> bool:
    """Whether the name is one of a table: ``.csv`` or ``.tsv``."""
    return path.suffix.lower() in _DELIMITERS


@dataclass(frozen=True)
class TableSource:
    """A `Source`: a table of paths and labels.

    Attributes:
        path: The table.
    """

    path: str | Path

    @property
    def name(self) -> str:
        return Path(self.path).stem

    def parts(self, seed: int = 0) -> Parts:
        """The parts that the table lists. Classes are the labels of the training rows in sorted order."""
        table = _read(self.path)
        training = {row.label for row in table.rows if row.part == "train"}
        if not training:
            raise DataError(f"{table.path}: no row has split train, so there is nothing to train on.")
        if len(training) == 1:
            raise DataError(
                f"{table.path}: only one label, {training.pop()!r}, in the training rows; a classifier needs two or more."
            )
        for row in table.rows:
            if row.label not in training:
                raise DataError(
                    f"{table.path}, line {row.line}: label {row.label!r} of a {row.part} row is none of the training rows "
                    f"({enumerate_some(sorted(training))}). Correct it, or add training rows of this label."
                )
        class_names = tuple(sorted(training))
        notes = (f"columns ignored: {', '.join(table.ignored)}",) if table.ignored else ()
        splits = {part: table.split(part, class_names) for part in sorted({row.part for row in table.rows})}
        return Parts(table.path, class_names, splits, notes=notes)

    def labelled(self, class_names: Sequence[str]) -> Split:
        """The test rows of a table with a split column, else all rows."""
        table = _read(self.path)
        part = "test" if table.has_splits else "train"
        rows = [row for row in table.rows if row.part == part]
        if not rows:
            raise DataError(f"{table.path}: no row has split test. Remove the split column to score on all rows.")
        for row in rows:
            if row.label not in class_names:
                raise DataError(
                    f"{table.path}, line {row.line}: label {row.label!r} is none of the {len(class_names)} classes of the "
                    f"model: {enumerate_some(class_names)}. Labels must be the class names used in training."
                )
        return table.split(part, class_names)


@dataclass(frozen=True)
class _Row:
    line: int
    path: Path
    label: str
    part: str


@dataclass(frozen=True)
class _Table:
    """Rows with every file in place and no image twice; `ignored` are the columns of no meaning here."""

    path: Path
    rows: tuple[_Row, ...]
    has_splits: bool
    ignored: tuple[str, ...]

    def split(self, part: str, class_names: Sequence[str]) -> Split:
        classes: dict[str, list[Path]] = {}
        for row in self.rows:
            if row.part == part:
                classes.setdefault(row.label, []).append(row.path)
        which = f"rows of {self.path.name} with split {part}" if self.has_splits else f"all rows of {self.path.name}"
        return Split.of_classes(classes, class_names, which)


def _read(path: str | Path) -> _Table:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{file}: no such file. Expected a table with the columns path, label and, if you like, split.")
    lines = _lines(file)
    _, header = next(lines, (1, []))
    columns = _columns(file, header)
    folder = file.resolve().parent  # as a resumed run has it, which knows the table by its resolved path
    rows = tuple(_row(file, folder, line, values, columns, len(header)) for line, values in lines if any(values))
    if not rows:
        raise DataError(f"{file}: no rows below the header.")
    _check_images(file, rows)
    ignored = tuple(name.strip() for index, name in enumerate(header) if index not in columns.values())
    return _Table(file, rows, "split" in columns, ignored)


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line they end on."""
    line = 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, delimiter=_DELIMITERS[file.suffix.lower()], skipinitialspace=True, strict=True)
            for values in reader:
                line = reader.line_num
                yield line, values
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text after line {line} ({error.reason}). Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(
            f"{file}, after line {line}: {error}. A quoted value ends with a quote; a quote in it is doubled."
        ) from error


def _columns(file: Path, header: Sequence[str]) -> dict[str, int]:
    """Position by name of the columns that mean something."""
    names = [name.strip().lower() for name in header]
    for name in ("path", "label", "split"):
        if names.count(name) > 1:
            raise DataError(f"{file}, line 1: {names.count(name)} columns are called {name!r}. Rename all but one.")
        if name not in names and name != "split":
            found = ", ".join(repr(value) for value in header) or "nothing"
            separator = "a tab" if _DELIMITERS[file.suffix.lower()] == "\t" else "a comma"
            raise DataError(
                f"{file}, line 1: no column {name!r}; found {found}. The first line must name the columns path, label "
                f"and, if you like, split, with {separator} between them."
            )
    return {name: names.index(name) for name in ("path", "label", "split") if name in names}


def _row(file: Path, folder: Path, line: int, values: Sequence[str], columns: Mapping[str, int], width: int) -> _Row:
    if len(values) != width:
        raise DataError(
            f"{file}, line {line}: {len(values)} values where the header has {width} columns. "
            "Put a value that holds the separator in double quotes."
        )
    path, label = values[columns["path"]], values[columns["label"]].strip()
    split = values[columns["split"]].strip() if "split" in columns else ""
    for name, value in (("path", path), ("label", label)):
        if not value:
            raise DataError(f"{file}, line {line}: the {name} is empty. Fill it in or remove the line.")
    part = part_of(split or "train")
    if part is None:
        raise DataError(f"{file}, line {line}: unknown split {split!r}. Expected train, val or test, or nothing for train.")
    return _Row(line, Path(normpath(folder / Path(path).expanduser())), label, part)


def _check_images(file: Path, rows: Sequence[_Row]) -> None:
    first: dict[Path, _Row] = {}
    for row in rows:
        before = first.setdefault(row.path, row)
        if before.part != row.part:
            raise DataError(
                f"{file}, line {row.line}: {row.path} is a {row.part} image here and a {before.part} image in line "
                f"{before.line}: a leak, scores would be too good. Remove one of the lines."
            )
        if before is not row:
            raise DataError(
                f"{file}, line {row.line}: {row.path} stands in line {before.line} already. Remove one of the lines."
            )
    missing = [row for row in rows if not row.path.is_file()]
    if missing:
        listed = enumerate_some([f"line {row.line}: {row.path}" for row in missing], 5)
        raise DataError(
            f"{file}: {len(missing)} of {len(rows)} images are no files ({listed}). "
            f"Paths must be absolute or relative to {file.resolve().parent}."
        )
