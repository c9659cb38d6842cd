"""A finished run, and images for it, that the tests of all commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from svp.cli import main
from tests.training.conftest import write_photos

FAST = [
    *("--model", "test_vim", "--weights", "random", "--img-size", "16"),
    *("--batch-size", "8", "--device", "cpu", "--epochs", "1"),
]
"""Options of ``svp train`` that make it quick."""


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("cli") / "photos")


@pytest.fixture(scope="session")
def run(photos: Path) -> Path:
    out = photos.parent / "run"
    assert (
        main(["train", "--data", str(photos), *FAST, "--method", "svp", "--method.shared_layers", "4", "--out", str(out)]) == 0
    )
    return out
