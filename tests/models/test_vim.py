"""The backbone beyond the golden numbers: initialization, precision, sizes, options, wrappers, intermediates."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

import svp
from svp.models import BidirectionalMamba, CausalConv1d, Origin, RMSNorm, VisionMamba
from svp.models.checkpoints import give_bias
from tests.models.small import SMALL, device_of, images, runnable_backends, small_vim

# initialization ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["", "_b"], ids=["forward", "backward"])
def test_initial_steps_decay_and_skip(direction: str) -> None:
    mixer = BidirectionalMamba(64, depth=4)
    dt_proj = mixer.get_submodule(f"dt_proj{direction}")
    step = F.softplus(dt_proj.bias.detach().double())
    assert step.min() >= 1e-4
    assert step.max() <= 0.1 * (1 + 1e-5)
    assert step.log().std() > 1  # spread over two decades, log(100) / sqrt(12) = 1.33
    assert dt_proj.weight.abs().max() <= mixer.dt_rank**-0.5
    A_log, D = (mixer.get_parameter(name) for name in (("A_log", "D") if not direction else ("A_b_log", "D_b")))
    torch.testing.assert_close(-torch.exp(A_log), -torch.arange(1.0, 17.0).expand(128, 16))
    assert D.eq(1).all()


def test_initial_projections() -> None:
    mixer = BidirectionalMamba(64, depth=4)
    assert mixer.in_proj.weight.abs().max() <= 1 / 64**0.5
    assert 0.9 / 2 < mixer.out_proj.weight.abs().max() * 128**0.5 <= 1 / 2  # smaller by sqrt(depth)
    model = VisionMamba(**SMALL | dict(embed_dim=64))
    assert 0.01 < model.pos_embed.std() < 0.03
    assert 0.01 < model.head.weight.std() < 0.03
    assert model.head.bias.eq(0).all()
    assert model.patch_embed.proj.bias.eq(0).all()
    assert 0.7 < model.patch_embed.proj.weight.std() * (3 * 4 * 4) ** 0.5 < 1.3
    assert all(p.eq(1).all() for name, p in model.named_parameters() if "norm" in name)


def test_init_weights_starts_afresh_after_the_meta_device() -> None:
    model = VisionMamba(**SMALL, device="meta").to_empty(device="cpu")
    model.init_weights()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert torch.isfinite(model(images(model))).all()


# sizes and options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "patches"),
    [
        (dict(img_size=20), 25),  # odd: fewer in front of the class token than behind
        (dict(img_size=(8, 12)), 6),
        (dict(img_size=(12, 4)), 3),
        (dict(img_size=4), 1),
        (dict(img_size=16, stride=2), 49),
        (dict(img_size=18), 16),  # pixels beyond the last whole patch are not seen, as in any strided convolution
        (dict(img_size=(16, 24), patch_size=(4, 8), stride=(4, 8)), 12),
    ],
    ids=str,
)
def test_sizes(sizes: dict[str, Any], patches: int) -> None:
    model = small_vim(**sizes)
    assert model.patch_embed.num_patches == patches
    assert model.pos_embed.shape == (1, patches + 1, 16)
    assert model.cls_position == patches // 2
    logits = model(images(model, batch=1))
    assert logits.shape == (1, 5)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    tokens = model.forward_features(images(model, batch=1))
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), tokens[:, patches // 2])


def test_class_token_and_patches_keep_their_places() -> None:
    model = small_vim(img_size=(8, 12))  # 6 patches: three in front, three behind
    x = images(model, batch=1)
    tokens = model._embed(x) - model.pos_embed
    patches = model.patch_embed(x)
    torch.testing.assert_close(tokens[:, 3], model.cls_token[:, 0])
    torch.testing.assert_close(tokens[:, [0, 1, 2, 4, 5, 6]], patches)
    kernel = model.patch_embed.proj
    corner = (x[0, :, 4:8, 0:4] * kernel.weight).sum((1, 2, 3)) + kernel.bias  # second row of the grid, first column
    torch.testing.assert_close(patches[0, 3], corner)


def test_examples_of_a_batch_do_not_mix() -> None:
    model = small_vim().eval()
    x = images(model, batch=4)
    one_by_one = torch.cat([model(image[None]) for image in x])
    torch.testing.assert_close(model(x), one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 20, 16), (2, 3, 16, 15)])
def test_wrong_image_size_says_what_to_do(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"images are {shape[2]} x {shape[3]}, this model takes 16 x 16; .*img_size="):
        small_vim()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(depth=0), "depth is 0, expected 1 or more"),
        (dict(embed_dim=-1), "embed_dim is -1"),
        (dict(d_state=0), "d_state is 0"),
        (dict(d_conv=0), "d_conv is 0"),
        (dict(expand=0), "expand is 0"),
        (dict(in_chans=0), "in_chans is 0"),
        (dict(num_classes=-1), "num_classes is -1, expected 0 or more"),
        (dict(drop_rate=1.0), "drop_rate is 1.0, expected 0 <= drop_rate < 1"),
        (dict(drop_path_rate=-0.1), "drop_path_rate is -0.1"),
        (dict(global_pool="max"), "global_pool is 'max', expected 'token', 'avg' or ''"),
        (dict(img_size=3), r"img_size \(3, 3\) is smaller than patch_size \(4, 4\)"),
        (dict(patch_size=0), "patch_size is 0"),
        (dict(stride=(4, 0)), "stride is 0"),
    ],
    ids=str,
)
def test_option_errors_name_the_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionMamba(**SMALL | options)


def test_set_input_size() -> None:
    model = small_vim()
    model.pos_embed.requires_grad_(False)
    rows = model.pos_embed.detach().clone()
    model.set_input_size(None)
    model.set_input_size(16)
    assert torch.equal(model.pos_embed, rows)
    model.set_input_size((20, 24))
    assert model.pos_embed.shape == (1, 31, 16)
    assert torch.equal(model.pos_embed[:, 15], rows[:, 8])
    assert not model.pos_embed.requires_grad
    assert model(images(model)).shape == (2, 5)
    with pytest.raises(ValueError, match="this model takes 20 x 24"):
        model(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="smaller than patch_size"):
        model.set_input_size(3)
    assert model(images(model)).shape == (2, 5), "a refused size changes nothing"


# stochastic depth ----------------------------------------------------------------------------------------------------------


def rate_of(module: nn.Module) -> float:
    return module.drop_prob if isinstance(module, DropPath) else 0.0


def test_rate_of_every_block() -> None:
    model = small_vim(depth=5, drop_path_rate=0.2)
    released = [0.0, *torch.linspace(0, 0.2, 5).tolist()]
    assert [rate_of(block.drop_path) for block in model.layers] == pytest.approx(released[:5])
    assert rate_of(model.drop_path) == pytest.approx(0.2)
    assert rate_of(small_vim(depth=1, drop_path_rate=0.2).layers[0].drop_path) == 0


def test_without_rate_training_equals_evaluation() -> None:
    model = small_vim()
    x = images(model)
    assert torch.equal(model.train()(x), model.eval()(x))


def test_hidden_is_dropped_before_it_joins_the_residual() -> None:
    """Rates near 1 drop every stream but the one into block 0: what is left can be computed by hand."""
    model = small_vim(drop_path_rate=0.5).train()
    for module in (*(block.drop_path for block in model.layers[1:]), model.drop_path):
        module.forward = torch.zeros_like  # drops always
    x = images(model)
    embedded = model._embed(x)
    torch.testing.assert_close(model.forward_features(x), model.norm_f(embedded))
    model.layers[2].drop_path.forward = lambda hidden: hidden / 2  # what block 1 made joins at half
    hidden, _ = model.layers[1](torch.zeros_like(embedded), embedded)
    torch.testing.assert_close(model.forward_features(x), model.norm_f(embedded + hidden / 2))


def test_dropped_path_is_per_image_and_off_in_evaluation() -> None:
    model = small_vim(drop_path_rate=0.5)
    x = images(model, batch=1).expand(16, -1, -1, -1)
    logits = model.train()(x)
    assert (logits - logits[:1]).abs().amax(1).gt(1e-6).any()
    logits = model.eval()(x)
    torch.testing.assert_close(logits, logits[:1].expand_as(logits))


# precision -----------------------------------------------------------------------------------------------------------------


def watch_streams(model: VisionMamba) -> list[tuple[torch.dtype, torch.dtype]]:
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    for block in model.layers:
        block.register_forward_hook(lambda _, __, out: seen.append((out[0].dtype, out[1].dtype)))
    return seen


def relative_difference(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize("backend", runnable_backends())
def test_bfloat16_autocast_keeps_the_residual_in_float32(backend: str) -> None:
    model = small_vim().to(device_of(backend))
    seen = watch_streams(model)
    x = images(model)
    with svp.ops.use_backend(backend), torch.autocast(device_of(backend), torch.bfloat16):
        logits = model(x)
        logits.float().square().sum().backward()
    assert seen == [(torch.bfloat16, torch.float32)] * 3
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in model.parameters())
    assert relative_difference(logits, model(x)) < 0.02


@pytest.mark.parametrize("backend", runnable_backends())
def test_pure_bfloat16_keeps_the_residual_in_float32(backend: str) -> None:
    model = small_vim().to(device_of(backend))
    expected = model(images(model))
    model.bfloat16()
    seen = watch_streams(model)
    with svp.ops.use_backend(backend):
        logits = model(images(model))
        logits.float().square().sum().backward()
    assert logits.dtype == torch.bfloat16
    assert seen == [(torch.bfloat16, torch.float32)] * 3
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert relative_difference(logits, expected) < 0.05
    model.grad_checkpointing = True
    model.train()(images(model)).float().sum().backward()


def test_bfloat16_model_under_autocast() -> None:
    model = small_vim().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        model(images(model)).float().sum().backward()


@pytest.mark.parametrize(("hooked", "module"), [(True, "svp.models.mixer"), (False, "svp.ops.bidirectional_scan.reference")])
def test_step_size_stays_in_full_precision_under_autocast(hooked: bool, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    real = svp.ops.selective_scan
    record = lambda x, dt, *a, **k: seen.append(dt.dtype) or real(x, dt, *a, **k)  # noqa: E731
    monkeypatch.setattr(import_module(module), "selective_scan", record)
    model = small_vim()
    for block in model.layers:
        if hooked:
            block.mixer.dt_proj.register_forward_hook(lambda *_: None)
    with torch.autocast("cpu", torch.bfloat16), svp.ops.use_backend("any_device"):
        model(images(model))
    assert seen == [torch.float32] * 6


def test_fused_kernels_run_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("svp.ops.bidirectional_scan"), "bidirectional_scan_composed", None)
    model = small_vim()
    with torch.autocast("cpu", torch.bfloat16), svp.ops.use_backend("numba"):
        model(images(model)).float().sum().backward()


# what a tuner may wrap -----------------------------------------------------------------------------------------------------


class AddSomething(nn.Module):
    """A wrapper as PEFT's LoRA: calls what it wraps and adds to the result."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.amount = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.wrapped(x) + self.amount


