"""Use a trained adapter: score it again, or classify new images."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from svp.data import (
    DataError,
    ImageListDataset,
    UnreadableImageError,
    choose_num_workers,
    drop_unreadable,
    eval_transform,
    find_images,
    find_unreadable,
    load_image,
    make_loader,
    open_labelled,
)
from svp.errors import InputError
from svp.inputs import InputConfig
from svp.models import Backbone
from svp.paths import write_atomically
from svp.training.devices import make_accelerator
from svp.training.evaluation import describe_unreadable, score
from svp.training.records import RunDirectory
from svp.tuners import AdapterInfo, load_adapter, read_adapter_info


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


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    *,
    batch_size: int = 32,
    device: str = "auto",
    precision: str = "auto",
) -> dict[str, Any]:
    """Score a trained adapter: what ``svp eval`` does.

    Args:
        run: Run directory.
        data: Images to score on: folder of class folders (or of ``test/`` with class folders), table, archive or
            ``hfds/OWNER/NAME``, see `svp.data.open_labelled`; the run's own test images if None.
        batch_size: Images at a time.
        device: "auto", "cpu" or "cuda".
        precision: "auto", "fp32" or "bf16".

    Returns:
        top1, top5, loss, n_test, per_class, unreadable_test_images, what was scored and how the epoch was chosen.

    Raises:
        WeightsError: The run's adapter cannot be loaded.
        RunError: The run's own test images are gone, or no epoch was finished.
        DataError: The classes of `data` are not those of the adapter, or it cannot be used.
    """
    directory = Path(run)
    how_chosen = RunDirectory(directory).how_chosen()
    model, info = _load(directory)
    split = RunDirectory(directory).read_split("test") if data is None else open_labelled(data, info.class_names)
    unreadable = find_unreadable(split.paths)
    bad = {image.path for image in unreadable}
    lost = [label for path, label in zip(split.paths, split.labels, strict=True) if path in bad]
    readable = drop_unreadable(split, unreadable)
    if not len(readable):
        raise DataError(
            f"none of the {len(split)} images can be read; the first: {unreadable[0].path}: {unreadable[0].reason}"
        )
    accelerator = make_accelerator(device, precision)
    dataset = ImageListDataset(readable, eval_transform(info.inputs))
    workers = choose_num_workers(None, accelerator.device)
    batch_size = max(batch_size // accelerator.num_processes, 1) * accelerator.num_processes
    loader = accelerator.prepare(make_loader(dataset, batch_size, train=False, num_workers=workers))
    prepared = accelerator.prepare_model(model.requires_grad_(False), evaluation_mode=True)
    scores = score(prepared, loader, accelerator, info.num_classes, lost)
    return {
        "run": str(directory),
        "data": split.origin,
        "how_chosen": how_chosen,
        "top1": scores.top1,
        "top5": scores.top5,
        "loss": scores.loss,
        "n_test": scores.n,
        "unreadable_test_images": describe_unreadable(unreadable),
        "per_class": scores.per_class(info.class_names),
    }


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
        ValueError: `topk` or `batch_size` is below 1.
    """
    for name, value in (("topk", topk), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name} is {value}, expected 1 or more")
    images = find_images([Path(path) for path in paths])
    RunDirectory(Path(run)).how_chosen()
    model, info = _load(Path(run))
    accelerator = make_accelerator(device, precision)
    model = accelerator.prepare_model(model.requires_grad_(False), evaluation_mode=True)
    classifier = Classifier(model, class_names(info), info.inputs, accelerator.device)
    caught: list[Tensor] = []
    if features:  # caught in the forward pass itself: whatever wraps it (autocast, say) holds for them too
        model.get_submodule("head").register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    enters_head = caught if features else None
    return classify(classifier, images, topk=topk, batch_size=batch_size, enters_head=enters_head, progress=progress)


def class_names(info: AdapterInfo) -> tuple[str, ...]:
    """Names of an adapter's classes; their numbers where it has no names."""
    return info.class_names or tuple(str(number) for number in range(info.num_classes))


@dataclass(frozen=True)
class Classifier:
    """A model as images meet it.

    Args:
        model: Normalised images (batch, 3, height, width) to logits (batch, classes).
        class_names: Of its outputs, in their order.
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
    enters_head: list[Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
    read: Callable[[Path], Image.Image] = load_image,
) -> Iterator[Prediction]:
    """Classify image files, as ``predict`` does, with a model that is there already.

    Args:
        classifier: The model.
        images: Files, each of which gets a prediction, in this order.
        topk: Classes per image; no more than there are.
        batch_size: Images at a time.
        enters_head: Where a hook on the model leaves what enters its head at every batch, to be taken as the images' features.
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

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without the interpreter lock
        for start in range(0, len(images), batch_size):
            paths = images[start : start + batch_size]
            read_images = list(pool.map(prepare, paths))
            tensors = [image for image in read_images if isinstance(image, Tensor)]
            best: Iterator[tuple[list[float], list[int], npt.NDArray[np.float32] | None]] = iter(())
            if tensors:
                logits = classifier.model(torch.stack(tensors).to(classifier.device))
                probabilities, classes = logits.float().softmax(-1).topk(topk)
                features = [None] * len(tensors) if enters_head is None else enters_head.pop().float().cpu().numpy()
                best = zip(probabilities.tolist(), classes.tolist(), features, strict=True)
            for path, image in zip(paths, read_images, strict=True):
                if isinstance(image, UnreadableImageError):
                    yield Prediction(path, error=image.reason)
                else:
                    p, c, vector = next(best)
                    yield Prediction(path, tuple(names[i] for i in c), tuple(p), features=vector)
            if progress is not None:
                progress(start + len(paths), len(images))


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


def _load(directory: Path) -> tuple[Backbone, AdapterInfo]:
    model = load_adapter(directory)
    return model, model.adapter
