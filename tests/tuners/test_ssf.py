"""SSF: its equation in every place, what it leaves when merged, and what stands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import svp
from svp.tuners import SSF, Attachment, Method
from svp.tuners.ssf import ScaleShift
from tests.models.small import SMALL, device_of, images, perturb, runnable_backends, small_vim


def shaken(model: Any) -> Any:
    """The model under SSF, every scale and shift off its start."""
    svp.tune(model, "ssf")
    perturb(model.ssf, amount=0.3)
    return model


def block_by_hand(model: Any, layer: int, hidden: Tensor, residual: Tensor) -> Tensor:
    """What a block gives as hidden stream, from weights alone."""
    block, ssf = model.layers[layer], model.ssf.get_submodule(f"layers.{layer}")
    mixer = block.mixer

    def after(name: str, y: Tensor) -> Tensor:
        of = ssf.get_submodule(name)
        return y * of.scale + of.shift

    u = residual + hidden
    u = after("norm", u / (u.square().mean(-1, keepdim=True) + 1e-5).sqrt() * block.norm.weight)
    x, z = after("mixer.in_proj", u @ mixer.in_proj.weight.T).chunk(2, dim=-1)
    ys = []
    for b, A_log, D in (("", mixer.A_log, mixer.D), ("_b", mixer.A_b_log, mixer.D_b)):
        conv = mixer.get_submodule(f"conv1d{b}").base_layer
        padding = (0, 3) if b else (3, 0)
        taps = conv.weight.flip(-1) if b else conv.weight
        convolved = F.conv1d(F.pad(x.mT, padding), taps, conv.bias, groups=x.shape[-1]).mT
        x_ = F.silu(after(f"mixer.conv1d{b}", convolved))
        p = after(f"mixer.x_proj{b}", x_ @ mixer.get_submodule(f"x_proj{b}").weight.T)
        dt, B, C = p.split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1)
        dt_proj = mixer.get_submodule(f"dt_proj{b}")
        step = F.softplus(after(f"mixer.dt_proj{b}", dt @ dt_proj.weight.T + dt_proj.bias))
        h, y = torch.zeros(len(x), *A_log.shape, dtype=x.dtype), torch.empty_like(x)
        for t in reversed(range(x.shape[1])) if b else range(x.shape[1]):
            h = (-step[:, t, :, None] * A_log.exp()).exp() * h + (step[:, t] * x_[:, t])[..., None] * B[:, t, None]
            y[:, t] = (h * C[:, t, None]).sum(-1) + D * x_[:, t]
        ys.append(y * F.silu(z))
    return after("mixer.out_proj", (ys[0] + ys[1]) / 2 @ mixer.out_proj.weight.T)


@torch.no_grad()
@pytest.mark.parametrize("backend", runnable_backends())
def test_a_block_equals_its_equation(backend: str) -> None:
    model = shaken(small_vim())
    hidden, residual = torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    expected = block_by_hand(model, 1, hidden, residual)
    device = device_of(backend)
    model.to(device)
    with svp.ops.use_backend(backend):
        found, _ = model.layers[1](hidden.to(device), residual.to(device))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_patch_embedding_and_final_norm() -> None:
    plain, model = small_vim(), shaken(small_vim())
    x = images(model)
    proj, norm = model.ssf.patch_embed.proj, model.ssf.norm_f
    torch.testing.assert_close(model.patch_embed(x), plain.patch_embed(x) * proj.scale + proj.shift)
    tokens = torch.randn(2, 3, 16)
    torch.testing.assert_close(model.norm_f(tokens), plain.norm_f(tokens) * norm.scale + norm.shift)


@torch.no_grad()
def test_merging_is_exact() -> None:
    model = shaken(small_vim().double())
    x = images(model)
    expected = model(x)
    released = {name: tensor.shape for name, tensor in small_vim().state_dict().items()}
    merged = model.tuner.merge()
    torch.testing.assert_close(merged(x), expected, rtol=1e-12, atol=1e-12)
    state = merged.state_dict()
    assert {name: tensor.shape for name, tensor in state.items() if name in released} == released
    assert all(name.endswith(".bias") for name in state.keys() - released.keys())
    assert all(p.requires_grad for p in merged.parameters())


def test_merged_weights_load_again(tmp_path: Path) -> None:
    merged = shaken(small_vim()).tuner.merge().eval()
    expected = merged(images(merged))
    save_file(merged.state_dict(), tmp_path / "merged.safetensors")
    loaded = svp.create_model("vim_nano", pretrained=tmp_path / "merged.safetensors", **SMALL).eval()
    assert torch.equal(loaded(images(loaded)), expected)

    svp.tune(merged, "linear")  # an adapter of its own on top of what was merged
    merged.origin = svp.models.Origin("vim_nano_patch4_32", "random", {k: v for k, v in SMALL.items() if k != "num_classes"})
    svp.save_adapter(merged, tmp_path)
    assert torch.equal(svp.load_adapter(tmp_path)(images(merged)), expected)


@pytest.mark.parametrize("global_pool", ["token", "avg"])
def test_on_a_vit(global_pool: str) -> None:
    def vit() -> Any:
        sizes: dict[str, Any] = dict(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=5)
        torch.manual_seed(0)
        return perturb(timm.models.VisionTransformer(global_pool=global_pool, **sizes)).eval()

    x = torch.randn(2, 3, 16, 16)
    model = vit()
    svp.tune(model, "ssf")
    torch.testing.assert_close(model(x), vit()(x))
    d, norms = 16, 1 if global_pool == "token" else 0  # timm puts the last norm behind the mean
    assert model.tuner.num_trainable_without_head == 2 * (d + 2 * (d + 3 * d + d + d + 4 * d + d) + norms * d)
    perturb(model.ssf, amount=0.3)
    block, ssf, u = model.blocks[1], model.ssf.blocks.get_submodule("1"), torch.randn(2, 5, 16)
    hidden = F.linear(u, block.mlp.fc1.weight, block.mlp.fc1.bias) * ssf.mlp.fc1.scale + ssf.mlp.fc1.shift
    out = F.linear(F.gelu(hidden), block.mlp.fc2.weight, block.mlp.fc2.bias) * ssf.mlp.fc2.scale + ssf.mlp.fc2.shift
    torch.testing.assert_close(block.mlp(u), out)
    expected = model(x)
    assert not torch.allclose(expected, vit()(x), atol=1e-3)
    merged = model.tuner.merge()
    torch.testing.assert_close(merged(x), expected)
    assert list(merged.state_dict()) == list(vit().state_dict()), "a ViT has every bias already"


def test_scale_is_not_rounded_under_autocast() -> None:
    scale_shift = ScaleShift(torch.zeros(4, 2))
    with torch.no_grad():
        scale_shift.scale.fill_(1.003)
        scale_shift.shift.fill_(-1)
    with torch.autocast("cpu", torch.bfloat16):
        y = scale_shift(torch.ones(2, 4, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), torch.full((2, 4), 0.003), rtol=1e-2, atol=0)


class PlusMap(nn.Module):
    """What LoRA comes down to: another linear map beside the first."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.delta = nn.Parameter(torch.zeros_like(base_layer.weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + F.linear(x, self.delta)


