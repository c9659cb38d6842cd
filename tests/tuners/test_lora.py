"""LoRA, DoRA and LoRAp against what their equations make of the weights, in both kinds of backbone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import svp
from svp.tuners.low_rank import LowRankUpdate
from tests.models.small import device_of, images, runnable_backends, small_vim, small_vit

GOLDEN = Path(__file__).parent.parent / "golden"
VIM = {
    "in_proj": "layers.1.mixer.in_proj",
    "x_proj": "layers.1.mixer.x_proj",
    "x_proj_b": "layers.1.mixer.x_proj_b",
    "dt_proj": "layers.1.mixer.dt_proj",
    "dt_proj_b": "layers.1.mixer.dt_proj_b",
    "out_proj": "layers.1.mixer.out_proj",
    "patch_embed": "patch_embed.proj",
}
VIT = {
    "qkv": "blocks.1.attn.qkv",
    "proj": "blocks.1.attn.proj",
    "fc1": "blocks.1.mlp.fc1",
    "fc2": "blocks.1.mlp.fc2",
    "patch_embed": "patch_embed.proj",
}
SLICES = [  # of small_vim: d_inner 32, dt_rank 1, d_state 4
    ("x", "in_proj", slice(0, 32)),
    ("z", "in_proj", slice(32, 64)),
    ("dt", "x_proj", slice(0, 1)),
    ("dt", "x_proj_b", slice(0, 1)),
    ("B", "x_proj", slice(1, 5)),
    ("B", "x_proj_b", slice(1, 5)),
    ("C", "x_proj", slice(5, 9)),
    ("C", "x_proj_b", slice(5, 9)),
]


def small(kind: str) -> Any:
    return small_vim() if kind == "vim" else small_vit()


@torch.no_grad()
def shake(parameter: Tensor, seed: int, amount: float = 1.0) -> None:
    parameter.add_(amount * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize(
    ("kind", "name", "backend"),
    [*(("vim", name, backend) for name in VIM for backend in runnable_backends()), *(("vit", name, "auto") for name in VIT)],
)
def test_update_of_each_map_equals_its_equation(kind: str, name: str, backend: str, method: str) -> None:
    path = (VIM if kind == "vim" else VIT)[name]
    plain, model = small(kind).eval(), small(kind).eval()
    x = images(model).to(device_of(backend))
    svp.tune(model, method, target_modules=[name.removesuffix("_b")], rank=3, alpha=1.5)
    A, B = (model.get_parameter(f"{path}.lora_{factor}.default.weight") for factor in "AB")
    shake(B, seed=3, amount=5.0)
    weight = plain.get_submodule(path).weight.data
    updated = weight + 0.5 * (B.flatten(1) @ A.flatten(1)).view_as(weight)
    if method == "dora":
        m = model.get_parameter(f"{path}.lora_magnitude_vector.default.weight")
        shake(m, seed=5)
        rows = updated.flatten(1)
        updated = (m.view(-1, 1) * rows / rows.square().sum(dim=1, keepdim=True).sqrt()).view_as(weight)
    model.to(device_of(backend))
    plain.to(device_of(backend))
    with svp.ops.use_backend(backend), torch.no_grad():
        before = plain(x)
        weight.copy_(updated)
        expected = plain(x)
        assert not torch.allclose(expected, before, rtol=0, atol=1e-4), "the update is too small for this test"
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("backend", runnable_backends())
@pytest.mark.parametrize(("name", "projection", "rows"), SLICES)
def test_update_of_each_slice_equals_its_equation(name: str, projection: str, rows: slice, backend: str) -> None:
    plain, model = small_vim().eval(), small_vim().eval()
    x = images(model).to(device_of(backend))
    svp.tune(model, "lora_partial", slices=["x", "z", "dt", "B", "C"], rank=3, alpha=1.5)
    path = f"layers.1.mixer.{projection}"
    A, B = (model.get_parameter(f"{path}.lora_{factor}.{name}.weight") for factor in "AB")
    shake(B, seed=3, amount=5.0)
    with svp.ops.use_backend(backend), torch.no_grad():
        model.to(device_of(backend))
        plain.to(device_of(backend))
        before = plain(x)
        plain.get_submodule(path).weight[rows] += 0.5 * B @ A
        expected = plain(x)
        assert not torch.allclose(expected, before, rtol=0, atol=1e-4), "the update is too small for this test"
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("method", "options", "count", "published"),
    [
        ("lora", dict(target_modules=["in_proj"], rank=32), 1_474_560, "LoRA in_proj"),
        ("lora", dict(target_modules=["x_proj"], rank=64), 2_531_328, "LoRA x_proj"),
        ("lora", dict(target_modules=["dt_proj"], rank=64), 2_433_024, "LoRA dt_proj"),
        ("lora", dict(target_modules=["out_proj"], rank=96), 2_654_208, "LoRA out_proj"),
        ("lora", dict(target_modules=["patch_embed"], rank=32), 36_864, "LoRA embedding"),
        ("lora_partial", dict(slices=["x"]), 1_769_472, "LoRAp X"),
        ("lora_partial", dict(slices=["z"]), 1_769_472, "LoRAp Z"),
        ("lora_partial", dict(slices=["dt"]), 2_433_024, "LoRAp dt"),
        ("lora_partial", dict(slices=["B"]), 2_408_448, "LoRAp B"),
        ("lora_partial", dict(slices=["C"]), 2_408_448, "LoRAp C"),
    ],
)
def test_counts_are_those_published(method: str, options: dict[str, Any], count: int, published: str) -> None:
    with torch.device("meta"):
        model = svp.create_model("vim_small", num_classes=3)
    assert svp.tune(model, method, **options).num_trainable_without_head == count
    rows = json.loads((GOLDEN / "published.json").read_text())["vtab1k_vim_small"]["rows"]
    thousands = {row["method"]: row["trainable_thousands"] for row in rows}[published]
    assert abs(count / 1000 + 8.6 - thousands) < 0.5  # the head is the same in every row


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_vit(method: str) -> None:
    model = small_vit().eval()
    x, before = images(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(x)
    tuner = svp.tune(model, method, target_modules=["qkv", "fc2", "patch_embed"], rank=4)
    assert torch.equal(model(x), logits)
    inputs_and_outputs = 3 * (16 + 48) + 3 * (64 + 16) + (48 + 16)
    magnitudes = (3 * 48 + 3 * 16 + 16) if method == "dora" else 0
    assert tuner.num_trainable_without_head == 4 * inputs_and_outputs + magnitudes
    for seed, parameter in enumerate(tuner.trainable_parameters()):
        shake(parameter, seed, amount=0.2)
    tuned = model(x)
    assert not torch.allclose(tuned, logits, atol=1e-3)
    merged = tuner.merge()
    torch.testing.assert_close(merged(x), tuned)
    assert list(merged.state_dict()) == list(before)

    tuner = svp.tune(model, method)  # qkv
    assert {name.split(".")[3] for name in tuner.trainable_names if name.startswith("blocks.")} == {"qkv"}


@pytest.mark.parametrize("method", ["lora", "dora", "lora_partial"])
def test_dropout_drops_in_training_alone(method: str) -> None:
    for dropout in (0.0, 0.5):
        model = small_vim()
        for seed, parameter in enumerate(svp.tune(model, method, dropout=dropout).trainable_parameters()):
            shake(parameter, seed, amount=0.2)
        assert torch.equal(model.eval()(images(model)), model(images(model)))
        assert torch.equal(model.train()(images(model)), model(images(model))) == (dropout == 0)


def test_what_another_method_trains_still_trains() -> None:
    for methods in ("bitfit+lora", "lora+bitfit"):
        tuner = svp.tune(small_vim(), methods, lora=dict(target_modules=["dt_proj"]))
        assert "layers.0.mixer.dt_proj.base_layer.bias" in tuner.trainable_names, methods
        assert "layers.0.mixer.dt_proj.base_layer.weight" not in tuner.trainable_names, methods


def test_two_updates_of_one_map_are_refused() -> None:
    for first, second in (("lora", "dora"), ("lora", "lora_partial"), ("lora_partial", "dora")):
        model = small_vim()
        with pytest.raises(ValueError, match=f"'{first}\\+{second}' cannot be combined: two of them .*layers.0.mixer.in_proj"):
            svp.tune(model, f"{first}+{second}")
        assert not any("lora" in name for name, _ in model.named_parameters())
    model = small_vim().eval()
    tuner = svp.tune(model, "lora+lora_partial", lora=dict(target_modules=["out_proj"]))
    for seed, parameter in enumerate(tuner.trainable_parameters()):
        shake(parameter, seed, amount=0.2)
    expected = model(images(model))
    torch.testing.assert_close(tuner.merge()(images(model)), expected)


@pytest.mark.parametrize("other", ["vp", "vpt_shallow", "adapter", "ssf"])
def test_others_find_the_patch_embedding_below_it(other: str) -> None:
    model = small_vim()
    svp.tune(model, f"lora+{other}", lora=dict(target_modules=["patch_embed"]))
    model(images(model)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.tuner.trainable_parameters())


@pytest.mark.parametrize("methods", ["lora+ssf", "ssf+lora", "dora+ssf", "ssf+dora", "lora_partial+ssf", "ssf+lora_partial"])
def test_merges_with_scale_and_shift(methods: str) -> None:
    model = small_vim().eval()
    tuner = svp.tune(model, methods)
    for seed, parameter in enumerate(tuner.trainable_parameters()):
        shake(parameter, seed, amount=0.1)
    expected = model(images(model))
    torch.testing.assert_close(tuner.merge()(images(model)), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_magnitudes_are_of_the_weight_that_others_made(dropout: float) -> None:
    model = small_vim().double().train()
    svp.tune(model, "ssf+dora", dora=dict(dropout=dropout, rank=3))
    for seed, parameter in enumerate(model.tuner.trainable_parameters()):
        shake(parameter, seed, amount=0.1)
    dora, ssf = model.layers[1].mixer.in_proj, model.ssf.get_submodule("layers.1.mixer.in_proj")
    A, B = (dora.get_parameter(f"lora_{factor}.default.weight") for factor in "AB")
    weight, scale = ssf.scale[:, None] * dora.base_layer.weight, 32 / 3
    gain = dora.lora_magnitude_vector["default"].weight / (weight + scale * B @ A).norm(dim=1)
    u = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.manual_seed(0)
    found = dora(u)
    torch.manual_seed(0)
    dropped = F.dropout(u, dropout)
    expected = u @ weight.T + ssf.shift + (gain - 1) * (dropped @ weight.T) + gain * scale * (dropped @ A.T @ B.T)
    torch.testing.assert_close(found, expected)


def test_magnitudes_of_a_weight_that_is_not_known_are_refused() -> None:
    model = small_vim()
    model.layers[1].mixer.in_proj.register_forward_hook(lambda *_: None)
    message = r"dora takes the norm of a weight, and model.layers.1.mixer.in_proj has a hook on its output; attach dora first"
    with pytest.raises(ValueError, match=message):
        svp.tune(model, "dora")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lora", dict(rank=0), "lora: rank is 0, expected 1 or more"),
        ("lora", dict(alpha=0.0), "lora: alpha is 0.0, expected a number other than 0"),
        ("dora", dict(alpha=float("nan")), "lora: alpha is nan, expected a number other than 0"),
        ("dora", dict(dropout=1.0), "lora: dropout is 1.0, expected 0 <= dropout < 1"),
        ("lora", dict(target_modules="in_proj"), "lora: target_modules is 'in_proj', expected a list of names"),
        ("lora", dict(target_modules=["qkv", "qkv"]), "lora: target_modules lists a name more than once: qkv, qkv"),
        (
            "dora",
            dict(target_modules=["in_proj", "qkv"]),
            "dora: target_modules has 'qkv'; known in a VisionMamba: in_proj, x_proj, dt_proj, out_proj, patch_embed",
        ),
        ("lora_partial", dict(slices="x"), "lora_partial: slices is 'x', expected a list of names"),
        ("lora_partial", dict(slices=["x", "x"]), "lora_partial: slices lists a name more than once: x, x"),
        ("lora_partial", dict(slices=["D"]), r"slices is \['D'\], expected one or several of x, z, dt, B, C"),
        ("lora_partial", dict(slices=[]), r"slices is \[\], expected one or several of x, z, dt, B, C"),
        ("lora_partial", dict(rank=-1), "lora_partial: rank is -1, expected 1 or more"),
    ],
)
def test_options_out_of_range(method: str, options: dict[str, Any], message: str) -> None:
    model = small_vim()
    with pytest.raises(ValueError, match=message):
        svp.tune(model, method, **options)
    assert all(p.requires_grad for p in model.parameters())


def test_slices_are_those_of_a_vim() -> None:
    with pytest.raises(ValueError, match="'lora_partial' works on a VisionMamba, this is a VisionTransformer"):
        svp.tune(small_vit(), "lora_partial")


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("magnitude", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", ["linear", "bias", "conv"])
def test_is_what_peft_computes(kind: str, magnitude: bool, dropout: float, autocast: bool) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    base: Any = torch.nn.Conv2d(3, 8, 4, 4) if kind == "conv" else torch.nn.Linear(6, 8, bias=kind == "bias")
    x = torch.randn(2, 3, 8, 8) if kind == "conv" else torch.randn(2, 5, 6)
    holder = torch.nn.ModuleDict({"map": copy.deepcopy(base)})
    torch.manual_seed(1)
    config = LoraConfig(r=3, lora_alpha=1.5, lora_dropout=dropout, target_modules=["map"], use_dora=magnitude)
    theirs: Any = inject_adapter_in_model(config, holder)["map"]
    torch.manual_seed(1)
    ours = LowRankUpdate(base, 3, 1.5, dropout, magnitude)
    state, start = theirs.state_dict(), ours.state_dict()
    assert list(start) == list(state)
    assert all(torch.equal(start[name], tensor) for name, tensor in state.items()), "another start"
    results = []
    for module in (theirs, ours):
        for seed, (name, parameter) in enumerate(module.named_parameters()):
            if "lora" in name:
                shake(parameter, seed, amount=0.3)
        torch.manual_seed(2)  # the same inputs are dropped
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = module.train()(x)
        trained = [parameter for name, parameter in module.named_parameters() if "lora" in name]
        results.append([y, *torch.autograd.grad(y.float().square().sum(), trained)])
    for a, b in zip(*results, strict=True):
        assert (a - b).norm() <= (0.03 if autocast else 1e-5) * a.norm()
    theirs.merge()
    ours.merge()
    torch.testing.assert_close(ours.base_layer.weight, theirs.base_layer.weight)
