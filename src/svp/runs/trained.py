"""A trained model, opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from svp.hub import local_folder
from svp.inputs import InputConfig
from svp.models import Backbone
from svp.runs.devices import choose_device
from svp.runs.directory import RunDirectory
from svp.runs.result import Result
from svp.tuners import AdapterInfo, load_adapter


@dataclass(frozen=True)
class TrainedModel:
    """What ``open_run`` gives.

    Args:
        directory: Where it was opened.
        model: The tuned model, in evaluation mode and frozen: normalized images, (batch, channels, height, width), to logits,
            (batch, classes).
        info: Contents of ``adapter.json``.
        inputs: How an image is prepared for the model.
        class_names: Names of the classes in the order of the logits; their numbers if the adapter has no names.
        how_chosen: How the epoch was chosen, in words; None if this is an adapter without a run.
        device: Where the model is.
    """

    directory: Path
    model: Backbone
    info: AdapterInfo
    inputs: InputConfig
    class_names: tuple[str, ...]
    how_chosen: str | None
    device: torch.device

    @property
    def result(self) -> Result | None:
        """What its training found; None if the run is not finished, or if this is an adapter without a run."""
        place = RunDirectory(self.directory)
        return place.read_result() if place.result_file.is_file() else None


def open_run(directory: str | Path, device: str | torch.device = "auto", *, backbone: Backbone | None = None) -> TrainedModel:
    """Open a trained model.

    Args:
        directory: Run directory of ``svp.train``, or any directory with an adapter pair, or ``hf-hub:OWNER/NAME[@REVISION]``
            for an adapter of the Hugging Face Hub.
        device: "auto", "cpu", "cuda:1" and the like; "auto" takes a GPU if there is one.
        backbone: Untuned model to put the adapter on, changed in place; made anew from ``adapter.json`` if None.

    Raises:
        WeightsError: The adapter cannot be loaded.
        RunError: No epoch of the run is finished.
        InputError: The device is unknown.
        UnavailableError: The device is not there, or an adapter of the Hub cannot be fetched.
    """
    target = device if isinstance(device, torch.device) else choose_device(device)
    place = RunDirectory(local_folder(directory))
    how_chosen = place.how_chosen()
    model = load_adapter(place.path, backbone)
    info: AdapterInfo = model.adapter
    return TrainedModel(
        directory=place.path,
        model=model.requires_grad_(False).to(target),
        info=info,
        inputs=info.inputs,
        class_names=class_names(info),
        how_chosen=how_chosen,
        device=target,
    )


def class_names(info: AdapterInfo) -> tuple[str, ...]:
    """Names of an adapter's classes; their numbers where it has no names."""
    return info.class_names or tuple(str(number) for number in range(info.num_classes))
