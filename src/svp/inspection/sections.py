"""Sections of the page of ``svp inspect``: figure, caption, table and numbers of one question each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from svp.inspection.activation import ACTIVATIONS, Activation, quarters, relative_change
from svp.inspection.gate_figures import plot_activation, plot_scales
from svp.inspection.page import Page
from svp.inspection.score_figures import plot_confusion, plot_features, plot_reliability, plot_risk_coverage
from svp.plotting import Look
from svp.runs.answers import Answers
from svp.runs.rejection import acceptance, risk_coverage

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_PAIRS = 10
_MATRIX = 100
"""Classes up to which all of the confusion matrix is written down, not only what is in it."""


def add_activation(page: Page, models: Mapping[str, Activation], looks: Mapping[str, Look]) -> None:
    """How far are the gates opened along the sequence? The base model first."""
    for direction, title in (("both", "mean of both scans"), ("forward", "forward scan"), ("backward", "backward scan")):
        page.add_figure(
            f"activation-{direction}",
            f"Gates, {title}",
            "Update and forget gate at every image token, means over channels, states, layers and images; bands are 95 % "
            "intervals of the mean over images. Middle, the change relative to the base model; right, the same in the four "
            "quarters of the sequence and in all of it, with 95 % intervals.",
            plot_activation(models, looks, direction),
        )
    (_, base), *tuned = models.items()
    rows: list[list[str]] = []
    numbers: dict[str, dict[str, Any]] = {}
    for name, model in tuned:
        numbers[name] = {}
        for gate in ACTIVATIONS:
            reference = base.of(gate)
            change = relative_change(reference, model.of(gate), [*quarters(reference.shape[1]), slice(None)])
            cells = zip(change.mean, change.half_width, strict=True)
            rows.append([f"{name}, {gate}", *(_change(mean, half) for mean, half in cells)])
            numbers[name][gate] = {"change": change.mean.tolist(), "half_width": change.half_width.tolist()}
    page.add_table(
        ["", "1st quarter", "2nd quarter", "3rd quarter", "4th quarter", "all"],
        rows,
        "Change of the gates relative to the base model, in %, by quarter of the sequence; mean of both scans, 95 % intervals",
    )
    page.add_numbers({"relative_change_by_quarter_and_all": numbers})


def _change(mean: float, half_width: float) -> str:
    """A relative change in percent, to two digits of its interval."""
    half = 100 * half_width
    decimals = min(5, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else 2
    return f"{100 * mean:+z.{decimals}f} ± {half:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def add_scales(page: Page, models: Mapping[str, Activation]) -> None:
    """How strong is what a method adds to the tokens in every layer?"""
    for number, (name, model) in enumerate((item for item in models.items() if item[1].prompts), start=1):
        page.add_figure(
            f"prompts-{number}",
            f"Prompts of {name} by layer",
            "Left, size of the scales of its prompts: mean and the range from the 10th to the 90th percentile over channels. "
            "Middle, norm of a prompt relative to that of its token; right, share of every kind: means over tokens and "
            "images.",
            plot_scales(model.prompts),
        )
        page.add_numbers({f"prompts of {name}": {key: values.tolist() for key, values in model.prompts.items()}})


def add_features(page: Page, features: Mapping[str, Array], labels: Integers, class_names: Sequence[str]) -> None:
    """Does the method separate the classes?"""
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score

    embedded, silhouettes = {}, {}
    separable = 1 < len(np.unique(labels)) < len(labels)
    for name, values in features.items():
        silhouettes[name] = float(silhouette_score(values, labels)) if separable else None
        title = (
            name
            if silhouettes[name] is None
            else f"{name}\nsilhouette {silhouettes[name]:z.2f}".replace("-0.", "\N{MINUS SIGN}0.")
        )
        perplexity = min(30.0, (len(values) - 1) / 3)
        embedded[title] = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(values)
    page.add_figure(
        "features",
        "Features before and after",
        "t-SNE of what enters the head. The silhouette, from -1 to 1, says how well the classes are separated in the "
        "features themselves.",
        plot_features(embedded, labels, class_names),
    )
    page.add_numbers({"silhouette": silhouettes})


def add_confusion(page: Page, answers: Answers) -> None:
    """Which classes are mixed up?"""
    confusion, class_names = answers.confusion(), answers.class_names
    page.add_figure(
        "confusion",
        "Confusion",
        "Images by their true class (row) and the class that the model says (column).",
        plot_confusion(confusion, class_names),
    )
    rows = [
        [f"{class_names[true]} taken for {class_names[said]}", str(images), str(confusion[true].sum())]
        for true, said, images in answers.confused(_PAIRS)
    ]
    if rows:
        page.add_table(["", "images", "of"], rows, "Mixed up most often")
    numbers = {"top1": answers.top1, "images": answers.total, "classes": list(class_names)}
    if len(class_names) <= _MATRIX:
        page.add_numbers(numbers | {"confusion": confusion.tolist()})
    else:  # a matrix of a thousand classes is 9 MB of zeros
        said = [[int(true), int(said), int(confusion[true, said])] for true, said in np.argwhere(confusion)]
        page.add_numbers(numbers | {"confusion_true_said_images": said})


def add_reliability(page: Page, answers: Answers) -> None:
    """Is the model as sure as it is right?"""
    reliability = answers.reliability()
    page.add_figure(
        "reliability",
        "Reliability",
        "Accuracy of the images in every bin of confidence with 95 % intervals, and the gap to their mean confidence; below, "
        "the share of images in the bin. Bins of fewer than ten images are pale.",
        plot_reliability(reliability),
    )
    numbers = {name: values.tolist() for name, values in asdict(reliability).items()}
    page.add_numbers({"expected_calibration_error": reliability.expected_calibration_error, "reliability": numbers})


def add_risk_coverage(page: Page, answers: Answers, threshold: float = 0.0) -> None:
    """What would leaving the less sure images unanswered gain? `threshold` is the adapter's; 0 if it has none."""
    curve = risk_coverage(answers.confidence, answers.right)
    accepted = acceptance(answers.confidence, answers.right, threshold) if threshold else None
    told = f" The adapter answers from a confidence of {threshold:.1%}." if threshold else ""
    page.add_figure(
        "risk-coverage",
        "Risk and coverage",
        "Error among the images that the model is surest of, by their share of all, with 95 % intervals: the lower the curve "
        f'on the left, the more a threshold for "none of these" gains (svp train --reject).{told}',
        plot_risk_coverage(curve, accepted.coverage if accepted else None),
    )
    page.add_numbers({"area_under_risk_coverage": curve.area, "accepted": asdict(accepted) if accepted else None})
