"""What a run writes down about itself: ``result.json``, and a line of ``metrics.jsonl`` for every epoch.

Entries that this version does not know are ignored; entries that version 0.1.0 did not write are None in its files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Self

from svp.data import Unreadable
from svp.errors import SvpError
from svp.tasks import LOWER_IS_BETTER


class RunError(SvpError, RuntimeError):
    """A run directory cannot be used as asked; the message says why and what to do."""


class _Record:
    """A dataclass that is written as JSON and read back."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record that a file holds.

        Raises:
            RunError: An entry is missing.
        """
        known = fields(cls)  # type: ignore[arg-type]
        missing = [
            entry.name
            for entry in known
            if entry.default is MISSING and entry.default_factory is MISSING and entry.name not in values
        ]
        if missing:
            raise RunError(f"{', '.join(missing)} is missing")
        return cls(**{entry.name: values[entry.name] for entry in known if entry.name in values})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the file holds them."""
        return asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True)
class UnreadableImage(_Record):
    """An image that could not be decoded.

    Args:
        path: Its file.
        reason: Why it could not be decoded.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class ClassScore(_Record):
    """Score of the images of one class.

    Args:
        accuracy: Share of them whose first guess is right, 0 to 1; None if there are none.
        n: Number of images, unreadable ones included.
        precision: Share of the images guessed to be of this class that are, 0 to 1; None if there are none, or in files of
            version 0.1.0.
        f1: Harmonic mean of precision and accuracy (recall), 0 to 1; None if there are no images, or in files of 0.1.0.
        average_precision: Area under the curve of precision over recall of a label, 0 to 1; None where it does not exist, and
            for classes.
        threshold: Probability from which a label is said to be there; None for classes.
    """

    accuracy: float | None
    n: int
    precision: float | None = None
    f1: float | None = None
    average_precision: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class DataUsed(_Record):
    """The images of a run.

    Args:
        name: Name of the data set or folder.
        root: Folder that the images lie in.
        classes: Number of classes.
        train: Number of images trained on.
        val: Number of validation images.
        test: Number of test images.
        splits: Where each of the three parts comes from, in words.
    """

    name: str
    root: str
    classes: int
    train: int
    val: int
    test: int
    splits: dict[str, str]


@dataclass(frozen=True)
class Rejection(_Record):
    """The threshold of a run with ``reject``. Shares are 0 to 1.

    Args:
        target: Accuracy of accepted guesses that was asked for.
        promised: Accuracy that the validation images promise, with 95 % certainty; below the target if no threshold did.
        threshold: Guesses with less confidence are "none of these".
        coverage: Share of the test images that are accepted.
        accuracy: Share of those that are right; None if none is accepted.
        area: Area under the risk-coverage curve of the test images.
    """

    target: float
    promised: float
    threshold: float
    coverage: float
    accuracy: float | None
    area: float


@dataclass(frozen=True)
class EpochRow(_Record):
    """A line of ``metrics.jsonl``.

    Args:
        epoch: Number of the epoch, counted from 0.
        lr: Learning rate of its last step.
        train_loss: Mean loss over its steps, with augmentation and label smoothing.
        selection_split: Part that chooses the epoch, "val" or "test"; None if none does.
        selection_loss: Mean cross entropy on that part, in nats; None if there is none.
        selection_top1: Top-1 on that part, 0 to 1; None if there is none.
        seconds: Wall time of training and validation together, in seconds.
        training_seconds: Wall time of training alone, in seconds; None in rows of version 0.1.0.
        validation_seconds: Wall time of scoring images after it, in seconds; None in rows of version 0.1.0.
        planned_epochs: Number of epochs planned after the first one, which showed the speed; None if they were given.
        chosen_by: Metric that chooses the epoch, see `svp.tasks.Metric`.
        selection_value: That metric on the part that chooses; None if there is none, or in rows of version 0.1.0.
        warm_up_seconds: Part of `seconds` that only the first epoch of a process takes, as for compiling kernels and starting
            workers; None where it is not known.
    """

    epoch: int
    lr: float
    train_loss: float
    selection_split: str | None
    selection_loss: float | None
    selection_top1: float | None
    seconds: float
    training_seconds: float | None = None
    validation_seconds: float | None = None
    planned_epochs: int | None = None
    chosen_by: str = "top1"
    selection_value: float | None = None
    warm_up_seconds: float | None = None

    @property
    def merit(self) -> tuple[float, float]:
        """What the best epoch has most of: a good value of the metric, then a low loss, both on the part that chooses.

        A metric that does not exist on that part, as one of a label that no image has, leaves the choice to the loss.
        """
        value = self.selection_top1 if self.selection_value is None else self.selection_value
        if value is None or self.selection_loss is None:
            raise RuntimeError(f"nothing was scored after epoch {self.epoch + 1}")
        if math.isnan(value):
            return -math.inf, -self.selection_loss
        return -value if self.chosen_by in LOWER_IS_BETTER else value, -self.selection_loss


@dataclass(frozen=True)
class CrossValidation(_Record):
    """What the folds of a run say of the images that they held out. Shares are 0 to 1.

    Args:
        folds: Number of folds.
        n: Number of images, unreadable ones included.
        top1: Share of all images whose first guess is right.
        interval: 95 % interval of `top1` over images, or over groups of images where there are groups.
        fold_top1: The share in each fold.
        interval_over_folds: 95 % interval of their mean, see `svp.runs.out_of_fold.interval_over_folds`.
        metrics: All metrics of all images together, by name.
    """

    folds: int
    n: int
    top1: float
    interval: tuple[float, float]
    fold_top1: tuple[float, ...]
    interval_over_folds: tuple[float, float]
    metrics: dict[str, float | None]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record that a file holds."""
        lists = ("interval", "fold_top1", "interval_over_folds")
        return super().from_dict(dict(values) | {name: tuple(values[name]) for name in lists if name in values})


