"""A small set of real image files that a model can learn in seconds, and settings to match."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import svp
from svp.training import Run
from tests import small_model  # noqa: F401  # it makes test_vim known

COLORS = {"amber": (220, 160, 20), "blue": (30, 60, 200), "green": (30, 170, 60)}


def write_photos(root: Path, per_class: int = 14, seed: int = 0) -> Path:
    """Class folders of noisy patches of one color each."""
    generator = np.random.default_rng(seed)
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.clip(generator.normal(color, 40, size=(20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.jpg", quality=95)
    return root


FAST: dict[str, Any] = dict(
    model="test_vim", weights="random", img_size=16, epochs=2, batch_size=8, lr=0.01, device="cpu", progress=False
)
"""Settings of a run of a few seconds: 17 tokens, few layers, random weights."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return FAST | {"out": str(tmp_path / "run")}


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("finished")
    return svp.train(write_photos(place / "photos"), **FAST | {"epochs": 1, "out": str(place / "run")})


@pytest.fixture
def finished(finished_once: Run, tmp_path: Path) -> Run:
    """A finished run of one epoch, the test's own; its images are not, and stay as they are."""
    return replace(finished_once, directory=shutil.copytree(finished_once.directory, tmp_path / "finished"))
