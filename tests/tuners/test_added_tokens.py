"""VPT and affix: where added tokens stand, what becomes of them, and that the model finds its own again."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import svp
from svp.models import VisionMamba
from svp.models.blocks import add_residual
from svp.tuners.layout import AddedTokens, Layout, Position
from tests.models.small import images, small_vim

POSITIONS = get_args(Position)


@given(own=st.integers(2, 30), num_tokens=st.integers(1, 12), position=st.sampled_from(POSITIONS))
def test_own_undoes_insert(own: int, num_tokens: int, position: Position) -> None:
    layout = Layout(num_tokens, position)
    tokens, prompts = torch.randn(2, own, 3), torch.randn(2, num_tokens, 3)
    joined = layout.insert(tokens, prompts)
    assert torch.equal(layout.own(joined), tokens)
    assert torch.equal(joined[:, layout.places(own)], prompts)
    assert joined.shape == (2, own + num_tokens, 3)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("prefix", "ppppaaCbb"),
        ("suffix", "aaCbbpppp"),
        ("both", "ppaaCbbpp"),
        ("middle", "aappCppbb"),
        ("spread", "apapCpbpb"),
    ],
)
def test_where_prompts_stand(position: Position, expected: str) -> None:
    tokens = torch.tensor([ord(c) for c in "aaCbb"]).view(1, 5, 1)
    joined = Layout(4, position).insert(tokens, torch.full((1, 4, 1), ord("p")))
    assert "".join(map(chr, joined.flatten().tolist())) == expected


def by_hand(model: VisionMamba, x: Tensor) -> Tensor:
    """Tokens after the final norm, the prompts put in and taken out for every block."""
    tuner = model.tuner
    layout, prompts = model.vpt.layout, model.vpt.projection(model.vpt.tokens)
    hidden, residual = model._embed(x), None
    plain = [(block.norm, block.mixer) for block in model.layers]
    for layer, (norm, mixer) in enumerate(plain):
        if layer < len(prompts):
            if layer:
                hidden, residual = layout.own(hidden), layout.own(residual)
                residual = layout.insert(residual, torch.zeros(len(x), layout.num_tokens, model.embed_dim))
            hidden = layout.insert(hidden, prompts[layer].expand(len(x), -1, -1))
        residual = add_residual(hidden, residual)
        hidden = mixer(norm(residual))
    assert tuner is not None
    return model.norm_f(layout.own(residual + hidden))


@pytest.mark.parametrize("method", ["vpt_shallow", "vpt_deep"])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("projection", [False, True])
def test_equals_its_equation(method: str, position: str, projection: bool) -> None:
    model = small_vim(img_size=20).eval()
    svp.tune(model, method, num_tokens=3, position=position, projection=projection)
    x = images(model)
    torch.testing.assert_close(model.forward_features(x), by_hand(model, x))
    assert model.forward_features(x).shape == (2, 26, model.embed_dim)


@pytest.mark.parametrize("position", POSITIONS)
def test_affix_equals_its_equation(position: Position) -> None:
    model = small_vim(img_size=20).eval()
    mixer = model.layers[1].mixer
    u = torch.randn(2, 26, model.embed_dim)
    svp.tune(model, "affix", num_tokens=5, position=position)
    tokens, layout = model.affix.tokens[1].expand(2, -1, -1), Layout(5, position)
    assert mixer(u).shape == u.shape
    torch.testing.assert_close(mixer(u), layout.own(mixer.forward(layout.insert(u, tokens))))


def test_places_of_own_tokens() -> None:
    model = small_vim()
    tuner = svp.tune(model, "affix+vpt_deep", affix=dict(num_tokens=2, position="both"), vpt_deep=dict(num_tokens=3))
    # affix, three of vpt, 17 of the model's own, affix
    assert tuner.added_tokens.of_blocks(22).tolist() == list(range(1, 21))
    assert tuner.added_tokens.own(22).tolist() == list(range(4, 21))
    tuner.detach()
    assert svp.tune(model, "linear").added_tokens.own(17).tolist() == list(range(17))


def test_only_one_method_adds_tokens_to_a_place() -> None:
    added = AddedTokens()
    added.add_to_blocks(Layout(2, "prefix"))
    added.add_to_mixers(Layout(2, "prefix"))
    with pytest.raises(ValueError, match="two methods add tokens to the blocks: they cannot be combined"):
        added.add_to_blocks(Layout(3, "suffix"))
    with pytest.raises(ValueError, match="two methods add tokens to the mixers: they cannot be combined"):
        added.add_to_mixers(Layout(3, "suffix"))


def test_projection_counts_as_published() -> None:
    with torch.device("meta"):
        model = svp.create_model("vim_small", num_classes=3)
    assert svp.tune(model, "vpt_shallow", projection=True).num_trainable_without_head == 298_752


def test_intermediates_have_the_shape_of_the_image() -> None:
    model = small_vim().eval()
    svp.tune(model, "vpt_deep", num_tokens=3, position="spread")
    x = images(model)
    final, taps = model.forward_intermediates(x, return_prefix_tokens=True)
    assert torch.equal(final, model.forward_features(x))
    assert [tuple(tokens.shape) for tokens, _ in taps] == [(2, model.embed_dim, 4, 4)] * 3
    assert torch.equal(
        model.norm_f(taps[-1][1])[:, 0], model.forward_intermediates(x, norm=True, return_prefix_tokens=True)[1][-1][1][:, 0]
    )


@pytest.mark.parametrize("method", ["vpt_shallow", "vpt_deep"])
def test_another_image_size(method: str) -> None:
    model = small_vim()
    svp.tune(model, method, position="spread")
    model.set_input_size(24)
    assert model(torch.randn(2, 3, 24, 24)).shape == (2, 5)


def test_position_matters() -> None:
    logits = []
    for position in POSITIONS:
        model = small_vim().eval()
        torch.manual_seed(0)
        svp.tune(model, "vpt_shallow", num_tokens=4, position=position)
        logits.append(model(images(model)))
    for n, one in enumerate(logits):
        assert not any(torch.allclose(one, other, atol=1e-5) for other in logits[:n])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_tokens=0), "vpt_deep: num_tokens is 0, expected 1 or more"),
        (dict(position="left"), "vpt_deep: position is 'left', expected one of prefix, suffix, both, spread, middle"),
        (dict(dropout=1.0), "vpt_deep: dropout is 1.0, expected 0 <= dropout < 1"),
    ],
)
def test_option_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        svp.tune(small_vim(), "vpt_deep", **options)
