"""Devices, precision and processes."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration
from torch import distributed

from svp.errors import UnavailableError
from svp.limits import usable_cpus
from svp.settings import Device, Precision, check_value


def choose_device(device: str = "auto") -> torch.device:
    """The device that a word stands for.

    Args:
        device: "auto", "cpu" or "cuda"; "auto" takes a GPU if there is one.

    Raises:
        InputError: Another word.
        UnavailableError: A GPU is asked for and there is none.
    """
    check_value("device", device, Device)
    if device == "cpu" or not torch.cuda.is_available():
        if device == "cuda":
            raise UnavailableError("device is 'cuda', but PyTorch finds no CUDA GPU; use --device cpu or auto")
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def separate_accelerate_state() -> Iterator[None]:
    """Inside, accelerate begins anew; afterwards the caller's ``Accelerator`` is as it was.

    Accelerate keeps device, precision and gradient accumulation once per process, and refuses a second choice. Where several
    processes train together they are joined once, and share one state.
    """
    states = (PartialState, AcceleratorState, GradientState)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        yield
        return
    before = [dict(state._shared_state) for state in states]
    for state in states:
        state._shared_state.clear()
    try:
        yield
    finally:
        for state, values in zip(states, before, strict=True):
            state._shared_state.clear()
            state._shared_state.update(values)


def make_accelerator(device: str, precision: str) -> Accelerator:
    """Join the processes, if there are several, on their devices. Call it inside ``separate_accelerate_state``.

    Processes that are joined on a CPU part as Python ends.

    Args:
        device: "auto", "cpu" or "cuda".
        precision: "auto" (bf16 where a GPU computes in it, else fp32), "fp32" or "bf16".

    Raises:
        InputError: Another word.
        UnavailableError: A GPU is asked for and there is none.
    """
    check_value("precision", precision, Precision)
    gpu = choose_device(device).type == "cuda"
    if precision == "auto":
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if torch.get_num_threads() > usable_cpus():
        torch.set_num_threads(usable_cpus())  # PyTorch sees no quota of a container
    were_joined = _processes_are_joined()
    accelerator = Accelerator(
        cpu=not gpu,
        mixed_precision="bf16" if precision == "bf16" else "no",
        dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=False),
    )
    if not were_joined and _processes_are_joined() and distributed.get_backend() == "gloo":
        atexit.register(_part_processes)
    return accelerator


class Meeting:
    """Where joined processes wait for each other at the end, however much longer one takes; one that is alone does not wait.

    All of them make it, soon after they are joined.
    """

    def __init__(self) -> None:
        self._group: Any = (
            distributed.new_group(backend="gloo", timeout=timedelta(days=30)) if _processes_are_joined() else None
        )

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        flags = torch.tensor(int(flag))
        if self._group is not None:
            distributed.all_reduce(flags, distributed.ReduceOp.MAX, self._group)
        return bool(flags)


def _processes_are_joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _part_processes() -> None:
    """End gloo's threads while Python lives: the last of a collective may hold tensors, and one that lets go of them
    in an interpreter that is closing aborts the process ("terminate called without an active exception"). Nothing is
    waited for: where one process fails, the others see its connection close. A group of NCCL is left as it is, because
    ending it while another process still waits may hang."""
    if _processes_are_joined():
        distributed.destroy_process_group()
