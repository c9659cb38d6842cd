"""``svp data check DATA --with RUN``: doubtful labels, near-duplicates and odd ones out, on a page and in a table."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from svp.data import DataError
from svp.data.opening import find_source, open_parts
from svp.data.splits import enumerate_some
from svp.errors import InputError
from svp.hub import folder_for_output
from svp.inputs import InputConfig
from svp.inspection.label_errors import find_label_errors, out_of_fold_probabilities
from svp.inspection.neighbors import find_neighbors, near_duplicates, outliers
from svp.inspection.page import Page
from svp.inspection.pictures import take_pictures
from svp.paths import write_atomically
from svp.runs import TrainedModel, open_run
from svp.runs.predict import Classifier, classify
from svp.settings import TaskChoice

Kind = Literal["label", "leak", "conflict", "duplicate", "outlier"]

KINDS: dict[Kind, tuple[str, str]] = {
    "label": (
        "Doubtful labels",
        "A regression on the other images' features is sure of another class. The score is the probability of the label minus "
        "that of the other class: the lower, the surer.",
    ),
    "leak": ("Near-duplicates in two parts", "Scores are too good if one is trained on and the other one scored."),
    "conflict": ("Near-duplicates with two labels", "One of the labels is wrong."),
    "duplicate": ("Other near-duplicates", "The same or nearly the same image, under one label in one part."),
    "outlier": (
        "Odd ones out",
        "Images that are like no other: of another kind, damaged, or rare. The score is how many robust standard deviations "
        "their distance to the nearest images lies above that of the others.",
    ),
}
"""Kinds of findings: their title, and what they are."""

_SHOWN = 48
"""Findings of each kind on the page; the table has all."""


@dataclass(frozen=True)
class Finding:
    """An image that a person should look at.

    Args:
        kind: What is odd.
        path: The image.
        part: Its part of the data, such as "train".
        label: Its class.
        score: How odd it is: see ``KINDS``; of a pair, the cosine of the features.
        suggested: The class that it seems to be of; "" but for the kind "label".
        other: The other image of a pair.
        other_part: Its part.
        other_label: Its class.
    """

    kind: Kind
    path: Path
    part: str
    label: str
    score: float
    suggested: str = ""
    other: Path | None = None
    other_part: str = ""
    other_label: str = ""


@dataclass(frozen=True)
class ModelCheck:
    """What a model found in a data set.

    Args:
        findings: Kind after kind, the oddest first.
        images: Number of images judged.
        page: The page that shows them.
        table: The CSV file that lists them.
    """

    findings: tuple[Finding, ...]
    images: int
    page: Path
    table: Path

    def of(self, kind: Kind) -> list[Finding]:
        """Findings of a kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``svp data check --json`` prints them."""
        findings = [
            asdict(finding) | {"path": str(finding.path), "other": None if finding.other is None else str(finding.other)}
            for finding in self.findings
        ]
        return {"images": self.images, "page": str(self.page), "table": str(self.table), "findings": findings}


def check_with_model(
    data: str,
    run: str | Path,
    *,
    data_root: str | Path | None = None,
    group: str | None = None,
    group_regex: str | None = None,
    archive_encoding: str | None = None,
    task: TaskChoice = "auto",
    label: str | None = None,
    max_pixels: int | None = None,
    out: str | Path | None = None,
    batch_size: int = 32,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> ModelCheck:
    """Judge the images of a data set by the features of a trained model; images that cannot be read are left out.

    Args:
        data: What ``svp train --data`` takes.
        run: Run directory, or any directory with an adapter pair, of the same classes.
        data_root: Where named data sets lie; ``$SVP_HOME/data`` if None.
        group: Column of a table whose images stay in one fold; see `svp.data.open_data`.
        group_regex: Finds the same in the names of the files.
        archive_encoding: Encoding of the names in an archive that are not UTF-8; guessed if None.
        task: What a table's labels are; see `svp.data.open_data`.
        label: Column of a table that holds them; ``label`` if None.
        max_pixels: Largest image that is read, in pixels; Pillow's limit if None.
        out: Folder that is written; ``data-check`` in the run directory if None.
        batch_size: Images at a time.
        device: "auto", or a device of PyTorch by its name.
        progress: Called with (images done, images in all).

    Raises:
        WeightsError, RunError: The run cannot be opened.
        InputError: It says several labels or a number.
        DataError: The data cannot be opened, has classes that the model does not know, or too few images of a class.
    """
    target = Path(out) if out else folder_for_output(run) / "data-check"
    trained = open_run(run, device)
    if trained.info.task.kind != "single":
        raise InputError(f"{run} says {trained.info.task.title}; labels are doubted by a model of one class per image alone")
    parts = open_parts(find_source(data, data_root, group, archive_encoding, task, label), 0, group, group_regex)
    names = parts.class_names
    unknown = sorted(set(names) - set(trained.class_names))
    if unknown:
        raise DataError(
            f"{data} has classes that the model of {run} does not know: {enumerate_some(unknown)}; it knows "
            f"{enumerate_some(trained.class_names)}. Give a run that was trained on this data"
        )
    rows = {
        path: (part, label, group_of)
        for part, split in parts.splits.items()
        for path, label, group_of in zip(split.paths, split.labels, split.groups or split.paths, strict=True)
    }
    classifier = Classifier(trained.model, trained.class_names, trained.inputs, trained.device, max_pixels)
    told = classify(classifier, rows, len(rows), topk=1, batch_size=batch_size, features=True, progress=progress)
    features = {prediction.path: prediction.features for prediction in told if prediction.features is not None}
    paths = list(features)
    labels = np.array([rows[path][1] for path in paths], dtype=np.int64)
    _check_sizes(data, labels, names)
    values = np.stack([features[path] for path in paths]).astype(np.float64)
    grouped = any(split.groups for split in parts.splits.values())
    groups = np.unique([str(rows[path][2]) for path in paths], return_inverse=True)[1] if grouped else None
    errors = find_label_errors(out_of_fold_probabilities(values, labels, len(names), groups), labels)
    neighbors = find_neighbors(values)

    def finding(kind: Kind, image: int, score: float, suggested: str = "", other: int | None = None) -> Finding:
        part, label, _ = rows[paths[image]]
        if other is None:
            return Finding(kind, paths[image], part, names[label], score, suggested)
        other_part, other_label, _ = rows[paths[other]]
        return Finding(kind, paths[image], part, names[label], score, "", paths[other], other_part, names[other_label])

    def pair(one: int, other: int, cosine: float) -> Finding:
        (part, label, _), (other_part, other_label, _) = rows[paths[one]], rows[paths[other]]
        kind: Kind = "leak" if part != other_part else "conflict" if label != other_label else "duplicate"
        return finding(kind, one, cosine, other=other)

    found = [
        finding("label", image, margin, names[suggested])
        for image, suggested, margin in zip(
            errors.images.tolist(), errors.suggested.tolist(), errors.margin.tolist(), strict=True
        )
    ]
    found += [pair(*duplicate) for duplicate in near_duplicates(neighbors)]
    found += [finding("outlier", image, z) for image, z in outliers(neighbors)]
    order = list(KINDS)
    findings = tuple(sorted(found, key=lambda entry: order.index(entry.kind)))
    page = _write_page(target, data, trained, findings, len(paths))
    table = target / "findings.csv"
    _write_table(table, findings)
    return ModelCheck(findings, len(paths), page, table)


def _check_sizes(data: str, labels: np.ndarray[tuple[int], np.dtype[np.int64]], names: Sequence[str]) -> None:
    """Each class needs an image to learn from beside the one that is judged."""
    counts = Counter(labels.tolist())
    few = [f"{names[label]} ({count})" for label, count in sorted(counts.items()) if count < 2]
    if few:
        raise DataError(f"{data}: labels cannot be judged with fewer than 2 readable images of a class: {enumerate_some(few)}")
    if len(counts) < 2:
        raise DataError(f"{data}: labels cannot be judged with images of fewer than 2 classes")


def _write_table(file: Path, findings: Sequence[Finding]) -> None:
    columns = ("path", "part", "label", "suggested", "kind", "score", "other", "other_part", "other_label")

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            for entry in findings:
                values = {name: getattr(entry, name) for name in columns} | {"score": f"{entry.score:.4f}"}
                writer.writerow(["" if values[name] is None else str(values[name]) for name in columns])

    write_atomically(file, write)


def _write_page(target: Path, data: str, trained: TrainedModel, findings: Sequence[Finding], images: int) -> Path:
    page = Page(target, f"Check of {data}", [f"{images:,} images judged by the features of {trained.directory}"])
    for kind, (title, what) in KINDS.items():
        some = [entry for entry in findings if entry.kind == kind]
        page.add_section(kind, f"{title}: {len(some):,}")
        if not some:
            page.add_text("None.")
            continue
        more = f" The first {_SHOWN} are shown; findings.csv lists all." if len(some) > _SHOWN else ""
        _add_sheet(page, some[:_SHOWN], what + more, trained.inputs)
    page.add_numbers({kind: sum(entry.kind == kind for entry in findings) for kind in KINDS})
    return page.write()


def _add_sheet(page: Page, findings: Sequence[Finding], what: str, inputs: InputConfig) -> None:
    """Each image with its label and the suggested one; of a pair, both images beside each other."""
    paths: list[Path] = []
    lines: list[list[tuple[str, str]]] = []
    notes: list[str] = []
    for entry in findings:
        note = f"{entry.score:.2f}".replace("-", "\N{MINUS SIGN}")
        second = [("seems", entry.suggested)] if entry.suggested else [("in", entry.part)]
        paths.append(entry.path)
        lines.append([("label", entry.label), *second])
        notes.append(note)
        if entry.other is not None:
            paths.append(entry.other)
            lines.append([("label", entry.other_label), ("in", entry.other_part)])
            notes.append(note)
    page.add_sheet(take_pictures(paths, lines, notes, inputs), what)
