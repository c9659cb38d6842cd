"""The adapter pair: ``adapter.safetensors`` (what was trained) and ``adapter.json`` (all that is needed to use it again).

A backbone of random weights travels along, its names behind ``backbone.``: no seed gives the same numbers on every machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from svp.errors import InputError
from svp.hub import local_folder
from svp.inputs import InputConfig
from svp.models import Backbone, Origin, WeightsError
from svp.models.checkpoints import load_into
from svp.models.factory import recorded_name
from svp.paths import write_atomically
from svp.tasks import SINGLE_LABEL, Task, read_task
from svp.tuners.method import get_methods, joined_name, methods_to_dict, parse_methods
from svp.tuners.tuner import Tuner

_FORMAT = 2  # 1, of 0.1.0, had a name in `method` and the options in `options`
_BACKBONE = "backbone."


@dataclass(frozen=True)
class AdapterInfo:
    """Contents of ``adapter.json``; found at ``model.adapter`` after ``load_adapter``.

    Args:
        methods: Tuning methods and their options, {name: {option: value}}, in the order in which they are attached.
        backbone: How to make the backbone again (see ``svp.models.Origin``).
        backbone_sha256: Hash of the backbone's weights (see ``svp.models.state_sha256``).
        num_classes: Outputs of the head.
        class_names: Their names in order, empty if not known.
        inputs: How images are prepared for the model.
        temperature: What logits are divided by so that probabilities are as sure as they should be, above 0. ``load_adapter``
            divides the head by it.
        reject_below: Probability of the likeliest class below which an image is none of the classes; 0 rejects none.
        task: What the outputs mean; one class per image in files that do not say it.
        format: Version of the file format.
    """

    methods: dict[str, dict[str, Any]]
    backbone: Origin
    backbone_sha256: str
    num_classes: int
    class_names: tuple[str, ...]
    inputs: InputConfig
    temperature: float = 1.0
    reject_below: float = 0.0
    task: Task = SINGLE_LABEL
    format: int = _FORMAT

    @property
    def method(self) -> str:
        """The names of the methods joined by "+"."""
        return joined_name(self.methods)


def save_adapter(
    model: nn.Module,
    directory: str | Path,
    class_names: Sequence[str] = (),
    inputs: InputConfig | Mapping[str, Any] | None = None,
    temperature: float = 1.0,
    reject_below: float = 0.0,
    task: Task = SINGLE_LABEL,
) -> AdapterInfo:
    """Write the adapter pair of a tuned model into `directory`, which is made if need be.

    Args:
        model: A model that went through ``svp.tune``; ``DataParallel``, ``torch.compile`` and the like may be around it.
        directory: Where ``adapter.safetensors`` and ``adapter.json`` go.
        class_names: Names of the classes, labels or number, in the order of the outputs.
        temperature: What ``load_adapter`` divides the logits by, above 0.
        reject_below: Probability of the likeliest class below which ``svp.predict`` says "none of these", 0 to 1.
        task: What the outputs mean, with its thresholds or its mean and standard deviation.
        inputs: How images are prepared, as an ``InputConfig`` or its fields; ``InputConfig.of_model`` of the model if None.

    Raises:
        InputError: The model is not tuned, `class_names` does not fit its head, `temperature` or `reject_below` is out of
            range, `inputs` has an unknown or unfit field, or is None for a model whose images are not square.
    """
    model = _unwrapped(model)
    tuner = getattr(model, "tuner", None)
    if tuner is None:
        raise InputError("save_adapter: the model is not tuned; call svp.tune(model, ...) first")
    num_classes: int = model.num_classes  # type: ignore[assignment]
    if class_names and len(class_names) != num_classes:
        raise InputError(f"save_adapter: {len(class_names)} class names for a head of {num_classes} classes")
    if not 0 < temperature < math.inf:
        raise InputError(f"save_adapter: temperature is {temperature}, expected a number above 0")
    if not 0 <= reject_below <= 1:
        raise InputError(f"save_adapter: reject_below is {reject_below}, expected 0 to 1")
    if inputs is None:
        inputs = InputConfig.of_model(model)
    elif not isinstance(inputs, InputConfig):
        inputs = InputConfig.from_dict(inputs)
    info = AdapterInfo(
        methods=methods_to_dict(tuner.methods),
        backbone=getattr(model, "origin", None) or _unknown_origin(cast(Backbone, model)),
        backbone_sha256=tuner.base_sha256(),
        num_classes=num_classes,
        class_names=tuple(class_names),
        inputs=inputs,
        temperature=temperature,
        reject_below=reject_below,
        task=task,
    )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    values = asdict(info) | {"task": task.to_dict()}
    if task == SINGLE_LABEL:
        del values["task"]  # versions before there were others can read the file
    text = json.dumps({"method": values.pop("methods"), **values}, indent=2) + "\n"
    write_atomically(directory / "adapter.json", lambda path: path.write_text(text, encoding="utf-8"))
    save_trained(model, directory)
    return read_adapter_info(directory)  # JSON has no tuples: what every reader will get


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of what runs it on several devices or compiled."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def save_trained(model: Any, directory: Path) -> None:
    """Write ``adapter.safetensors`` alone: during a run only the trained values change."""
    tuner, origin = model.tuner, getattr(model, "origin", None)
    state = tuner.state_dict()
    if not tuner.self_contained and (origin is None or origin.weights == "random"):
        state |= {_BACKBONE + name: tensor for name, tensor in tuner.base_state().items()}
    state = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    write_atomically(directory / "adapter.safetensors", lambda path: save_file(state, path))


def load_trained(model: Any, directory: Path) -> None:
    """Load ``adapter.safetensors`` alone into a model that is tuned alike."""
    model.tuner.load_state_dict(_read_tensors(directory)[0])


@torch.no_grad()
def divide_logits(model: Any, temperature: float) -> None:
    """Divide the logits of a model by a number, in the head's weights."""
    if temperature != 1.0:
        for parameter in model.get_classifier().parameters():
            parameter /= temperature


