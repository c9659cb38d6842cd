"""Classes of new images, and the features that they were told by."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from svp.data import UnreadableImageError, eval_transform, find_images, load_image
from svp.data.pipeline.threads import in_threads
from svp.inputs import InputConfig
from svp.paths import write_atomically
from svp.runs.devices import make_accelerator, separate_accelerate_state
from svp.runs.evaluate import check_at_least
from svp.runs.trained import class_names, open_run
from svp.tuners import read_adapter_info


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Args:
        path: The image.
        classes: Names of the likeliest classes, best first; empty if the image could not be read.
        probabilities: Theirs, 0..1.
        error: Why the image could not be read.
        features: What enters the head, (embed_dim,) in float32, where it was asked for.
    """

    path: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None
    features: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)


def predict(
    run: str | Path,
    paths: Sequence[str | Path],
    *,
    topk: int = 5,
    batch_size: int = 32,
    device: str = "auto",
    precision: str = "auto",
    features: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Prediction]:
    """Classify images: what ``svp predict`` does. Unreadable images come back with an error, the rest is still done.

    Args:
        run: Run directory, or any directory with an adapter pair.
        paths: Images, and folders of images (searched recursively).
        topk: Classes per image, at least 1; no more than there are.
        batch_size: Images at a time.
        device: "auto", "cpu" or "cuda".
        precision: "auto", "fp32" or "bf16".
        features: Give the feature vectors too.
        progress: Called with (images done, images in all).

    Yields:
        A prediction for every image, in the order of `paths`, folders sorted.

    Raises:
        WeightsError: The adapter cannot be loaded.
        DataError: A path does not exist, or a folder holds no image.
        RunError: No epoch of the run was finished.
        InputError: An unknown device or precision; `topk` or `batch_size` is below 1.
        UnavailableError: A GPU is asked for and there is none.
    """
    check_at_least("topk", topk, 1)
    check_at_least("batch_size", batch_size, 1)
    images = find_images([Path(path) for path in paths])
    with separate_accelerate_state():
        accelerator = make_accelerator(device, precision)
        trained = open_run(run, accelerator.device)
        model = accelerator.prepare_model(trained.model, evaluation_mode=True)
    classifier = Classifier(model, trained.class_names, trained.inputs, trained.device)
    return classify(classifier, images, topk=topk, batch_size=batch_size, features=features, progress=progress)


@dataclass(frozen=True)
class Classifier:
    """A model as images meet it.

    Args:
        model: Normalized images, (batch, 3, height, width), to logits, (batch, classes).
        class_names: Names of its outputs, in their order.
        inputs: How images are prepared.
        device: Where the model is.
    """

    model: Callable[[Tensor], Tensor]
    class_names: Sequence[str]
    inputs: InputConfig
    device: torch.device


@torch.no_grad()
def classify(
    classifier: Classifier,
    images: Sequence[Path],
    *,
    topk: int = 5,
    batch_size: int = 32,
    features: bool = False,
    progress: Callable[[int, int], None] | None = None,
    read: Callable[[Path], Image.Image] = load_image,
) -> Iterator[Prediction]:
    """Classify image files, as ``predict`` does, with a model that is there already.

    Args:
        classifier: The model.
        images: Files, each of which gets a prediction, in this order.
        topk: Classes per image; no more than there are.
        batch_size: Images at a time.
        features: Give the feature vectors too; the model is then a module with a head.
        progress: Called with (images done, images in all).
        read: Decodes a file, from several threads; raises ``UnreadableImageError``.
    """
    transform, names = eval_transform(classifier.inputs), classifier.class_names
    topk = min(topk, len(names))

    def prepare(path: Path) -> Tensor | UnreadableImageError:
        try:
            return transform(read(path))
        except UnreadableImageError as error:
            return error

    prepared = in_threads(prepare, images, ahead=2 * batch_size)  # the next batch is read while the model is at this one
    for start in range(0, len(images), batch_size):
        paths = images[start : start + batch_size]
        read_images = list(islice(prepared, len(paths)))
        tensors = [image for image in read_images if isinstance(image, Tensor)]
        best: Iterator[tuple[list[float], list[int], npt.NDArray[np.float32] | None]] = iter(())
        if tensors:
            batch = torch.stack(tensors).to(classifier.device)
            vectors: Any = [None] * len(tensors)
            if features:
                logits, entered = logits_and_features(classifier.model, batch)
                vectors = entered.float().cpu().numpy()
            else:
                logits = classifier.model(batch)
            probabilities, classes = logits.float().softmax(-1).topk(topk)
            best = zip(probabilities.tolist(), classes.tolist(), vectors, strict=True)
        for path, image in zip(paths, read_images, strict=True):
            if isinstance(image, UnreadableImageError):
                yield Prediction(path, error=image.reason)
            else:
                p, c, vector = next(best)
                yield Prediction(path, tuple(names[i] for i in c), tuple(p), features=vector)
        if progress is not None:
            progress(start + len(paths), len(images))


def logits_and_features(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """One pass of a model, and what enters its head in that pass, under whatever wraps it (autocast, say).

    Args:
        model: Module with a submodule ``head``.
        images: Normalized images, (batch, 3, height, width).

    Returns:
        Logits, (batch, classes), and features, (batch, embed_dim).
    """
    caught: list[Tensor] = []
    hook = model.get_submodule("head").register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        return model(images), caught[0]
    finally:
        hook.remove()


def save_features(predictions: Sequence[Prediction], file: str | Path, run: str | Path) -> None:
    """Write feature vectors and what belongs to them as ``.npz``: what ``svp predict --features`` does.

    A row per image that could be read: ``features``, (n, embed_dim), float32; ``paths``, ``predicted``, ``probability``, (n,).
    Beside them ``class_names``, in the order of the head's outputs, and ``unreadable``, the paths of the other images.

    Args:
        predictions: What ``predict`` gave with ``features=True``.
        file: Read it with ``numpy.load``; nothing in it is pickled.
        run: Where the adapter is.
    """
    read = [p for p in predictions if p.features is not None]
    embed_dim = len(read[0].features) if read and read[0].features is not None else 0
    arrays: dict[str, Any] = {
        "features": np.array([p.features for p in read], np.float32).reshape(len(read), embed_dim),
        "paths": np.array([str(p.path) for p in read], np.str_),
        "predicted": np.array([p.classes[0] for p in read], np.str_),
        "probability": np.array([p.probabilities[0] for p in read], np.float32),
        "class_names": np.array(class_names(read_adapter_info(run)), np.str_),
        "unreadable": np.array([str(p.path) for p in predictions if p.error], np.str_),
    }

    def write(path: Path) -> None:
        with path.open("wb") as stream:  # given a name, NumPy would append .npz
            np.savez(stream, **arrays)

    write_atomically(Path(file), write)


def as_csv(predictions: Sequence[Prediction]) -> str:
    """A line for each image: path, class and probability of the likeliest, second and so on, error."""
    topk = max((len(p.classes) for p in predictions), default=0)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["path", *(f"{kind}_{k + 1}" for k in range(topk) for kind in ("class", "probability")), "error"])
    for p in predictions:
        pairs = list(zip(p.classes, (f"{value:.6f}" for value in p.probabilities), strict=True))
        pairs += [("", "")] * (topk - len(pairs))
        writer.writerow([p.path, *(cell for pair in pairs for cell in pair), p.error or ""])
    return buffer.getvalue()
