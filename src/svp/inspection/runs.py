"""``svp gates`` and ``svp inspect``: a trained adapter against its own backbone, as figures on a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from svp.data import (
    DataError,
    ImageListDataset,
    ImageReader,
    InputConfig,
    Split,
    choose_num_workers,
    drop_unreadable,
    eval_transform,
    find_images,
    find_unreadable,
    load_prepared,
    make_loader,
)
from svp.errors import InputError
from svp.hub import folder_for_output
from svp.inspection.activation import record_activation
from svp.inspection.gate_figures import plot_gate_maps, plot_prompt_maps
from svp.inspection.maps import image_maps, patch_extent, pixels, prompt_maps
from svp.inspection.page import Page
from svp.inspection.predictions import record_features, record_predictions
from svp.inspection.recording import Gates, gates, with_scans
from svp.inspection.report import add_making, facts, title
from svp.inspection.sections import (
    add_activation,
    add_features,
    add_scales,
)
from svp.inspection.task_sections import Integers, add_answers
from svp.models import VisionMamba
from svp.plotting import BASE as BASE_LOOK
from svp.plotting import Look, looks, style
from svp.runs import RunDirectory, TrainedModel, open_run
from svp.runs.devices import choose_device
from svp.runs.evaluate import check_at_least, truths_of_unreadable
from svp.runs.own_images import describe_seen, images_to_score
from svp.runs.predict import Prediction
from svp.tasks import Task
from svp.tuners import method_title

Progress = Callable[[int, int], None]

BASE = "base"
"""The name of the plain backbone."""


@dataclass(frozen=True)
class Compared:
    """Models that figures show beside each other: the plain backbone, the run that it is about, further runs.

    Args:
        models: Models by the name that figures give them.
        directories: Run directories by the same names.
        looks: In which figures show the models, by the same names.
        trained: The run that it is about.
    """

    models: dict[str, VisionMamba]
    directories: dict[str, Path]
    looks: dict[str, Look]
    trained: TrainedModel

    @property
    def subject(self) -> str:
        """Name of the run that it is about."""
        return next(iter(self.directories))

    @property
    def inputs(self) -> InputConfig:
        """How images are prepared for all of the models."""
        return self.trained.inputs

    @property
    def class_names(self) -> Sequence[str]:
        return self.trained.class_names

    @property
    def task(self) -> Task:
        """What the outputs of the run's model mean."""
        return self.trained.info.task

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.trained.device

    def facts(self) -> list[str]:
        """Which run is called what."""
        return [f"{name}: {directory}" for name, directory in self.directories.items()]


def open_runs(run: str | Path, compare: Sequence[str | Path] = (), device: str = "auto") -> Compared:
    """Load a run, its plain backbone and further runs on the same backbone.

    Raises:
        WeightsError: An adapter cannot be loaded.
        RunError: No epoch of a run was finished.
        ValueError: Backbones or the preparation of images differ, or the backbone is no ``VisionMamba``.
    """
    target = choose_device(device)
    plain = open_run(run, target).model.tuner.detach()
    models: dict[str, VisionMamba] = {BASE: with_scans(plain).requires_grad_(False)}
    runs = [open_run(directory, target) for directory in (run, *compare)]
    if len({opened.info.task.kind for opened in runs}) > 1:
        told = ", ".join(f"{opened.directory}: {opened.info.task.title}" for opened in runs)
        raise InputError(f"runs of different tasks cannot be compared ({told})")
    first, methods = runs[0], [opened.info.method for opened in runs]
    directories: dict[str, Path] = {}
    for opened in runs:
        info, directory = opened.info, opened.directory
        name = method_title(info.method)
        if methods.count(info.method) > 1:
            name = f"{name}, {directory.name}"
        if name in models:
            raise InputError(f"{directory} is compared with itself, or with another run of this name")
        models[name], directories[name] = opened.model, directory
        if (info.backbone_sha256, info.inputs) != (first.info.backbone_sha256, first.inputs):
            raise InputError(
                f"{directory} and {run} cannot be compared: backbone or preparation of images differ ({info.backbone.name}, "
                f"{info.inputs} and {first.info.backbone.name}, {first.inputs})"
            )
    seen = dict(zip(models, [BASE_LOOK, *looks(methods)], strict=True))
    return Compared(models, directories, seen, first)


