"""The way of a published file into a model: placed by hand, checked, read, fitted."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import timm
import torch

import svp
from svp.errors import InputError
from svp.models import VisionMamba, WeightsError, model_info, state_sha256
from svp.models.checkpoints import SHA256, file_sha256

EMBEDDED = {"tiny_in200": "e4c653975dd82b006c7704c02a094a153deaa1727400c4029fe9a2409b8b0252"}
"""Tags of the weights that come with the package, and their hash in adapter files: these must load for ever."""

FILE = "vim_t_midclstok_76p1acc.pth"


@pytest.fixture
def published(svp_home: Path, monkeypatch: pytest.MonkeyPatch) -> VisionMamba:
    """A Vim-Ti whose weights lie where the published file belongs, in the form the release has."""
    torch.manual_seed(3)
    model = svp.create_model("vim_tiny").eval()
    place = svp_home / "weights" / FILE
    place.parent.mkdir()
    torch.save({"model": model.state_dict(), "epoch": 299, "args": argparse.Namespace(lr=1e-3, model="vim")}, place)
    monkeypatch.setitem(SHA256, FILE, file_sha256(place))
    return model


def test_the_published_weights_arrive_whole(published: VisionMamba) -> None:
    for model in (svp.create_model("vim_tiny", pretrained=True), timm.create_model("vim_tiny_patch16_224", pretrained=True)):
        state = model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in published.state_dict().items())
        assert "state_dict" not in model.pretrained_cfg


def test_another_size_and_other_classes(published: VisionMamba) -> None:
    model = svp.create_model("vim_tiny", pretrained=True, num_classes=5, img_size=96)
    assert model.head.weight.shape == (5, 192)
    assert torch.equal(model.pos_embed[:, 18], published.pos_embed[:, 98])
    assert torch.equal(model.layers[7].mixer.A_log, published.layers[7].mixer.A_log)
    assert model(torch.randn(1, 3, 96, 96)).shape == (1, 5)


def test_features_only(published: VisionMamba) -> None:
    model = timm.create_model("vim_tiny_patch16_224", pretrained=True, features_only=True, out_indices=(0, 1))
    images = torch.randn(1, 3, 224, 224)
    expected = published.forward_intermediates(images, indices=[0, 1], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(model(images), expected, strict=True))


def test_another_file_under_the_same_name_is_refused(published: VisionMamba, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHA256, FILE, "0" * 64)
    message = rf"{FILE} is damaged or not the published file: sha256 [0-9a-f]{{64}}, expected 0000"
    with pytest.raises(WeightsError, match=message):
        svp.create_model("vim_tiny", pretrained=True)


@pytest.mark.parametrize("in_chans", [1, 2, 4, 13])
def test_weights_for_rgb_are_adapted_to_other_channels_from_everywhere(in_chans: int, tmp_path: Path) -> None:
    rgb = svp.create_model("vim_nano", pretrained=True)
    torch.save(rgb.state_dict(), tmp_path / "weights.pth")
    weight = rgb.patch_embed.proj.weight
    expected = weight.sum(1, keepdim=True) if in_chans == 1 else weight[:, [i % 3 for i in range(in_chans)]] * (3 / in_chans)
    for model in (
        svp.create_model("vim_nano", pretrained=True, in_chans=in_chans),
        svp.create_model("vim_nano", pretrained=tmp_path / "weights.pth", in_chans=in_chans),
        timm.create_model("vim_nano_patch4_32", pretrained=True, in_chans=in_chans),
    ):
        torch.testing.assert_close(model.patch_embed.proj.weight, expected, rtol=1e-3, atol=1e-3)  # ours is kept in half
        assert torch.equal(model.pos_embed, rgb.pos_embed)
    assert model(torch.zeros(1, in_chans, 32, 32)).shape == (1, rgb.num_classes)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    if in_chans == 4:
        with pytest.raises(WeightsError, match=r"patch_embed\.proj\.weight: file \(128, 4, 4, 4\), model \(128, 5, 4, 4\)"):
            svp.create_model("vim_nano", pretrained=tmp_path / "weights.pth", in_chans=5)


def test_the_embedded_weights_have_tags() -> None:
    assert model_info("vim_nano").tags == tuple(EMBEDDED)
    default = next(iter(EMBEDDED))
    for tag, sha256 in EMBEDDED.items():
        model = svp.create_model(f"vim_nano.{tag}", pretrained=True)
        assert state_sha256(model.state_dict()) == sha256
        assert len(model.pretrained_cfg["label_names"]) == model.num_classes == model.head.out_features
        assert model.origin.name == f"vim_nano_patch4_32.{tag}"
        assert svp.create_model(f"vim_nano.{tag}").origin.name == "vim_nano_patch4_32", "other weights than those"
        timms = timm.create_model(model.origin.name, pretrained=True)
        assert all(torch.equal(timms.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
        assert model_info(f"vim_nano.{tag}").weights == f"embedded (vim_nano_patch4_32.{tag}.safetensors)"
    plain = svp.create_model("vim_nano", pretrained=True)
    assert plain.origin.name == f"vim_nano_patch4_32.{default}"
    assert state_sha256(plain.state_dict()) == EMBEDDED[default]
    with pytest.raises(InputError, match=rf"vim_nano_patch4_32 has no weights 'in1k'; known: {', '.join(EMBEDDED)}"):
        svp.create_model("vim_nano.in1k", pretrained=True)
    with pytest.raises(InputError, match="vit_base_patch16_224 has no weights 'in1k'; known: none with a tag"):
        svp.create_model("vit_base_patch16_224.in1k")
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.create_model("vim_nano_patch4_32.in1k", pretrained=True)