IN_MIXER = ["in_proj", "x_proj", "dt_proj", "conv1d", "conv1d_b", "x_proj_b", "dt_proj_b", "out_proj"]
WRAPPED = ["norm", *(f"mixer.{name}" for name in IN_MIXER)]


@pytest.mark.parametrize("frozen", [False, True], ids=["training", "frozen"])
@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("backend", runnable_backends())
def test_wrapped_module_takes_effect(backend: str, name: str, frozen: bool) -> None:
    model = small_vim(depth=2).to(device_of(backend)).requires_grad_(not frozen)
    x = images(model)
    with svp.ops.use_backend(backend):
        before = model(x)
        wrapper = AddSomething(model.layers[1].get_submodule(name)).to(x.device)
        model.layers[1].set_submodule(name, wrapper)
        after = model(x)
        after.square().sum().backward()
    assert not torch.allclose(before, after, rtol=1e-4, atol=1e-5)
    assert wrapper.amount.grad.abs() > 0


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "own_forward", "subclass"])
@pytest.mark.parametrize("name", WRAPPED)
def test_other_ways_to_change_a_frozen_module_take_effect(name: str, kind: str) -> None:
    model = small_vim(depth=1).requires_grad_(False)
    x = images(model)
    before = model(x)
    module = model.layers[0].get_submodule(name)
    calls: list[str] = []
    if kind == "own_forward":
        original = module.forward
        module.forward = lambda x: (calls.append(name), 2 * original(x))[1]
    elif kind == "subclass":

        class Doubled(type(module)):  # type: ignore[misc]
            def forward(self, x: Tensor) -> Tensor:
                calls.append(name)
                return 2 * super().forward(x)

        module.__class__ = Doubled
    elif kind == "forward_hook":
        module.register_forward_hook(lambda _, args, out: (calls.append(name), 2 * out)[1])
    else:
        module.register_forward_pre_hook(lambda _, args: (calls.append(name), (2 * args[0],))[1])
    after = model(x)
    assert calls == [name]
    assert not torch.allclose(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["norm", "mixer.in_proj", "mixer.x_proj", "mixer.x_proj_b", "mixer.out_proj"])
