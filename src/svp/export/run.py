"""What ``svp export`` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svp import __version__
from svp.data import find_images
from svp.errors import InputError
from svp.export import onnx_file, torch_file
from svp.export.check import Comparison, compare, read_some
from svp.export.program import trace
from svp.hub import folder_for_output
from svp.paths import write_atomically
from svp.runs import RunDirectory, RunError, TrainedModel, open_run

_FORMATS: dict[str, Any] = {"onnx": onnx_file, "torch": torch_file}


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Args:
        path: The file.
        runtime: What ran it.
        comparison: It beside the model.
        has_classes: Whether it says one class per image.
    """

    path: Path
    runtime: str
    comparison: Comparison
    has_classes: bool = True


def export_run(
    run: str | Path, format: str = "onnx", out: str | Path | None = None, images: Sequence[str | Path] = ()
) -> Exported:
    """Write a trained adapter with its backbone as one file that runs without svp, once it is found to say the same.

    The program takes images in 0..1, (batch, channels, img_size, img_size), normalizes them, and gives probabilities, or
    numbers where the model says numbers, (batch, outputs), for any batch. Class names, what the output means and how to resize
    and cut images are in the file, see docs/export.md.
    What can be merged into the backbone is.

    Args:
        run: Run directory, or any directory with an adapter pair.
        format: "onnx", or "torch" for a program of ``torch.export``.
        out: File to write; ``model.onnx`` or ``model.pt2`` in `run` if None.
        images: Images and folders of images to check it on, at most 50 of them; those of the run's test part if empty.

    Raises:
        ExportError: The program differs from the model; nothing is written.
        WeightsError: The adapter cannot be loaded.
        RunError: No epoch of the run was finished, or its test images are gone.
        DataError: None of the images can be read.
        RuntimeError: A package is missing or too old.
        ValueError: Unknown format.
    """
    if format not in _FORMATS:
        raise InputError(f"unknown format {format!r}; known: {', '.join(_FORMATS)}")
    kind = _FORMATS[format]
    kind.require()
    target = Path(out) if out else folder_for_output(run) / f"model{kind.SUFFIX}"
    trained, expected = open_run(run, "cpu"), open_run(run, "cpu").model.float()
    model, inputs = trained.model.float(), trained.inputs
    normalized = read_some(_images_of(trained.directory, images), inputs)
    if model.tuner.mergeable:
        model.tuner.merge()
    task = trained.info.task
    program = trace(model, inputs, task)
    comparisons: list[Comparison] = []

    def write(path: Path) -> None:
        kind.write(program, _metadata(trained), path)
        comparisons.append(compare(expected, kind.load(path), normalized, inputs, task))
        comparisons[0].require_same(format)

    write_atomically(target, write)
    return Exported(target, kind.RUNTIME, comparisons[0], task.kind == "single")


def _images_of(run: Path, images: Sequence[str | Path]) -> Sequence[Path]:
    if images:
        return find_images([Path(path) for path in images])
    try:
        return RunDirectory(run).read_split("test").paths
    except RunError as error:
        raise RunError(f"no images to check the file on, name some by --images: {error}") from error


def _metadata(trained: TrainedModel) -> dict[str, str]:
    """By name, JSON: the names of the classes, what is to be done with an image, and what the model is."""
    info, inputs = trained.info, trained.inputs
    preprocessing = {
        "img_size": inputs.img_size,
        "resize": inputs.resized,
        "crop_mode": inputs.crop_mode,
        "interpolation": inputs.interpolation,
        "fill": [round(255 * value) for value in inputs.mean],
        "mean": inputs.mean,
        "std": inputs.std,
        "value_range": inputs.value_range,
    }
    model = {"svp": __version__, "backbone": info.backbone.name, "method": info.methods}
    output = info.task.describe_output()
    values = {"class_names": trained.class_names, "output": output, "preprocessing": preprocessing, "model": model}
    return {name: json.dumps(value) for name, value in values.items()}
