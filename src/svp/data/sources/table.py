"""A table of the user's own that says what every image is: ``path,label[,split][,group]``, as CSV or tab-separated.

    path,label,split
    scans/0001.png,benign,train
    scans/0002.png,malignant,test

The first line names the columns, in any order; further columns are ignored. A path is absolute, or relative to the
table's folder or to the data root; backslashes are slashes. The split is train, val or test, or another of `PART_NAMES`;
empty for train. Without that column all rows are training rows, and validation and test images are split off as from a
folder. Images of one group (a patient, say) then stay in one part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from svp.data.groups import looks_like_group
from svp.data.sources.names import check_class_name, composed, explain_nearly_equal, find_file, note_nearly_equal
from svp.data.sources.source import part_of
from svp.data.sources.table_text import SEPARATORS, TableText, read_table_text
from svp.data.splits import DataError, Parts, Split, enumerate_some

PATH_COLUMNS = ("path", "file_name", "filename", "image", "file", "filepath", "file_path", "image_path")
"""What the column of paths may be called, in any case; ``path`` goes before the others."""

NO_GROUP = "none"
"""In place of a column: images are not grouped."""


def is_table(path: Path) -> bool:
    """Whether the name is one of a table: ``.csv`` or ``.tsv``."""
    return path.suffix.lower() in (".csv", ".tsv")


@dataclass(frozen=True)
class TableSource:
    """A `Source`: a table of paths and labels.

    Attributes:
        path: The table.
        base: Folder that paths may be relative to, besides that of the table.
        group: Column whose values are kept in one part each; "none" for no column; ``group`` if there is one and this is None.
    """

    path: str | Path
    base: Path | None = None
    group: str | None = None

    @property
    def name(self) -> str:
        return Path(self.path).stem

    def parts(self, seed: int = 0) -> Parts:
        """The parts that the table lists. Classes are the labels of the training rows in sorted order."""
        table = _read(self.path, self.base, self.group)
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
                    f"({enumerate_some(sorted(training))}).{explain_nearly_equal([row.label], sorted(training))} Correct it, "
                    "or add training rows of this label."
                )
        class_names = tuple(sorted(training))
        notes = (*table.notes, *note_nearly_equal(class_names))
        splits = {part: table.split(part, class_names) for part in sorted({row.part for row in table.rows})}
        grouped_by = f"column {table.group}" if table.group else None
        likely = {
            column: {row.path: row.others[column] for row in table.rows if row.others[column]}
            for column in table.likely_groups
        }
        return Parts(table.path, class_names, splits, notes=notes, grouped_by=grouped_by, likely_groups=likely)

    def labelled(self, class_names: Sequence[str]) -> Split:
        """The test rows of a table with a split column, else all rows."""
        table = _read(self.path, self.base, NO_GROUP)
        part = "test" if table.has_splits else "train"
        rows = [row for row in table.rows if row.part == part]
        if not rows:
            raise DataError(f"{table.path}: no row has split test. Remove the split column to score on all rows.")
        by_composed = {composed(name): name for name in class_names}
        for row in rows:
            if row.label not in by_composed:
                raise DataError(
                    f"{table.path}, line {row.line}: label {row.label!r} is none of the {len(class_names)} classes of the "
                    f"model: {enumerate_some(class_names)}.{explain_nearly_equal([row.label], class_names)} Labels must be "
                    "the class names used in training."
                )
        return table.split(part, [composed(name) for name in class_names])


@dataclass(frozen=True)
class _Row:
    line: int
    path: Path
    label: str
    part: str
    group: str
    others: Mapping[str, str]


@dataclass(frozen=True)
class _Table:
    """Rows with every file in place and no image twice."""

    path: Path
    rows: tuple[_Row, ...]
    has_splits: bool
    group: str | None
    likely_groups: tuple[str, ...]
    notes: tuple[str, ...]

    def split(self, part: str, class_names: Sequence[str]) -> Split:
        classes: dict[str, list[Path]] = {}
        for row in self.rows:
            if row.part == part:
                classes.setdefault(row.label, []).append(row.path)
        which = f"rows of {self.path.name} with split {part}" if self.has_splits else f"all rows of {self.path.name}"
        groups = {row.path: row.group for row in self.rows} if self.group else None
        return Split.of_classes(classes, class_names, which, groups)


def _read(path: str | Path, base: Path | None, group: str | None) -> _Table:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{file}: no such file. Expected a table with the columns path, label and, if you like, split.")
    text = read_table_text(file, lambda cells: {"path", "label"} <= _positions(cells).keys())
    columns = _columns(file, text.header, group)
    if not text.rows:
        raise DataError(f"{file}: no rows below the header.")
    names = [name.strip() for name in text.header]
    ignored = [name for index, name in enumerate(names) if index not in columns.values()]
    likely = () if group is not None or "group" in columns else tuple(filter(looks_like_group, ignored))
    rows, unlabelled = _rows(file, text, columns, likely, _Finder(file, base, text, columns["path"]))
    likely = tuple(name for name in likely if _may_be_group([row.others[name] for row in rows]))
    notes = [*text.notes]
    if unlabelled:
        notes.append(f"{unlabelled:,} test rows without a label are left out; svp predict takes their images")
    if any(ignored):
        notes.append(f"columns ignored: {', '.join(filter(None, ignored))}")
    name_of_group = names[columns["group"]] if "group" in columns else None
    return _Table(file, rows, "split" in columns, name_of_group, likely, tuple(notes))


def _may_be_group(values: Sequence[str]) -> bool:
    """Whether some values stand in several rows, but not the same one in all."""
    return 1 < len(set(values)) < len(values)


def _positions(header: Sequence[str]) -> dict[str, int]:
    """Position by name of the columns that mean something; of several names for paths, the first of `PATH_COLUMNS`."""
    names = [name.strip().lower() for name in header]
    found: dict[str, int] = {name: names.index(name) for name in ("label", "split") if name in names}
    path = next((name for name in PATH_COLUMNS if name in names), None)
    if path is not None:
        found["path"] = names.index(path)
    return found


def _columns(file: Path, header: Sequence[str], group: str | None) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    paths = [name for name in PATH_COLUMNS if name in names]
    if len(paths) > 1 and "path" not in paths:
        raise DataError(f"{file}, line 1: the columns {' and '.join(map(repr, paths))} may both hold paths. Call one path.")
    columns = _positions(header)
    for name in ("path", "label", "split"):
        if names.count(name) > 1:
            raise DataError(f"{file}, line 1: {names.count(name)} columns are called {name!r}. Rename all but one.")
        if name not in columns and name != "split":
            found = ", ".join(repr(value) for value in header) or "nothing"
            separators = f"{', '.join(list(SEPARATORS.values())[:-1])} or {list(SEPARATORS.values())[-1]}"
            raise DataError(
                f"{file}, line 1: no column {name!r}; found {found}. The first line must name the columns path, label "
                f"and, if you like, split, with {separators} between them."
            )
    wanted = group if group is not None else "group"
    if wanted != NO_GROUP or "none" in names:
        exact = [index for index, name in enumerate(header) if name.strip() == wanted.strip()]
        alike = exact or [index for index, name in enumerate(names) if name == wanted.strip().lower()]
        if len(alike) > 1:
            raise DataError(f"{file}, line 1: {len(alike)} columns are called {wanted!r}. Rename all but one.")
        if alike:
            columns["group"] = alike[0]
        elif group is not None:
            found = ", ".join(repr(name.strip()) for name in header)
            raise DataError(f"{file}, line 1: no column {group!r} to group by; found {found}.")
    return columns


def _rows(
    file: Path, text: TableText, columns: Mapping[str, int], likely: Sequence[str], finder: _Finder
) -> tuple[tuple[_Row, ...], int]:
    """The rows, and the number of test rows without a label, if no test row has one."""
    names = [name.strip() for name in text.header]
    rows: list[_Row] = []
    without_label: list[int] = []
    for line, cells in text.rows:
        if len(cells) > len(names) and not any(map(str.strip, cells[len(names) :])):
            cells = cells[: len(names)]  # a separator at the end
        if len(cells) != len(names):
            raise DataError(
                f"{file}, line {line}: {len(cells)} values where the header has {len(names)} columns. "
                "Put a value that holds the separator in double quotes."
            )
        path, label = cells[columns["path"]], cells[columns["label"]].strip()
        split = cells[columns["split"]].strip() if "split" in columns else ""
        part = part_of(split or "train")
        if part is None:
            raise DataError(
                f"{file}, line {line}: unknown split {split!r}. Expected train, val or test, or nothing for train."
            )
        if not path.strip():
            raise DataError(f"{file}, line {line}: the path is empty. Fill it in or remove the line.")
        if not label and part == "test":
            without_label.append(line)
            continue
        if not label:
            raise DataError(f"{file}, line {line}: the label is empty. Fill it in or remove the line.")
        group = cells[columns["group"]].strip() if "group" in columns else ""
        if "group" in columns and not group:
            name = names[columns["group"]]
            raise DataError(f"{file}, line {line}: the {name} is empty, so its group is not known. Fill it in.")
        others = {name: cells[names.index(name)].strip() for name in likely}
        label = check_class_name(label, f"{file}, line {line}")
        rows.append(_Row(line, finder.find(path), label, part, group, others))
    if without_label and any(row.part == "test" for row in rows):
        raise DataError(f"{file}, line {without_label[0]}: the label is empty. Fill it in or remove the line.")
    _check_images(file, rows, finder)
    return tuple(rows), len(without_label)


class _Finder:
    """Finds the file that a cell of the path column means.

    Paths of another machine (absolute ones, of which none is there) are looked up below the table's folder or the data root,
    if without their first folders all of them are found there.
    """

    def __init__(self, file: Path, base: Path | None, text: TableText, column: int) -> None:
        # resolved, as a resumed run has it, which knows the table by its resolved path
        self.bases = [file.resolve().parent, *([base.expanduser().resolve()] if base is not None else [])]
        self.moved: tuple[int, Path] | None = None
        cells = [cells[column].strip() for _, cells in text.rows if column < len(cells)]
        pure = [path for path in map(_foreign, cells) if path is not None]
        if pure and len(pure) == sum(map(bool, cells)) and not any(map(_exists, cells)):
            self.moved = self._find_prefix(pure)

    def _find_prefix(self, paths: Sequence[PurePath]) -> tuple[int, Path] | None:
        shared = os.path.commonpath([PurePosixPath(*path.parts[1:-1]).as_posix() or "." for path in paths])
        most = 1 + len([part for part in PurePosixPath(shared).parts if part != "."])
        for cut in range(1, most + 1):
            for base in self.bases:
                if all(_find(base.joinpath(*path.parts[cut:])) for path in paths):
                    return cut, base
        return None

    def find(self, cell: str) -> Path:
        """The file, or where it should be."""
        foreign = _foreign(cell.strip()) if self.moved else None
        if self.moved and foreign is not None:
            cut, base = self.moved
            path = base.joinpath(*foreign.parts[cut:])
            return _find(path) or path
        tried = [Path(normpath(base / _expanded(name))) for name in _spellings(cell) for base in self.bases]
        return next(filter(None, map(_find, tried)), tried[0])


def _spellings(cell: str) -> Iterator[str]:
    yield cell
    if cell.strip() != cell:
        yield cell.strip()
    if "\\" in cell:
        yield cell.strip().replace("\\", "/")


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user
        return Path(name)


def _find(path: Path) -> Path | None:
    try:
        return find_file(path)
    except (OSError, ValueError):  # longer than a path may be, say
        return None


def _exists(cell: str) -> bool:
    return _find(Path(cell)) is not None


def _foreign(cell: str) -> PurePath | None:
    """An absolute path, of this system or of Windows; None for a relative one."""
    windows = PureWindowsPath(cell)
    if windows.drive and windows.root:
        return windows
    posix = PurePosixPath(cell)
    return posix if posix.is_absolute() else None


def _check_images(file: Path, rows: Sequence[_Row], finder: _Finder) -> None:
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
    missing = [row for row in rows if _find(row.path) is None]
    if missing:
        listed = enumerate_some([f"line {row.line}: {row.path}" for row in missing], 5)
        bases = " or ".join(str(base) for base in finder.bases)
        raise DataError(
            f"{file}: {len(missing)} of {len(rows)} images are no files ({listed}). "
            f"Paths must be absolute or relative to {bases}."
        )
