"""Methods that look at training images before they are attached: DAM-VP and SPT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import svp
from svp.models import Backbone
from svp.models.blocks import add_residual
from svp.runs import RunDirectory
from svp.tuners import get_methods, read_adapter_info
from svp.tuners.dam_vp import features
from tests.models.small import images, small_vim, small_vit
from tests.training.conftest import FAST, write_photos
from tests.tuners.test_contract import hooks, shake_trained, snapshot


def two_kinds(model: Backbone) -> Tensor:
    """Six images: four alike, and two others alike."""
    one, other = images(model, 2, seed=3)
    noise = 0.05 * images(model, 6)
    return torch.stack([one, other, one, one, other, one]) + noise


@pytest.mark.parametrize("make", [small_vim, small_vit])
def test_clusters_are_those_of_the_images(make: Any) -> None:
    model = make().eval()
    x = two_kinds(model)
    plain = F.normalize(model.forward_head(model.forward_features(x), pre_logits=True), dim=-1)
    before, apart = snapshot(model), (plain[0] - plain[1]).norm().item()
    tuner = svp.tune(model, "dam_vp", images=[x[:4], x[4:]], threshold=apart / 2)
    assert tuner.methods["dam_vp"].num_prompts == 2  # type: ignore[attr-defined]
    number = model.dam_vp.nearest(plain)
    assert number.tolist() in ([0, 1, 0, 0, 1, 0], [1, 0, 1, 1, 0, 1])
    for k in (0, 1):
        torch.testing.assert_close(model.dam_vp.prototypes[k], plain[number == k].mean(dim=0))
    torch.testing.assert_close(model(x), make().eval()(x), rtol=0, atol=0)  # frames start at zero
    tuner.detach()
    assert hooks(model) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_image_gets_the_frame_of_the_nearest_prototype() -> None:
    model = small_vim().eval()
    x = two_kinds(model)
    svp.tune(model, "dam_vp", images=[x], num_prompts=2, width=2)
    shake_trained(model.tuner)
    frames, number = model.dam_vp, model.dam_vp.nearest(features(model, x))
    frame = torch.zeros(2, 3, 16, 16)
    frame[:, :, :2], frame[:, :, 14:], frame[:, :, 2:14, :2], frame[:, :, 2:14, 14:] = (
        getattr(frames, side).detach() for side in ("top", "bottom", "left", "right")
    )
    plain = small_vim().eval()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("dam_vp.")})
    torch.testing.assert_close(model(x), plain(x + frame[number]))
    assert not torch.allclose(model(x), plain(x + frame[1 - number]))
    # whatever the mode, the choice is the frozen model's own: stochastic depth has no part in it
    model.set_drop_path(0.9)
    model.train()
    assert torch.equal(features(model, x), features(model, x))
    assert model.training
    model(x[number == 0]).sum().backward()
    assert frames.top.grad[0].abs().max() > 0
    assert frames.top.grad[1].abs().max() == 0


@pytest.mark.parametrize("make", [small_vim, small_vit])
@pytest.mark.parametrize("sampling", ["random", "kmeans"])
def test_prompts_start_as_tokens_of_the_images(make: Any, sampling: str) -> None:
    model = make().eval()
    x = images(model, 4)
    entering: list[Tensor] = []
    blocks = model.layers if make is small_vim else model.blocks
    handles = [
        block.register_forward_pre_hook(
            lambda _, args: entering.append(add_residual(args[0], *args[1:]) if args[1:] else args[0])
        )
        for block in blocks
    ]
    model(x)
    for handle in handles:
        handle.remove()
    svp.tune(model, "spt_deep", images=[x[:3], x[3:]], num_tokens=5, sampling=sampling)
    place = 8 if make is small_vim else 0  # of the class token
    for tokens, stream in zip(model.vpt.tokens, entering, strict=True):
        own = torch.cat([stream[:, :place], stream[:, place + 1 :]], dim=1).flatten(0, 1)
        nearest = torch.cdist(tokens, own, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        if sampling == "random":
            assert nearest.values.max() < 1e-4
            assert len(nearest.indices.unique()) == 5
        else:  # every token's nearest center is the mean of those it is nearest to, as far as k-means has come
            mean = own[torch.cdist(own, tokens).argmin(dim=1) == 0].mean(dim=0)
            torch.testing.assert_close(tokens[0], mean, rtol=0.05, atol=0.05)
    shallow = make().eval()
    svp.tune(shallow, "spt_shallow", images=[x], num_tokens=200)  # more than there are
    assert torch.isfinite(shallow.vpt.tokens).all()


def test_only_who_asks_is_shown_images() -> None:
    def none() -> Any:
        raise AssertionError("read")
        yield

    svp.tune(small_vim(), "lora", images=none())
    with pytest.raises(AssertionError, match="read"):
        svp.tune(small_vim(), "spt_deep", images=none())
    with pytest.raises(svp.SvpError, match="no training image was given"):
        svp.tune(small_vim(), "dam_vp", images=[])
    with pytest.warns(UserWarning, match="dam_vp: no training images were given"):
        svp.tune(small_vim(), "dam_vp", num_prompts=2)


@pytest.mark.parametrize("method", ["dam_vp", "spt_shallow"])
def test_no_more_images_are_read_than_are_looked_at(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vim()
    (part,) = get_methods(method)
    monkeypatch.setattr(part, "num_images", 6)
    seen = 0

    def batches() -> Iterator[Tensor]:
        nonlocal seen
        while True:
            seen += 4
            yield images(model, 4, seed=seen)

    svp.tune(model, method, images=batches())
    assert seen == 8


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("dam_vp", dict(num_prompts=0), "dam_vp: num_prompts is 0, expected 1 to 1,000"),
        ("dam_vp", dict(num_prompts=5), "dam_vp: num_prompts is 5, expected at most the 4 training images"),
        ("dam_vp", dict(threshold=2.0), "dam_vp: threshold is 2.0, expected a number between 0 and 2"),
        ("dam_vp", dict(width=0), "dam_vp: width is 0, expected 1 or more"),
        ("spt_deep", dict(projection=True), "spt_deep: projection is True, expected False"),
        ("spt_deep", dict(sampling="mean"), "spt_deep: sampling is 'mean', expected one of random, kmeans"),
        ("dam_vp+lora", dict(), r"the methods of 'dam_vp\+lora' cannot be combined: dam_vp compares features of the frozen"),
    ],
)
def test_what_cannot_be_is_named(method: str, options: dict[str, Any], message: str) -> None:
    model = small_vim()
    with pytest.raises(svp.SvpError, match=message):
        svp.tune(model, method, images=[images(model, 4)], **options)
    assert model.tuner is None


@pytest.mark.parametrize("method", ["dam_vp", "spt_shallow"])
def test_a_model_that_gives_no_finite_values_is_told(method: str) -> None:
    model = small_vim()
    with torch.no_grad():
        model.patch_embed.proj.bias[0] = torch.inf
    with pytest.raises(svp.SvpError, match=f"{method}: what the model makes of the training images holds NaN or infinite"):
        svp.tune(model, method, images=[images(model, 4)])


def test_the_choice_of_a_frame_leaves_the_mode_that_other_threads_see() -> None:
    model = small_vim().train()
    svp.tune(model, "dam_vp", images=[images(model, 4)])
    model.train()
    modes: list[tuple[bool, bool]] = []
    model.norm_f.register_forward_hook(lambda module, args, output: modes.append((model.training, module.training)))
    model(images(model))
    assert modes == [(True, False), (True, True)]  # the choice, then the pass that trains


def test_a_run_keeps_its_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made once, lie in the adapter's files, and a run that goes on has those that it began with."""
    photos = write_photos(tmp_path / "photos", per_class=8)
    options: dict[str, Any] = dict(threshold=0.3)
    settings = FAST | dict(method="dam_vp", options=options, out=str(tmp_path / "run"))

    def stop(row: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        svp.train(photos, **settings, after_epoch=stop)
    state = RunDirectory(tmp_path / "run").read_state()
    assert state is not None
    prototypes = state["trained"]["dam_vp.prototypes"]
    assert len(prototypes) > 1

    def never(*_: Any) -> Any:
        raise AssertionError("clustered again")

    with monkeypatch.context() as patched:
        patched.setattr(svp.tuners.DAMVP, "fitted", never)
        run = svp.train(photos, **settings, resume=True)
    info = read_adapter_info(run.directory)
    assert info.methods == {"dam_vp": dict(num_prompts=len(prototypes), threshold=0.3, width=None)}
    assert torch.equal(load_file(run.directory / "adapter.safetensors")["dam_vp.prototypes"], prototypes)
    assert svp.evaluate(run.directory, device="cpu").loss == pytest.approx(run.result.loss, rel=1e-5)
    whole = svp.train(photos, **settings | {"out": str(tmp_path / "whole")})
    assert whole.result.loss == run.result.loss


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ([torch.zeros(3, 32, 32)], r"a batch has the shape \(3, 32, 32\), expected \(batch, channels, height, width\)"),
        ([torch.full((1, 3, 32, 32), torch.nan)], "NaN or infinite"),
    ],
)
def test_images_that_are_no_batches_are_told(shown: list[Tensor], message: str) -> None:
    with pytest.raises(svp.errors.InputError, match=message):
        svp.tune(small_vim(), "dam_vp", images=shown)


def test_methods_that_add_the_same_are_told_by_their_names() -> None:
    with pytest.raises(svp.errors.InputError, match=r"'vpt_deep\+vpt_shallow' cannot be combined: both add model.vpt"):
        svp.tune(small_vim(), "vpt_deep+vpt_shallow")
