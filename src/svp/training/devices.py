"""The device, the precision and the processes of a run."""

from __future__ import annotations

import atexit
import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from torch import distributed

from svp.errors import UnavailableError


def make_accelerator(device: str, precision: str) -> Accelerator:
    """Devices and precision by the words of ``TrainConfig``; processes that are joined on a CPU part as Python ends.

    Args:
        device: "auto", "cpu" or "cuda".
        precision: "auto" (bf16 where a GPU computes in it, else fp32), "fp32" or "bf16".

    Raises:
        RuntimeError: A GPU is asked for and there is none.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # else a second run could not choose its own precision
    gpu = torch.cuda.is_available() and device != "cpu"
    if device == "cuda" and not gpu:
        raise UnavailableError("device is 'cuda', but PyTorch finds no CUDA GPU; use --device cpu or auto")
    if precision == "auto":
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    were_joined = _processes_are_joined()
    accelerator = Accelerator(
        cpu=not gpu,
        mixed_precision="bf16" if precision == "bf16" else "no",
        dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=False),
    )
    if not were_joined and _processes_are_joined() and distributed.get_backend() == "gloo":
        atexit.register(_part_processes)
    return accelerator


def _processes_are_joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _part_processes() -> None:
    """End gloo's threads while Python lives: the last of a collective may hold tensors, and one that lets go of them
    in an interpreter that is closing aborts the process ("terminate called without an active exception"). Nothing is
    waited for: where one process fails, the others see its connection close. A group of NCCL is left as it is, for to end
    it beside a process that still waits may hang."""
    if _processes_are_joined():
        distributed.destroy_process_group()
