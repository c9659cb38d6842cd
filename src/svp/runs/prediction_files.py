"""Predictions as files that grow: what was done when ``svp predict`` is stopped stays, and it can go on from there.

CSV and JSON lines grow by a batch at a time. Parquet is a folder of files, as Spark and Ray write it, because a Parquet file
can be read only when it is finished. Of several processes, each writes a part of its own.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TextIO

import numpy as np

from svp.errors import InputError, UnavailableError
from svp.paths import write_atomically, writing
from svp.runs.predict import Prediction
from svp.tasks.single_label import RankedColumns
from svp.tasks.task import Columns

Form = Literal["csv", "jsonl", "parquet"]
"""Forms of a file that a later call can go on with."""


class PredictionWriter(Protocol):
    """Takes predictions as they become known."""

    def write(self, predictions: Sequence[Prediction]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Share:
    """The images of one of several processes.

    Args:
        rank: Number of the process, from 0.
        processes: How many there are.
    """

    rank: int = 0
    processes: int = 1

    def of(self, images: Iterable[Path], batch_size: int) -> Iterator[Path]:
        """Every so many batches one: no image belongs to two processes."""
        return (image for k, image in enumerate(images) if k // batch_size % self.processes == self.rank)

    def file(self, target: Path) -> Path:
        """The part of this process: ``NAME-00000-of-00002.csv``; `target` itself if it is alone."""
        if self.processes == 1:
            return target
        return target.with_name(f"{target.stem}-{self.rank:05d}-of-{self.processes:05d}{target.suffix}")


def parts_of(target: Path) -> list[Path]:
    """The file, and those that several processes wrote in its place, of as many as there were."""
    pattern = re.compile(re.escape(target.stem) + r"-\d{5}-of-\d{5}" + re.escape(target.suffix))
    parts = [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]
    return [path for path in (target, *sorted(parts)) if path.is_file()]


class Done:
    """Images that have a row, eight bytes for each.

    Args:
        rows: Path of an image as it is written, and why it could not be read if so.
    """

    def __init__(self, rows: Iterable[tuple[str, str | None]] = ()) -> None:
        digests = array("Q")
        self.failed = 0
        for path, error in rows:
            digests.append(_digest(path))
            self.failed += bool(error)
        self._digests = np.unique(np.frombuffer(digests, np.uint64) if digests else np.empty(0, np.uint64))

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, path: Path) -> bool:
        digest = np.uint64(_digest(written(path)))
        place = int(np.searchsorted(self._digests, digest))
        return place < len(self._digests) and bool(self._digests[place] == digest)


def written(path: Path) -> str:
    """A path as text; bytes that are none are escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "backslashreplace"), digest_size=8).digest(), "little")


def read_done(target: Path, form: Form, columns: Columns) -> Done:
    """What earlier calls wrote to `target`, whatever their number of processes.

    Raises:
        InputError: A file is damaged, or has other columns.
    """
    if form == "parquet":
        return Done(_parquet_rows(target, columns))
    rows = (row for file in parts_of(target) for row in _text_rows(file, form, columns))
    return Done((path, error) for _, path, error in rows if path is not None)


def open_file(target: Path, form: Form, columns: Columns, share: Share, resume: bool) -> PredictionWriter:
    """A writer of the share of one process.

    Args:
        target: File, or folder of Parquet files.
        form: Form of the rows.
        columns: What is told of an image, see `svp.tasks.Task.columns`.
        share: Which process this is.
        resume: Keep what is there and go on behind it; otherwise it is replaced.
        rejects: Whether the adapter has a threshold for "none of these": there is a column `rejected` then.

    Raises:
        InputError: See ``read_done``; the folder holds other files than predictions.
        UnavailableError: Parquet is asked for and pyarrow is not installed.
    """
    if form == "parquet":
        return ParquetWriter(target, columns, share, resume)
    file = share.file(target)
    if not resume and share.rank == 0:
        for other in parts_of(target):
            if re.search(r"-of-(\d{5})$", other.stem, re.ASCII) and not other.stem.endswith(f"-of-{share.processes:05d}"):
                other.unlink()  # of another number of processes: a later --resume would take it for done
    end = max((offset for offset, *_ in _text_rows(file, form, columns)), default=0) if resume and file.is_file() else 0
    stream = file.open("r+" if end else "w", encoding="utf-8", errors="backslashreplace", newline="")
    if end:
        stream.truncate(end)  # half a row of a process that was killed
        stream.seek(end)
    return TextWriter(stream, form, columns, begun=bool(end))


