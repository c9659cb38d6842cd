"""Recorded gates against their equations, written out token by token in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import svp
from svp.inspection import GATES, gates
from svp.inspection.gate_figures import plot_scales
from svp.models import VisionMamba
from svp.ops import Prompts, selective_scan, use_backend
from svp.tuners import Attachment, BlockEntry, Layout, Method
from svp.tuners.layout import Position
from tests.models.small import images, perturb, runnable_backends, small_vim

DIRECTIONS = ("forward", "backward")


def tuned(method: str, dtype: torch.dtype = torch.float64, img_size: int = 20, **options: Any) -> VisionMamba:
    """A small model whose method does something."""
    few: dict[str, Any] = {"svp": dict(shared_layers=2), "vpt_deep": dict(num_tokens=3), "affix": dict(num_tokens=3)}
    model = small_vim(img_size=img_size).eval()
    names = method.split("+")
    given = few.get(method, {}) if len(names) == 1 else {name: few.get(name, {}) for name in names}
    tuner = svp.tune(model, method, **(given | options))
    with torch.no_grad():
        for n, parameter in enumerate(tuner.trainable_parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(n)))
    return model.to(dtype)


def projections(model: VisionMamba, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of every mixer: what leaves its first projection and what enters its last."""
    first: list[Tensor] = []
    last: list[Tensor] = []
    handles = [block.mixer.in_proj.register_forward_hook(lambda *a: first.append(a[2])) for block in model.layers]
    handles += [block.mixer.out_proj.register_forward_pre_hook(lambda m, a: last.append(a[0])) for block in model.layers]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    depth = len(model.layers)  # a method may look at the images in a pass of its own before
    return list(zip(first[-depth:], last[-depth:], strict=True))


def by_hand(mixer: Any, xz: Tensor, direction: str, cls: int) -> dict[str, Tensor]:
    """The gates of one scan and its attention matrix, from their definitions."""
    back = direction == "backward"
    mark = "_b" if back else ""
    x, z = xz.chunk(2, dim=-1)
    x = getattr(mixer, f"conv1d{mark}")(x)
    low, B, C = getattr(mixer, f"x_proj{mark}")(x).split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1)
    dt = F.softplus(getattr(mixer, f"dt_proj{mark}")(low))
    A = -torch.exp(mixer.A_b_log if back else mixer.A_log)
    D = mixer.D_b if back else mixer.D
    length = x.shape[1]
    forget = torch.exp(torch.einsum("btd,dn->btdn", dt, A))
    update = torch.einsum("btd,btn,btd->btdn", dt, B, x)
    order = list(range(length))[:: -1 if back else 1]
    h, states = torch.zeros_like(update[:, 0]), {}
    for t in order:
        h = forget[:, t] * h + update[:, t]
        states[t] = h
    matrix = torch.zeros(len(x), length, length, x.shape[2], dtype=x.dtype)
    for place, i in enumerate(order):
        for start, j in enumerate(order[: place + 1]):
            steps = sum((dt[:, k] for k in order[start + 1 : place + 1]), torch.zeros_like(dt[:, 0]))
            passed = torch.exp(torch.einsum("bd,dn->bdn", steps, A))
            matrix[:, i, j] = torch.einsum("bn,bdn,bd,bn->bd", C[:, i], passed, dt[:, j], B[:, j])
        matrix[:, i, i] += D
    tau = 1 / torch.einsum("btd,dn->btdn", dt, -A)
    return dict(
        dt=dt.mean(2),
        forget=forget.mean((2, 3)),
        memory=tau.log().mean((2, 3)).exp(),
        update=update.abs().mean((2, 3)),
        state_norm=torch.stack([states[t] for t in range(length)], 1).flatten(2).norm(dim=2),
        contribution=(F.silu(z[:, cls, None]) / 2 * matrix[:, cls] * x).norm(dim=2),
        matrix=matrix,
        y=selective_scan(x, dt.expm1().log(), A, B, C, D, reverse=back, backend="reference"),
    )