@pytest.mark.parametrize("backend", runnable_backends())
def test_a_bias_takes_effect_where_there_was_none(backend: str, name: str) -> None:
    model = small_vim(depth=2).to(device_of(backend))
    x = images(model)
    module = model.layers[1].get_submodule(name)
    bias = torch.linspace(-0.5, 0.5, len(module.weight), device=x.device)
    with svp.ops.use_backend(backend):
        before = model(x)
        hook = module.register_forward_hook(lambda _, args, out: out + bias)
        expected = model(x)
        hook.remove()
        with torch.no_grad():
            give_bias(module).copy_(bias)
        after = model(x)
        after.sum().backward()
    assert not torch.allclose(before, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after, expected)
    assert module.bias.grad.abs().max() > 0


def test_bias_of_a_norm_keeps_the_dtypes() -> None:
    norm = RMSNorm(4, eps=1e-5, dtype=torch.bfloat16)
    assert list(norm.state_dict()) == ["weight"]
    with torch.no_grad():
        give_bias(norm).fill_(-1)
    x = torch.full((2, 4), 3.0)
    assert norm(x).dtype == torch.bfloat16
    # added in float32: had 0.9999994 been rounded before, nothing would be left
    assert (norm(x) < 0).all()


def test_a_frozen_mixer_runs_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    from svp.models import mixer

    calls: list[bool] = []
    fused = mixer.bidirectional_scan
    monkeypatch.setattr(mixer, "bidirectional_scan", lambda *args: (calls.append(True), fused(*args))[1])
    model = small_vim()
    model(images(model))
    assert len(calls) == len(model.layers)