# text ---------------------------------------------------------------------------------------------------------------------


class TextWriter:
    """Rows as CSV, as JSON lines or as one JSON array; whoever is stopped has written whole batches.

    Args:
        stream: Where they go.
        form: "csv", "jsonl" or "json".
        columns: What is told of an image, see `svp.tasks.Task.columns`.
        begun: The stream has rows already.
        rejects: Whether there is a column `rejected`.
    """

    def __init__(self, stream: TextIO, form: Literal["csv", "jsonl", "json"], columns: Columns, begun: bool = False) -> None:
        self._stream, self._form, self._columns = stream, form, columns
        self._begun, self._close = begun, stream is not sys.stdout
        if form == "csv" and not begun:
            self._put(_csv_line(all_columns(columns)))

    def write(self, predictions: Sequence[Prediction]) -> None:
        text = []
        for prediction in predictions:
            if self._form == "csv":
                text.append(_csv_line(_cells(prediction, self._columns)))
            elif self._form == "jsonl":
                text.append(json.dumps(_values(prediction, self._columns)) + "\n")
            else:
                rows = json.dumps(_values(prediction, self._columns), indent=2).replace("\n", "\n  ")
                text.append((",\n  " if self._begun else "[\n  ") + rows)
            self._begun = True
        self._put("".join(text))

    def close(self) -> None:
        if self._form == "json":
            self._put("\n]\n" if self._begun else "[]\n")
        if self._close:
            with self._writing():
                self._stream.close()

    def _put(self, text: str) -> None:
        with self._writing():
            self._stream.write(text)
            self._stream.flush()

    def _writing(self) -> AbstractContextManager[None]:
        return writing(Path(self._stream.name)) if self._close else nullcontext()


def all_columns(columns: Columns) -> list[str]:
    """Names of the columns: path, what is told of an image, error."""
    return ["path", *columns.names, "error"]


def as_csv(predictions: Sequence[Prediction], columns: Columns | None = None) -> str:
    """A line for each image: path, what is told of it, error.

    Args:
        predictions: What `predict` gave.
        columns: What is told of an image, see `svp.tasks.Task.columns`; class and probability of the likeliest, second and so
            on if None.
    """
    if columns is None:
        rejects = any(p.rejected is not None for p in predictions)
        columns = RankedColumns(max((len(p.classes) for p in predictions), default=0), rejects)
    return "".join([_csv_line(all_columns(columns)), *(_csv_line(_cells(p, columns)) for p in predictions)])


def _cells(prediction: Prediction, columns: Columns) -> list[str]:
    return [str(prediction.path), *map(columns.text, columns.cells(prediction)), prediction.error or ""]


def _csv_line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()


def _values(prediction: Prediction, columns: Columns) -> dict[str, Any]:
    return {"path": str(prediction.path), **columns.record(prediction), "error": prediction.error}


def _text_rows(file: Path, form: Form, columns: Columns) -> Iterator[tuple[int, str | None, str | None]]:
    """Where each whole row ends, in bytes, its path (None for the header) and its error; half a row at the end is left out."""
    with file.open("rb") as stream:
        if form == "csv":
            records = _csv_records(stream)
            for number, (end, cells) in enumerate(records):
                if number == 0 and cells != all_columns(columns):
                    raise InputError(
                        f"cannot go on with {file}: its columns are {', '.join(cells)}, this call's are "
                        f"{', '.join(all_columns(columns))}. Choose the same --topk and --format, or another --out"
                    )
                yield (end, cells[0], cells[-1]) if number else (end, None, None)
            return
        end = 0
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                values = json.loads(line)
                path, error = values["path"], values["error"]
            except (ValueError, KeyError, TypeError) as damage:
                raise InputError(f"cannot go on with {file}: line {number} is no prediction. Choose another --out") from damage
            end += len(line)
            yield end, path, error


