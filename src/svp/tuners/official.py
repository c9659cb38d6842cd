"""Weights of the released Vim and SVP code, by key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from svp.models.checkpoints import LoadReport, WeightsError, load_into, read_weights, without_wrappers
from svp.tuners.svp import SVP


def load_official(model: nn.Module, path_or_state_dict: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Load a released Vim checkpoint, or a released SVP checkpoint into a model tuned by SVP.

    Keys are matched by name; SVP's are translated. A position embedding of another grid is resized. `prompt_scale` has 24 rows
    in the release whatever the depth: the first `depth` are taken.

    Args:
        model: A ``VisionMamba``; for an SVP checkpoint after ``svp.tune(model, "svp", cross_prompt="official", ...)``.
        path_or_state_dict: A file (see ``svp.models.read_weights``) or its state dict.

    Returns:
        What was loaded, what the file lacked and what was left over. Print it.

    Raises:
        WeightsError: A shape does not fit (a head of another size is left out and reported instead), values are not finite,
            nothing fits, or SVP weights are given for a model not tuned by SVP; names the options to tune it with.
    """
    if isinstance(path_or_state_dict, Mapping):
        state, source = without_wrappers(path_or_state_dict), "the state dict"
    else:
        state, source = read_weights(path_or_state_dict), str(path_or_state_dict)
    tuner = getattr(model, "tuner", None)
    method = tuner.methods.get("svp") if tuner else None
    if "prompt_scale" in state or "prompt_shared_scale" in state:
        if not isinstance(method, SVP):
            raise WeightsError(f"{source} holds SVP weights: first call {_tune_call(state)}")
        if "prompt_scale" in state:
            depth = len(model.get_submodule("layers"))  # type: ignore[arg-type]
            state["prompt_scale"] = state["prompt_scale"][:depth]
        state = {method.rename_released(name): tensor for name, tensor in state.items()}
    report = load_into(model, state, source)
    if not report.loaded:
        raise WeightsError(f"{source} is not a released Vim or SVP checkpoint: {report}")
    return report


def _tune_call(state: Mapping[str, Tensor]) -> str:
    """The ``svp.tune`` call that gives a model for these released SVP weights."""
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
    options = ['cross_prompt="official"']
    if "prompt_shared_scale" in state:
        options.append(f"shared_layers={depth // len(state['prompt_shared_scale'])}")
    if "prompt_generator.0.0.weight" in state:
        options.append(f"hidden_dim={len(state['prompt_generator.0.0.weight'])}")
    if "head.0.weight" in state:
        options.append('head="two_linear"')
    return f'svp.tune(model, "svp", {", ".join(options)})'
