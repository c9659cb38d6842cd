"""``svp.ops.explain`` says what "auto" does."""

from __future__ import annotations

import pytest
import torch

from svp.ops import BACKENDS, explain, use_backend
from svp.ops.backend import resolve


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_says_what_is_taken(device: str, dtype: torch.dtype) -> None:
    tensor = torch.empty(1, device=device, dtype=dtype)
    title = f'"auto" for {str(dtype).removeprefix("torch.")} on {device}: {resolve("auto", tensor)}'
    assert explain(tensor).splitlines()[0] == title
    assert explain(device=device, dtype=dtype) == explain(tensor)


def test_says_why_for_every_backend_and_op() -> None:
    text = explain(dtype=torch.float64)
    assert "numba       compiled for the CPU: no, it takes float32, bfloat16 and float16, got torch.float64" in text
    lines = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    assert lines == [*BACKENDS[1:], "add_rms_norm", "causal_conv1d", "selective_scan", "bidirectional_scan"]
    assert max(map(len, text.splitlines())) <= 127


def test_a_device_that_is_not_here() -> None:
    lines = explain(device="cuda").splitlines()
    assert lines[0].startswith('"auto" for float32 on cuda: triton')
    assert lines[0].endswith("(PyTorch finds no CUDA device here)") == (not torch.cuda.is_available())
    assert '"auto" for float64 on cuda: any_device' in explain(device="cuda", dtype=torch.float64)


def test_a_broken_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svp.ops.backend._failure", lambda name: "ImportError: none" if name == "numba" else "")
    text = explain()
    assert text.startswith('"auto" for float32 on cpu: any_device\n')
    assert "numba       compiled for the CPU: no, ImportError: none" in text


def test_inside_use_backend() -> None:
    with use_backend("reference"):
        assert explain().splitlines()[0].endswith("cpu: reference, because of the surrounding use_backend('reference')")
