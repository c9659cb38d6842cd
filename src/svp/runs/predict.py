"""Classes of new images, and the features that they were told by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svp.data import ImageList, ImageReader, UnreadableImageError, load_prepared
from svp.data.pipeline.threads import in_threads
from svp.errors import InputError
from svp.inputs import InputConfig, Picture
from svp.runs.devices import make_accelerator, separate_accelerate_state
from svp.runs.evaluate import check_at_least
from svp.runs.trained import open_run
from svp.runs.views import AveragedViews, views_transform
from svp.settings import Tta, check_value
from svp.tasks import SINGLE_LABEL, Task
from svp.tasks.task import Columns


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Args:
        path: The image.
        classes: Names of the likeliest classes, best first, or of all labels; empty for a number, or if the image could not
            be read.
        probabilities: Theirs, 0..1.
        labels: The labels that the image is said to have, where it may have several; None otherwise.
        value: The number, where the model says one; None otherwise.
        error: Why the image could not be read.
        rejected: Whether the likeliest class is less sure than the adapter's threshold, so that the answer is "none of
            these"; None if the adapter has no threshold or the image could not be read.
        features: What enters the head, (embed_dim,) in float32, where it was asked for.
    """

    path: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None
    rejected: bool | None = None
    features: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    labels: tuple[str, ...] | None = None
    value: float | None = None


def predict(
    run: str | Path,
    paths: Sequence[str | Path],
    *,
    topk: int = 5,
    batch_size: int = 32,
    device: str = "auto",
    precision: str = "auto",
    features: bool = False,
    max_pixels: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    tta: Tta = "none",
) -> Iterator[Prediction]:
    """Classify images: what ``svp predict`` does. Unreadable images come back with an error, the rest is still done.

    Folders are listed and images read while the predictions are taken, so that memory does not grow with their number.

    Args:
        run: Run directory, or any directory with an adapter pair.
        paths: Images, and folders of images (searched recursively).
        topk: Classes per image, at least 1; no more than there are.
        batch_size: Images at a time.
        device: "auto", "cpu", "cuda:1" and the like, see `svp.runs.devices.choose_device`.
        precision: "auto", "fp32" or "bf16".
        features: Give the feature vectors too.
        max_pixels: Largest image that is read, in pixels; Pillow's limit if None.
        progress: Called with (images done, images in all).
        tta: Views that an image is seen in: "none", "flip", "crops" or "flip+crops", see `svp.runs.views`.

    Yields:
        A prediction for every image, in the order of `paths`, folders sorted.

    Raises:
        WeightsError: The adapter cannot be loaded.
        DataError: A path does not exist, or a folder holds no image.
        RunError: No epoch of the run was finished.
        InputError: An unknown device, precision or `tta`; `topk` or `batch_size` is below 1; `features` beside `tta`.
        UnavailableError: The device is not there.
    """
    check_settings(topk, batch_size, features, tta)
    images = ImageList(paths)
    classifier = open_classifier(run, device, precision, max_pixels, tta)
    return classify(classifier, images, len(images), topk=topk, batch_size=batch_size, features=features, progress=progress)


def check_settings(topk: int, batch_size: int, features: bool = False, tta: Tta = "none") -> None:
    """Raise ``InputError`` for settings that ``predict`` cannot work with."""
    check_at_least("topk", topk, 1)
    check_at_least("batch_size", batch_size, 1)
    check_value("tta", tta, Tta)
    if features and tta != "none":
        raise InputError(f"features are those of one view of an image, tta is {tta!r}: leave one of the two out")


@dataclass(frozen=True)
class Classifier:
    """A model as images meet it.

    Args:
        model: Normalized images, (batch, channels, height, width), to logits, (batch, classes).
        class_names: Names of its outputs, in their order.
        inputs: How images are prepared.
        device: Where the model is.
        max_pixels: Largest image that is read, in pixels; Pillow's limit if None.
        reject_below: Probability of the likeliest class below which the answer is "none of these"; 0 rejects none.
        tta: Views of an image that `model` averages over, see `svp.runs.views`.
        task: What the outputs mean.
    """

    model: Callable[[Tensor], Tensor]
    class_names: Sequence[str]
    inputs: InputConfig
    device: torch.device
    max_pixels: int | None = None
    reject_below: float = 0.0
    tta: Tta = "none"
    task: Task = SINGLE_LABEL

    def columns(self, topk: int) -> Columns:
        """How its predictions are laid out."""
        return self.task.columns(self.class_names, topk, rejects=self.reject_below > 0)


