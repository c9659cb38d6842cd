"""A small set of real image files that a model can learn in seconds, and settings to match."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

COLOURS = {"amber": (220, 160, 20), "blue": (30, 60, 200), "green": (30, 170, 60)}


def write_photos(root: Path, per_class: int = 14, seed: int = 0) -> Path:
    """Class folders of noisy patches of one colour each."""
    generator = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.clip(generator.normal(colour, 40, size=(20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.jpg", quality=95)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Settings of a run of a few seconds: 17 tokens, random weights."""
    return dict(
        model="vim_nano",
        weights="random",
        img_size=16,
        epochs=2,
        batch_size=8,
        lr=0.01,
        device="cpu",
        out=str(tmp_path / "run"),
        progress=False,
    )
