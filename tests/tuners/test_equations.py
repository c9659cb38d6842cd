"""Methods of 2025 and 2026 against their equations, written out; and which of them go together, in which order."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import svp
from svp.models import VisionMamba
from svp.ops import selective_scan
from tests.models.small import images, small_vim
from tests.tuners.test_contract import shake_trained

LENGTH = 17


def tuned(method: str, **options: Any) -> VisionMamba:
    model = small_vim()
    shake_trained(svp.tune(model, method, **options))
    return model.eval()


def tokens(width: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(2, LENGTH, width, generator=torch.Generator().manual_seed(seed))


def scanned(u: Tensor, change: Any) -> Tensor:
    """The second mixer of the plain backbone, one op after the other; `change` gets what a direction scans and gives its y."""
    mixer = small_vim().layers[1].mixer
    x, z = mixer.in_proj(u).chunk(2, dim=-1)
    ys = []
    for direction, side in enumerate(mixer.sides()):
        x_, dt, A, B, C = mixer.scan_inputs(x, side)
        ys.append(change(direction, dict(x=x_, dt=dt, A=A, B=B, C=C, D=side.D, z=z, reverse=direction == 1)))
    return mixer.out_proj((ys[0] + ys[1]) / 2)


@pytest.mark.parametrize("form", ["h", "y"])
def test_offsets_of_state_and_output(form: str) -> None:
    model, u = tuned("state_offset", form=form), tokens()

    def change(direction: int, scan: dict[str, Any]) -> Tensor:
        offset = model.state_offset[1][direction]
        read = scan["C"] @ offset.T if form == "h" else offset[:, 0]
        return selective_scan(**scan) + read * F.silu(scan["z"])

    torch.testing.assert_close(model.layers[1].mixer(u), scanned(u, change))


def test_scans_start_at_the_learned_state() -> None:
    model, u = tuned("initial_state"), tokens()

    def change(direction: int, scan: dict[str, Any]) -> Tensor:
        return selective_scan(**scan, initial_state=model.first_states[1][direction].expand(2, -1, -1))

    torch.testing.assert_close(model.layers[1].mixer(u), scanned(u, change))


def test_coefficients_steer_the_gates() -> None:
    model, u = tuned("saa", hidden_dim=3, num_coefficients=4), tokens()
    steering = model.saa[1]
    c = torch.sigmoid(F.silu(u @ steering.down.weight.T) @ steering.up.weight.T)

    def change(direction: int, scan: dict[str, Any]) -> Tensor:
        of_B, of_C = steering.of_x_proj[direction].chunk(2, dim=1)
        # dt_proj acts on the step size alone: B and C do not reach it
        steered = dict(dt=scan["dt"] + c @ steering.of_dt[direction], B=scan["B"] + c @ of_B, C=scan["C"] + c @ of_C)
        return selective_scan(**scan | steered)

    torch.testing.assert_close(model.layers[1].mixer(u), scanned(u, change))
    assert "not in layers.0.mixer and 2 more: x_proj has a hook on its output" in svp.ops.explain(model)


def test_coefficients_are_forgotten_after_checkpointed_blocks() -> None:
    model = tuned("saa").train()
    model.set_grad_checkpointing(True)
    model(images(model)).sum().backward()
    copy.deepcopy(model)  # a tensor of the graph, left behind, cannot be copied


def test_gates_are_recorded_as_the_method_steers_them() -> None:
    model = tuned("saa")
    record = svp.inspection.gates(model, images(model))
    model.tuner.detach()
    assert not torch.equal(record.forward.forget, svp.inspection.gates(model, images(model)).forward.forget)


def test_an_offset_fades_in_no_number_of_tokens() -> None:
    model = tuned("state_offset")
    memory = svp.inspection.gates(model, images(model)).forward.memory
    model.tuner.detach()
    torch.testing.assert_close(memory[0], svp.inspection.gates(model, images(model)).forward.memory[0])
    assert memory.isfinite().all()


def test_projections_are_turned_and_merge_exactly() -> None:
    model, base = tuned("prodial", block_size=4, rank=2), small_vim()
    for layer, name in ((0, "in_proj"), (2, "out_proj")):
        wrapper = model.get_submodule(f"layers.{layer}.mixer.{name}")
        weight = base.get_submodule(f"layers.{layer}.mixer.{name}").weight
        D_b = torch.eye(weight.shape[1]) + torch.block_diag(*wrapper.blocks)
        expected = torch.diag(wrapper.scale) @ weight @ D_b + wrapper.up @ wrapper.down
        torch.testing.assert_close(wrapper.effective_weight()[0], expected)
        u = tokens(weight.shape[1])
        torch.testing.assert_close(wrapper(u), u @ expected.T)
    x = images(model)
    expected = model(x)
    torch.testing.assert_close(model.tuner.merge()(x), expected)


def test_neighbors_on_the_grid_are_gathered() -> None:
    model, hidden = tuned("ssp", hidden_dim=4), tokens()
    prompt = model.layers[1].on_entry.parts(hidden)["neighbors"]
    torch.testing.assert_close(model.layers[1].on_entry(hidden)[0], hidden + prompt)
    assert (prompt[:, 8] == 0).all(), "the class token is left alone"
    down, conv, up = model.ssp.down, model.ssp.conv, model.ssp.up
    own = torch.cat([hidden[:, :8], hidden[:, 9:]], dim=1)
    for row, column in ((0, 0), (1, 2), (3, 3)):
        total = conv.bias.clone().expand(2, -1)
        for i in range(-1, 2):
            for j in range(-1, 2):
                if 0 <= row + i < 4 and 0 <= column + j < 4:
                    total = total + conv.weight[:, 0, i + 1, j + 1] * down(own[:, 4 * (row + i) + column + j])
        place = 4 * row + column
        torch.testing.assert_close(prompt[:, place + (place >= 8)], up(total))


def test_the_gate_remembers_earlier_chunks() -> None:
    options = dict(rank=2, chunks=3, leak=0.5, threshold=0.2)
    model = tuned("memba", **options)
    before, after = model.layers[0].mixer.in_proj, model.layers[1].mixer.in_proj
    u = tokens()
    xz = before(u)
    plain = before.base_layer(u) + before.scale * before.lora_B["default"](before.lora_A["default"](u))
    z, size = plain[..., 32:], 6  # 17 tokens in chunks of 6, 6 and 5
    membrane = torch.zeros(2, 18, 32)
    for t in range(LENGTH):
        kept = membrane[:, t - size] if t >= size else torch.zeros(2, 32)
        membrane[:, t] = 0.5 * torch.where(kept <= 0.2, kept, 0) + z[:, t]
    membrane[:, 17] = 0.5 * torch.where(membrane[:, 11] <= 0.2, membrane[:, 11], 0)
    torch.testing.assert_close(xz, torch.cat([plain[..., :32], membrane[:, :LENGTH]], dim=-1))

    mean = membrane.unflatten(1, (3, size)).mean(1)
    second = after.base_layer(u) + after.scale * after.lora_B["default"](after.lora_A["default"](u))
    first_chunk = second[:, :size, 32:] + 0.5 * torch.where(mean <= 0.2, mean, 0)
    torch.testing.assert_close(after(u)[:, :size, 32:], first_chunk)


def test_without_leak_it_is_lora() -> None:
    torch.manual_seed(3)
    memba = tuned("memba", rank=2, alpha=2.0, leak=0.0)
    lora = tuned("lora", rank=2, alpha=2.0, target_modules=["in_proj", "out_proj"])
    lora.load_state_dict(memba.state_dict())
    assert torch.equal(memba(images(memba)), lora(images(lora)))


@pytest.mark.parametrize("method", ["initial_state", "state_offset", "prodial", "ssp", "memba"])
def test_fused_ops_are_kept(method: str) -> None:
    told = svp.ops.explain(tuned(method))
    assert "fused ops in 3 of 3 BidirectionalMamba" in told
    assert "fused ops in 3 of 3 Block" in told


@pytest.mark.parametrize(
    "methods",
    [
        "initial_state+state_offset",
        "additional_scan+state_offset",
        "additional_scan+initial_state",
        "prodial+ssf",
        "affix+saa",
    ],
)
def test_methods_go_together(methods: str) -> None:
    model = small_vim().eval()
    expected = model(images(model))
    torch.manual_seed(0)
    svp.tune(model, methods)
    if "affix" not in methods:
        torch.testing.assert_close(model(images(model)), expected)
    shake_trained(model.tuner)
    model(images(model)).sum().backward()
    assert all(p.grad is not None for p in model.tuner.trainable_parameters())


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("state_offset+initial_state", "initial_state: another method sets the state already; name initial_state before it"),
        ("initial_state+additional_scan", "additional_scan: another method changes the scan already; name additional_scan"),
        ("svp+ssp", r"the methods of 'svp\+ssp' cannot be combined: two of them change the tokens that enter a block"),
        ("ssp+svp", r"the methods of 'ssp\+svp' cannot be combined: two of them change the tokens that enter a block"),
        ("lora+prodial", r"model\.layers\.0\.mixer\.in_proj is wrapped by another method; attach prodial first"),
        (
            "lora+memba",
            r"the methods of 'lora\+memba' cannot be combined: two of them change model\.layers\.0\.mixer\.in_proj",
        ),
    ],
)
def test_what_does_not_go_together_is_named(methods: str, message: str) -> None:
    options = dict(svp=dict(shared_layers=2)) if "svp" in methods else {}
    with pytest.raises(svp.SvpError, match=message):
        svp.tune(small_vim(), methods, **options)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("state_offset", dict(form="z"), "form is 'z', expected 'h' or 'y'"),
        ("saa", dict(hidden_dim=0), "hidden_dim is 0, expected 1 or more"),
        ("prodial", dict(block_size=5), "block_size is 5, expected a divisor of the tokens' width 16"),
        ("prodial", dict(rank=0), "rank is 0, expected 1 or more"),
        ("ssp", dict(kernel_size=4), "kernel_size is 4, expected an odd number"),
        ("memba", dict(leak=1.5), "leak is 1.5, expected 0 to 1"),
        ("memba", dict(chunks=0), "chunks is 0, expected 1 or more"),
    ],
)
def test_options_out_of_range_are_named(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(svp.SvpError, match=f"{method}: {message}"):
        svp.tune(small_vim(), method, **options)
