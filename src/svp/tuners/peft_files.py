"""Adapters of the LoRA family as the files of PEFT: ``adapter_config.json`` and ``adapter_model.safetensors``, head included.

LoRA and DoRA have PEFT's names already. LoRA of slices is one LoRA of the whole map: the A of all slices above each other,
their B on a diagonal of blocks, zero where nothing is updated. Trained further by PEFT, what is zero trains too.

Source: github.com/huggingface/peft, ``src/peft/tuners/lora``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from svp.errors import InputError
from svp.models import Backbone
from svp.paths import write_atomically
from svp.tuners.lora import DoRA, LoRA, LoRAPartial, LowRankSlices
from svp.tuners.low_rank import LowRankUpdate

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
"""Names of the two files."""


def write_peft(model: Backbone, folder: str | Path) -> None:
    """Write a tuned model's adapter and head for ``peft.PeftModel.from_pretrained(backbone, folder)``.

    The backbone is to be ``svp.create_model(...)`` of the same name, image size and number of classes.

    Args:
        model: What ``load_adapter`` gave.
        folder: Made if need be.

    Raises:
        InputError: PEFT cannot express the method, or the backbone's random weights, which PEFT's files do not hold.
    """
    config, state = peft_state(model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2) + "\n"
    write_atomically(folder / TENSORS, lambda path: save_file(state, path))
    write_atomically(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def peft_state(model: Backbone) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Contents of the two files; for arguments and errors see ``write_peft``."""
    tuner: Any = model.tuner
    origin = model.origin
    (method, *others) = tuner.methods.values()
    if others or type(method) not in (LoRA, DoRA, LoRAPartial):
        raise InputError(f"PEFT cannot express {tuner.name!r}: expected one of lora, dora, lora_partial alone")
    if origin.weights == "random":
        raise InputError(f"the backbone ({origin.name}) has random weights of its own, which PEFT's files do not hold")
    state: dict[str, Tensor] = {}
    places: set[str] = set()
    slices = max((len(m.slices) for m in model.modules() if isinstance(m, LowRankSlices)), default=1)
    for path, module in model.named_modules():
        name = f"base_model.model.{path}"
        if isinstance(module, LowRankUpdate):
            down: Tensor = module.get_parameter("lora_A.default.weight")
            up: Tensor = module.get_parameter("lora_B.default.weight")
            if module.lora_magnitude_vector:
                state[f"{name}.lora_magnitude_vector"] = module.get_parameter("lora_magnitude_vector.default.weight")
        elif isinstance(module, LowRankSlices):
            down, up = _one_update(module, method.rank * slices)
        else:
            continue
        state |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        places.add(re.sub(r"^\w+\.\d+\.", "", path))  # the same in every block
    for name, parameter in model.get_classifier().named_parameters():
        state[f"base_model.model.head.{name}"] = parameter
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": origin.name if origin.weights == "published" else origin.weights,
        "inference_mode": True,
        "r": method.rank * slices,
        "lora_alpha": method.alpha * slices,
        "lora_dropout": method.dropout,
        "use_dora": isinstance(method, DoRA),
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(places),
        "modules_to_save": ["head"],
    }
    return config, {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


@torch.no_grad()
def _one_update(module: LowRankSlices, rank: int) -> tuple[Tensor, Tensor]:
    """A, (rank, inputs), and B, (outputs, rank), of one update that does what those of all slices do."""
    weight: Any = module.base_layer.weight
    down, up = weight.new_zeros(rank, weight.shape[1]), weight.new_zeros(weight.shape[0], rank)
    start = 0
    for name, part in module.slices.items():
        A, B = module.get_parameter(f"lora_A.{name}.weight"), module.get_parameter(f"lora_B.{name}.weight")
        down[start : start + len(A)] = A
        up[part, start : start + len(A)] = B
        start += len(A)
    return down, up
