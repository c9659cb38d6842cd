"""A trained model is scored on labelled images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from svp.data import (
    DataError,
    ImageListDataset,
    ImageReader,
    Split,
    Unreadable,
    choose_num_workers,
    drop_unreadable,
    find_unreadable,
    make_loader,
)
from svp.errors import InputError
from svp.runs.devices import make_accelerator, separate_accelerate_state
from svp.runs.own_images import images_to_score
from svp.runs.rejection import Acceptance
from svp.runs.result import ClassScore, UnreadableImage, describe_unreadable
from svp.runs.scores import Scores, score
from svp.runs.task_scores import TaskScores
from svp.runs.trained import open_run
from svp.runs.views import AveragedViews, views_transform
from svp.settings import Tta, check_value
from svp.tasks import Target


@dataclass(frozen=True)
class Evaluation:
    """Scores of a trained model on labelled images. Accuracies are 0 to 1.

    Args:
        run: Directory that was opened.
        data: Where the images come from, in words.
        how_chosen: How the model's epoch was chosen, in words; None for an adapter without a run.
        top1: Share of images whose first guess is right; unreadable images count as wrong. None where the task is not one
            class per image, as is `top5`.
        top5: Share of images whose first five guesses hold the right class.
        loss: Mean loss of the images that could be read; of classes the cross entropy in nats.
        n_test: Number of images, unreadable ones included.
        unreadable_test_images: Images that could not be read.
        per_class: Score of each class, by its name.
        metrics: All metrics of the task by name, see `svp.tasks.Metric`; None where one does not exist.
        trained_on: Number of the images that the model was trained on.
        chosen_on: Number of the images that its epoch was chosen on.
        accepted: What the adapter's threshold for "none of these" does to the images; None if it has none.
        tta: Views that an image was seen in, see `svp.runs.views`.
        task: What the model says of an image: "single", "multi" or "regression", see `svp.tasks`.
    """

    run: str
    data: str
    how_chosen: str | None
    top1: float | None
    top5: float | None
    loss: float
    n_test: int
    unreadable_test_images: tuple[UnreadableImage, ...]
    per_class: dict[str, ClassScore]
    metrics: dict[str, float | None]
    trained_on: int = 0
    chosen_on: int = 0
    accepted: Acceptance | None = None
    tta: Tta = "none"
    task: str = "single"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``svp eval --json`` prints them."""
        return asdict(self)


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    *,
    batch_size: int = 32,
    device: str = "auto",
    precision: str = "auto",
    max_pixels: int | None = None,
    tta: Tta = "none",
) -> Evaluation:
    """Score a trained model: what ``svp eval`` does.

    Args:
        run: Run directory, or any directory with an adapter pair.
        data: Images to score on: folder of class folders (or of ``test/`` with class folders), table, archive or
            ``hfds/OWNER/NAME``, see `svp.runs.own_images.images_to_score`; the run's own test images if None.
        batch_size: Images at a time.
        device: "auto", "cpu", "cuda:1" and the like, see `svp.runs.devices.choose_device`.
        precision: "auto", "fp32" or "bf16".
        max_pixels: Largest image that is read, in pixels; Pillow's limit if None.
        tta: Views that an image is seen in: "none", "flip", "crops" or "flip+crops", see `svp.runs.views`.

    Raises:
        WeightsError: The run's adapter cannot be loaded.
        RunError: The run's own test images are gone, or no epoch was finished.
        DataError: The classes of `data` are not those of the adapter, or it cannot be used.
        InputError: An unknown device, precision or `tta`, or a `batch_size` below 1.
        UnavailableError: The device is not there.
    """
    check_at_least("batch_size", batch_size, 1)
    check_value("tta", tta, Tta)
    with separate_accelerate_state():
        accelerator = make_accelerator(device, precision)
        trained = open_run(run, accelerator.device)
        chosen = images_to_score(trained.directory, data, trained.class_names, trained.info.task)
        split = chosen.split
        unreadable = find_unreadable(split.paths, max_pixels=max_pixels, channels=trained.inputs.channels)
        readable = drop_unreadable(split, unreadable)
        if not len(readable):
            raise DataError(
                f"none of the {len(split)} images can be read; the first: {unreadable[0].path}: {unreadable[0].reason}"
            )
        dataset = ImageListDataset(
            readable, views_transform(trained.inputs, tta), reader=ImageReader.of(trained.inputs, max_pixels)
        )
        workers = choose_num_workers(None, accelerator.device, (batch_size, trained.inputs.img_size, trained.inputs.channels))
        batch_size = max(batch_size // accelerator.num_processes, 1) * accelerator.num_processes
        loader = accelerator.prepare(make_loader(dataset, batch_size, train=False, num_workers=workers))
        model: nn.Module = accelerator.prepare_model(trained.model, evaluation_mode=True)
        model = model if tta == "none" else AveragedViews(model, tta, trained.info.task)
        lost = truths_of_unreadable(split, unreadable)
        scores = score(model, loader, accelerator, trained.info.task, lost)
    return Evaluation(
        run=str(trained.directory),
        data=split.origin,
        how_chosen=trained.how_chosen,
        top1=None if math.isnan(scores.top1) else scores.top1,
        top5=None if math.isnan(scores.top5) else scores.top5,
        loss=scores.loss,
        n_test=scores.n,
        unreadable_test_images=describe_unreadable(unreadable),
        per_class=scores.per_class(trained.class_names),
        metrics=scores.metrics(),
        trained_on=chosen.trained_on,
        chosen_on=chosen.chosen_on,
        accepted=_accepted(scores, trained.info.reject_below),
        tta=tta,
        task=trained.info.task.kind,
    )


def _accepted(scores: TaskScores, reject_below: float) -> Acceptance | None:
    return scores.accepted(reject_below) if reject_below and isinstance(scores, Scores) else None


def check_at_least(name: str, value: int, low: int) -> None:
    """Raise ``InputError`` for a number below `low`."""
    check_value(name, value, int)
    if value < low:
        raise InputError(f"{name} is {value}, expected {low} or more")


def truths_of_unreadable(split: Split, unreadable: Sequence[Unreadable]) -> list[int | Target]:
    """True classes, or targets, of the images of a split that could not be read."""
    bad = {image.path for image in unreadable}
    return [split.truth(index) for index, path in enumerate(split.paths) if path in bad]
