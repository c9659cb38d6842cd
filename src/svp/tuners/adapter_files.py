"""The adapter pair: ``adapter.safetensors`` (what was trained) and ``adapter.json`` (all that is needed to use it again)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.data import resolve_model_data_config
from torch import nn

from svp.models import Origin, VisionMamba, WeightsError
from svp.paths import write_atomically
from svp.tuners.base import get_method, tune

_FORMAT = 1


@dataclass(frozen=True)
class AdapterInfo:
    """Contents of ``adapter.json``; found at ``model.adapter`` after ``load_adapter``.

    Args:
        method: Name of the tuning method.
        options: Its options.
        backbone: How to make the backbone again (see ``svp.models.Origin``).
        backbone_sha256: Hash of the backbone's weights without head.
        num_classes: Outputs of the head.
        class_names: Their names in order, empty if not known.
        inputs: Input size, mean, std, crop and interpolation of the evaluation transform.
        format: Version of the file format.
    """

    method: str
    options: dict[str, Any]
    backbone: Origin
    backbone_sha256: str
    num_classes: int
    class_names: tuple[str, ...]
    inputs: dict[str, Any]
    format: int = _FORMAT


def save_adapter(
    model: nn.Module,
    directory: str | Path,
    class_names: Sequence[str] = (),
    inputs: Mapping[str, Any] | None = None,
) -> AdapterInfo:
    """Write the adapter pair of a tuned model into `directory`, which is made if need be.

    Args:
        model: A model that went through ``svp.tune``.
        directory: Where ``adapter.safetensors`` and ``adapter.json`` go.
        class_names: Names of the classes, in the order of the outputs.
        inputs: Evaluation transform; that of the model's pretrained config if None.

    Raises:
        ValueError: The model is not tuned, or `class_names` does not fit its head.
    """
    tuner = getattr(model, "tuner", None)
    if tuner is None:
        raise ValueError("save_adapter: the model is not tuned; call svp.tune(model, ...) first")
    num_classes: int = model.num_classes  # type: ignore[assignment]
    if class_names and len(class_names) != num_classes:
        raise ValueError(f"save_adapter: {len(class_names)} class names for a head of {num_classes} classes")
    info = AdapterInfo(
        method=tuner.name,
        options=tuner.options(),
        backbone=getattr(model, "origin", None) or Origin(type(model).__name__, "random"),
        backbone_sha256=tuner.base_sha256(),
        num_classes=num_classes,
        class_names=tuple(class_names),
        inputs=dict(inputs) if inputs is not None else resolve_model_data_config(model),
    )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(info), indent=2) + "\n"
    write_atomically(directory / "adapter.json", lambda path: path.write_text(text, encoding="utf-8"))
    save_trained(model, directory)
    return read_adapter_info(directory)  # JSON has no tuples: what every reader will get


def save_trained(model: Any, directory: Path) -> None:
    """Write ``adapter.safetensors`` alone: during a run only the trained values change."""
    state = {name: tensor.cpu().contiguous() for name, tensor in model.tuner.state_dict().items()}
    write_atomically(directory / "adapter.safetensors", lambda path: save_file(state, path))


def load_trained(model: Any, directory: Path) -> None:
    """Load ``adapter.safetensors`` alone into a model that is tuned alike."""
    path = directory / "adapter.safetensors"
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    model.tuner.load_state_dict(state)


def read_adapter_info(directory: str | Path) -> AdapterInfo:
    """Read ``adapter.json``.

    Raises:
        WeightsError: Not an adapter directory, or a file this version cannot read.
    """
    path = Path(directory) / "adapter.json"
    if not path.is_file():
        raise WeightsError(
            f"{directory} holds no adapter.json: expected a run directory of `svp train`, or what save_adapter wrote"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] > _FORMAT:
            raise WeightsError(f"{path} has format {values['format']}, this version of svp reads up to {_FORMAT}: update svp")
        values["backbone"] = Origin(**values["backbone"])
        values["class_names"] = tuple(values["class_names"])
        return AdapterInfo(**values)
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is damaged: {error!r}") from error


def load_adapter(directory: str | Path, backbone: VisionMamba | None = None) -> VisionMamba:
    """Load an adapter pair onto its backbone and return the model, ready for evaluation.

    Args:
        directory: Holds ``adapter.safetensors`` and ``adapter.json``; a run directory does.
        backbone: An untuned model to put the adapter on (changed in place); made anew from ``adapter.json`` if None.

    Raises:
        WeightsError: Damaged or missing files, or a backbone with other weights than those the adapter was trained on; names
            both hashes.
    """
    directory = Path(directory)
    info = read_adapter_info(directory)
    tuner_class = get_method(info.method)
    if backbone is None:
        backbone = _make_backbone(info, tuner_class.self_contained)
    elif backbone.tuner is None and backbone.num_classes != info.num_classes:
        backbone.reset_classifier(info.num_classes)
    try:
        tuner = tune(backbone, info.method, **info.options)
    except ValueError as error:
        raise WeightsError(f"the adapter in {directory} does not fit this backbone: {error}") from error
    try:
        found = tuner.base_sha256()
        if not tuner_class.self_contained and found != info.backbone_sha256:
            raise WeightsError(
                f"the adapter in {directory} was trained on {info.backbone.name} ({info.backbone.weights} weights) with hash "
                f"{info.backbone_sha256}; this backbone has hash {found}"
            )
        load_trained(backbone, directory)
    except WeightsError:
        tuner.detach()
        raise
    backbone.adapter = info
    return backbone.eval()


def _make_backbone(info: AdapterInfo, self_contained: bool) -> VisionMamba:
    origin = info.backbone
    if self_contained:
        return Origin(origin.name, "random", origin.overrides).build(info.num_classes)
    if origin.weights == "random" and origin.seed is None:
        raise WeightsError("the adapter's backbone had random weights of unknown seed: pass the model itself as backbone=")
    return origin.build(info.num_classes)
