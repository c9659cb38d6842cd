"""``svp models``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from svp.cli import main
from svp.commands.models import count_flops
from svp.models.checkpoints import EMBEDDED, file_sha256


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    assert "vim_small_patch16_stride8_224" in capsys.readouterr().out
    assert main(["models", "info", "vim_tiny"]) == 0
    text = capsys.readouterr().out
    assert "fedb1e60267f3bc7b2a8443f2ddead8d39e019d10247a87252162b3789801fd5" in text
    assert "76.1" in text
    assert "apache-2.0" in text
    assert "non-commercial" in text
    assert "3.0" in next(line for line in text.splitlines() if line.startswith("compute"))
    assert main(["models", "info", "vim_nano.tiny_in200"]) == 0
    text = capsys.readouterr().out
    assert "vim_nano_patch4_32.tiny_in200.safetensors" in text
    assert "tiny_in200" in next(line for line in text.splitlines() if line.startswith("tags"))
    assert file_sha256(EMBEDDED / "vim_nano_patch4_32.tiny_in200.safetensors") in text
    assert "ImageNet-1k" not in text  # its classes are others


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    from safetensors.torch import load_file

    state = {"a": torch.ones(2, 3)}
    torch.save({"model": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "old.pth")
    assert main(["models", "convert", str(tmp_path / "old.pth")]) == 0
    assert torch.equal(load_file(tmp_path / "old.safetensors")["a"], state["a"])
    assert main(["models", "convert", str(tmp_path / "old.pth")]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "published"), [("vim_tiny", 1.5e9), ("vim_small", 5.1e9), ("deit_small_patch16_224", 4.6e9)])
def test_compute_is_near_what_is_published(name: str, published: float) -> None:
    """Published tables count a multiplication and an addition as one."""
    assert count_flops(name) == pytest.approx(2 * published, rel=0.05)