@pytest.mark.parametrize("method", ["linear", "svp", "vpt_deep", "affix", "adapter", "svp+vpt_deep"])
def test_equals_the_definitions(method: str) -> None:
    model = tuned(method, img_size=12)
    x = images(model)
    record = gates(model, x, attention=range(3))
    torch.testing.assert_close(record.logits, model(x))
    for layer, (xz, _) in enumerate(projections(model, x)):
        for direction in DIRECTIONS:
            found = getattr(record, direction)
            expected = by_hand(model.layers[layer].mixer, xz, direction, record.cls_position)
            for name in GATES:
                torch.testing.assert_close(getattr(found, name)[layer], expected[name], msg=lambda m, n=name: f"{n}: {m}")
            torch.testing.assert_close(found.attention[layer].matrix, expected["matrix"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_attention_times_input_is_the_output_of_the_scan(direction: str, dtype: torch.dtype) -> None:
    model = tuned("svp", dtype, img_size=12)
    x = images(model)
    xz, _ = projections(model, x)[1]
    found = getattr(gates(model, x, attention=[1]), direction).attention
    assert list(found) == [1]
    product = torch.einsum("bijd,bjd->bid", found[1].matrix, found[1].x)
    expected = by_hand(model.layers[1].mixer, xz, direction, 0)["y"]
    tolerance = dict(rtol=0, atol=1e-5) if dtype == torch.float32 else dict(rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(product, expected, **tolerance)
    torch.testing.assert_close(found[1].y, expected, **tolerance)


@pytest.mark.parametrize(
    ("method", "backend"),
    [
        *((method, backend) for method in ("svp", "additional_scan", "lora") for backend in runnable_backends()),
        *((method, "auto") for method in (*svp.list_methods(), "svp+lora", "svp+vpt_deep")),
    ],
)
def test_attention_is_what_the_model_computes_with_every_method_on_every_backend(method: str, backend: str) -> None:
    """Over tokens and both directions, gated, it adds up to what every mixer's last projection gets, token by token."""
    model = tuned(method, torch.float32, img_size=12)
    x = images(model)
    with use_backend(backend):
        projected = projections(model, x)
        record = gates(model, x, attention=range(3))
        torch.testing.assert_close(record.logits, model(x))
    cls = record.cls_position
    for layer, (xz, expected) in enumerate(projected):
        gate = F.silu(xz.chunk(2, dim=-1)[1]) / 2
        scans = [record.forward.attention[layer], record.backward.attention[layer]]
        products = [torch.einsum("bijd,bjd->bid", scan.matrix, scan.x) + scan.start for scan in scans]
        torch.testing.assert_close(gate * (products[0] + products[1]), expected, rtol=0, atol=1e-5)
        for scan, direction in zip(scans, DIRECTIONS, strict=True):
            part = (gate[:, cls, None] * scan.matrix[:, cls] * scan.x).norm(dim=2)
            torch.testing.assert_close(getattr(record, direction).contribution[layer], part)


@pytest.mark.parametrize("method", ["vpt_shallow", "vpt_deep", "affix"])
@pytest.mark.parametrize("position", get_args(Position))
def test_own_tokens_are_found(method: str, position: str) -> None:
    model = tuned(method, num_tokens=3, position=position)
    record = gates(model, images(model))
    length = 26 + 3
    assert record.forward.update.shape == (3, 2, length)
    layout = svp.tuners.layout.Layout(3, position)  # type: ignore[arg-type]
    added = set(layout.places(26))
    assert record.own.tolist() == [place for place in range(length) if place not in added]
    assert record.cls_position == record.own.tolist()[12]
    values = torch.full((1, length), torch.nan)
    values[:, record.own] = torch.arange(26.0)
    expected = torch.tensor([n for n in range(26) if n != 12]).view(1, 5, 5)
    assert torch.equal(record.image_map(values), expected.float())
    # the class token reads what stands before it in the forward scan and what stands behind it in the backward one
    assert (record.forward.contribution[..., record.cls_position + 1 :] == 0).all()
    assert (record.backward.contribution[..., : record.cls_position] == 0).all()
    assert (record.forward.contribution[..., : record.cls_position + 1] > 0).all()


def test_plain_model_keeps_the_order_of_its_patches() -> None:
    model = small_vim(img_size=(20, 12)).eval()
    record = gates(model, images(model))
    assert record.prompts is None
    assert record.grid_size == (5, 3)
    assert record.own.tolist() == list(range(16))
    assert record.cls_position == 7
    assert record.image_map(record.mean("dt")).shape == (3, 2, 5, 3)
    torch.testing.assert_close(record.mean("dt"), (record.forward.dt + record.backward.dt) / 2)


@pytest.mark.parametrize(
    "options", [{}, {"cross_prompt": "official"}, {"cross": False}, {"inner": False}, {"prompt_cls_token": True}]
)
def test_prompts_equal_their_equations(options: dict[str, Any]) -> None:
    model = small_vim().eval()
    svp.tune(model, "svp", shared_layers=2, **options)
    perturb(model.svp)
    entered: list[Tensor] = []
    inner, cross = [], []
    prompters, config = model.svp, model.svp.config
    hook = prompters.register_forward_hook(lambda m, a, out: entered.extend((a[1], out)))
    model.double()
    prompts = gates(model, images(model)).prompts
    hook.remove()
    assert prompts is not None
    for layer in range(3):
        v, out = entered[2 * layer], entered[2 * layer + 1]
        image_token = (torch.arange(17) != 8) | config.prompt_cls_token
        source = v.clone()
        if config.cross_prompt == "official":
            source[:, 9:] = out[:, :8]
        zero = torch.zeros_like(v)
        inner = config.inner and prompters.inner_scale[layer] * F.silu(prompters.inner_prompters[layer](v))
        cross = config.cross and prompters.cross_scale[layer // 2] * F.silu(prompters.cross_prompters[layer // 2](source))
        inner, cross = ((zero if part is False else part) * image_token[:, None] for part in (inner, cross))
        a, b = inner.norm(dim=2), cross.norm(dim=2)
        torch.testing.assert_close(prompts.norm[layer], (inner + cross).norm(dim=2))
        torch.testing.assert_close(prompts.relative_norm[layer], (inner + cross).norm(dim=2) / v.norm(dim=2))
        for share, part in ((prompts.inner_share, a), (prompts.cross_share, b)):
            torch.testing.assert_close(share[layer], torch.where(image_token, part / (a + b), 0.0))
        torch.testing.assert_close(prompts.alpha[layer], prompters.inner_scale[layer] if config.inner else zero[0, 0])
        torch.testing.assert_close(prompts.beta[layer], prompters.cross_scale[layer // 2] if config.cross else zero[0, 0])


@pytest.mark.parametrize("options", [{}, {"cross_prompt": "official"}])
def test_small_prompts_keep_their_digits_in_low_precision(options: dict[str, Any]) -> None:
    """A token has 8 bits in bfloat16: of a prompt of a hundredth of it, one or two are left in their sum."""
    model = small_vim().eval()
    svp.tune(model, "svp", shared_layers=2, **options)
    perturb(model.svp, 0.01)
    wide = gates(model, images(model)).prompts
    narrow = gates(model.bfloat16(), images(model)).prompts
    assert wide is not None
    assert narrow is not None
    for name in ("norm", "inner_share", "cross_share"):
        found, expected = getattr(narrow, name)[0], getattr(wide, name)[0]  # later layers see other tokens
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-6)


@dataclass(frozen=True)
class Shifts(Method):
    """A method that nobody knows: it shifts the tokens that enter one block, and shows every mixer two tokens more."""

    name = title = "shifts"
    default_lr = default_weight_decay = 0.1

    def attach(self, site: Attachment) -> Iterable[str]:
        layout = Layout(2, "both")
        for block in site.model.layers:
            site.hook(block.mixer.register_forward_pre_hook(lambda _, args: layout.insert(args[0], args[0][:, :2])))
            site.hook(block.mixer.register_forward_hook(lambda _, args, output: layout.own(output)))
        site.added_tokens.add_to_mixers(layout)
        site.replace("layers.1.on_entry", Shift())
        return []


class Shift(BlockEntry):
    def __call__(self, hidden: Tensor) -> tuple[Tensor, Prompts]:
        return hidden + sum(self.parts(hidden).values()), Prompts()

    def parts(self, hidden: Tensor) -> dict[str, Tensor]:
        return {"up": torch.full_like(hidden, 0.3), "down": torch.full_like(hidden, -0.1)}


def test_a_method_is_recorded_by_its_contract_alone() -> None:
    model = small_vim().eval()
    base = model(images(model))
    svp.tune(model, Shifts())
    record = gates(model, images(model))
    assert not torch.allclose(record.logits, base, atol=1e-3)
    assert record.own.tolist() == list(range(1, 18))
    assert record.cls_position == 9
    prompts = record.prompts
    assert prompts is not None
    assert prompts.scales == {}
    assert list(prompts.tokens) == ["norm", "relative_norm", "up_share", "down_share"]
    torch.testing.assert_close(prompts.norm[1, :, 1:-1], torch.full((2, 17), 0.2 * 16**0.5))
    torch.testing.assert_close(prompts.up_share[1, :, 1:-1], torch.full((2, 17), 0.75))
    for values in prompts.tokens.values():
        assert (values[[0, 2]] == 0).all()
        assert (values[:, :, [0, -1]] == 0).all()
    with pytest.raises(AttributeError, match="has no 'alpha'; known: norm, relative_norm, up_share, down_share"):
        _ = prompts.alpha
    figure = plot_scales(svp.inspection.record_activation(model, [images(model)]).prompts)
    assert [bar.get_label() for bar in figure.axes[2].containers] == ["up", "down"]
    model.tuner.detach()
    assert gates(model, images(model)).prompts is None


def test_fresh_prompts_are_nothing() -> None:
    model = small_vim()
    svp.tune(model, "svp", shared_layers=2)
    prompts = gates(model, images(model)).prompts
    assert prompts is not None
    for values in (prompts.norm, prompts.relative_norm, prompts.inner_share, prompts.cross_share):
        assert (values == 0).all()


class LowRank(nn.Module):
    """A wrapped linear map, as PEFT's LoRA makes it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("name", ["in_proj", "x_proj", "dt_proj_b"])
def test_wrapped_modules_count(name: str) -> None:
    model = small_vim(img_size=12).eval()
    x = images(model)
    before = gates(model, x)
    for block in model.layers:
        setattr(block.mixer, name, LowRank(getattr(block.mixer, name)))
    model.double()
    record = gates(model, x.double())
    assert not torch.allclose(record.backward.dt[0].float(), before.backward.dt[0]) or name == "x_proj"
    for layer, (xz, _) in enumerate(projections(model, x.double())):
        for direction in DIRECTIONS:
            expected = by_hand(model.layers[layer].mixer, xz, direction, record.cls_position)
            torch.testing.assert_close(getattr(record, direction).update[layer], expected["update"])


def test_low_precision_is_summarised_in_float32() -> None:
    model = small_vim().eval()
    wide = gates(model, images(model))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = gates(model, images(model))
    narrow = gates(model.bfloat16(), images(model))
    for record in (mixed, narrow):
        assert record.forward.dt.dtype == torch.float32
        torch.testing.assert_close(record.forward.dt, wide.forward.dt, rtol=0.05, atol=1e-3)


def test_compiled_models_are_recorded() -> None:
    """Compiled code calls no hooks that came after it."""
    model = tuned("svp", torch.float32, img_size=12)
    x = images(model, batch=1)
    expected = gates(model, x)
    whole = torch.compile(model, backend="eager")
    for block in model.layers:
        block.compile(backend="eager")
    for compiled in (model, whole):
        with torch.no_grad():
            compiled(x)
        record = gates(compiled, x)
        torch.testing.assert_close(record.forward.update, expected.forward.update)
        assert record.prompts is not None
        assert "torch._dynamo" in str(type(whole))  # still compiled


def traces(model: nn.Module) -> list[Any]:
    """All that a recording might leave behind."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = list(model.named_modules())
    return [(name, m.training, sorted(vars(m)), *(len(getattr(m, kind)) for kind in kinds)) for name, m in modules]


def test_leaves_nothing_behind() -> None:
    model = tuned("svp", torch.float32, dropout=0.5).train()
    model.layers[1].eval()  # a mode of its own
    before, state = traces(model), {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    record = gates(model, images(model))
    assert traces(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not record.logits.requires_grad
    assert record.prompts is None or not record.prompts.alpha.requires_grad


def test_leaves_nothing_behind_on_an_error() -> None:
    model = tuned("svp", torch.float32).train()
    before = traces(model)
    with pytest.raises(ValueError, match="images are 19 x 20, this model takes 20 x 20"):
        gates(model, torch.randn(1, 3, 19, 20))

    def fail(module: nn.Module, args: Any) -> None:
        raise KeyboardInterrupt

    handle = model.layers[2].register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        gates(model, images(model))
    handle.remove()
    assert traces(model) == before


def test_errors() -> None:
    model = small_vim()
    with pytest.raises(ValueError, match="gates: attention names layer 3, expected 0 to 2"):
        gates(model, images(model), attention=[0, 3])
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    with pytest.raises(ValueError, match=r"gates are recorded in the scans of a VisionMamba, this is a VisionTransformer"):
        gates(vit, torch.randn(1, 3, 32, 32))