def show_gates(
    run: str | Path,
    paths: Sequence[str | Path],
    *,
    compare: Sequence[str | Path] = (),
    layer: int | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Path:
    """Lay the gates of a run's model and of its plain backbone over images: what ``svp gates`` does.

    Args:
        run: Run directory, or any directory with an adapter pair.
        paths: Images, and folders of images (searched recursively).
        compare: Further runs on the same backbone, shown beside.
        layer: Layer to show, counted from 0; the mean of all if None.
        out: Folder that is written; ``gates`` in the run directory if None.
        device: "auto", "cpu", "cuda:1" and the like, see `svp.runs.devices.choose_device`.
        progress: Called with (images done, images in all).

    Returns:
        The index page.

    Raises:
        WeightsError, RunError, ValueError: As ``open_runs``.
        DataError: A path does not exist, or a folder holds no image.
        UnreadableImageError: An image cannot be decoded.
        ValueError: There is no such layer.
    """
    images = find_images(list(paths))
    compared = open_runs(run, compare, device)
    depth = len(compared.models[BASE].layers)
    if layer is not None and not 0 <= layer < depth:
        raise InputError(f"layer is {layer}, expected 0 to {depth - 1}")
    transform, reader = eval_transform(compared.inputs), ImageReader.of(compared.inputs)
    where = f"mean of {depth} layers" if layer is None else f"layer {layer}, counted from 0"
    page = Page(
        Path(out) if out else folder_for_output(run) / "gates",
        f"Gates of {compared.subject}",
        [*compared.facts(), f"{where}, mean of both scans"],
    )
    page.add_text(_MAPS)
    extent = patch_extent(compared.models[BASE])
    for number, path in enumerate(images):
        image = load_prepared(path, transform, reader)
        records = {name: gates(model, image.unsqueeze(0).to(compared.device)) for name, model in compared.models.items()}
        maps = {name: image_maps(record, layer) for name, record in records.items()}
        prompts = {name: found for name, record in records.items() if (found := prompt_maps(record, layer))}
        said = [_describe(name, records[name], compared) for name in compared.directories]
        with style():
            shown = pixels(image, compared.inputs)
            page.add_figure(f"gates-{number:03d}", str(path), f"{'; '.join(said)}.", plot_gate_maps(shown, maps, extent))
            if prompts:
                figure = plot_prompt_maps(shown, prompts, extent)
                page.add_figure(f"prompts-{number:03d}", None, _PROMPTS, figure)
        for name, found in prompts.items():
            maps[name] |= {f"prompt_{key}": values for key, values in found.items()}
        page.add_numbers({str(path): {name: {g: m.tolist() for g, m in found.items()} for name, found in maps.items()}})
        if progress is not None:
            progress(number + 1, len(images))
    return page.write()


_MAPS = (
    "Update gate |Δ B x| and forget gate exp(Δ A) of every patch, means over channels, states and both scans; and the patch's "
    "part in the class token's output, as a share of all tokens' parts. On the right, the difference to the base model, in "
    "percent of the base model's mean over patches; the few strongest lie beyond the pointed ends of their scale."
)
_PROMPTS = (
    "Norm of every patch's prompt, the same relative to the token that it is added to, and the share of every part of it."
)


def inspect_run(
    run: str | Path,
    *,
    compare: Sequence[str | Path] = (),
    data: str | Path | None = None,
    images: int = 256,
    out: str | Path | None = None,
    batch_size: int = 32,
    device: str = "auto",
    progress: Progress | None = None,
) -> Path:
    """Figures of a run over its test images: what ``svp inspect`` does.

    Args:
        run: Run directory.
        compare: Further runs on the same backbone, shown beside where it is about gates and features.
        data: Labelled images instead of the run's own test images, see `svp.data.open_labelled`.
        images: How many of them gates and features are taken from, evenly spread over the list; scores are of all.
        out: Folder that is written; ``inspection`` in the run directory if None.
        batch_size: Images at a time.
        device: "auto", "cpu", "cuda:1" and the like, see `svp.runs.devices.choose_device`.
        progress: Called with (images done, images in all), every model's counted.

    Returns:
        The index page.

    Raises:
        WeightsError, RunError, ValueError: As ``open_runs``.
        RunError: The run's own test images are gone.
        DataError: `data` cannot be used, or its classes are not those of the adapter.
        ValueError: `images` is below 2 or `batch_size` below 1.
    """
    check_at_least("images", images, 2)
    check_at_least("batch_size", batch_size, 1)
    target = Path(out) if out else folder_for_output(run) / "inspection"
    compared = open_runs(run, compare, device)
    inputs = compared.inputs
    chosen = images_to_score(compared.trained.directory, data, compared.class_names, compared.task)
    split = chosen.split
    unreadable = find_unreadable(split.paths, channels=inputs.channels)
    lost = truths_of_unreadable(split, unreadable)
    split = drop_unreadable(split, unreadable)
    if len(split) < 2:
        raise DataError(f"{split.origin}: {len(split)} images can be read, expected 2 or more")
    sample = _spread(split, images)
    transform, reader = eval_transform(inputs), ImageReader.of(inputs)
    done, total = 0, len(split) + 2 * len(sample) * len(compared.models)

    def batches(part: Split) -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal done
        workers = choose_num_workers(None, compared.device, (batch_size, inputs.img_size))
        dataset = ImageListDataset(part, transform, reader=reader)
        for batch, labels, _ in make_loader(dataset, batch_size, train=False, num_workers=workers):
            yield batch.to(compared.device), labels
            done += len(batch)
            if progress is not None:
                progress(done, total)

    predicted = record_predictions(compared.models[compared.subject], batches(split), compared.task)
    features = {
        name: record_features(model, (batch for batch, _ in batches(sample))) for name, model in compared.models.items()
    }
    activations = {
        name: record_activation(model, (batch for batch, _ in batches(sample))) for name, model in compared.models.items()
    }
    run_directory = RunDirectory(compared.trained.directory)
    told = [f"images: {split.origin}, {len(split)}; gates and features are of {len(sample)}"]
    if compare:
        told = [*compared.facts(), *told]
    seen = describe_seen(len(chosen.split), chosen.trained_on, chosen.chosen_on)
    if seen:
        told.append(f"warning: {seen}")
    if unreadable:
        named = ", ".join(str(image.path) for image in unreadable)
        counted = {"single": "count as wrong in top-1", "multi": "count as wrong", "regression": "are left out"}
        told.append(f"{len(unreadable)} more cannot be read and {counted[compared.task.kind]}: {named}")
    info, result = compared.trained.info, compared.trained.result
    page = Page(target, title(info, result), [*facts(run_directory, result), *told])
    with style():
        add_answers(page, predicted, compared.trained, split.paths, lost, own=data is None)
        add_making(page, run_directory, info)
        add_activation(page, activations, compared.looks)
        add_scales(page, activations)
        add_features(page, features, *_strata(sample, compared))
    return page.write()


def _strata(sample: Split, compared: Compared) -> tuple[Integers, Sequence[str]]:
    """What images are told apart by in a figure, with names: their classes, or what they would be stratified by."""
    if not sample.targets:
        return np.asarray(sample.labels), compared.class_names
    strata = compared.task.stratify(sample.targets, compared.class_names)
    return np.array([strata.of(target) for target in sample.targets]), strata.names


def _describe(name: str, record: Gates, compared: Compared) -> str:
    """What a model says of the only image, and which part the tokens of its method have in that."""
    task, names = compared.task, compared.class_names
    (answer,) = task.answers(task.activate(record.logits), names, 1)
    (said, *_) = task.columns(names, 1).shown(Prediction(Path(), **answer))
    parts = (record.forward.contribution + record.backward.contribution)[:, 0]
    added = float(1 - (parts[:, record.own].sum(dim=-1) / parts.sum(dim=-1)).mean())
    from_added = f", {added:.1%} of the class token's output from added tokens" if parts.shape[1] > len(record.own) else ""
    return f"{name} says {said}{from_added}"


def _spread(split: Split, count: int) -> Split:
    """At most `count` images, evenly spread over the list."""
    chosen = np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int).tolist()
    return split.take(chosen)
