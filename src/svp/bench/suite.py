"""Every figure of the performance page: sections of cases, each measured within one run."""

from __future__ import annotations

import math
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import psutil
import torch

from svp.bench import cases
from svp.bench.cases import Case, Mode, Precision, Step
from svp.bench.limit import attention_runner, limit_parts
from svp.bench.measure import Timing, take_turns
from svp.bench.parts import time_of_parts
from svp.bench.peers import peers_of
from svp.bench.probe import first_call_seconds, memory_per_image
from svp.errors import InputError, UnavailableError
from svp.models.factory import full_name

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
RESOLUTIONS = (224, 448, 896, 1248)
PEERS = {"vim_small_patch16_224": "deit_small_patch16_224"}
"""Vision Transformers of the same width and depth class."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        section: Part of the suite.
        case: What was measured.
        of: Whose figure it is: "svp", a peer, a part of the limit or of the step, "limit", the sum of its parts, or
            "crossing", where two are equally fast.
        unit: "images/s", "of our time" (its time over that of svp in the same round), "of its time" (the time of a part over
            that of its step), "ms", "ms at least", "s", "px" or "MB per image".
        value: Median over the rounds, or the only value.
        low: First quartile.
        high: Third quartile.
    """

    section: str
    case: Case
    of: str
    unit: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Args:
        models: Names of Vim models.
        rounds: Times that every function is timed, in turns.
        batch_size: Images per batch where nothing else is said.
        device: What is measured.
    """

    models: tuple[str, ...] = ("vim_small", "vim_tiny")
    rounds: int = 7
    batch_size: int = 8
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def run_suite(sections: list[str], settings: Settings) -> Iterator[Row]:
    """Measure the named sections and yield their rows as they come.

    Raises:
        InputError: No section of that name, one that is for a CPU alone, or none of the models has a peer to compare over the
            resolution.
    """
    for section in sections:
        if section not in SECTIONS:
            raise InputError(f"unknown section {section!r}; known: {', '.join(SECTIONS)}")
    if "resolution" in sections and not _with_peers(settings):
        raise InputError(
            f"section 'resolution' sets a Vim beside a Vision Transformer of its size: add one of {', '.join(PEERS)} to the "
            "models, or name the other sections"
        )
    if "parts" in sections and settings.device.type != "cpu":
        raise InputError(
            f"section 'parts' takes a step on a CPU apart, but the device is {settings.device}: name the other sections"
        )
    for section in sections:
        yield from SECTIONS[section](settings)


def _speed(settings: Settings) -> Iterator[Row]:
    """Inference and SVP training against the limit: the parts of it, and its share of our time."""
    for case in _speed_cases(settings):
        parts = limit_parts(case, settings.device)
        timings = take_turns({"svp": cases.ours(case, settings.device), **parts}, settings.rounds, settings.device)
        yield _row("speed", case, "svp", "images/s", timings["svp"].rate(case.batch_size))
        for part in parts:
            yield _row("speed", case, part, "ms", timings[part].scaled(1000))
        limit = Timing.sum_of([timings[part] for part in parts])
        yield _row("speed", case, "limit", "of our time", limit.ratio(timings["svp"]))


def _parts(settings: Settings) -> Iterator[Row]:
    """Where the time of a step goes, and the floor of each part."""
    for model in settings.models:
        for case in _cases_of(model, settings.batch_size):
            times, floors = time_of_parts(case, min(3, settings.rounds))
            for part, timing in times.items():
                yield _row("parts", case, part, "ms", timing.scaled(1000))
                yield _row("parts", case, part, "ms at least", floors[part].scaled(1000))


def _peers(settings: Settings) -> Iterator[Row]:
    """Against other ways to compute the scan or the whole model."""
    inference = Case(settings.models[0], "inference", "fp32", settings.batch_size)
    training = Case(settings.models[0], "training", "fp32", min(2, settings.batch_size))  # mambapy takes 2 GB per image
    for case in (inference, training):
        makers = {"svp": cases.ours, **peers_of(case, settings.device)}
        yield from _compare("peers", case, makers, replace(settings, rounds=min(3, settings.rounds)))


def _resolution(settings: Settings) -> Iterator[Row]:
    """Vim and a Vision Transformer of its size over the side of the image, each in its faster precision: inference time, where
    it goes, the side at which the two are equally fast; and memory in training.
    """
    few = min(3, settings.rounds)
    for model, peer in _with_peers(settings).items():
        ratios: dict[int, float] = {}
        for img_size in RESOLUTIONS:
            batch_size = max(1, settings.batch_size * 224**2 // img_size**2)
            of = {"svp": model, peer: peer}
            tried = {
                (name, precision): Case(of[name], "inference", precision, batch_size, img_size)
                for name in of
                for precision in PRECISIONS
            }
            steps = {str(key): cases.ours(case, settings.device) for key, case in tried.items()}
            timings = take_turns(steps, few, settings.device, warmup=1)
            del steps
            ours, theirs = (
                min((key for key in tried if key[0] == name), key=lambda key: timings[str(key)].median) for name in of
            )
            time, their_time = timings[str(ours)], timings[str(theirs)]
            ratio = their_time.ratio(time)
            ratios[img_size] = ratio.median
            yield _row("resolution", tried[ours], "svp", "images/s", time.rate(batch_size))
            yield _row("resolution", tried[theirs], peer, "of our time", ratio)
            parts = limit_parts(tried[ours], settings.device)
            for part, timing in take_turns(parts, few, settings.device, warmup=1).items():
                yield _row("resolution", tried[ours], part, "of its time", timing.ratio(time))
            attention = {"attention": attention_runner(tried[theirs], settings.device)}
            spent = take_turns(attention, few, settings.device, warmup=1)["attention"]
            yield _row("resolution", tried[theirs], "attention", "of its time", spent.ratio(their_time))
        if (side := crossing(ratios)) is not None:
            yield _single("resolution", Case(model, "inference", img_size=round(side)), "crossing", "px", side)
        for img_size in RESOLUTIONS:
            for name, measured in (("svp", model), (peer, peer)):
                training = Case(measured, "training", "bf16", 3, img_size)
                yield _single("resolution", training, name, "MB per image", memory_per_image(training, settings.device))


def crossing(ratios: Mapping[int, float]) -> float | None:
    """The side in pixels at which a peer is as slow as we are, on straight lines between logarithms; None if it never is.

    Args:
        ratios: The peer's time over ours, by side, in ascending order.
    """
    for (side, ratio), (next_side, next_ratio) in pairwise(ratios.items()):
        if ratio < 1 <= next_ratio:
            share = -math.log(ratio) / math.log(next_ratio / ratio)
            return side * (next_side / side) ** share
    return None


def _memory(settings: Settings) -> Iterator[Row]:
    """Memory of a training step per image, in batches of 32; in bf16 with checkpoints too."""
    for model in (*settings.models, *_with_peers(settings).values()):
        plain = [Case(model, "training", precision, 32) for precision in PRECISIONS]
        for case in (*plain, replace(plain[-1], grad_checkpointing=True)):
            of = "svp" if model in settings.models else model
            yield _single("memory", case, of, "MB per image", memory_per_image(case, settings.device))


def _first_call(settings: Settings) -> Iterator[Row]:
    """What the first call costs more than later ones, without and with compiled kernels on disk."""
    for mode in ("inference", "training"):
        case = Case(settings.models[-1], mode, "fp32", 2)
        cold, warm = first_call_seconds(case, settings.device)
        yield _single("first call", case, "no cache", "s", cold)
        yield _single("first call", case, "warm cache", "s", warm)


SECTIONS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "speed": _speed,
    "parts": _parts,
    "peers": _peers,
    "resolution": _resolution,
    "memory": _memory,
    "first-call": _first_call,
}


def _with_peers(settings: Settings) -> dict[str, str]:
    """Vim -> its peer, of those models that have one."""
    return {name: PEERS[full_name(name)] for name in settings.models if full_name(name) in PEERS}


def _speed_cases(settings: Settings) -> Iterator[Case]:
    for model in settings.models:
        yield from (Case(model, "inference", precision, 1) for precision in PRECISIONS)
        yield from _cases_of(model, settings.batch_size)
    yield from (Case("vim_nano", "training", precision, 32, 32) for precision in PRECISIONS)


def _cases_of(model: str, batch_size: int) -> Iterator[Case]:
    modes: tuple[Mode, ...] = ("inference", "training")
    yield from (Case(model, mode, precision, batch_size) for mode in modes for precision in PRECISIONS)


def _compare(
    section: str, case: Case, makers: Mapping[str, Callable[[Case, torch.device], Step]], settings: Settings
) -> Iterator[Row]:
    """Images per second of svp; of everybody else who can do it the time over that of svp in the same round."""
    steps = {}
    for name, make in makers.items():
        try:
            steps[name] = make(case, settings.device)
        except UnavailableError as error:
            warnings.warn(f"{name} is left out: {error}", stacklevel=2)
    timings = take_turns(steps, settings.rounds, settings.device)
    yield _row(section, case, "svp", "images/s", timings["svp"].rate(case.batch_size))
    for name, timing in timings.items():
        if name != "svp":
            yield _row(section, case, name, "of our time", timing.ratio(timings["svp"]))


def _row(section: str, case: Case, of: str, unit: str, timing: Timing) -> Row:
    return Row(section, case, of, unit, timing.median, *timing.quartiles)


def _single(section: str, case: Case, of: str, unit: str, value: float) -> Row:
    return Row(section, case, of, unit, value, value, value)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.get_device_module(device).get_device_name(device) if device.type in ("cuda", "xpu") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
