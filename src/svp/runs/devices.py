"""Devices, precision and processes."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration
from torch import distributed

from svp.errors import InputError, UnavailableError
from svp.limits import usable_cpus
from svp.settings import Device, Precision, check_value


def choose_device(device: str = "auto") -> torch.device:
    """The device that a word stands for.

    Of several processes that train together each takes its own device of the kind.

    Args:
        device: "auto", or a device as PyTorch names it, such as "cpu", "cuda", "cuda:1", "xpu" or "mps"; "auto" takes the
            first kind of these that is there: cuda, xpu, mps, another accelerator that PyTorch knows, cpu.

    Raises:
        InputError: Another word, or the number of a device where several processes train together.
        UnavailableError: The device is not there; names those that are.
    """
    check_device(device)
    there = list_devices()
    kind, _, number = device.partition(":")
    if kind == "auto":
        kind = there[0].type
    if kind == "cpu":
        return torch.device("cpu")
    if number and _number_of_processes() > 1:
        raise InputError(f"device is {device!r}, one for {_number_of_processes()} processes: leave the number out")
    chosen = torch.device(kind, int(number or os.environ.get("LOCAL_RANK", "0")))
    if chosen not in there:
        names = ", ".join(map(str, there))
        raise UnavailableError(
            f"device is {device!r}, but PyTorch finds no {chosen} here, only {names}; auto takes {there[0]}"
        )
    return chosen


def check_device(device: str) -> None:
    """Raise ``InputError`` unless `device` is "auto" or the name of a device that PyTorch can have somewhere."""
    check_value("device", device, Device)
    with suppress(RuntimeError):  # PyTorch knows no such kind
        if device == "auto" or (torch.device(device).type != "meta" and str(torch.device(device)) == device):
            return
    raise InputError(f"device is {device!r}, expected auto, cpu, cuda, cuda:1, xpu, mps or another device of PyTorch")


def list_devices() -> list[torch.device]:
    """Devices of this machine that a model can run on, in the order in which "auto" would have them; the CPU is the last."""
    kinds = [kind for kind in ("cuda", "xpu", "mps") if torch.get_device_module(kind).is_available()]
    if (other := torch.accelerator.current_accelerator(check_available=True)) is not None and other.type not in kinds:
        kinds.append(other.type)
    found = [torch.device(kind, i) for kind in kinds for i in range(torch.get_device_module(kind).device_count())]
    return [*found, torch.device("cpu")]


def computes_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16 by itself; False for other devices."""
    match device.type:
        case "cuda" | "xpu":
            return bool(torch.get_device_module(device).is_bf16_supported(including_emulation=False))
        case "mps":
            return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    return False


@contextmanager
def separate_accelerate_state() -> Iterator[None]:
    """Inside, accelerate begins anew; afterwards the caller's ``Accelerator`` is as it was.

    Accelerate keeps device, precision and gradient accumulation once per process, and refuses a second choice. Where several
    processes train together they are joined once, and share one state.
    """
    states = (PartialState, AcceleratorState, GradientState)
    if _number_of_processes() > 1:
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
        device: See `choose_device`.
        precision: "auto" (bf16 where a GPU computes in it, else fp32), "fp32" or "bf16".

    Raises:
        InputError: Another word.
        UnavailableError: The device is not there, or does not know the precision.
    """
    check_value("precision", precision, Precision)
    target = choose_device(device)
    if precision == "auto":
        precision = "bf16" if target.type in ("cuda", "xpu") and computes_bf16(target) else "fp32"
    elif precision == "bf16" and target.type == "mps" and not computes_bf16(target):
        raise UnavailableError("precision is 'bf16', which Apple's GPUs know from macOS 14 on; use --precision fp32")
    if torch.get_num_threads() > usable_cpus():
        torch.set_num_threads(usable_cpus())  # PyTorch sees no quota of a container
    were_joined = _processes_are_joined()
    with _on(target):
        accelerator = Accelerator(
            cpu=target.type == "cpu",
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


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """Inside, accelerate takes this device; of several processes each takes its own by itself."""
    name = "ACCELERATE_TORCH_DEVICE"
    before = os.environ.get(name)
    if _number_of_processes() == 1:
        os.environ[name] = str(device)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _number_of_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _processes_are_joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _part_processes() -> None:
    """End gloo's threads while Python lives: the last of a collective may hold tensors, and one that lets go of them
    in an interpreter that is closing aborts the process ("terminate called without an active exception"). Nothing is
    waited for: where one process fails, the others see its connection close. A group of NCCL is left as it is, because
    ending it while another process still waits may hang."""
    if _processes_are_joined():
        distributed.destroy_process_group()
