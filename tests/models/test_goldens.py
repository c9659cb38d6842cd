"""Mixer and whole models against numbers of the released code, layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svp.models import BidirectionalMamba, VisionMamba
from svp.models.blocks import add_residual
from svp.ops import selective_scan
from tests.golden import TOLERANCE, Case, assert_close, load_case
from tests.models.small import device_of, runnable_backends

VIM_CASES = ["vim_micro", "vim_micro_odd", "vim_micro_stride"]


def build(case: Case, num_classes: int | None = None) -> VisionMamba:
    """The untrained backbone of a golden case."""
    names = ("img_size", "patch_size", "stride", "in_chans", "embed_dim", "depth", "d_state", "d_conv", "expand", "dt_rank")
    classes = case.config["num_classes"] if num_classes is None else num_classes
    return VisionMamba(**{name: case.config[name] for name in names}, num_classes=classes).eval()


def record_layers(model: VisionMamba) -> dict[str, Tensor]:
    """Fill the returned dictionary with what every block is given (after prompting) and gives back, under the golden names.

    Prompts are added inside the block: what it adds to the residual stream is what it was given with them.
    """
    seen: dict[str, Tensor] = {}

    def make_hook(i: int) -> object:
        def hook(block: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
            before = args[1] if len(args) > 1 and args[1] is not None else 0
            seen[f"layer{i}/hidden_in"] = output[1] - before
            seen[f"layer{i}/hidden_out"], seen[f"layer{i}/residual_out"] = output

        return hook

    for i, block in enumerate(model.layers):
        block.register_forward_hook(make_hook(i))  # type: ignore[arg-type]
    return seen


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", VIM_CASES)
def test_vim(name: str, dtype: torch.dtype) -> None:
    case = load_case(name)
    model = build(case)
    model.load_state_dict(case.weight)
    model.to(dtype)
    images = case.input["images"].to(dtype).requires_grad_()
    assert model.cls_position == case.config["cls_position"]
    layers = record_layers(model)

    tokens = model.forward_features(images)
    logits = model.forward_head(tokens)

    limit = TOLERANCE[dtype]
    assert_close({key: layers[key] for key in case.debug}, case.debug, limit["output"])
    feature = model.forward_head(tokens, pre_logits=True)
    assert_close({"logits": logits, "feature": feature, "tokens": tokens}, case.output, limit["output"])

    (logits * case.input["cotangent_logits"].to(dtype)).sum().backward()
    grads = {"images": images.grad} | {key: p.grad for key, p in model.named_parameters()}
    assert_close({key: grads.pop(key) for key in case.grad}, case.grad, limit["grad"])
    assert not grads, "a parameter without golden gradient"


@pytest.mark.parametrize("name", VIM_CASES)
@pytest.mark.parametrize("backend", runnable_backends())
def test_vim_on_every_backend(backend: str, name: str) -> None:
    import svp

    case = load_case(name)
    model = build(case)
    model.load_state_dict(case.weight)
    device = device_of(backend)
    model.to(device)
    with svp.ops.use_backend(backend):
        logits = model(case.input["images"].to(device))
        (logits * case.input["cotangent_logits"].to(device)).sum().backward()
    limit = TOLERANCE[torch.float32]
    assert_close({"logits": logits}, {"logits": case.output["logits"]}, limit["output"])
    grads = {key: p.grad for key, p in model.named_parameters()}
    assert_close(grads, {key: case.grad[key] for key in grads}, limit["grad"])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_mixer(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    case = load_case("bimamba_mixer")
    config = case.config
    sizes = {name: config[name] for name in ("d_model", "d_state", "d_conv", "expand", "dt_rank")}
    mixer = BidirectionalMamba(**sizes)
    mixer.load_state_dict(case.weight)
    mixer.to(dtype)
    branches: dict[str, Tensor] = {}

    def record(*args: Any, reverse: bool = False, **options: Any) -> Tensor:
        y = selective_scan(*args, reverse=reverse, **options)
        branches["backward_branch" if reverse else "forward_branch"] = y
        return y

    monkeypatch.setattr("svp.models.mixer.selective_scan", record)
    mixer.dt_proj.register_forward_hook(lambda *_: None)  # what it makes of the weight is not known: op after op
    assert mixer.unfused() == {"dt_proj": "has a hook on its output"}
    hidden = case.input["hidden_states"].to(dtype).requires_grad_()
    output = mixer(hidden)

    limit = TOLERANCE[dtype]
    assert_close(branches, case.debug, limit["output"])
    assert_close({"output": output}, case.output, limit["output"])
    (output * case.input["cotangent_output"].to(dtype)).sum().backward()
    grads = {"hidden_states": hidden.grad} | {key: p.grad for key, p in mixer.named_parameters()}
    assert_close(grads, case.grad, limit["grad"])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_mixer_in_one_op(dtype: torch.dtype, frozen: bool) -> None:
    case = load_case("bimamba_mixer")
    mixer = BidirectionalMamba(**{name: case.config[name] for name in ("d_model", "d_state", "d_conv", "expand", "dt_rank")})
    mixer.load_state_dict(case.weight)
    mixer.to(dtype).requires_grad_(not frozen)
    hidden = case.input["hidden_states"].to(dtype).requires_grad_()
    output = mixer(hidden)
    assert_close({"output": output}, case.output, TOLERANCE[dtype]["output"])
    (output * case.input["cotangent_output"].to(dtype)).sum().backward()
    grads = {"hidden_states": hidden.grad} | {key: p.grad for key, p in mixer.named_parameters() if not frozen}
    assert_close(grads, {key: case.grad[key] for key in grads}, TOLERANCE[dtype]["grad"])


def test_default_rank_is_the_released_one() -> None:
    assert BidirectionalMamba(384).dt_rank == 24
    assert BidirectionalMamba(20).dt_rank == 2


def test_residual_sum_is_wider_than_bfloat16() -> None:
    hidden = torch.ones(1, 1, 2, dtype=torch.bfloat16)
    assert add_residual(hidden, None).dtype == torch.float32
    assert add_residual(hidden.double(), None).dtype == torch.float64
