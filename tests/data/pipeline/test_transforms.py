"""Transforms: the release's recipe, step by step, and every field checked."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms as tv
from torchvision.transforms import InterpolationMode

from svp.data import AugmentConfig, InputConfig, eval_transform, train_transform
from svp.data.pipeline.transforms import least_side

RELEASE = AugmentConfig(scale_min=0.08, auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25)
PLAIN = AugmentConfig(scale_min=1.0, hflip=0.0, auto_augment=None, color_jitter=0.0, random_erasing=0.0)
RELEASE_OPERATIONS = [
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
]


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_training_pipeline_is_that_of_the_release() -> None:
    steps: list[Any] = train_transform(InputConfig(), RELEASE).transforms  # type: ignore[attr-defined]
    crop, flip, augment, _, normalize, erase = steps
    assert isinstance(crop, RandomResizedCropAndInterpolation)
    assert (crop.size, crop.scale, crop.ratio) == ((224, 224), (0.08, 1.0), (3 / 4, 4 / 3))
    assert crop.interpolation == InterpolationMode.BICUBIC
    assert isinstance(flip, tv.RandomHorizontalFlip)
    assert flip.p == 0.5
    assert isinstance(augment, RandAugment)
    assert augment.num_layers == 2
    assert augment.choice_weights is None
    assert [operation.name for operation in augment.ops] == RELEASE_OPERATIONS
    for operation in augment.ops:
        assert (operation.prob, operation.magnitude, operation.magnitude_std) == (0.5, 9, 0.5)
        assert operation.magnitude_max is None  # clipped to 10
        assert operation.kwargs == {"fillcolor": (124, 116, 104), "resample": Image.Resampling.BICUBIC}
        assert operation.hparams["translate_const"] == 100
    torch.testing.assert_close(normalize.mean, torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(normalize.std, torch.tensor([0.229, 0.224, 0.225]))
    assert isinstance(erase, RandomErasing)
    assert (erase.probability, erase.per_pixel, erase.min_area, erase.max_area) == (0.25, True, 0.02, 1 / 3)
    assert (erase.min_count, erase.max_count) == (1, 1)
    np.testing.assert_allclose(np.exp(erase.log_aspect_ratio), (0.3, 1 / 0.3))


def test_every_option_reaches_the_pipelines() -> None:
    inputs = InputConfig(img_size=40, crop_pct=0.5, interpolation="bilinear")
    augment = AugmentConfig(
        scale_min=0.6,
        train_interpolation="bilinear",
        hflip=0.1,
        vflip=0.2,
        auto_augment=None,
        color_jitter=0.7,
        random_erasing=0.9,
    )
    crop, hflip, vflip, jitter, _, _, erase = train_transform(inputs, augment).transforms  # type: ignore[attr-defined]
    assert (crop.size, crop.scale, crop.interpolation) == ((40, 40), (0.6, 1.0), InterpolationMode.BILINEAR)
    assert (hflip.p, vflip.p, erase.probability) == (0.1, 0.2, 0.9)
    assert jitter.brightness == jitter.contrast == jitter.saturation == pytest.approx((0.3, 1.7))
    resize, center, *_ = eval_transform(inputs).transforms  # type: ignore[attr-defined]
    assert (resize.size, resize.interpolation, center.size) == (80, InterpolationMode.BILINEAR, (40, 40))


@pytest.mark.parametrize(("option", "axis"), [("hflip", 2), ("vflip", 1)])
def test_flips_are_options(option: str, axis: int) -> None:
    image = picture(16, 16)
    inputs = InputConfig(img_size=16)
    plain = train_transform(inputs, AugmentConfig(**{**vars(PLAIN), option: 0.0}))
    flipped = train_transform(inputs, AugmentConfig(**{**vars(PLAIN), option: 1.0}))
    assert torch.equal(flipped(image), plain(image).flip(axis))  # either always, so nothing is left to chance


def test_color_jitter_works_without_a_policy_only() -> None:
    def kinds(**options: Any) -> list[type]:
        return [type(step) for step in train_transform(InputConfig(), AugmentConfig(**options)).transforms]  # type: ignore[attr-defined]

    assert tv.ColorJitter not in kinds()
    assert tv.ColorJitter in kinds(auto_augment=None)


POLICIES = [
    "rand-m9-mstd0.5-inc1",
    "rand",
    "rand-m5-n3-p0.8-mmax12",
    "rand-m6-t3a",
    "original",
    "v0r-mstd0.5",
    "3a",
    "augmix-m5-w4-d2",
]


@pytest.mark.parametrize("policy", POLICIES)
def test_valid_policies_run(policy: str) -> None:
    transform = pickle.loads(pickle.dumps(train_transform(InputConfig(img_size=24), AugmentConfig(auto_augment=policy))))
    assert transform(picture(40, 30)).shape == (3, 24, 24)


@pytest.mark.parametrize(
    "policy",
    [
        "",
        "none",
        "rnd-m9",
        "rand-m9-inc",
        "rand-m9-strong",
        "rand-m9.5",
        "rand-p2",
        "rand--m9",
        "rand-m9-",
        "augmix-q3",
    ],
)
def test_invalid_policies_are_refused(policy: str) -> None:
    with pytest.raises(ValueError, match=r"auto_augment \(='.*'\) is no policy of timm"):
        AugmentConfig(auto_augment=policy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale_min", 0.0),
        ("scale_min", 1.1),
        ("hflip", -0.1),
        ("vflip", 1.5),
        ("random_erasing", 2.0),
        ("color_jitter", -1.0),
        ("hflip", float("nan")),
        ("train_interpolation", "cubic"),
    ],
)
def test_augment_fields_are_checked(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{field} \(="):
        AugmentConfig(**{field: value})


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(60, 40), (20, 50), (32, 32)])
def test_no_crop_in_training_is_the_geometry_of_evaluation(crop_mode: Any, size: tuple[int, int]) -> None:
    inputs = InputConfig(32, crop_pct=0.8, crop_mode=crop_mode)
    image = Image.radial_gradient("L").resize(size).convert("RGB")
    plain = AugmentConfig(crop="none", hflip=0, auto_augment=None, color_jitter=0, random_erasing=0)
    assert torch.equal(train_transform(inputs, plain)(image), eval_transform(inputs)(image))


def test_the_other_augmentations_follow_where_there_is_no_crop() -> None:
    inputs = InputConfig(32, crop_pct=1.0, crop_mode="squash")
    image = Image.linear_gradient("L").rotate(90).resize((40, 50)).convert("RGB")
    mirrored = train_transform(
        inputs, AugmentConfig(crop="none", hflip=1, auto_augment=None, color_jitter=0, random_erasing=0)
    )(image)
    assert torch.equal(mirrored, eval_transform(inputs)(image).flip(-1))
    assert not torch.equal(mirrored, eval_transform(inputs)(image))
    erased = AugmentConfig(crop="none", hflip=0, auto_augment=None, color_jitter=0, random_erasing=1)
    assert not torch.equal(train_transform(inputs, erased)(image), eval_transform(inputs)(image))


def test_no_crop_of_the_least_side_is_enlarged() -> None:
    augment = AugmentConfig(scale_min=0.08)
    side = least_side(InputConfig(224), augment)
    crop = train_transform(InputConfig(224), augment).transforms[0]  # type: ignore[attr-defined]
    for image in (Image.new("RGB", (side, side)), Image.new("RGB", (side, 3 * side)), Image.new("RGB", (2 * side, side))):
        drawn = [min(crop.get_params(image, crop.scale, crop.ratio)[2:]) for _ in range(500)]
        assert min(drawn) >= 223  # rounded
    assert least_side(InputConfig(224), AugmentConfig.none()) == 256
