"""A study of runs of a second each: real images, real training, random weights, 17 tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import write_photos


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """What the study's YAML file holds."""
    photos = write_photos(tmp_path / "photos", per_class=10)
    return {
        "name": "small",
        "settings": {
            "model": "test_vim",
            "weights": "random",
            "img_size": 16,
            "epochs": 1,
            "warmup_epochs": 0,
            "batch_size": 8,
            "cache": "memory",
            "device": "cpu",
        },
        "data": {"photos": {"data": str(photos)}},
        "methods": {"linear": {"lr": 0.01}, "bias": {"method": "bitfit", "lr": 0.01}},
    }
