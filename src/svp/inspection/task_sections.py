"""What the page of ``svp inspect`` says of a model's answers, by its task: classes, labels or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from svp.inspection.page import Page, Tile
from svp.inspection.pictures import take_pictures
from svp.inspection.predictions import Predictions
from svp.inspection.report import add_outcome
from svp.inspection.score_figures import plot_labels
from svp.runs import RunDirectory, TrainedModel
from svp.runs.label_scores import LabelScores
from svp.runs.number_scores import NumberScores, plot_numbers
from svp.runs.task_scores import TaskScores
from svp.tasks import METRICS, Target, show_metric

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_WORST = 24


def add_answers(
    page: Page,
    predicted: Predictions,
    trained: TrainedModel,
    paths: Sequence[Path],
    lost: Sequence[int | Target],
    *,
    own: bool,
) -> None:
    """Add how good the answers are, and the worst of them.

    Args:
        page: Where they go.
        predicted: What the model says of all images.
        trained: The model.
        paths: Files of the images.
        lost: True classes or targets of images that could not be read.
        own: Whether the images are the run's own test images.
    """
    _SECTIONS[trained.info.task.kind](page, predicted, trained, paths, lost, own)


def _add_classes(
    page: Page,
    predicted: Predictions,
    trained: TrainedModel,
    paths: Sequence[Path],
    lost: Sequence[int | Target],
    own: bool,
) -> None:
    classes = [label for label in lost if isinstance(label, int)]
    answers, place = predicted.answers(trained.class_names, paths, classes), RunDirectory(trained.directory)
    add_outcome(page, answers, trained.inputs, place, own=own, reject_below=trained.info.reject_below)


def _add_labels(
    page: Page,
    predicted: Predictions,
    trained: TrainedModel,
    paths: Sequence[Path],
    lost: Sequence[int | Target],
    own: bool,
) -> None:
    names = trained.class_names
    scores = LabelScores.of(predicted.outcome(trained.info.task, lost))
    _add_headline(page, scores, trained, own)
    wrong = (scores.said != scores.truth).any(axis=1)
    worst = _largest(np.where(wrong, scores.losses, -np.inf))
    lines = [[("true", _joined(names, scores.truth[i])), ("said", _joined(names, scores.said[i]))] for i in worst]
    what = "The images with the largest loss among those with a wrong label: what they have, and what the model says."
    _add_worst(page, "Worst mistakes", what, [paths[i] for i in worst], lines, [""] * len(worst), trained)
    per_label = scores.per_class(names)
    page.add_section("labels", "Labels")
    page.add_figure(
        "average-precision",
        "Average precision and F1",
        "Average precision of every label, and F1 where it is said from its threshold on; the worst first.",
        plot_labels(per_label),
    )
    rows = [
        [name, str(row.n), *(show_metric("top1", v) for v in (row.accuracy, row.precision, row.f1)), f"{row.threshold:.2f}"]
        for name, row in per_label.items()
    ]
    page.add_table(["", "images", "recall", "precision", "F1", "threshold"], rows, "How well each label is said")
    page.add_numbers({"labels": {name: asdict(row) for name, row in per_label.items()}})


def _add_numbers(
    page: Page,
    predicted: Predictions,
    trained: TrainedModel,
    paths: Sequence[Path],
    lost: Sequence[int | Target],
    own: bool,
) -> None:
    scores = NumberScores.of(predicted.outcome(trained.info.task, lost))
    _add_headline(page, scores, trained, own)
    worst = _largest(np.abs(scores.errors))
    lines = [[("true", f"{scores.truth[i]:.4g}"), ("said", f"{scores.values[i]:.4g}")] for i in worst]
    what = "The images that the model is farthest off: the true number, what the model says, and the difference."
    notes = [f"{scores.errors[i]:+.3g}" for i in worst]
    _add_worst(page, "Largest errors", what, [paths[i] for i in worst], lines, notes, trained)
    page.add_section("numbers", "Numbers")
    page.add_figure(
        "scatter",
        "Predicted against true",
        "Every image is a point; on the dashed line, the model is right.",
        plot_numbers(scores, trained.class_names[0]),
    )


_SECTIONS = {"single": _add_classes, "multi": _add_labels, "regression": _add_numbers}


def _add_headline(page: Page, scores: TaskScores, trained: TrainedModel, own: bool) -> None:
    result, metrics = trained.result, scores.metrics()
    sentences = list(result.advice) if own and result is not None else scores.sentences(trained.class_names)
    tiles = [Tile(show_metric(metric, metrics[metric]), METRICS[metric]) for metric in trained.info.task.metrics]
    page.add_headline(sentences, [*tiles, Tile(f"{scores.n:,}", "images", "scored here")])
    page.add_numbers({"metrics": metrics})


def _add_worst(
    page: Page,
    title: str,
    what: str,
    paths: Sequence[Path],
    lines: Sequence[Sequence[tuple[str, str]]],
    notes: Sequence[str],
    trained: TrainedModel,
) -> None:
    page.add_section("mistakes", title)
    pictures = take_pictures(paths, lines, notes, trained.inputs)
    if pictures:
        page.add_sheet(pictures, what)
    else:
        page.add_text("Their files are gone." if paths else "All labels of all images are right.")
    page.add_numbers({"mistakes": [str(path) for path in paths]})


def _largest(values: Array) -> Integers:
    order = np.argsort(-values, kind="stable")[:_WORST]
    return order[values[order] > -np.inf]


def _joined(names: Sequence[str], there: npt.NDArray[np.bool_]) -> str:
    return ";".join(name for name, said in zip(names, there, strict=True) if said) or "none"
