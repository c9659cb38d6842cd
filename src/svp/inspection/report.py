"""What a person wants to know of a run, on one page: how good, what is confused, what it trained on, how it was made.

``svp train`` writes it at its end, from the answers that it has; ``svp inspect`` adds what only the model can tell.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from svp.data import InputConfig
from svp.inspection.page import Page, Tile
from svp.inspection.pictures import take_pictures
from svp.inspection.sections import add_confusion, add_reliability, add_risk_coverage
from svp.plotting import PAGE, style
from svp.runs import RunDirectory
from svp.runs.answers import Answers, read_answers
from svp.runs.certainty import wilson
from svp.runs.model_card import typed_words
from svp.runs.result import Result
from svp.runs.trained import class_names
from svp.training.advice import how_good, what_is_confused
from svp.training.display import duration, plot_curves
from svp.tuners import AdapterInfo, method_title

FOLDER = "inspection"
"""The page's folder in a run directory."""

_MISTAKES = 24


def write_report(run: str | Path) -> Path | None:
    """Write the page of a finished run from what is in its directory, without running the model.

    Returns:
        The index page; None if the run keeps no answers, as those of version 0.1.0.

    Raises:
        RunError: The run is not finished, or a file is damaged.
    """
    place = RunDirectory(Path(run))
    result, info = place.read_result(), place.read_adapter()
    if not place.answers_file.is_file():
        return None
    answers = read_answers(place.answers_file, class_names(info))
    page = Page(place.path / FOLDER, title(info, result), facts(place, result))
    with style():
        add_outcome(page, answers, info.inputs, place, own=True, reject_below=info.reject_below)
        add_making(page, place, info)
    page.add_text(
        f"svp inspect {shlex.quote(str(place.path))} adds what goes on inside the model: gates, prompts and features."
    )
    return page.write()


def title(info: AdapterInfo, result: Result | None) -> str:
    """Method, backbone and data."""
    on = f": {result.data.name}" if result is not None else ""
    return f"{method_title(info.method)} on {info.backbone.name}{on}"


def facts(place: RunDirectory, result: Result | None) -> list[str]:
    """Where the run is, and how its epoch was chosen."""
    return [str(place.path)] + ([f"epoch chosen: {result.how_chosen}"] if result is not None else [])


def add_outcome(
    page: Page, answers: Answers, inputs: InputConfig, place: RunDirectory, *, own: bool, reject_below: float = 0.0
) -> None:
    """How good is it, on which images is it wrong, and how do its classes do?

    Args:
        page: Gets the sections.
        answers: What the model said of labelled images, with their paths.
        inputs: How images are prepared for the model.
        place: The run.
        own: Whether the images are the run's own test images.
        reject_below: Confidence below which the adapter says "none of these"; 0 if it always answers.
    """
    result = place.read_result() if place.result_file.is_file() else None
    sentences = list(result.advice) if own and result is not None else []
    page.add_headline(sentences or _sentences(answers), _tiles(answers, result if own else None))
    _add_mistakes(page, answers, inputs)
    page.add_section("classes", "Classes")
    scores = dict(zip(answers.class_names, answers.per_class(), strict=True))
    page.add_classes(scores, _trained_images(place, len(answers.class_names)))
    page.add_numbers({"per_class": {name: score.to_dict() for name, score in scores.items()}})
    add_confusion(page, answers)
    add_reliability(page, answers)
    add_risk_coverage(page, answers, reject_below)


