"""What the label columns of a table say: one class per row, several labels, or a number.

    path,label                  path,red,round,sweet         path,weight
    a.png,red;round             a.png,1,1,0                  a.png,153.2
    b.png,                      b.png,0,0,0                  b.png,87

Labels stand in one column with ``;`` between them, and an empty cell means none of them; or each has a column of its own
that holds 1 or 0 (true or false). A number is written with a point. Which of these it is, is said by the task, or told by the
labels; then a note says what was taken and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from svp.data.sources.names import check_class_name, composed, explain_nearly_equal
from svp.data.sources.table_text import TableText
from svp.data.splits import DataError, enumerate_some
from svp.errors import InputError
from svp.settings import TaskChoice
from svp.tasks import MultiLabel, Regression, SingleLabel, Target, Task
from svp.tasks.multi_label import SEPARATOR

_TRUTH = {"1": True, "true": True, "1.0": True, "0": False, "false": False, "0.0": False}

_MOST_GRADES = 20
"""Different numbers up to which those with fractions may be names of classes."""


@dataclass(frozen=True)
class LabelColumns:
    """The columns that hold labels.

    Attributes:
        names: Names of the columns in the table's first line.
        indices: Their places in a row, counted from 0.
    """

    names: tuple[str, ...]
    indices: tuple[int, ...]

    def read(self, cells: Sequence[str], where: str) -> str | None:
        """What a row says, labels with ``;`` between them; None if it says nothing.

        Raises:
            DataError: A column of several holds something else than 0 or 1.
        """
        values = [cells[index].strip() for index in self.indices]
        if not any(values):
            return None
        if len(values) == 1:
            return values[0]
        for name, value in zip(self.names, values, strict=True):
            if value.lower() not in _TRUTH:
                raise DataError(f"{where}: {name} is {value!r}. Expected 1 or 0, as each of several label columns holds.")
        return SEPARATOR.join(name for name, value in zip(self.names, values, strict=True) if _TRUTH[value.lower()])


def wanted_columns(header: Sequence[str], label: str | None) -> list[str]:
    """Names of label columns, in lower case, that `label` asks for in a table of this header."""
    if label is None:
        return ["label"]
    whole = label.strip().lower()
    if whole in [name.strip().lower() for name in header]:
        return [whole]
    return [name for name in (part.strip().lower() for part in label.split(",")) if name]


def find_label_columns(file: Path, header: Sequence[str], label: str | None) -> LabelColumns | None:
    """The label columns; None if one is missing.

    Raises:
        DataError: Two columns have one name, or a name of several holds ``;``.
    """
    names = [name.strip() for name in header]
    lower = [name.lower() for name in names]
    wanted = wanted_columns(header, label)
    if not wanted or any(name not in lower for name in wanted):
        return None
    for name in wanted:
        if lower.count(name) > 1:
            raise DataError(f"{file}, line 1: {lower.count(name)} columns are called {name!r}. Rename all but one.")
        if SEPARATOR in name and len(wanted) > 1:
            raise DataError(
                f"{file}, line 1: the column {name!r} holds {SEPARATOR!r}, which stands between labels. Rename it."
            )
    indices = tuple(dict.fromkeys(lower.index(name) for name in wanted))
    return LabelColumns(tuple(composed(names[index]) for index in indices), indices)


def tell_task(file: Path, text: TableText, columns: LabelColumns, choice: TaskChoice) -> tuple[Task, tuple[str, ...]]:
    """What the labels are, and notes on why.

    Raises:
        DataError: Several label columns, and the choice is one class or a number.
    """
    several = len(columns.names) > 1
    if several and choice in ("single", "regression"):
        raise DataError(f"{file}: task {choice} has one label column, and {', '.join(columns.names)} are named.")
    if choice != "auto":
        return {"single": SingleLabel(), "multi": MultiLabel(), "regression": Regression()}[choice], ()
    if several:
        return MultiLabel(), (f"task multi, since {len(columns.names)} label columns are named",)
    place = columns.indices[0]
    values = list(dict.fromkeys(filter(None, (cells[place].strip() for _, cells in text.rows if place < len(cells)))))
    joined = next((value for value in values if SEPARATOR in value), None)
    if joined is not None:
        return MultiLabel(), (
            f"task multi, since labels such as {joined!r} hold {SEPARATOR!r}; --task single takes them whole",
        )
    if len(values) > 2 and all(map(_is_number, values)):
        if len(values) > _MOST_GRADES and any(float(value) % 1 for value in values):
            some = next(value for value in values if float(value) % 1)
            why = f"since all {len(values):,} different labels are numbers, some with fractions such as {some}"
            return Regression(), (f"task regression, {why}; --task single takes them as classes",)
        return SingleLabel(), (f"labels are numbers, taken as {len(values)} classes; --task regression predicts numbers",)
    return SingleLabel(), ()


def _is_number(text: str) -> bool:
    try:
        Regression.parse(text)
    except InputError:
        return False
    return True


def read_label(task: Task, label: str, where: str) -> str:
    """A label as it is kept, checked.

    Raises:
        DataError: It is no number where one is expected, or its name cannot be used.
    """
    if isinstance(task, MultiLabel):
        return SEPARATOR.join(dict.fromkeys(check_class_name(name, where) for name in task.parse(label)))
    if isinstance(task, Regression):
        try:
            task.parse(label)
        except InputError as error:
            raise DataError(f"{where}: {error}. Task regression expects a number, with a point and no unit.") from error
        return label
    return check_class_name(label, where)


def output_names(file: Path, task: Task, columns: LabelColumns, training: Sequence[str]) -> tuple[str, ...]:
    """Names of the head's outputs for the labels of the training rows.

    Raises:
        DataError: No training row has any label.
    """
    if not isinstance(task, MultiLabel):
        return columns.names
    found = sorted({name for label in training for name in task.parse(label)})
    if not found:
        raise DataError(f"{file}: no training row has any label, so there is nothing to train on.")
    return columns.names if len(columns.names) > 1 else tuple(found)


def read_targets(task: Task, labels: Mapping[str, str], names: Sequence[str]) -> dict[str, Target]:
    """The target of every row.

    Args:
        task: What a head is to say.
        labels: Label of a row by where it stands, for messages.
        names: Names of the head's outputs.

    Raises:
        DataError: A label is none of the names.
    """
    if isinstance(task, Regression):
        return {where: (task.parse(label),) for where, label in labels.items()}
    multi = cast(MultiLabel, task)
    by_name = {composed(name): place for place, name in enumerate(names)}
    shared: dict[Target, Target] = {}  # equal targets are one object, since there may be millions of them
    found = {}
    for where, label in labels.items():
        there = multi.parse(label)
        for name in there:
            if name not in by_name:
                raise DataError(
                    f"{where}: label {name!r} is none of the labels in training ({enumerate_some(names)})."
                    f"{explain_nearly_equal([name], names)} Correct it."
                )
        places = {by_name[name] for name in there}
        target = tuple(float(place in places) for place in range(len(names)))
        found[where] = shared.setdefault(target, target)
    return found
