"""How an image becomes a tensor: evaluation's pipeline, every field checked, what replaces a model's own."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import svp
from svp.inputs import InputConfig, InputOverrides, eval_transform


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("size", [(300, 400), (500, 260), (100, 90)])
def test_evaluation_is_that_of_the_release(size: tuple[int, int]) -> None:
    image = picture(*size)
    width, height = size
    short = min(size)
    resized = image.resize((int(256 * width / short), int(256 * height / short)), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    values = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype=np.float32) / 255
    expected = (values - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    actual = eval_transform(InputConfig())(image)
    assert (actual.shape, actual.dtype) == ((3, 224, 224), torch.float32)
    np.testing.assert_allclose(actual.numpy(), expected.transpose(2, 0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_every_crop_mode_and_interpolation_gives_the_size_asked_for(mode: Any, interpolation: str) -> None:
    inputs = InputConfig(img_size=32, crop_mode=mode, crop_pct=1.0, interpolation=interpolation)
    assert eval_transform(inputs)(picture(50, 40)).shape == (3, 32, 32)


def test_crop_modes_keep_what_they_say() -> None:
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (0, 0, 8, 32))  # a white edge at the left
    flat = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "img_size": 32, "crop_pct": 1.0}
    center, squash, border = (
        eval_transform(InputConfig(**flat, crop_mode=mode))(image)  # type: ignore[arg-type]
        for mode in ("center", "squash", "border")
    )
    assert center.max() == 0
    assert squash[0, 0, 0] == squash[0, 31, 0] == 1
    assert border[0, 16, 0] == 1
    assert border[0, 0, 0] == 0  # padding


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("img_size", 0, ValueError),
        ("img_size", 224.0, TypeError),
        ("img_size", True, TypeError),
        ("mean", (0.5, 0.5), ValueError),
        ("mean", (0.5, 0.5, float("nan")), ValueError),
        ("mean", ("0.5", 0.5, 0.5), ValueError),
        ("crop_pct", True, TypeError),
        ("std", (0.5, 0.0, 0.5), ValueError),
        ("crop_pct", 0.0, ValueError),
        ("crop_pct", 1.5, ValueError),
        ("crop_mode", "middle", ValueError),
        ("interpolation", "cubic", ValueError),
    ],
)
def test_input_fields_are_checked(field: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"{field} \(="):
        InputConfig(**{field: value})
    with pytest.raises(svp.SvpError, match=rf"inputs: {field} \(="):  # a value from a file is a user's
        InputConfig.from_dict({field: value})


def test_input_config_survives_json() -> None:
    inputs = InputConfig(img_size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop_pct=1.0, crop_mode="squash")
    assert InputConfig.from_dict(json.loads(json.dumps(inputs.to_dict()))) == inputs
    assert InputConfig.from_dict({}) == InputConfig()
    with pytest.raises(ValueError, match=r"inputs: color is unknown; known: img_size, mean"):
        InputConfig.from_dict({"color": 1})


def test_a_model_says_how_its_images_are_prepared() -> None:
    model = svp.create_model("vim_nano", img_size=24, device="meta")
    inputs = InputConfig.of_model(model)
    cfg = model.pretrained_cfg
    assert inputs == InputConfig(24, tuple(cfg["mean"]), tuple(cfg["std"]), cfg["crop_pct"], "center", cfg["interpolation"])
    oblong = SimpleNamespace(patch_embed=SimpleNamespace(img_size=(24, 32)), pretrained_cfg=cfg)
    with pytest.raises(svp.SvpError, match="takes images of 24 x 32 pixels, only square ones can be prepared"):
        InputConfig.of_model(oblong)


def test_overrides_replace_parts_of_a_models_own_preparation() -> None:
    own = InputConfig(24, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.9, "center", "bilinear")
    assert InputOverrides().applied(own) == own
    imagenet = InputOverrides("imagenet", crop_pct=1.0).applied(own)
    assert imagenet == InputConfig(24, crop_pct=1.0, interpolation="bilinear")
    none = InputOverrides("none", crop_mode="squash", interpolation="lanczos").applied(own)
    assert none == InputConfig(24, (0, 0, 0), (1, 1, 1), 0.9, "squash", "lanczos")
    assert InputOverrides("none").resolved(own) == InputOverrides("none", 0.9, "center", "bilinear")
    with pytest.raises(svp.SvpError, match=r"normalization .*must be one of model, imagenet, none"):
        InputOverrides("cifar")  # type: ignore[arg-type]