def add_making(page: Page, place: RunDirectory, info: AdapterInfo) -> None:
    """How did the run go, on which images, and what makes it again? Nothing of an adapter without a finished run."""
    if not place.result_file.is_file():
        return
    result, rows = place.read_result(), place.read_metrics()
    if rows:
        best = min(result.epoch_chosen, len(rows)) - 1
        plot_curves(rows, best, page.folder / "curves", result.how_chosen, result.method)
        what = f"Loss, and {_metric(result)} on the images that choose the epoch; the dashed line is the epoch that is kept."
        page.add_saved_figure("curves", "Learning curves", what, PAGE)
    page.add_section("data", "Data")
    parts = {"train": result.data.train, "val": result.data.val, "test": result.data.test}
    used = [[part, f"{images:,}", result.data.splits.get(part, "")] for part, images in parts.items()]
    page.add_table(["part", "images", "where from"], used, f"{_outputs(result)}, {result.data.root}", text=True)
    if result.unreadable_images:
        lost = [[image.path, image.reason] for image in result.unreadable_images]
        counted = "are left out" if result.task == "regression" else "count as wrong"
        page.add_table(["file", "why"], lost, f"Images that cannot be read; those of test {counted}", text=True)
    page.add_section("making", "How it was made")
    added = result.trainable_parameters_without_head
    head = result.trainable_parameters - added
    made = [
        ["method", ", ".join([method_title(info.method), *_options(result)])],
        ["backbone", f"{result.model}, {result.weights} weights, {result.total_parameters:,} parameters with the adapter"],
        ["trained", f"{result.trainable_parameters:,} parameters: {added:,} of the method, {head:,} of the head"],
        ["images", f"{info.inputs.img_size} pixels, batches of {result.batch_size or '?'}"],
        [
            "epochs",
            f"{result.epochs}, {result.epoch_chosen} kept; peak learning rate {result.peak_lr:.3g}, seed {result.seed}",
        ],
        ["time", f"{duration(result.seconds)}, {duration(result.training_seconds)} of it training"],
        ["machine", f"{result.device}, {result.precision}, peak memory {result.peak_memory_mb:,.0f} MB"],
        ["versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())],
    ]
    page.add_table(["", ""], made, "", text=True)
    page.add_code(shlex.join(typed_words(result.command)) or result.command)


def _metric(result: Result) -> str:
    return "accuracy" if result.task == "single" else "the metric that chooses"


def _outputs(result: Result) -> str:
    """What the head tells apart, in words."""
    return {"single": f"{result.data.classes:,} classes", "multi": f"{result.data.classes:,} labels"}.get(
        result.task, "numbers"
    )


def _options(result: Result) -> list[str]:
    """Options of its methods, as "name value"."""
    found = []
    for name, value in result.options.items():
        inner = value if isinstance(value, dict) else {name: value}
        found += [f"{option.replace('_', ' ')} {chosen}" for option, chosen in inner.items()]
    return found


def _sentences(answers: Answers) -> list[str]:
    images = [score.n for score in answers.per_class()]
    return [
        how_good(answers.top1, answers.total),
        *what_is_confused(answers.confused(3), answers.class_names, images),
    ]


def _tiles(answers: Answers, result: Result | None) -> list[Tile]:
    low, high = wilson(answers.top1, answers.total)
    present = [score for score in answers.per_class() if score.n]
    error = answers.reliability().expected_calibration_error
    tiles = [
        Tile(f"{answers.top1:.1%}", "top-1", f"95 % interval {low:.0%} to {high:.0%}"),
        Tile(f"{sum(score.f1 or 0 for score in present) / len(present):.1%}", "macro F1", f"{len(present)} classes"),
        Tile(f"{sum(score.accuracy or 0 for score in present) / len(present):.1%}", "balanced accuracy", "mean recall"),
        Tile(f"{error:.1%}", "calibration error", "expected, of 15 bins"),
        Tile(f"{answers.total:,}", "images", "scored here"),
    ]
    if result is not None:
        added = result.trainable_parameters_without_head
        tiles.append(Tile(f"{100 * added / result.total_parameters:.2g}%", "added parameters", f"{added:,} without head"))
    return tiles


def _add_mistakes(page: Page, answers: Answers, inputs: InputConfig) -> None:
    """Which images is the model surest of, and wrong?"""
    page.add_section("mistakes", "Surest mistakes")
    worst = answers.worst(_MISTAKES)
    names = answers.class_names
    lines = [[("true", names[answers.labels[i]]), ("said", names[answers.guesses[i]])] for i in worst]
    paths = [answers.paths[i] for i in worst]
    pictures = take_pictures(paths, lines, [f"{answers.confidence[i]:.0%}" for i in worst], inputs)
    wrong = int((~answers.right).sum())
    if not wrong:
        page.add_text("No image is taken for another class.")
    elif not pictures:
        page.add_text(f"{wrong:,} images are taken for another class; their files are gone.")
    else:
        what = (
            f"The {len(pictures)} of {wrong:,} wrong answers that the model was surest of"
            if wrong > len(pictures)
            else ("The wrong answer" if wrong == 1 else f"The {wrong} wrong answers, the surest first")
        )
        page.add_sheet(
            pictures, f"{what}: the label of the image, what the model says, and how sure it is. Some may be wrong labels."
        )
    page.add_numbers({"mistakes": [str(path) for path in paths]})


def _trained_images(place: RunDirectory, classes: int) -> list[int] | None:
    """Training images of every class; None for an adapter without a run."""
    own = place.read_images()
    if own is None:
        return None
    counts = [0] * classes
    for image in own.parts["train"]:
        if image.label < classes:
            counts[image.label] += 1
    return counts
