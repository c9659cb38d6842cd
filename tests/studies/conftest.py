"""A study of runs of a second each: real images, real training, random weights, 17 tokens."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from svp.models.vim import default_cfgs
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


@pytest.fixture
def newer_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of a later version, which `vim_nano` alone means there."""
    own = default_cfgs["vim_nano_patch4_32"]
    cfgs = {**own.cfgs, "newer": own.cfgs["tiny_in200"]}
    monkeypatch.setitem(default_cfgs, "vim_nano_patch4_32", replace(own, tags=deque(["newer", *own.tags]), cfgs=cfgs))
