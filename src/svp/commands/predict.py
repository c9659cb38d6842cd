"""``svp predict``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from svp.commands import UsageError
from svp.commands.parsing import file_to_write, progress_bar, run_function
from svp.settings import Device, Precision

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from svp.runs.prediction_files import PredictionWriter


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
        device: Where the model runs; auto takes a GPU if there is one.
        precision: Number format; auto is bf16 on a GPU that has it and fp32 elsewhere.
        max_pixels: Largest image that is read, in pixels; above about 179 million it has to be allowed here.
    """
    form = format or _FORMS.get(Path(out or "").suffix.lower(), "table")
    target = _folder_to_write(out) if form == "parquet" else file_to_write("--out", out)
    features_file = file_to_write("--features", features)
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if resume and (target is None or form in ("table", "json")):
        raise UsageError("--resume goes on with an --out in the form csv, jsonl or parquet")
    if resume and features_file:
        raise UsageError("--features cannot go on where an earlier call stopped: leave --resume or --features out")
    if form == "parquet" and target is None:
        raise UsageError("--format parquet writes a folder of files: name it by --out")
    if processes > 1 and target is None:
        raise UsageError(f"each of {processes} processes writes a part: name the output by --out")

    from svp.data import ImageList
    from svp.data.splits import describe_left_out
    from svp.runs.devices import Meeting
    from svp.runs.feature_file import FeatureFile
    from svp.runs.predict import check_settings, classify_batches, open_classifier
    from svp.runs.prediction_files import Done, Share, TextWriter, open_file, read_done

    check_settings(topk, batch_size)
    images, share = ImageList(paths), Share(rank, processes)
    for line in describe_left_out(images.left_out, Path()) if rank == 0 else ():
        print(f"svp predict: {line}", file=sys.stderr)
    classifier = open_classifier(run, device, precision, max_pixels)
    meeting = Meeting()
    topk = min(topk, len(classifier.class_names))
    done = read_done(target, form, topk) if target and resume and form in ("csv", "jsonl", "parquet") else Done()
    writer: PredictionWriter
    if form == "table":
        writer = _TableWriter(share.file(target) if target else None)
    elif form == "parquet" or (target and form != "json"):
        assert target is not None
        writer = open_file(target, form, topk, share, resume)
    else:
        stream = share.file(target).open("w", encoding="utf-8", errors="backslashreplace") if target else sys.stdout
        writer = TextWriter(stream, form, topk)
    feature_file = FeatureFile(share.file(features_file), run) if features_file else None

    todo = (image for image in share.of(images, batch_size) if image not in done)
    written, failed = 0, done.failed
    settings: dict[str, Any] = {"topk": topk, "batch_size": batch_size, "features": bool(features)}
    try:
        with progress_bar("predicting", hidden=not target and sys.stdout.isatty()) as progress, closing(writer):
            total = max(len(images) - len(done), 0) // processes
            for batch in classify_batches(classifier, todo, total, **settings, progress=progress):
                writer.write(batch)
                if feature_file:
                    feature_file.write(batch)
                written += len(batch)
                for prediction in batch:
                    if prediction.error:
                        failed += 1
                        print(f"svp predict: cannot read {prediction.path}: {prediction.error}", file=sys.stderr)
    except KeyboardInterrupt:
        if feature_file:
            feature_file.close()
        kept = f"; --resume goes on with {out}" if form in ("csv", "jsonl", "parquet") and target else ""
        print(f"\nsvp predict: interrupted after {written} of {len(images) - len(done)} images{kept}", file=sys.stderr)
        return 130
    if feature_file:
        feature_file.close()
    if target:
        before = f", {len(done)} were there" if done else ""
        print(f"{written} predictions written to {out if processes == 1 else share.file(target)}{before}")
    return 1 if meeting.any(failed > 0) else 0  # together: torchrun stops the others when one process fails


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

    def __init__(self, file: Path | None) -> None:
        from svp.terminal import make_console

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
            self._console.print(_prediction_table(predictions))
        self._stream.write(capture.get())


def _prediction_table(predictions: Sequence[Any]) -> Table:
    from svp.terminal import make_table

    topk = max((len(p.classes) for p in predictions), default=1)
    table = make_table("image", *(f"{k + 1}." for k in range(topk)))
    for p in predictions:
        cells = [f"{name} {value:.1%}" for name, value in zip(p.classes, p.probabilities, strict=True)]
        table.add_row(str(p.path), *(cells or [f"unreadable: {p.error}"]))
    return table
