"""One frozen backbone in memory, any number of adapters on it: images in, classes and gates out, from any thread.

Every adapter is a model of its own whose frozen parameters are the backbone's very tensors (``Tuner.share_backbone``), so it
takes memory only for what it trained: a head and a few prompters, or, for full fine-tuning, a whole model. Recording gates
hooks into a model, so each model runs one pass at a time; different models run at the same time.
"""

from __future__ import annotations

import copy
import io
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor

from svp.app.uploads import Limits, Upload, gather_images, read_image
from svp.data import InputConfig, UnreadableImageError, eval_transform, load_prepared
from svp.errors import InputError
from svp.hub import local_folder
from svp.inspection import Gates, gates
from svp.inspection.gate_figures import plot_gate_maps
from svp.inspection.maps import Array, Direction, image_maps, patch_extent, pixels
from svp.models import Backbone, VisionMamba, WeightsError, state_sha256
from svp.plotting import style
from svp.runs import Prediction, RunDirectory, TrainedModel, open_run
from svp.runs.devices import choose_device
from svp.runs.predict import Classifier, classify
from svp.tasks import METRICS, SINGLE_LABEL, Task, show_metric
from svp.tasks.task import Columns
from svp.tuners import AdapterInfo, method_title
from svp.tuners.method import get_methods

