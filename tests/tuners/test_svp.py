"""Selective Visual Prompting: the released numbers, the counts of the paper, released weights, options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import svp
from svp.models import VisionMamba, WeightsError, blocks
from svp.tuners import SVP, simam
from tests.golden import TOLERANCE, Case, assert_close, load_case, read_json
from tests.models.small import device_of, images, perturb, runnable_backends, small_vim
from tests.models.test_goldens import build, record_layers

CASES = ["svp_micro_official", "svp_micro_paper", "svp_micro_simam", "svp_micro_head2"]
SMALL = dict(shared_layers=2, hidden_dim=4)


def tuned(case: Case, **overrides: Any) -> VisionMamba:
    config = case.config
    model = build(case)
    options = dict(
        shared_layers=config["shared_layers"],
        hidden_dim=config["inner_hidden"],
        cross_prompt=config["cross_prompt"],
        simam=config["input_simam"],
        head=config["head"],
    )
    svp.tune(model, "svp", **options | overrides)
    return model


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_goldens(name: str, dtype: torch.dtype) -> None:
    case = load_case(name)
    model = tuned(case)
    report = svp.load_official(model, case.weight)
    assert (report.loaded, report.missing, report.unexpected) == (len(case.weight), (), ())
    model.to(dtype)
    pixels = case.input["images"].to(dtype).requires_grad_()
    seen = record_layers(model)
    model.patch_embed.register_forward_hook(lambda _, args, __: seen.update(images_after_simam=args[0]))

    tokens = model.forward_features(pixels)
    logits = model.forward_head(tokens)

    limit = TOLERANCE[dtype]
    assert_close({key: seen[key] for key in case.debug}, case.debug, limit["output"])
    feature = model.forward_head(tokens, pre_logits=True)
    assert_close({"logits": logits, "feature": feature, "tokens": tokens}, case.output, limit["output"])

    (logits * case.input["cotangent_logits"].to(dtype)).sum().backward()
    ours = {model.tuner.methods["svp"].rename_released(key): key for key in case.grad if key != "images"}
    assert set(ours) == set(model.tuner.trainable_names)
    grads = {key: model.get_parameter(name).grad for name, key in ours.items()} | {"images": pixels.grad}
    assert_close({key: grads[key] for key in case.grad}, case.grad, limit["grad"])


def test_official_and_paper_differ_behind_the_class_token_only() -> None:
    case = load_case("svp_micro_official")
    inputs = {}
    for cross_prompt in ("official", "paper"):
        model = tuned(case, cross_prompt=cross_prompt)
        svp.load_official(model, case.weight)
        inputs[cross_prompt] = record_layers(model)
        model(case.input["images"])
    official, paper = (inputs[name]["layer0/hidden_in"] for name in ("official", "paper"))
    torch.testing.assert_close(official[:, :9], paper[:, :9])
    assert not torch.allclose(official[:, 9:], paper[:, 9:], atol=1e-3)


# counts and keys -----------------------------------------------------------------------------------------------------------

PER_DATASET = {
    name: row for name, row in read_json("keys")["svp_vim_small_per_dataset"].items() if row["trainable_parameters"]
}


@pytest.mark.parametrize("dataset", PER_DATASET)
def test_counts_of_every_data_set(dataset: str) -> None:
    row = PER_DATASET[dataset]
    recipe = read_json("recipe")["per_dataset"][dataset]
    assert recipe["trainable_parameters"] == row["trainable_parameters"]
    model = svp.create_model("vim_small", num_classes=row["num_classes"], device="meta")
    tuner = svp.tune(model, "svp", shared_layers=recipe["shared_layers"], head=recipe["head"], simam=recipe["input_simam"])
    assert tuner.num_trainable == row["trainable_parameters"]
    assert tuner.num_trainable_without_head == row["trainable_parameters_without_head"]
    assert tuner.num_trainable - tuner.num_trainable_without_head == row["head_parameters"]


def test_defaults_are_the_papers() -> None:
    assert SVP() == SVP(8, 64, True, True, "paper", True, 0.0, False, 0.0, False, "linear")
    model = svp.create_model("vim_small", num_classes=100, device="meta")
    assert svp.tune(model).num_trainable_without_head == 1_644_288
    assert model.tuner.name == "svp"


def test_keys_of_the_released_model() -> None:
    released = read_json("keys")["models"]["svp_vim_small"]
    model = svp.create_model("vim_small", num_classes=released["num_classes"], device="meta")
    tuner = svp.tune(model, "svp", shared_layers=released["shared_layers"])
    ours = {name: list(t.shape) for name, t in model.state_dict().items()}
    assert {tuner.methods["svp"].rename_released(key): list(shape) for key, shape in released["keys"].items()} == ours
    assert sum(p.numel() for p in model.parameters()) == released["total_parameters"]


# released weights ----------------------------------------------------------------------------------------------------------


def test_untuned_model_is_told_how_to_tune() -> None:
    for name in ("svp_micro_official", "svp_micro_head2"):
        case = load_case(name)
        model = build(case)
        with pytest.raises(WeightsError, match=r"holds SVP weights: first call svp\.tune\(") as error:
            svp.load_official(model, case.weight)
        call = str(error.value).partition("first call ")[2]
        assert call.startswith('svp.tune(model, "svp", cross_prompt="official", shared_layers=2, hidden_dim=64')
        exec(call, {"svp": svp, "model": model})  # the advice works as it stands
        assert svp.load_official(model, case.weight).missing == ()
        with torch.no_grad():
            logits = model(case.input["images"])
        assert_close({"logits": logits}, {"logits": case.output["logits"]}, 1e-5)


def test_released_scale_has_24_rows() -> None:
    case = load_case("svp_micro_official")
    padding = torch.full((20, 32), 1e3)  # unused rows of the release
    model = tuned(case)
    svp.load_official(model, case.weight | {"prompt_scale": torch.cat([case.weight["prompt_scale"], padding])})
    assert torch.equal(model.svp.inner_scale, case.weight["prompt_scale"])
    with torch.no_grad():
        assert_close({"x": model(case.input["images"])}, {"x": case.output["logits"]}, 1e-5)


def test_released_backbone_goes_under_a_tuned_model() -> None:
    case = load_case("vim_micro")
    model = build(case)
    tuner = svp.tune(model, "svp", **SMALL)
    report = svp.load_official(model, case.weight)
    assert set(report.missing) == {name for name in tuner.trainable_names if name.startswith("svp.")}
    assert report.unexpected == ()


def test_weights_of_other_options_do_not_load_silently() -> None:
    case = load_case("svp_micro_official")
    with pytest.raises(WeightsError, match=r"svp\.cross_scale: file \(2, 32\), model \(4, 32\)"):
        svp.load_official(tuned(case, shared_layers=1), case.weight)
    report = svp.load_official(tuned(case, cross=False), case.weight)
    assert len(report.unexpected) == 5
    assert all("cross" in name for name in report.unexpected)
    report = svp.load_official(tuned(case, head="two_linear"), case.weight)
    assert set(report.unexpected) == {"head.weight", "head.bias"}
    assert set(report.missing) == {"head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"}


# the prompts ---------------------------------------------------------------------------------------------------------------


def prompted_by_hand(model: VisionMamba, layer: int, v: Tensor) -> Tensor:
    p, group = model.svp, layer // SMALL["shared_layers"]
    first, second = p.inner_prompters[layer]
    inner = F.silu((v @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    cross = F.silu(v @ p.cross_prompters[group].weight.T + p.cross_prompters[group].bias)
    return v + p.inner_scale[layer] * inner + p.cross_scale[group] * cross


def tuned_small(img_size: int = 16, depth: int = 3, **options: Any) -> VisionMamba:
    model = small_vim(img_size=img_size, depth=depth)
    torch.manual_seed(0)
    svp.tune(model, "svp", **SMALL | options)
    return perturb(model)


@pytest.mark.parametrize("img_size", [16, 20, 4], ids=["16 patches", "25 patches", "1 patch"])
@pytest.mark.parametrize("depth", [2, 5])
@pytest.mark.parametrize("prompt_cls_token", [False, True])
def test_every_image_token_is_prompted_the_class_token_where_asked(img_size: int, depth: int, prompt_cls_token: bool) -> None:
    model = tuned_small(img_size, depth, prompt_cls_token=prompt_cls_token).eval()
    given: list[Tensor] = []
    for block in model.layers:
        block.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    seen = record_layers(model)
    model(images(model))
    m = model.cls_position
    for layer in range(depth):
        prompted, before = seen[f"layer{layer}/hidden_in"], given[layer]
        expected = prompted_by_hand(model, layer, before)
        if not prompt_cls_token:
            residual = seen[f"layer{layer - 1}/residual_out"] if layer else torch.zeros(())
            assert torch.equal(seen[f"layer{layer}/residual_out"][:, m], (residual + before)[:, m])
            expected[:, m] = before[:, m]
        torch.testing.assert_close(prompted, expected, rtol=1e-5, atol=1e-5)
        if layer:  # the mixer's output before it joins the residual
            assert torch.equal(before, seen[f"layer{layer - 1}/hidden_out"])


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("nothing", 2),
        ("inner off", 1),
        ("dropout", 0),
        ("dropout in evaluation", 2),
        ("official", 0),
        ("hook", 0),
        ("wrapper", 2),
    ],
)
def test_simple_prompts_are_left_to_the_block(change: str, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "inner off": dict(inner=False),
        "dropout": dict(dropout=0.5),
        "dropout in evaluation": dict(dropout=0.5),
        "official": dict(cross_prompt="official"),
    }
    model = tuned_small(**options.get(change, {})).train(change == "dropout")
    x = images(model)
    plain = model(x)
    seen: list[int] = []
    fused = blocks.add_rms_norm
    monkeypatch.setattr(blocks, "add_rms_norm", lambda *args: (seen.append(len(args[4].terms)), fused(*args))[1])
    if change == "hook":
        model.svp.register_forward_hook(lambda _, args, prompted: prompted + 1)
    elif change == "wrapper":  # of a module whose output alone is needed
        model.svp.cross_prompters[0] = nn.Sequential(model.svp.cross_prompters[0], nn.Tanh())
    logits = model(x)
    assert seen == [left] * 3
    assert torch.equal(logits, plain) == (change not in ("hook", "wrapper", "dropout"))


def test_a_prompter_of_more_than_two_maps() -> None:
    model = tuned_small()
    x = images(model)
    plain = model(x)
    for number, (first, last) in enumerate(model.svp.inner_prompters):
        model.svp.inner_prompters[number] = nn.Sequential(first, nn.Identity(), last)
    torch.testing.assert_close(model(x), plain)
    for number, (first, _, last) in enumerate(model.svp.inner_prompters):
        model.svp.inner_prompters[number] = nn.Sequential(first, nn.Tanh(), last)
    assert not torch.allclose(model(x), plain)


@pytest.mark.parametrize("backend", runnable_backends())
@pytest.mark.parametrize("scaling", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_added_by_the_block_or_by_the_prompters_is_the_same(backend: str, scaling: bool, dtype: torch.dtype) -> None:
    model = tuned_small(scaling=scaling).to(device_of(backend))
    x, results = images(model), []
    for _ in range(2):
        with svp.ops.use_backend(backend), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(x).float()
        grads = torch.autograd.grad(logits.square().sum(), list(model.tuner.trainable_parameters()))
        results.append([logits, *grads])
        model.svp.register_forward_hook(lambda *_: None)  # as soon as someone looks, the prompters add
    for a, b in zip(*results, strict=True):
        assert (a - b).norm() <= (1e-5 if dtype == torch.float32 else 0.05) * b.norm()


@pytest.mark.parametrize("cross_prompt", ["paper", "official"])
def test_nothing_is_overwritten(cross_prompt: str) -> None:
    model = tuned_small(cross_prompt=cross_prompt).train()
    tokens = torch.randn(1, 17, 16, requires_grad=True)
    before = tokens.detach().clone()
    middle = tokens * 1
    model.svp(0, middle)
    assert middle._version == 0
    assert torch.equal(middle, before)
    with torch.autograd.set_detect_anomaly(True):
        model(images(model, batch=1)).sum().backward()


def test_dropout_acts_in_training_only() -> None:
    model = tuned_small(dropout=0.5)
    x = images(model)
    model.eval()
    assert torch.equal(model(x), model(x))
    torch.testing.assert_close(model(x), tuned_small().eval()(x))
    model.train()
    assert not torch.allclose(model(x), model(x))


def test_all_scales_start_where_asked() -> None:
    model = small_vim()
    svp.tune(model, "svp", **SMALL, initial_scale=0.25)
    prompters = model.svp
    assert torch.equal(prompters.inner_scale, torch.full_like(prompters.inner_scale, 0.25))
    assert torch.equal(prompters.cross_scale, torch.full_like(prompters.cross_scale, 0.25))


def test_simam_by_hand_and_on_flat_images() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    d = torch.tensor([[[[4.0, 1.0], [0.0, 9.0]]]])
    expected = x * torch.sigmoid(d / (4 * (14 / 3 + 1e-3)) + 0.5)
    torch.testing.assert_close(simam(x), expected)
    flat = torch.full((1, 3, 4, 4), 2.0, requires_grad=True)
    simam(flat).sum().backward()
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(shared_layers=0), "svp: shared_layers is 0, expected 1 or more"),
        (dict(shared_layers=4), "svp: shared_layers is 4, expected 1 to the model's depth 3"),
        (dict(hidden_dim=0), "svp: hidden_dim is 0, expected 1 or more"),
        (dict(cross=False, inner=False), "svp: cross and inner are both off"),
        (dict(initial_scale=0.1, scaling=False), "svp: initial_scale is 0.1, but scaling is off"),
        (dict(initial_scale=math.nan), "svp: initial_scale is nan, expected a finite number"),
        (dict(dropout=1.0), "svp: dropout is 1.0, expected 0 <= dropout < 1"),
        (dict(cross_prompt="both"), "svp: cross_prompt is 'both', expected 'paper' or 'official'"),
        (dict(head="mlp"), "svp: head is 'mlp', expected 'linear' or 'two_linear'"),
        (
            dict(cross_prompt="official", prompt_cls_token=True),
            "svp: prompt_cls_token is on, which cross_prompt 'official' has no",
        ),
        (dict(width=3), "method 'svp' has no option 'width'; known: shared_layers, hidden_dim"),
    ],
    ids=str,
)
def test_option_errors(options: dict[str, Any], message: str) -> None:
    model = small_vim()
    with pytest.raises(ValueError, match=message):
        svp.tune(model, "svp", **SMALL | options)
    assert model.tuner is None
    assert all(p.requires_grad for p in model.parameters())
    assert not hasattr(model, "svp")


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match=r"unknown method 'sv'; known: .*svp"):
        svp.tune(small_vim(), "sv")
    with pytest.raises(ValueError, match="head is 'two_linear', but the model has no head"):
        svp.tune(small_vim(num_classes=0), "svp", head="two_linear", **SMALL)
    with pytest.raises(ValueError, match="method 'svp' works on a VisionMamba, this is a ResNet"):
        svp.tune(timm.create_model("resnet10t"), "svp")


def test_tuned_model_takes_another_image_size() -> None:
    model = tuned_small()
    model.set_input_size(20)
    model(images(model)).sum().backward()
    official = tuned_small(cross_prompt="official")
    official.set_input_size(20)
    with pytest.raises(ValueError, match="25 patches; use cross_prompt='paper'"):
        official(images(official))