@dataclass(frozen=True)
class Result(_Record):
    """Contents of ``result.json``. Shares and accuracies are 0 to 1, times are in seconds of wall time.

    Args:
        top1: Share of test images whose first guess is right; unreadable images count as wrong. NaN (null in the file) where
            the task is not one class per image, as is `top5`.
        top5: Share of test images whose first five guesses hold the right class.
        loss: Mean loss of the test images that could be read; of classes the cross entropy in nats.
        n_test: Number of test images, unreadable ones included.
        unreadable_test_images: Test images that could not be read.
        unreadable_images: Images of all parts that could not be read.
        protocol: "validation", "trainval" or "paper", see ``svp.training.protocol``.
        epoch_chosen: Epoch whose weights are kept, counted from 1.
        epochs: Number of epochs trained.
        how_chosen: How the epoch was chosen, in words, for the title of a table.
        selection_top1: Top-1 of the chosen epoch on the part that chose it; None if nothing chose, or without classes.
        peak_lr: Peak learning rate, scaled with the batch size where `lr_base_size` was set.
        trainable_parameters: Number of trained values, those of the head included.
        trainable_parameters_without_head: Number of trained values outside the head.
        total_parameters: Number of values in the model.
        training_seconds: Time of all training epochs without validation. Version 0.1.0 counted validation here.
        seconds: Time of the whole run: checks, training, validation and test; over all parts of a resumed run.
        peak_memory_mb: Peak memory in MB: of the GPU where one was used, else of the process.
        method: Tuning method.
        options: Options of the method.
        model: Name of the backbone.
        weights: "published", "random", or the file that the backbone's weights come from.
        data: The images used.
        per_class: Test score of each class, by its name.
        seed: Seed of the run.
        device: Device that trained, as PyTorch writes it.
        processes: Number of processes that trained together.
        precision: "fp32" or "bf16".
        command: Command line of the process.
        versions: Versions of Python, svp and the packages that a result depends on.
        threads: Number of CPU threads; None in early files.
        validation_seconds: Time of scoring images after the epochs; None if version 0.1.0 trained any of them.
        batch_size: Images per step, fitted to the number of images; None in files of version 0.1.0.
        metrics: All metrics of the test images by name, see `svp.tasks.Metric`; None where one does not exist, and empty
            in files of version 0.1.0.
        temperature: What logits are divided by since ``calibrate`` fitted it; None if it did not.
        rejection: The threshold for "none of these" and what it does to the test images; None without ``reject``.
        advice: What the run told at its end, a sentence each; empty in files of version 0.1.0.
        cross_validation: What the folds of the run found; None if there were none.
        task: What the model says of an image: "single", "multi" or "regression", see `svp.tasks`.
    """

    top1: float
    top5: float
    loss: float
    n_test: int
    unreadable_test_images: tuple[UnreadableImage, ...]
    unreadable_images: tuple[UnreadableImage, ...]
    protocol: str
    epoch_chosen: int
    epochs: int
    how_chosen: str
    selection_top1: float | None
    peak_lr: float
    trainable_parameters: int
    trainable_parameters_without_head: int
    total_parameters: int
    training_seconds: float
    seconds: float
    peak_memory_mb: float
    method: str
    options: dict[str, Any]
    model: str
    weights: str
    data: DataUsed
    per_class: dict[str, ClassScore]
    seed: int
    device: str
    processes: int
    precision: str
    command: str
    versions: dict[str, str]
    threads: int | None = None
    validation_seconds: float | None = None
    batch_size: int | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    temperature: float | None = None
    rejection: Rejection | None = None
    advice: tuple[str, ...] = ()
    cross_validation: CrossValidation | None = None
    task: str = "single"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The result that ``result.json`` holds.

        Raises:
            RunError: An entry is missing.
        """
        converted = dict(values)
        for name in ("unreadable_test_images", "unreadable_images"):
            if name in values:
                converted[name] = tuple(UnreadableImage.from_dict(image) for image in values[name])
        if "data" in values:
            converted["data"] = DataUsed.from_dict(values["data"])
        if values.get("rejection") is not None:
            converted["rejection"] = Rejection.from_dict(values["rejection"])
        if values.get("cross_validation") is not None:
            converted["cross_validation"] = CrossValidation.from_dict(values["cross_validation"])
        if "per_class" in values:
            converted["per_class"] = {name: ClassScore.from_dict(score) for name, score in values["per_class"].items()}
        converted["advice"] = tuple(values.get("advice", ()))
        for name in ("top1", "top5"):
            if name in values and values[name] is None:
                converted[name] = math.nan
        return super().from_dict(converted)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the file holds them: JSON has no NaN."""
        values = super().to_dict()
        return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


def describe_unreadable(unreadable: Sequence[Unreadable]) -> tuple[UnreadableImage, ...]:
    """Unreadable images as results list them."""
    return tuple(UnreadableImage(str(image.path), image.reason) for image in unreadable)