BASE = "base"
"""The name of the plain backbone in figures."""
TOPK = 5
_DPI = 140
_drawing = threading.Lock()  # matplotlib's settings are those of the whole process


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter.

    Args:
        name: What it is called here.
        trained: The run, opened on the backbone that all adapters share.
        num_bytes: Memory that it takes beside the backbone.
    """

    name: str
    trained: TrainedModel
    num_bytes: int

    @property
    def info(self) -> AdapterInfo:
        """Contents of ``adapter.json``."""
        return self.trained.info

    @property
    def directory(self) -> Path:
        """The run."""
        return self.trained.directory

    @property
    def num_trainable(self) -> int:
        """Number of trained values, those of the head included."""
        count: int = self.trained.model.tuner.num_trainable
        return count

    @cached_property
    def top1(self) -> float | None:
        """Share of right guesses on the test images of its run, 0 to 1; None if that was not measured, or without classes."""
        result = self.trained.result
        return None if result is None or math.isnan(result.top1) else result.top1

    @property
    def task(self) -> Task:
        """What the adapter says of an image."""
        return self.info.task

    def columns(self, topk: int) -> Columns:
        """How its predictions are laid out."""
        return self.task.columns(self.trained.class_names, topk, rejects=self.info.reject_below > 0)

    @property
    def score(self) -> str:
        """Top-1 on the test images, or the first metric of its task by its name; "" if that was not measured."""
        if self.top1 is not None:
            return f"{self.top1:.1%}"
        result, metric = self.trained.result, self.task.metrics[0]
        measured = result is not None and self.task.kind != "single"
        return f"{METRICS[metric]} {show_metric(metric, result.metrics.get(metric))}" if result and measured else ""


class Workbench:
    """Adapters on one backbone.

    Args:
        runs: Run directories, or other directories with an adapter pair.
        device: "auto", "cpu", "cuda:1" and the like, see `svp.runs.devices.choose_device`.
        limits: How much is taken in.

    Attributes:
        adapters: Adapters by name, in the order of `runs`.
        depth: Layers of the backbone; 0 if it has no scans, and so no gates.
        base_classes: Names of the classes that the plain backbone tells apart; None if it has no trained head.

    Raises:
        WeightsError: An adapter cannot be loaded, or is one for another backbone than the first.
        RunError: No epoch of a run was finished.
        ValueError: No run, one of them twice, or images of different sizes.
    """

    def __init__(self, runs: Sequence[str | Path], device: str = "auto", limits: Limits | None = None) -> None:
        directories = [local_folder(run) for run in runs]
        infos = _read_infos(directories)
        self.limits = limits or Limits()
        self.device = choose_device(device)
        base, trained_head = _make_base(directories, infos)
        base = base.requires_grad_(False).eval().to(self.device)
        self.base_classes = _class_names_of(base) if trained_head else None
        self.depth = len(base.layers) if isinstance(base, VisionMamba) else 0
        self.adapters: dict[str, Adapter] = {}
        self._models = {BASE: _OneAtATime(base)}
        self.num_bytes = _count_bytes([base])
        for name, directory in zip(_names([Path(run) for run in runs]), directories, strict=True):
            trained = open_run(directory, self.device, backbone=copy.deepcopy(base))
            trained.model.tuner.share_backbone(base)
            trained.model.requires_grad_(False)
            self._models[name] = _OneAtATime(trained.model)
            before, self.num_bytes = self.num_bytes, _count_bytes([one.model for one in self._models.values()])
            self.adapters[name] = Adapter(name, trained, self.num_bytes - before)
        self._record = lru_cache(maxsize=32)(self._record_gates)
        size, channels = infos[0].inputs.img_size, infos[0].inputs.channels
        for one in self._models.values():  # compile the kernels now, not in front of the first visitor
            one(torch.zeros(1, channels, size, size, device=self.device))

    def predict(self, path: Path, adapter: str) -> Prediction:
        """The likeliest classes of an image, by an adapter.

        Raises:
            UnreadableImageError: The file is no image, damaged, or beyond the limits.
            ValueError: There is no such adapter.
        """
        return self._classify_one(path, self._classifier(adapter))

    def predict_base(self, path: Path, adapter: str) -> Prediction | None:
        """What the plain backbone says of the image, prepared as for `adapter`, in classes of its own; None if it has none."""
        if self.base_classes is None:
            return None
        own = self._classifier(adapter)
        return self._classify_one(
            path,
            replace(own, model=self._models[BASE], class_names=self.base_classes, reject_below=0.0, task=SINGLE_LABEL),
        )

    def predict_batch(
        self, uploads: Sequence[Upload], adapter: str, progress: Callable[[int, int], None] | None = None
    ) -> list[Prediction]:
        """Predictions of many images and zips of images, under the names that their owner gave them.

        An image that cannot be read comes back with an error, the rest is still done.

        Raises:
            DataError: No image, too many, or a zip that cannot be read.
            ValueError: There is no such adapter.
        """
        classifier = self._classifier(adapter)
        with TemporaryDirectory(prefix="svp-") as folder:
            images = gather_images(uploads, self.limits, Path(folder))
            found = self._classify([image.path for image in images], classifier, progress)
            return [replace(p, path=Path(image.name)) for p, image in zip(found, images, strict=True)]

    def gate_maps(
        self, path: Path, adapter: str, layer: int | None = None, direction: Direction = "both"
    ) -> dict[str, dict[str, Array]]:
        """Maps (rows, columns) by gate, of the plain backbone and of an adapter, see ``svp.inspection.maps.image_maps``.

        Raises:
            UnreadableImageError: The file is no image, damaged, or beyond the limits.
            ValueError: There is no such adapter, layer or direction, or the backbone has no scans.
        """
        inputs, image = self._classifier(adapter).inputs, path.stat()
        stamp = (image.st_mtime_ns, image.st_size)
        return {
            title: image_maps(self._record(name, inputs, path, stamp), layer, direction)
            for title, name in {BASE: BASE, method_title(self.adapters[adapter].info.method): adapter}.items()
        }

    def draw_gates(self, path: Path, adapter: str, layer: int | None = None, direction: Direction = "both") -> Image.Image:
        """``gate_maps`` laid over the image: the backbone's, the adapter's, and their difference."""
        maps = self.gate_maps(path, adapter, layer, direction)
        inputs = self._classifier(adapter).inputs
        shown = pixels(self._prepare(path, inputs), inputs)
        drawn = io.BytesIO()
        with _drawing, style():
            figure = plot_gate_maps(shown, maps, patch_extent(self._models[BASE].model))
            figure.savefig(drawn, dpi=_DPI, format="png")
        return Image.open(drawn)

    def _classify_one(self, path: Path, classifier: Classifier) -> Prediction:
        (prediction,) = self._classify([path], classifier)
        if prediction.error:
            raise UnreadableImageError(f"{path}: {prediction.error}", prediction.error)
        return prediction

    def _classify(
        self, paths: Sequence[Path], classifier: Classifier, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Prediction]:
        read = partial(read_image, limits=self.limits, inputs=classifier.inputs)
        return classify(classifier, paths, len(paths), topk=TOPK, progress=progress, read=read)

    def _classifier(self, adapter: str) -> Classifier:
        if adapter not in self.adapters:
            raise InputError(f"there is no adapter {adapter!r}, expected {' or '.join(map(repr, self.adapters))}")
        trained = self.adapters[adapter].trained
        return Classifier(
            self._models[adapter],
            trained.class_names,
            trained.inputs,
            self.device,
            reject_below=trained.info.reject_below,
            task=trained.info.task,
        )

    def _prepare(self, path: Path, inputs: InputConfig) -> Tensor:
        read = partial(read_image, limits=self.limits, inputs=inputs)
        return load_prepared(path, eval_transform(inputs), read)

    def _record_gates(self, model: str, inputs: InputConfig, path: Path, stamp: tuple[int, int]) -> Gates:
        return self._models[model].gates(self._prepare(path, inputs).unsqueeze(0).to(self.device))


class _OneAtATime:
    """A model that any thread may call; it runs one pass at a time."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._lock = threading.Lock()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        with self._lock:
            return self.model(images)

    def gates(self, images: Tensor) -> Gates:
        with self._lock:
            return gates(self.model, images)


