"""Adapters that were not trained but moved at random: made in a second, and each says something of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import svp
from svp.models import Origin

CLASSES = ("amber", "blue", "green", "grey", "pink", "red")
OPTIONS: dict[str, dict[str, Any]] = {
    "svp": dict(shared_layers=2, hidden_dim=8),
    "linear": {},
    "bitfit": {},
    "lora": dict(rank=4),
    "vpt_deep": dict(num_tokens=3),
    "full": {},
}


def make_adapters(folder: Path, origin: Origin, methods: list[str]) -> list[Path]:
    """An adapter directory for each method, named as it."""
    for n, method in enumerate(methods):
        model = origin.build(len(CLASSES))
        tuner = svp.tune(model, method, **OPTIONS[method])
        generator = torch.Generator().manual_seed(n)
        with torch.no_grad():
            for parameter in tuner.trainable_parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        svp.save_adapter(model, folder / method, CLASSES)
    return [folder / method for method in methods]


def make_images(folder: Path, number: int) -> list[Path]:
    """Coarse noise, so that every image differs from the others."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{n:02d}.png" for n in range(number)]
    for path in paths:
        coarse = generator.integers(0, 256, size=(5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC).save(path)
    return paths


SMALL = Origin("vim_nano_patch4_32", "random", dict(img_size=16, depth=2), seed=0)
"""17 tokens, two layers."""


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters of every kind on a backbone of random weights."""
    return make_adapters(tmp_path_factory.mktemp("adapters"), SMALL, list(OPTIONS))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_images(tmp_path_factory.mktemp("images"), 20)
