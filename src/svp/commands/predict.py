"""``svp predict``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from svp.commands import UsageError
from svp.commands.parsing import file_to_write, progress_bar, run_function
from svp.settings import Device, Precision, Tta

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from svp.data import ImageList
    from svp.runs import Prediction
    from svp.runs.prediction_files import PredictionWriter
    from svp.tasks.task import Columns


Form = Literal["table", "json", "jsonl", "csv", "parquet"]
_FORMS: dict[str, Form] = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}


def run(argv: list[str]) -> int:
    return run_function(classify, "svp predict", argv)


def classify(
    run: str,
    paths: Sequence[str],
    *,
    topk: int = 5,
    format: Form | None = None,
    out: str | None = None,
    resume: bool = False,
    features: str | None = None,
    batch_size: int = 32,
    device: Device = "auto",
    precision: Precision = "auto",
    max_pixels: int | None = None,
    tta: Tta = "none",
    ray: str | None = None,
) -> int:
    """Classify images with a trained adapter.

    Rows are written as they are known. Under torchrun, every process writes the rows of its images as a part of its own.

    Args:
        run: Run directory of `svp train`.
        paths: Images, and folders of images, which are searched recursively.
        topk: Classes to name per image.
        format: Form of the output; told by the suffix of --out, else table, if left out. jsonl has a line per image;
            parquet is a folder of files.
        out: File to write instead of printing; for parquet a folder.
        resume: Go on with what an earlier call left in --out (csv, jsonl, parquet); no image is classified again.
        features: File (.npz) for the feature vectors, written besides.
        batch_size: Images per batch.
        device: Where the model runs: auto, cpu, cuda, cuda:1, xpu or mps; auto takes a GPU if there is one.
        precision: Number format; auto is bf16 on a GPU that has it and fp32 elsewhere.
        max_pixels: Largest image that is read, in pixels; above about 179 million it has to be allowed here.
        tta: Views of an image whose mean probabilities count, beside the image itself: flipped left to right, its corners, or
            both.
        ray: Address of a Ray cluster that does the work (auto: the one on this machine; local: one of the command's own);
            --out is then a folder of Parquet files.
    """
    form = format or ("parquet" if ray else _FORMS.get(Path(out or "").suffix.lower(), "table"))
    target = _folder_to_write(out) if form == "parquet" else file_to_write("--out", out)
    features_file = file_to_write("--features", features)
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if resume and (target is None or form in ("table", "json")):
        raise UsageError("--resume goes on with an --out in the form csv, jsonl or parquet")
    if resume and features_file:
        raise UsageError("--features cannot go on where an earlier call stopped: leave --resume or --features out")
    if form == "parquet" and target is None:
        raise UsageError("--format parquet writes a folder of files: name it by --out")
    if ray and (form != "parquet" or features_file):
        raise UsageError("--ray writes a folder of Parquet files (--format parquet), and no --features")
    if processes > 1 and target is None:
        raise UsageError(f"each of {processes} processes writes a part: name the output by --out")
    if ray and target:
        return _classify_on_ray(run, paths, target, ray, resume, topk, batch_size, precision, max_pixels, tta)

    from svp.data import ImageList
    from svp.runs.devices import Meeting
    from svp.runs.feature_file import FeatureFile
    from svp.runs.predict import check_settings, classify_batches, open_classifier
    from svp.runs.prediction_files import Done, Share, TextWriter, open_file, read_done

    check_settings(topk, batch_size, bool(features), tta)
    images, share = ImageList(paths), Share(rank, processes)
    if rank == 0:
        _tell_left_out(images)
        _tell_views(tta)
    classifier = open_classifier(run, device, precision, max_pixels, tta)
    meeting = Meeting()
    columns = classifier.columns(topk)
    done = read_done(target, form, columns) if target and resume and form in ("csv", "jsonl", "parquet") else Done()
    writer: PredictionWriter
    if form == "table":
        writer = _TableWriter(columns, share.file(target) if target else None)
    elif form == "parquet" or (target and form != "json"):
        assert target is not None
        writer = open_file(target, form, columns, share, resume)
    else:
        stream = share.file(target).open("w", encoding="utf-8", errors="backslashreplace") if target else sys.stdout
        writer = TextWriter(stream, form, columns)
    feature_file = FeatureFile(share.file(features_file), run) if features_file else None

    tally = _Tally(max(len(images) - len(done), 0) // processes, len(done), done.failed)
    todo = (image for image in share.of(images, batch_size) if image not in done)
    settings: dict[str, Any] = {"topk": topk, "batch_size": batch_size, "features": bool(features)}
    try:
        with progress_bar("predicting", hidden=not target and sys.stdout.isatty()) as progress, closing(writer):
            for batch in classify_batches(classifier, todo, tally.total, **settings, progress=progress):
                writer.write(batch)
                if feature_file:
                    feature_file.write(batch)
                tally.add(len(batch), [prediction for prediction in batch if prediction.error])
    except KeyboardInterrupt:
        if feature_file:
            feature_file.close()
        return tally.interrupted(target if form in ("csv", "jsonl", "parquet") else None)
    if feature_file:
        feature_file.close()
    if target:
        tally.tell(out if processes == 1 else share.file(target))
    return 1 if meeting.any(tally.failed > 0) else 0  # together: torchrun stops the others when one process fails


def _classify_on_ray(
    run: str,
    paths: Sequence[str],
    target: Path,
    address: str,
    resume: bool,
    topk: int,
    batch_size: int,
    precision: str,
    max_pixels: int | None,
    tta: Tta,
) -> int:
    from svp.data import ImageList
    from svp.hub import local_folder
    from svp.runs import RunDirectory
    from svp.runs.on_ray import predict_on_ray
    from svp.runs.predict import check_settings
    from svp.runs.prediction_files import Done, Share, open_file, read_done
    from svp.runs.trained import class_names

    check_settings(topk, batch_size, tta=tta)
    images = ImageList([Path(path).absolute() for path in paths])
    _tell_left_out(images)
    _tell_views(tta)
    info = RunDirectory(local_folder(run)).read_adapter()
    columns = info.task.columns(class_names(info), topk, rejects=info.reject_below > 0)
    done = read_done(target, "parquet", columns) if resume else Done()
    open_file(target, "parquet", columns, Share(), resume)  # makes the folder, or clears it
    tally = _Tally(max(len(images) - len(done), 0), len(done), done.failed)
    todo = (image for image in images if image not in done)
    try:
        with progress_bar("predicting") as progress:
            settings: Any = dict(topk=topk, batch_size=batch_size, precision=precision, max_pixels=max_pixels, tta=tta)
            for count, failures in predict_on_ray(run, todo, target, address, **settings):
                tally.add(count, failures)
                progress(tally.written, tally.total)
    except KeyboardInterrupt:
        return tally.interrupted(target)
    tally.tell(target)
    return 1 if tally.failed else 0


def _tell_left_out(images: ImageList) -> None:
    from svp.data.splits import describe_left_out

    for line in describe_left_out(images.left_out, Path()):
        print(f"svp predict: {line}", file=sys.stderr)


def _tell_views(tta: Tta) -> None:
    from svp.runs.views import describe

    if tta != "none":
        print(f"svp predict: {describe(tta)}", file=sys.stderr)


@dataclass
class _Tally:
    """What is done so far.

    Args:
        total: Images to classify.
        before: Images that an earlier call classified.
        failed: Those of them, and later of all, that cannot be read.
    """

    total: int
    before: int
    failed: int
    written: int = 0

    def add(self, count: int, failures: Sequence[Prediction]) -> None:
        self.written += count
        self.failed += len(failures)
        for prediction in failures:
            print(f"svp predict: cannot read {prediction.path}: {prediction.error}", file=sys.stderr)

    def tell(self, place: object) -> None:
        print(f"{self.written} predictions written to {place}" + f", {self.before} were there" * bool(self.before))

    def interrupted(self, target: Path | None) -> int:
        kept = f"; the same command with --resume goes on with {target}" if target else ""
        print(f"\nsvp predict: interrupted after {self.written} of {self.total} images{kept}", file=sys.stderr)
        return 130


def _folder_to_write(name: str | None) -> Path | None:
    target = Path(name).resolve() if name else None
    if target and target.exists() and not target.is_dir():
        raise UsageError(f"--out {name} is a file; Parquet is written as a folder of files")
    if target and not target.parent.is_dir():
        raise UsageError(f"--out {name}: the folder {target.parent} does not exist")
    return target


class _TableWriter:
    """Tables for people, of `_LINES` images each."""

    _LINES = 1000

    def __init__(self, columns: Columns, file: Path | None) -> None:
        from svp.terminal import make_console

        self._columns = columns
        self._file = file.open("w", encoding="utf-8", errors="backslashreplace", newline="") if file else None
        self._stream = self._file or sys.stdout
        self._console: Console = make_console(io.StringIO() if file else None)
        self._rows: list[Any] = []

    def write(self, predictions: Sequence[Any]) -> None:
        self._rows += predictions
        while len(self._rows) >= self._LINES:
            self._print(self._rows[: self._LINES])
            self._rows = self._rows[self._LINES :]

    def close(self) -> None:
        if self._rows:
            self._print(self._rows)
        if self._file:
            self._file.close()

    def _print(self, predictions: Sequence[Any]) -> None:
        with self._console.capture() as capture:
            self._console.print(_prediction_table(predictions, self._columns))
        self._stream.write(capture.get())


def _prediction_table(predictions: Sequence[Any], columns: Columns) -> Table:
    from svp.terminal import make_table

    rows = [[str(p.path), *(columns.shown(p) or [f"unreadable: {p.error}"])] for p in predictions]
    width = max((len(row) - 1 for row in rows), default=1)
    table = make_table("image", *columns.header[:width])
    for row in rows:
        table.add_row(*row)
    return table
