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
from svp.export.check import MAX_IMAGES, MAX_IMAGES_INT8, Comparison, compare, read_some
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
        comparison: It beside the model, before it was quantized.
        has_classes: Whether it says one class per image.
        int8: It beside the model after it was quantized; None if it was not.
    """

    path: Path
    runtime: str
    comparison: Comparison
    has_classes: bool = True
    int8: Comparison | None = None


def export_run(
    run: str | Path,
    format: str = "onnx",
    out: str | Path | None = None,
    images: Sequence[str | Path] = (),
    int8: bool = False,
) -> Exported:
    """Write a trained adapter with its backbone as one file that runs without svp, once it is found to say the same.

    The program takes images in 0..1, (batch, channels, img_size, img_size), normalizes them, and gives probabilities, or
    numbers where the model says numbers, (batch, outputs), for any batch. Class names, what the output means and how to resize
    and cut images are in the file, see docs/export.md.
    What can be merged into the backbone is.

    Args:
        run: Run directory, or any directory with an adapter pair.
        format: "onnx", or "torch" for a program of ``torch.export``.
        out: File to write; ``model.onnx``, ``model.int8.onnx`` or ``model.pt2`` in `run` if None.
        images: Images and folders of images to check it on, at most 50 of them, or 500 for int8; those of the run's test part
            if empty.
        int8: Compute the products of an ONNX file in int8 once it was checked in float32; nothing is asked of its accuracy.

    Raises:
        ExportError: The program differs from the model; nothing is written.
        WeightsError: The adapter cannot be loaded.
        RunError: No epoch of the run was finished, or its test images are gone.
        DataError: None of the images can be read.
        RuntimeError: A package is missing or too old.
        ValueError: Unknown format, or one without int8.
    """
    if format not in _FORMATS:
        raise InputError(f"unknown format {format!r}; known: {', '.join(_FORMATS)}")
    kind = _FORMATS[format]
    if int8 and kind is not onnx_file:
        raise InputError(f"int8 is for format 'onnx', whose runtime has products in int8; the format is {format!r}")
    kind.require()
    target = Path(out) if out else folder_for_output(run) / f"model{'.int8' * int8}{kind.SUFFIX}"
    trained, expected = open_run(run, "cpu"), open_run(run, "cpu").model.float()
    model, inputs = trained.model.float(), trained.inputs
    paths, labels = _images_of(trained, images)
    normalized, classes = read_some(paths, inputs, labels, MAX_IMAGES_INT8 if int8 else MAX_IMAGES)
    if model.tuner.mergeable:
        model.tuner.merge()
    task = trained.info.task
    program = trace(model, inputs, kind.recurrence, task)
    comparisons: list[Comparison] = []

    def write(path: Path) -> None:
        kind.write(program, _metadata(trained), path)
        comparisons.append(compare(expected, kind.load(path), normalized, inputs, task, classes))
        comparisons[0].require_same(format)
        if int8:
            onnx_file.quantize(path)
            comparisons.append(compare(expected, kind.load(path), normalized, inputs, task, classes))

    write_atomically(target, write)
    return Exported(target, kind.RUNTIME, comparisons[0], task.kind == "single", comparisons[1] if int8 else None)


def _images_of(trained: TrainedModel, images: Sequence[str | Path]) -> tuple[Sequence[Path], Sequence[int]]:
    """Images to check the file on, and their classes where they have one that is known."""
    if images:
        return find_images([Path(path) for path in images]), ()
    try:
        split = RunDirectory(trained.directory).read_split("test")
        return split.paths, split.labels if trained.info.task.kind == "single" else ()
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