def _read_tensors(directory: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trained values by their names, and the backbone's where the adapter brings them."""
    path = directory / "adapter.safetensors"
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    carried = {name.removeprefix(_BACKBONE): state.pop(name) for name in list(state) if name.startswith(_BACKBONE)}
    return state, carried


def _unknown_origin(model: Backbone) -> Origin:
    """What can be told of a model that ``svp.create_model`` did not make; its weights are treated as random."""
    shape = {"img_size": model.patch_embed.img_size} | ({"in_chans": model.in_chans} if model.in_chans != 3 else {})
    return Origin(model.pretrained_cfg["architecture"], "random", shape)


def read_adapter_info(directory: str | Path) -> AdapterInfo:
    """Read ``adapter.json``.

    Raises:
        WeightsError: Not an adapter directory, or a file this version cannot read.
        HubError: An adapter of the Hub cannot be fetched.
    """
    directory = local_folder(directory)
    path = directory / "adapter.json"
    if not path.is_file():
        raise WeightsError(
            f"{directory} holds no adapter.json: expected a run directory of `svp train`, or what save_adapter wrote"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] > _FORMAT:
            raise WeightsError(f"{path} has format {values['format']}, this version of svp reads up to {_FORMAT}: update svp")
        _check_types(f"{path} is damaged: entry", values, _ENTRIES if values["format"] > 1 else _ENTRIES_OF_1)
        if not (0 < values.get("temperature", 1.0) < math.inf):
            raise WeightsError(f"{path} is damaged: temperature is {values['temperature']}, expected a number above 0")
        if not (0 <= values.get("reject_below", 0.0) <= 1):
            raise WeightsError(f"{path} is damaged: reject_below is {values['reject_below']}, expected 0 to 1")
        values["inputs"] = _read_inputs(path, values["inputs"])
        values["task"] = _read_task(path, values)
        _check_types(f"{path} is damaged: backbone", values["backbone"], _ORIGIN)
        if not all(isinstance(name, str) for name in values["class_names"]):
            raise WeightsError(f"{path} is damaged: class_names holds something else than names")
        origin = Origin(**values["backbone"])
        values["backbone"] = replace(origin, name=recorded_name(origin.name)) if origin.weights == "published" else origin
        values["class_names"] = tuple(values["class_names"])
        method = values.pop("method")
        if values["format"] == 1:
            options, values["format"] = values.pop("options"), _FORMAT
            method = options if "+" in method else {method: options}
        return AdapterInfo(methods=method, **values)
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is damaged: {error!r}") from error


_ENTRIES = {
    "method": (dict,),
    "backbone": (dict,),
    "backbone_sha256": (str,),
    "num_classes": (int,),
    "class_names": (list,),
    "inputs": (dict,),
    "temperature": (float,),
    "reject_below": (float,),
    "task": (dict,),
    "format": (int,),
}
_ENTRIES_OF_1 = _ENTRIES | {"method": (str,), "options": (dict,)}
_ORIGIN = {"name": (str,), "weights": (str,), "overrides": (dict,), "seed": (int, NoneType)}


def _check_types(where: str, values: Mapping[str, Any], known: Mapping[str, tuple[type, ...]]) -> None:
    """Raise for a field that is unknown or of another type; a missing one is left to the record it is for."""
    for name, value in values.items():
        if name not in known:
            raise WeightsError(f"{where} {name} is unknown; known: {', '.join(known)}")
        if type(value) not in known[name]:  # a bool is no number here
            expected = " or ".join(kind.__name__ for kind in known[name])
            raise WeightsError(f"{where} {name} is {value!r}, expected {expected}")


def _read_inputs(path: Path, values: Mapping[str, Any]) -> InputConfig:
    try:
        return InputConfig.from_dict({"value_range": "type"} | dict(values))  # of 0.1.0, which had no other
    except InputError as error:
        raise WeightsError(f"{path} is damaged: {error}") from error


def _read_task(path: Path, values: Mapping[str, Any]) -> Task:
    try:
        task = read_task(values.get("task"))
        task.check_outputs(values["num_classes"])
    except InputError as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
    return task


def load_adapter(directory: str | Path, backbone: Backbone | None = None) -> Backbone:
    """Load an adapter pair onto its backbone and return the model, ready for evaluation.

    Args:
        directory: Holds ``adapter.safetensors`` and ``adapter.json``; a run directory does. Or
            ``hf-hub:OWNER/NAME[@REVISION]`` for an adapter of the Hugging Face Hub.
        backbone: An untuned model to put the adapter on, changed in place (not if an error is raised); made anew from
            ``adapter.json`` if None, in the dtype of the adapter.

    Raises:
        WeightsError: Damaged or missing files, or a backbone with other weights than those the adapter was trained on; names
            both hashes.
        HubError: An adapter of the Hub cannot be fetched.
    """
    directory = local_folder(directory)
    info = read_adapter_info(directory)
    given = backbone is not None
    if backbone is None:
        backbone = _make_backbone(directory, info)
    head, num_classes = backbone.head, backbone.num_classes
    tuner = None
    try:
        if getattr(backbone, "tuner", None) is None and num_classes != info.num_classes:
            backbone.reset_classifier(info.num_classes)
        tuner = Tuner(backbone, parse_methods(info.methods))
        found = tuner.base_sha256()
        if not tuner.self_contained and found != info.backbone_sha256:
            raise WeightsError(
                f"the adapter in {directory} was trained on {info.backbone.name} ({info.backbone.weights} weights) with hash "
                f"{info.backbone_sha256}; this backbone has hash {found}"
                + (": without a backbone, load_adapter makes the one it needs" if given else "")
            )
        load_trained(backbone, directory)
        divide_logits(backbone, info.temperature)
    except Exception as error:
        if tuner is not None:
            tuner.detach()
        backbone.head, backbone.num_classes = head, num_classes
        if isinstance(error, WeightsError) or not isinstance(error, TypeError | ValueError):
            raise
        raise WeightsError(f"the adapter in {directory} does not fit this backbone: {error}") from error
    backbone.adapter = info
    return backbone.eval()


def _make_backbone(directory: Path, info: AdapterInfo) -> Backbone:
    trained, carried = _read_tensors(directory)
    origin = info.backbone
    self_contained = any(method.self_contained for method in get_methods(info.method))
    brought = self_contained or origin.weights == "random"
    try:
        # any random weights will do where the adapter brings its own; the seed keeps the global random state untouched
        model = (replace(origin, weights="random", seed=0) if brought else origin).build(info.num_classes)
    except TypeError as error:
        raise WeightsError(f"{directory / 'adapter.json'} is damaged: backbone: {error}") from error
    model.to(
        next((tensor.dtype for tensor in trained.values() if tensor.is_floating_point()), model.patch_embed.proj.weight.dtype)
    )
    if brought and not self_contained:
        report = load_into(model, carried, str(directory / "adapter.safetensors"))
        body = [name for name in (*report.missing, *report.unexpected) if not name.startswith("head.")]
        if body:
            raise WeightsError(
                f"{directory / 'adapter.safetensors'} does not hold the backbone that adapter.json describes: {report}; "
                "pass the model itself as backbone="
            )
        model.origin = origin
    return model