def open_classifier(
    run: str | Path, device: str = "auto", precision: str = "auto", max_pixels: int | None = None, tta: Tta = "none"
) -> Classifier:
    """The model of a run, ready to classify; for arguments and errors see ``predict``."""
    with separate_accelerate_state():
        accelerator = make_accelerator(device, precision)
        trained = open_run(run, accelerator.device)
        model = accelerator.prepare_model(trained.model, evaluation_mode=True)
    info = trained.info
    model = model if tta == "none" else AveragedViews(model, tta, info.task)
    return Classifier(
        model, trained.class_names, trained.inputs, trained.device, max_pixels, info.reject_below, tta, info.task
    )


def classify(
    classifier: Classifier,
    images: Iterable[Path],
    total: int,
    *,
    topk: int = 5,
    batch_size: int = 32,
    features: bool = False,
    progress: Callable[[int, int], None] | None = None,
    read: Callable[[Path], Picture] | None = None,
) -> Iterator[Prediction]:
    """Classify image files, as ``predict`` does, with a model that is there already.

    Args:
        classifier: The model.
        images: Files, each of which gets a prediction, in this order; they are taken as they are needed.
        total: Number of files, for `progress`.
        topk: Classes per image; no more than there are.
        batch_size: Images at a time.
        features: Give the feature vectors too; the model is then a module with a head.
        progress: Called with (images done, images in all).
        read: Decodes a file, from several threads; raises ``UnreadableImageError``. As the model's inputs say if None.
    """
    settings: dict[str, Any] = dict(topk=topk, batch_size=batch_size, features=features, progress=progress, read=read)
    return chain.from_iterable(classify_batches(classifier, images, total, **settings))


def classify_batches(
    classifier: Classifier,
    images: Iterable[Path],
    total: int,
    *,
    topk: int = 5,
    batch_size: int = 32,
    features: bool = False,
    progress: Callable[[int, int], None] | None = None,
    read: Callable[[Path], Picture] | None = None,
) -> Iterator[list[Prediction]]:
    """The same, in lists of `batch_size` predictions, each as soon as it is known; the last one may be shorter."""
    transform = views_transform(classifier.inputs, classifier.tta)
    read_file = read or ImageReader.of(classifier.inputs, classifier.max_pixels)

    def prepare(path: Path) -> tuple[Path, Tensor | UnreadableImageError]:
        try:
            return path, load_prepared(path, transform, read_file)
        except UnreadableImageError as error:
            return path, error

    prepared = in_threads(prepare, images, ahead=2 * batch_size)  # the next batch is read while the model is at this one
    done = 0
    while batch := list(islice(prepared, batch_size)):
        yield _classify_batch(classifier, batch, topk, features)
        done += len(batch)
        if progress is not None:
            progress(done, total)


@torch.no_grad()
def _classify_batch(
    classifier: Classifier, batch: Sequence[tuple[Path, Tensor | UnreadableImageError]], topk: int, features: bool
) -> list[Prediction]:
    tensors = [image for _, image in batch if isinstance(image, Tensor)]
    said: Iterator[tuple[dict[str, Any], npt.NDArray[np.float32] | None]] = iter(())
    if tensors:
        images = torch.stack(tensors).to(classifier.device)
        vectors: Any = [None] * len(tensors)
        if features:
            logits, entered = logits_and_features(classifier.model, images)
            vectors = entered.float().cpu().numpy()
        else:
            logits = classifier.model(images)
        answers = classifier.task.answers(classifier.task.activate(logits), classifier.class_names, topk)
        said = zip(answers, vectors, strict=True)
    predictions = []
    for path, image in batch:
        if isinstance(image, UnreadableImageError):
            predictions.append(Prediction(path, error=image.reason))
        else:
            answer, vector = next(said)
            rejected = answer["probabilities"][0] < classifier.reject_below if classifier.reject_below else None
            predictions.append(Prediction(path, **answer, rejected=rejected, features=vector))
    return predictions


def logits_and_features(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """One pass of a model, and what enters its head in that pass, under whatever wraps it (autocast, say).

    Args:
        model: Module with a submodule ``head``.
        images: Normalized images, (batch, channels, height, width).

    Returns:
        Logits, (batch, classes), and features, (batch, embed_dim).
    """
    caught: list[Tensor] = []
    hook = model.get_submodule("head").register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        return model(images), caught[0]
    finally:
        hook.remove()
