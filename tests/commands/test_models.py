"""``svp models``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from svp.cli import main


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    assert "vim_small_patch16_stride8_224" in capsys.readouterr().out
    assert main(["models", "info", "vim_tiny"]) == 0
    text = capsys.readouterr().out
    assert "fedb1e60267f3bc7b2a8443f2ddead8d39e019d10247a87252162b3789801fd5" in text
    assert "76.1" in text
    assert "apache-2.0" in text
    assert "non-commercial" in text


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    from safetensors.torch import load_file

    state = {"a": torch.ones(2, 3)}
    torch.save({"model": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "old.pth")
    assert main(["models", "convert", str(tmp_path / "old.pth")]) == 0
    assert torch.equal(load_file(tmp_path / "old.safetensors")["a"], state["a"])
    assert main(["models", "convert", str(tmp_path / "old.pth")]) == 2
    assert "exists already" in capsys.readouterr().err
