"""Who else computes a Vim: the same model with another scan, or the same file in another runtime. All in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from svp.bench.cases import Case, Step, build, make_step, ours
from svp.errors import UnavailableError
from svp.models import BidirectionalMamba
from svp.ops import use_backend
from svp.tuners import save_adapter, tune

Recurrence = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""step, step * x, (batch, length, d_inner), A, (d_inner, states), B and C, (batch, length, states) -> y, as step."""

NOT_THE_SAME = {
    "torch.compile of the loop": "unrolls it, and is not done with 65 tokens after 8 minutes; it refuses the scan operator",
    "SelectiveSSM of OpenVINO": "is the scan of Mamba-2, one decay per head; Vim has one per channel and state",
    "selective_scan of Modular": "its engine (max 26.7) cannot import the kernels that it comes with, state_space.mojoc",
}
"""Scans for CPUs that are not set beside ours, and why."""


def peers_of(case: Case, device: torch.device) -> dict[str, Callable[[Case, torch.device], Step]]:
    """Makers of the peers' steps by name; those whose packages are installed, and that can do what the case does."""
    makers: dict[str, Callable[[Case, torch.device], Step]] = {"loop": loop}
    if find_spec("mambapy"):
        makers["mambapy"] = mambapy
    if case.mode == "inference" and device.type == "cpu" and all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        makers["onnxruntime"] = onnxruntime
        if find_spec("openvino"):
            makers["openvino"] = openvino
    return makers


def left_out(device: torch.device) -> dict[str, str]:
    """Peers that are not measured here, and why."""
    packages = {"mambapy": "mambapy", "onnxruntime": "'vim-svp[onnx]'", "openvino": "'vim-svp[onnx]' openvino"}
    there = peers_of(Case("vim_nano"), device)
    reasons = {name: f"not installed: pip install {package}" for name, package in packages.items()}
    if device.type != "cpu":
        reasons |= dict.fromkeys(("onnxruntime", "openvino"), "runs on a CPU")
    return {name: reason for name, reason in reasons.items() if name not in there} | NOT_THE_SAME


def loop(case: Case, device: torch.device) -> Step:
    """The scan as a loop over time in PyTorch, with our hand-written backward pass: the best that plain PyTorch does."""
    step = ours(case, device)

    def run() -> object:
        with use_backend("any_device"):
            return step()

    return run


def mambapy(case: Case, device: torch.device) -> Step:
    """The parallel scan of the package mambapy in our mixers.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    from mambapy.pscan import pscan

    def recurrence(step: Tensor, step_x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        states = pscan(torch.exp(step.unsqueeze(-1) * A), step_x.unsqueeze(-1) * B.unsqueeze(2))
        return (states @ C.unsqueeze(-1)).squeeze(3)

    return _with_recurrence(case, device, recurrence)


def _with_recurrence(case: Case, device: torch.device, recurrence: Recurrence) -> Step:
    """A step of the model whose mixers call `recurrence`."""
    model = build(case, device)
    for block in model.layers:
        block.mixer.forward = partial(_mixer, block.mixer, recurrence)
    return make_step(case, model, device)


def _mixer(mixer: BidirectionalMamba, recurrence: Recurrence, u: Tensor) -> Tensor:
    x, z = mixer.in_proj(u).chunk(2, dim=-1)

    def scan(conv1d: Any, x_proj: Any, dt_proj: Any, A_log: Tensor, D: Tensor, flip: bool) -> Tensor:
        inputs = conv1d(x)
        dt, B, C = x_proj(inputs).split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1)
        dt = F.softplus(dt_proj(dt))
        if flip:
            inputs, dt, B, C = (t.flip(1) for t in (inputs, dt, B, C))
        y = recurrence(dt, dt * inputs, -torch.exp(A_log), B, C) + D * inputs
        return y.flip(1) if flip else y

    forward = scan(mixer.conv1d, mixer.x_proj, mixer.dt_proj, mixer.A_log, mixer.D, False)
    backward = scan(mixer.conv1d_b, mixer.x_proj_b, mixer.dt_proj_b, mixer.A_b_log, mixer.D_b, True)
    return mixer.out_proj((forward + backward) / 2 * F.silu(z))


def onnxruntime(case: Case, device: torch.device) -> Step:
    """The file of ``svp export``, run by onnxruntime; it gives probabilities."""
    from svp.export import onnx_file

    with tempfile.TemporaryDirectory() as folder:
        run = onnx_file.load(_exported(case, Path(folder)))
    images = _images(case)
    return lambda: run(images)


def openvino(case: Case, device: torch.device) -> Step:
    """The same file, run by OpenVINO.

    Raises:
        UnavailableError: OpenVINO does not read the file, as 2026.4 that of Vim-S, though it reads that of Vim-Ti.
    """
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        core = openvino.Core()
        threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        file = _exported(case, Path(folder))
        try:
            run = core.compile_model(core.read_model(file), "CPU", threads)
        except RuntimeError as error:
            raise UnavailableError(f"OpenVINO does not read the file of {case.model}: {error}") from error
    images = _images(case).numpy()
    return lambda: torch.from_numpy(run({"images": images})[0])


def _exported(case: Case, folder: Path) -> Path:
    from svp.export import export_run

    model = build(case, torch.device("cpu"))
    tune(model, "full")  # an adapter that holds all weights, which are random
    save_adapter(model, folder)
    noise = np.random.default_rng(0).integers(0, 256, (case.img_size, case.img_size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return export_run(folder, "onnx", images=[folder / "noise.png"]).path


def _images(case: Case) -> Tensor:
    return torch.rand(case.batch_size, 3, case.img_size, case.img_size, generator=torch.Generator().manual_seed(1))
