"""A table of the user's own that says what every image is: ``path,label[,split][,group]``, as CSV or tab-separated.

    path,label,split
    scans/0001.png,benign,train
    scans/0002.png,malignant,test

The first line names the columns, in any order; further columns are ignored. A path is absolute, or relative to the
table's folder or to the data root; backslashes are slashes. The split is train, val or test, or another of `PART_NAMES`;
empty for train. Without that column all rows are training rows, and validation and test images are split off as from a
folder. Images of one group (a patient, say) then stay in one part. Instead of one class, rows may have several labels or a
number, see `svp.data.sources.table_labels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from svp.data.groups import looks_like_group
from svp.data.sources.names import composed, explain_nearly_equal, note_nearly_equal
from svp.data.sources.source import part_of
from svp.data.sources.table_files import FileFinder, existing
from svp.data.sources.table_labels import (
    LabelColumns,
    find_label_columns,
    output_names,
    read_label,
    read_targets,
    tell_task,
    wanted_columns,
)
from svp.data.sources.table_text import SEPARATORS, TableText, read_table_text
from svp.data.splits import DataError, Parts, Split, enumerate_some
from svp.settings import TaskChoice
from svp.tasks import SINGLE_LABEL, Target, Task

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
        task: What labels are taken for.
        label: Columns that hold them, with commas between them; ``label`` if None.
    """

    path: str | Path
    base: Path | None = None
    group: str | None = None
    task: TaskChoice = "auto"
    label: str | None = None

    @property
    def name(self) -> str:
        return Path(self.path).stem

    def parts(self, seed: int = 0) -> Parts:
        """The parts that the table lists. Classes are the labels of the training rows in sorted order."""
        table = _read(self.path, self.base, self.group, self.task, [self.label])
        if not any(row.part == "train" for row in table.rows):
            raise DataError(f"{table.path}: no row has split train, so there is nothing to train on.")
        outputs: tuple[str, ...] = ()
        targets: dict[Path, Target] = {}
        if table.task.kind == "single":
            class_names = table.classes()
        else:
            table, class_names, outputs, targets = table.stratified()
        notes = (*table.notes, *note_nearly_equal(outputs or class_names))
        splits = {part: table.split(part, class_names, targets) for part in sorted({row.part for row in table.rows})}
        grouped_by = f"column {table.group}" if table.group else None
        likely = {
            column: {row.path: row.others[column] for row in table.rows if row.others[column]}
            for column in table.likely_groups
        }
        return Parts(
            table.path,
            class_names,
            splits,
            notes=notes,
            grouped_by=grouped_by,
            likely_groups=likely,
            task=table.task,
            outputs=outputs,
        )

    def labelled(self, class_names: Sequence[str]) -> Split:
        """The test rows of a table with a split column, else all rows."""
        return self.truths(class_names, SINGLE_LABEL)

    def truths(self, names: Sequence[str], task: Task, label: str | None = None) -> Split:
        """The same for a model of any task.

        Args:
            names: Names of the head's outputs.
            task: What it says.
            label: Columns that hold the labels; if None or not there, ``label``, or else those that are called as the outputs.
        """
        called = [label, None] + ([",".join(names)] if task.kind != "single" else [])
        table = _read(self.path, self.base, NO_GROUP, task.kind, called)
        part = "test" if table.has_splits else "train"
        rows = [row for row in table.rows if row.part == part]
        if not rows:
            raise DataError(f"{table.path}: no row has split test. Remove the split column to score on all rows.")
        if task.kind != "single":
            targets = table.targets(rows, names)
            strata = task.stratify(list(targets.values()), names)
            which = [replace(row, label=strata.names[strata.of(targets[row.path])]) for row in rows]
            return replace(table, rows=tuple(which)).split(part, strata.names, targets)
        class_names = names
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
    task: Task
    columns: LabelColumns

    def classes(self) -> tuple[str, ...]:
        """The labels of the training rows, which hold those of all others."""
        training = {row.label for row in self.rows if row.part == "train"}
        if len(training) == 1:
            raise DataError(
                f"{self.path}: only one label, {training.pop()!r}, in the training rows; a classifier needs two or more."
            )
        for row in self.rows:
            if row.label not in training:
                raise DataError(
                    f"{self.path}, line {row.line}: label {row.label!r} of a {row.part} row is none of the training rows "
                    f"({enumerate_some(sorted(training))}).{explain_nearly_equal([row.label], sorted(training))} Correct it, "
                    "or add training rows of this label."
                )
        return tuple(sorted(training))

    def stratified(self) -> tuple[_Table, tuple[str, ...], tuple[str, ...], dict[Path, Target]]:
        """The table with strata for labels, their names, those of the head's outputs, and the targets."""
        training = [row for row in self.rows if row.part == "train"]
        outputs = output_names(self.path, self.task, self.columns, [row.label for row in training])
        targets = self.targets(self.rows, outputs)
        strata = self.task.stratify([targets[row.path] for row in training], outputs)
        rows = tuple(replace(row, label=strata.names[strata.of(targets[row.path])]) for row in self.rows)
        return replace(self, rows=rows), strata.names, outputs, targets

    def targets(self, rows: Sequence[_Row], names: Sequence[str]) -> dict[Path, Target]:
        """What is to be said of the images of some rows."""
        where = {f"{self.path}, line {row.line}": row for row in rows}
        found = read_targets(self.task, {place: row.label for place, row in where.items()}, names)
        return {row.path: found[place] for place, row in where.items()}

    def split(self, part: str, class_names: Sequence[str], targets: Mapping[Path, Target] | None = None) -> Split:
        classes: dict[str, list[Path]] = {}
        for row in self.rows:
            if row.part == part:
                classes.setdefault(row.label, []).append(row.path)
        which = f"rows of {self.path.name} with split {part}" if self.has_splits else f"all rows of {self.path.name}"
        groups = {row.path: row.group for row in self.rows} if self.group else None
        return Split.of_classes(classes, class_names, which, groups, targets)


