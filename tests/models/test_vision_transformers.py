"""timm's Vision Transformers by our names: weights from a file or placed by hand, another image size, clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn

import svp
from tests.models.small import SMALL_VIT, images, small_vit

NAME = "deit_small_patch16_224"


@pytest.fixture
def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of the small model where published ones are looked for."""
    monkeypatch.setenv("SVP_HOME", str(tmp_path))
    path = tmp_path / "weights" / f"{NAME}.fb_in1k.safetensors"
    path.parent.mkdir()
    save_file(small_vit().state_dict(), path)
    return path


@pytest.mark.parametrize("published", [True, False])
def test_weights_are_loaded(placed: Path, published: bool) -> None:
    model = svp.create_model(NAME, True if published else placed, **SMALL_VIT).eval()
    assert isinstance(model, VisionTransformer)
    expected = small_vit().eval()
    torch.testing.assert_close(model.forward_features(images(model)), expected.forward_features(images(model)))
    assert model.origin.weights == ("published" if published else str(placed.resolve()))
    assert "state_dict" not in model.pretrained_cfg


@pytest.mark.parametrize("published", [True, False])
def test_position_embedding_is_resized_as_by_timm(placed: Path, published: bool) -> None:
    larger = SMALL_VIT | {"img_size": 24}
    model = svp.create_model(NAME, True if published else placed, **larger)
    expected = checkpoint_filter_fn(small_vit().state_dict(), small_vit(img_size=24))["pos_embed"]
    torch.testing.assert_close(model.pos_embed.detach(), expected)
    assert model(images(model)).shape == (2, SMALL_VIT["num_classes"])


def test_weights_of_another_model_are_refused(placed: Path) -> None:
    with pytest.raises(ValueError, match=r"weights of another model: .*file \(16,\), model \(32,\)"):
        svp.create_model(NAME, placed, **SMALL_VIT | {"embed_dim": 32})


def test_facts() -> None:
    info = svp.model_info(NAME)
    assert info.parameters == 22_050_664
    assert "timm/deit_small_patch16_224.fb_in1k" in info.weights