def test_residual_and_norm_run_fused_unless_the_path_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    blocks = import_module("svp.models.blocks")
    fused = blocks.add_rms_norm
    monkeypatch.setattr(blocks, "add_rms_norm", lambda *args: (calls.append(True), fused(*args))[1])
    model = small_vim(drop_path_rate=0.5).train()
    rates = [block.drop_path.drop_prob for block in model.layers]
    model(images(model))
    assert len(calls) == rates.count(0) < len(model.layers)
    model.eval()(images(model))
    assert len(calls) == rates.count(0) + len(model.layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_norm_is_given_in_the_dtype_of_the_mixer(dtype: torch.dtype) -> None:
    model, seen = small_vim(), []
    for block in model.layers:
        block.mixer.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        model(images(model))
    assert set(seen) == {dtype}


# head, intermediates, checkpointing ----------------------------------------------------------------------------------------


def test_pooling() -> None:
    model = small_vim()
    tokens = model.forward_features(images(model))
    m = model.cls_position
    image_tokens = torch.cat([tokens[:, :m], tokens[:, m + 1 :]], dim=1)
    torch.testing.assert_close(model.forward_head(tokens), model.head(tokens[:, m]))
    model.reset_classifier(0, "avg")
    torch.testing.assert_close(model.forward_head(tokens), image_tokens.mean(1))
    model.reset_classifier(0, "")
    assert torch.equal(model.forward_head(tokens), tokens)
    model.reset_classifier(7, "token")
    assert model(images(model)).shape == (2, 7)
    with pytest.raises(ValueError, match="global_pool is 'max'"):
        model.reset_classifier(3, "max")


def test_forward_intermediates_with_class_token() -> None:
    model = small_vim(img_size=(20, 12)).eval()  # 5 x 3 = 15 patches, class token at 7
    x = images(model)
    final, taps = model.forward_intermediates(x, return_prefix_tokens=True)
    assert torch.equal(final, model.forward_features(x))
    assert len(taps) == 3
    for image_tokens, cls_token in taps:
        assert image_tokens.shape == (2, 16, 5, 3)
        assert cls_token.shape == (2, 1, 16)
    image_tokens, cls_token = model.forward_intermediates(x, [-1], True, True, output_fmt="NLC", intermediates_only=True)[0]
    torch.testing.assert_close(torch.cat([image_tokens[:, :7], cls_token, image_tokens[:, 7:]], dim=1), final)
    as_map = model.forward_intermediates(x, [-1], norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(as_map.flatten(2).transpose(1, 2), image_tokens)


def test_intermediates_are_the_residual_stream() -> None:
    model = small_vim().eval()
    x = images(model)
    hidden, residual = model._embed(x), None
    sums = []
    for block in model.layers:
        hidden, residual = block(hidden, residual)
        sums.append(residual + hidden)
    for i, expected in enumerate(sums):
        tap = model.forward_intermediates(x, [i], output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True)[0]
        assert torch.equal(tap[1], expected[:, 8:9])
        assert torch.equal(tap[0], torch.cat([expected[:, :8], expected[:, 9:]], dim=1))


def test_intermediates_stop_early_and_refuse_formats() -> None:
    model = small_vim().eval()
    x = images(model)
    model.layers[2].forward = None  # would fail if it were called
    assert len(model.forward_intermediates(x, [0, 1], stop_early=True, intermediates_only=True)) == 2
    with pytest.raises(ValueError, match="output_fmt is 'NHWC', expected 'NCHW' or 'NLC'"):
        model.forward_intermediates(x, output_fmt="NHWC")


def test_intermediates_do_not_run_hooks_twice() -> None:
    model = small_vim().eval()
    calls: list[int] = []
    for i, block in enumerate(model.layers):
        block.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
    model.forward_intermediates(images(model))
    assert calls == [0, 1, 2]


@pytest.mark.parametrize("backend", runnable_backends())
def test_gradient_checkpointing_gives_the_same_gradients(backend: str) -> None:
    model = small_vim(drop_path_rate=0.3).to(device_of(backend)).train()
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(3)  # the same paths are dropped
        with svp.ops.use_backend(backend):
            model(images(model)).square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=name)


def test_deepcopy_is_independent() -> None:
    model = small_vim()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.cls_token.add_(1)
    assert not torch.equal(model.cls_token, copied.cls_token)


# making a backbone again ---------------------------------------------------------------------------------------------------


def body(model: VisionMamba) -> dict[str, Tensor]:
    return {name: t for name, t in model.state_dict().items() if not name.startswith("head.")}


def test_seeded_origin_depends_on_nothing_but_its_seed() -> None:
    overrides = {name: value for name, value in SMALL.items() if name != "num_classes"}
    origin = Origin("vim_nano_patch4_32", "random", overrides, seed=7)
    torch.manual_seed(1)
    first = origin.build(3)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second = origin.build(9)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator moved"
    third = origin.build()
    assert (first.num_classes, second.num_classes) == (3, 9)
    assert third.num_classes == third.pretrained_cfg["num_classes"]
    for name, tensor in body(first).items():
        assert torch.equal(tensor, body(second)[name]), name
        assert torch.equal(tensor, body(third)[name]), name
    other = Origin("vim_nano_patch4_32", "random", overrides, seed=8).build(3)
    assert not torch.equal(other.pos_embed, first.pos_embed)
    assert first.origin == origin
    assert origin.build(0).num_classes == 0


def test_create_model_remembers_its_origin() -> None:
    model = svp.create_model("vim_nano", img_size=16, depth=2)
    assert model.origin.name == "vim_nano_patch4_32"
    assert model.origin.weights == "random"
    assert model.origin.overrides == dict(img_size=16, depth=2)
    assert model.origin.build(4).patch_embed.img_size == (16, 16)
    assert svp.create_model("vim_nano", num_classes=0).num_classes == 0


def test_causal_conv_has_the_parameters_of_a_conv1d_but_is_none() -> None:
    """What replaces every nn.Conv1d (PEFT) would run over the wrong axis."""
    conv = CausalConv1d(64, 4)
    theirs = torch.nn.Conv1d(64, 64, 4, groups=64)
    assert not isinstance(conv, torch.nn.Conv1d)
    assert {n: t.shape for n, t in conv.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    for parameter in conv.parameters():
        assert 0.45 < parameter.abs().max() <= 0.5
    conv.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 7, 64)
    expected = torch.nn.functional.silu(theirs(torch.nn.functional.pad(x.transpose(1, 2), (3, 0)))).transpose(1, 2)
    torch.testing.assert_close(conv(x), expected)
