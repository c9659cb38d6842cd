"""Feature vectors and what belongs to them as ``.npz``, however many there are."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from svp.paths import write_atomically, writing
from svp.runs.predict import Prediction
from svp.runs.trained import class_names
from svp.tuners import read_adapter_info


def save_features(predictions: Sequence[Prediction], file: str | Path, run: str | Path) -> None:
    """Write feature vectors and what belongs to them as ``.npz``: what ``svp predict --features`` does.

    A row per image that could be read: ``features``, (n, embed_dim), float32; ``paths``, ``predicted``, ``probability``, (n,);
    labels are joined by ``;``, a number is written as text and has the probability NaN.
    Beside them ``class_names``, in the order of the head's outputs, and ``unreadable``, the paths of the other images.

    Args:
        predictions: What ``predict`` gave with ``features=True``.
        file: Read it with ``numpy.load``; nothing in it is pickled.
        run: Where the adapter is.
    """
    features = FeatureFile(file, run)
    features.write(predictions)
    features.close()


class FeatureFile:
    """The file of ``save_features``, of predictions that come one batch after the other.

    Until ``close`` writes the file, they wait in temporary files beside it, so that memory does not grow with their number.
    """

    def __init__(self, file: str | Path, run: str | Path) -> None:
        self._file = Path(file)
        info = read_adapter_info(run)
        self._class_names = class_names(info)
        self._columns = info.task.columns(self._class_names, 1)
        self._open = ExitStack()
        self._vectors, self._read, self._unreadable = (self._temporary() for _ in range(3))  # the texts a line of JSON each
        self._count = self._failed = self._embed_dim = 0

    def _temporary(self) -> IO[bytes]:
        return self._open.enter_context(tempfile.TemporaryFile(dir=self._file.resolve().parent))

    def write(self, predictions: Sequence[Prediction]) -> None:
        with writing(self._file):
            self._write_rows(predictions)

    def _write_rows(self, predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            if prediction.error:
                self._unreadable.write(_line([str(prediction.path)]))
                self._failed += 1
            elif prediction.features is not None:
                self._embed_dim = len(prediction.features)
                self._vectors.write(prediction.features.tobytes())
                said, *_ = map(self._columns.text, self._columns.cells(prediction))
                probability = prediction.probabilities[0] if prediction.probabilities else math.nan
                self._read.write(_line([str(prediction.path), said, probability]))
                self._count += 1

    def close(self) -> None:
        with self._open:
            write_atomically(self._file, self._write)

    def _write(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            self._vectors.seek(0)
            with archive.open("features.npy", "w", force_zip64=True) as member:
                _write_header(member, np.dtype(np.float32), (self._count, self._embed_dim))
                shutil.copyfileobj(self._vectors, member)
            self._write_column(archive, "paths", self._read, 0, self._count)
            self._write_column(archive, "predicted", self._read, 1, self._count)
            self._write_column(archive, "probability", self._read, 2, self._count)
            with archive.open("class_names.npy", "w") as member:
                np.lib.format.write_array(member, np.array(self._class_names, np.str_), allow_pickle=False)
            self._write_column(archive, "unreadable", self._unreadable, 0, self._failed)

    def _write_column(self, archive: zipfile.ZipFile, name: str, stream: Any, column: int, count: int) -> None:
        def values() -> Iterator[Any]:
            stream.seek(0)
            return (json.loads(line)[column] for line in stream)

        is_text = name != "probability"
        dtype = np.dtype(f"<U{max(map(len, values()), default=1)}") if is_text else np.dtype(np.float32)
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            _write_header(member, dtype, (count,))
            rest = values()
            while chunk := list(islice(rest, 4096)):
                member.write(np.array(chunk, dtype).tobytes())


def _line(values: Sequence[Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _write_header(member: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
