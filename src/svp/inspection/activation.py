"""Gates along the sequence, averaged over a data set, and how much a method changes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from svp.inspection.recording import gates

Array = npt.NDArray[np.float64]

ACTIVATIONS = ("update", "forget", "dt", "memory", "state_norm")
"""Gates that are averaged along the sequence."""
DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Activation:
    """Gates at every image token, mean over layers; the class token and added tokens are left out.

    Args:
        gates: For each of ``ACTIVATIONS``, (2, images, num_patches): forward and backward scan.
        prompts: What is added to the tokens, by the names of ``PromptRecord``: means over images and image tokens, (depth,),
            and scales, (depth, embed_dim); empty for a model that adds nothing to them.
    """

    gates: dict[str, Array]
    prompts: dict[str, Array]

    def of(self, gate: str, direction: str = "both") -> Array:
        """(images, num_patches) of one gate; `direction` is "forward", "backward" or "both", their mean."""
        values = self.gates[gate]
        mean: Array = values.mean(axis=0)
        return mean if direction == "both" else values[DIRECTIONS.index(direction)]


@dataclass(frozen=True)
class Change:
    """Relative change of a mean, -0.1 for 10 % less, and half the width of its 95 % interval, (parts,) each."""

    mean: Array
    half_width: Array


def record_activation(model: nn.Module, batches: Iterable[Tensor]) -> Activation:
    """Record the gates of `model` on batches of images and keep what is needed to average them."""
    by_gate: dict[str, list[Array]] = {gate: [] for gate in ACTIVATIONS}
    by_prompt: dict[str, list[Array]] = {}
    scales: dict[str, Array] = {}
    for images in batches:
        record = gates(model, images)
        for gate, means in by_gate.items():
            scans = [record.image_tokens(getattr(scan, gate)).mean(dim=0) for scan in (record.forward, record.backward)]
            means.append(np.stack([_numpy(scan) for scan in scans]))
        if record.prompts is not None:
            for name, values in record.prompts.tokens.items():
                by_prompt.setdefault(name, []).append(_numpy(record.image_tokens(values).mean(dim=2)))  # (depth, batch)
            scales = {name: _numpy(values) for name, values in record.prompts.scales.items()}
    return Activation(
        {gate: np.concatenate(values, axis=1) for gate, values in by_gate.items()},
        {name: np.concatenate(values, axis=1).mean(axis=1) for name, values in by_prompt.items()} | scales,
    )


def relative_change(base: Array, tuned: Array, parts: Sequence[Any]) -> Change:
    """Change of the mean over images in every part of the sequence.

        r = mean(tuned) / mean(base) - 1;    r +- 1.96 * std(tuned - (1 + r) base) / (sqrt(images) mean(base))

    Args:
        base: (images, num_patches)
        tuned: Values of the tuned model for the same images, (images, num_patches).
        parts: Positions of every part: indices or slices, such as ``quarters``.

    Returns:
        The interval is NaN for a single image.
    """
    b, t = (np.stack([values[:, part].mean(axis=1) for part in parts], axis=1) for values in (base, tuned))
    change = t.mean(axis=0) / b.mean(axis=0) - 1
    rest = t - (1 + change) * b
    spread = rest.std(axis=0, ddof=1) if len(b) > 1 else np.full(len(parts), np.nan)
    return Change(change, 1.96 * spread / (np.sqrt(len(b)) * b.mean(axis=0)))


def quarters(num_patches: int) -> list[npt.NDArray[np.int64]]:
    """Positions of the four quarters of the sequence, equally long but for one."""
    return list(np.array_split(np.arange(num_patches), 4))


def _numpy(t: Tensor) -> Array:
    return t.cpu().double().numpy()