def _csv_records(stream: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    end, record = 0, b""
    for line in stream:
        record += line
        if record.endswith(b"\n") and record.count(b'"') % 2 == 0:  # a line break in quotes belongs to a name
            end += len(record)
            yield end, next(csv.reader([record.decode("utf-8", "backslashreplace")], strict=False))
            record = b""


# Parquet ------------------------------------------------------------------------------------------------------------------

_PART = re.compile(r"part-.*\.parquet")
_ROWS = 16384  # of a file


class ParquetWriter:
    """A folder of Parquet files with the columns of the CSV.

    A file is finished after `_ROWS` rows, or when a tenth of the time has passed that all took so far (at least a second, at
    most a minute): whoever is killed loses no more.
    """

    def __init__(self, folder: Path, columns: Columns, share: Share = Share(), resume: bool = False) -> None:
        _pyarrow()
        self._folder, self._columns, self._name = folder, columns, f"part-{share.rank:05d}-{{:05d}}.parquet"
        self._rows: list[Prediction] = []
        self._began = self._last = time.monotonic()
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if not _PART.fullmatch(path.name) and not path.name.startswith("."):
                raise InputError(f"{folder} holds {path.name}, which is no part of predictions: choose another --out")
            if not resume and share.rank == 0 and path.suffix == ".parquet":
                path.unlink(missing_ok=True)
        own = re.compile(re.escape(self._name).replace(r"\{:05d\}", r"(\d{5,})"))
        numbers = [int(found[1]) for path in folder.iterdir() if (found := own.fullmatch(path.name))]
        self._number = max(numbers, default=-1) + 1

    def write(self, predictions: Sequence[Prediction]) -> None:
        self._rows += predictions
        now = time.monotonic()
        if len(self._rows) >= _ROWS or now - self._last > min(60, max(1, (now - self._began) / 10)):
            self._finish_file()

    def close(self) -> None:
        self._finish_file()

    def _finish_file(self) -> None:
        if self._rows:
            write_parquet(self._folder / self._name.format(self._number), self._rows, self._columns)
            self._number += 1
        self._rows, self._last = [], time.monotonic()


def write_parquet(file: Path, predictions: Sequence[Prediction], columns: Columns) -> None:
    """Write one Parquet file, whole or not at all."""
    pyarrow: Any = _pyarrow()
    text, number = pyarrow.string(), pyarrow.float32()
    data: dict[str, Any] = {"path": pyarrow.array([written(p.path) for p in predictions], text)}
    for name, cells in zip(columns.names, zip(*map(columns.cells, predictions), strict=True), strict=True):
        kind = number if name in columns.numbers else pyarrow.bool_() if name in columns.flags else text
        data[name] = pyarrow.array(cells, kind)
    data["error"] = pyarrow.array([p.error and written(Path(p.error)) for p in predictions], text)
    table = pyarrow.table(data)
    write_atomically(file, lambda path: pyarrow.parquet.write_table(table, path))


def _parquet_rows(folder: Path, columns: Columns) -> Iterator[tuple[str, str | None]]:
    pyarrow: Any = _pyarrow()
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not _PART.fullmatch(file.name):
            continue
        try:
            table = pyarrow.parquet.read_table(file)
        except pyarrow.ArrowException as error:
            raise InputError(f"cannot go on with {folder}: {file.name} is damaged ({error}). Choose another --out") from error
        if table.column_names != all_columns(columns):
            raise InputError(
                f"cannot go on with {folder}: the columns of {file.name} are {', '.join(table.column_names)}, this call's are "
                f"{', '.join(all_columns(columns))}. Choose the same --topk, or another --out"
            )
        yield from zip(table["path"].to_pylist(), table["error"].to_pylist(), strict=True)


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UnavailableError("Parquet needs pyarrow, which is not installed: pip install pyarrow") from error
    return pyarrow