def _read_infos(directories: Sequence[Path]) -> list[AdapterInfo]:
    """The descriptions of all adapters, checked to be of one backbone before any weights are read."""
    if not directories:
        raise InputError("no run is given, expected one or several")
    resolved = [directory.resolve() for directory in directories]
    for directory, absolute in zip(directories, resolved, strict=True):
        if not directory.is_dir():
            raise WeightsError(f"{directory}: no such directory; expected a run directory of `svp train`")
        if resolved.count(absolute) > 1:
            raise InputError(f"{directory} is given twice")
    infos = [RunDirectory(directory).read_adapter() for directory in directories]
    first = infos[0]
    for directory, info in zip(directories, infos, strict=True):
        if info.backbone_sha256 != first.backbone_sha256:
            raise WeightsError(
                f"{directories[0]} and {directory} are adapters for different backbones: {first.backbone.name} with hash "
                f"{first.backbone_sha256[:16]} and {info.backbone.name} with hash {info.backbone_sha256[:16]}; one page holds "
                "one backbone: start `svp app` for each of them, with another --port"
            )
        if info.inputs.img_size != first.inputs.img_size:
            raise InputError(
                f"{directories[0]} takes images of {first.inputs.img_size} pixels and {directory} of "
                f"{info.inputs.img_size}; one page holds adapters of one size"
            )
    return infos


def _make_base(directories: Sequence[Path], infos: Sequence[AdapterInfo]) -> tuple[Backbone, bool]:
    """The plain backbone of all adapters, and whether its head was trained."""
    info = infos[0]
    if info.backbone.weights != "random":
        base: Backbone = info.backbone.build()
    else:  # random weights travel with the adapters, but for one that holds a whole model
        for directory, candidate in zip(directories, infos, strict=True):
            if not any(method.self_contained for method in get_methods(candidate.method)):
                base = open_run(directory, "cpu").model.tuner.detach()
                break
        else:
            base = info.backbone.build(info.num_classes)
    found = state_sha256(base.state_dict())
    if found != info.backbone_sha256:
        raise WeightsError(
            f"the adapter in {directories[0]} was trained on {info.backbone.name} ({info.backbone.weights} weights) with hash "
            f"{info.backbone_sha256}; what is found under this name has hash {found}"
        )
    return base, info.backbone.weights != "random"


def _class_names_of(model: Backbone) -> Sequence[str]:
    """Of a model with the head it was pre-trained with: its own names, ImageNet's, or numbers."""
    own = model.pretrained_cfg.get("label_names") or ()
    if len(own) == model.num_classes:
        return tuple(own)
    if subset := infer_imagenet_subset(model):
        imagenet = ImageNetInfo(subset)
        return tuple(imagenet.index_to_description(number) for number in range(model.num_classes))
    return tuple(str(number) for number in range(model.num_classes))


def _names(directories: Sequence[Path]) -> list[str]:
    """Of the folders, or whole paths where folders have the same name, or that of the plain backbone."""
    names = [directory.resolve().name for directory in directories]
    if len(set(names)) < len(names) or BASE in names:
        return [str(directory) for directory in directories]
    return names


def _count_bytes(models: Sequence[torch.nn.Module]) -> int:
    """Memory of the tensors of all models, shared ones counted once."""
    storages: dict[int, int] = {}
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