def _read(
    path: str | Path,
    base: Path | None,
    group: str | None,
    task: TaskChoice,
    labels_asked: Sequence[str | None],
) -> _Table:
    """Read a table; of the label columns that are asked for, the first that are there."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{file}: no such file. Expected a table with the columns path, label and, if you like, split.")

    def asked(header: Sequence[str]) -> str | None:
        there = (label for label in labels_asked if find_label_columns(file, header, label) is not None)
        return next(there, labels_asked[0])

    def is_header(cells: Sequence[str]) -> bool:
        return "path" in _positions(cells) and find_label_columns(file, cells, asked(cells)) is not None

    text = read_table_text(file, is_header)
    columns, labels = _columns(file, text.header, group, asked(text.header))
    if not text.rows:
        raise DataError(f"{file}: no rows below the header.")
    names = [name.strip() for name in text.header]
    ignored = [name for index, name in enumerate(names) if index not in {*columns.values(), *labels.indices}]
    told, reasons = tell_task(file, text, labels, task)
    likely = () if group is not None or "group" in columns else tuple(filter(looks_like_group, ignored))
    rows, unlabelled = _rows(file, text, columns, labels, told, likely, FileFinder(file, base, text, columns["path"]))
    likely = tuple(name for name in likely if _may_be_group([row.others[name] for row in rows]))
    notes = [*text.notes, *reasons]
    if unlabelled:
        notes.append(f"{unlabelled:,} test rows without a label are left out; svp predict takes their images")
    if any(ignored):
        notes.append(f"columns ignored: {', '.join(filter(None, ignored))}")
    name_of_group = names[columns["group"]] if "group" in columns else None
    return _Table(file, rows, "split" in columns, name_of_group, likely, tuple(notes), told, labels)


def _may_be_group(values: Sequence[str]) -> bool:
    """Whether some values stand in several rows, but not the same one in all."""
    return 1 < len(set(values)) < len(values)


def _positions(header: Sequence[str]) -> dict[str, int]:
    """Position by name of the columns that mean something; of several names for paths, the first of `PATH_COLUMNS`."""
    names = [name.strip().lower() for name in header]
    found: dict[str, int] = {"split": names.index("split")} if "split" in names else {}
    path = next((name for name in PATH_COLUMNS if name in names), None)
    if path is not None:
        found["path"] = names.index(path)
    return found


def _columns(file: Path, header: Sequence[str], group: str | None, label: str | None) -> tuple[dict[str, int], LabelColumns]:
    names = [name.strip().lower() for name in header]
    paths = [name for name in PATH_COLUMNS if name in names]
    if len(paths) > 1 and "path" not in paths:
        raise DataError(f"{file}, line 1: the columns {' and '.join(map(repr, paths))} may both hold paths. Call one path.")
    columns = _positions(header)
    for name in ("path", "split"):
        if names.count(name) > 1:
            raise DataError(f"{file}, line 1: {names.count(name)} columns are called {name!r}. Rename all but one.")
    labels = find_label_columns(file, header, label)
    if "path" not in columns or labels is None:
        absent = ["path"] if "path" not in columns else [n for n in wanted_columns(header, label) if n not in names]
        found = ", ".join(repr(value) for value in header) or "nothing"
        separators = f"{', '.join(list(SEPARATORS.values())[:-1])} or {list(SEPARATORS.values())[-1]}"
        raise DataError(
            f"{file}, line 1: no column {' and '.join(map(repr, absent))}; found {found}. The first line must name the "
            f"columns path, label and, if you like, split, with {separators} between them; --label names others than label."
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
    return columns, labels


def _rows(
    file: Path,
    text: TableText,
    columns: Mapping[str, int],
    labels: LabelColumns,
    task: Task,
    likely: Sequence[str],
    finder: FileFinder,
) -> tuple[tuple[_Row, ...], int]:
    """The rows, and the number of test rows without a label, if no test row has one."""
    names = [name.strip() for name in text.header]
    rows: list[_Row] = []
    without_label: list[int] = []
    may_be_empty = task.kind == "multi" and len(labels.indices) == 1  # none of the labels
    hint = " With --task multi it means none of the labels." if task.kind == "single" else ""
    for line, cells in text.rows:
        if len(cells) > len(names) and not any(map(str.strip, cells[len(names) :])):
            cells = cells[: len(names)]  # a separator at the end
        if len(cells) != len(names):
            raise DataError(
                f"{file}, line {line}: {len(cells)} values where the header has {len(names)} columns. "
                "Put a value that holds the separator in double quotes."
            )
        path, label = cells[columns["path"]], labels.read(cells, f"{file}, line {line}")
        split = cells[columns["split"]].strip() if "split" in columns else ""
        part = part_of(split or "train")
        if part is None:
            raise DataError(
                f"{file}, line {line}: unknown split {split!r}. Expected train, val or test, or nothing for train."
            )
        if not path.strip():
            raise DataError(f"{file}, line {line}: the path is empty. Fill it in or remove the line.")
        if label is None and part == "test":
            without_label.append(line)
            if not may_be_empty:
                continue
        elif label is None and not may_be_empty:
            raise DataError(f"{file}, line {line}: the label is empty. Fill it in or remove the line.{hint}")
        group = cells[columns["group"]].strip() if "group" in columns else ""
        if "group" in columns and not group:
            name = names[columns["group"]]
            raise DataError(f"{file}, line {line}: the {name} is empty, so its group is not known. Fill it in.")
        others = {name: cells[names.index(name)].strip() for name in likely}
        label = read_label(task, label or "", f"{file}, line {line}") if label or may_be_empty else ""
        rows.append(_Row(line, finder.find(path), label, part, group, others))
    tested = sum(row.part == "test" for row in rows)
    if may_be_empty and len(without_label) < tested:
        without_label = []  # some test rows have labels, so the others have none of them
    elif may_be_empty:
        rows = [row for row in rows if row.part != "test"]
    elif without_label and tested:
        raise DataError(f"{file}, line {without_label[0]}: the label is empty. Fill it in or remove the line.")
    _check_images(file, rows, finder)
    return tuple(rows), len(without_label)


def _check_images(file: Path, rows: Sequence[_Row], finder: FileFinder) -> None:
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
    missing = [row for row in rows if existing(row.path) is None]
    if missing:
        listed = enumerate_some([f"line {row.line}: {row.path}" for row in missing], 5)
        bases = " or ".join(str(base) for base in finder.bases)
        raise DataError(
            f"{file}: {len(missing)} of {len(rows)} images are no files ({listed}). "
            f"Paths must be absolute or relative to {bases}."
        )