class PlusMapMethod(Method):
    name, mergeable = "plus", True
    default_lr = default_weight_decay = 0.0

    def attach(self, site: Attachment) -> list[str]:
        paths = [f"layers.{i}.mixer.{name}" for i in range(3) for name in ("in_proj", "x_proj")]
        return [name for path in paths for name in site.wrap(path, PlusMap(site.model.get_submodule(path)))]

    @torch.no_grad()
    def bake(self, model: Any) -> None:
        for module in [m for m in model.modules() if isinstance(m, PlusMap)]:
            module.base_layer.weight.add_(module.delta)


@torch.no_grad()
@pytest.mark.parametrize("ssf_first", [True, False])
def test_merges_together_with_wrapped_modules(ssf_first: bool) -> None:
    model = small_vim().double()
    methods: list[Method] = [SSF(), PlusMapMethod()]
    tuner = svp.tune(model, methods if ssf_first else methods[::-1])
    for parameter in tuner.trainable_parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    in_proj, u = model.layers[0].mixer.in_proj, torch.randn(2, 3, 16).double()
    of, (weight, delta) = model.ssf.get_submodule("layers.0.mixer.in_proj"), (in_proj.base_layer.weight, in_proj.delta)
    outside = u @ delta.T * (1 if ssf_first else of.scale)  # the later method acts on what the earlier one gives
    torch.testing.assert_close(in_proj(u), u @ weight.T * of.scale + of.shift + outside)
    expected = model(images(model))
    merged = tuner.merge()
    torch.testing.assert_close(merged(images(model)), expected, rtol=1e-12, atol=1e-12)


def test_a_wrapped_convolution_is_refused() -> None:
    model = small_vim()

    class Wrap(PlusMapMethod):
        def attach(self, site: Attachment) -> list[str]:
            conv1d = nn.Module()
            conv1d.base_layer = site.model.layers[2].mixer.conv1d
            return site.wrap("layers.2.mixer.conv1d", conv1d)

    before = [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match=r"ssf: another method wraps layers\.2\.mixer\.conv1d already; name ssf first"):
        svp.tune(model, [Wrap(), SSF()])
    assert [name for name, _ in model.named_modules()] == before


@pytest.mark.parametrize("other", ["svp", "vpt_deep", "affix", "adapter", "bitfit", "additional_scan"])
def test_beside_other_methods_in_any_order(other: str) -> None:
    options: Any = dict(svp=dict(shared_layers=2)) if other == "svp" else {}
    first, second = small_vim().eval(), small_vim().eval()
    svp.tune(first, f"ssf+{other}", **options)
    perturb(nn.ParameterList(first.tuner.trainable_parameters()))
    svp.tune(second, f"{other}+ssf", **options).load_state_dict(first.tuner.state_dict())
    outputs = [model(images(model)) for model in (first, second)]
    torch.testing.assert_close(*outputs)
