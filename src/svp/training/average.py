"""``--ema``: an exponential moving average of what trains, which is scored and kept in its place.

    average <- d average + (1 - d) value      after every step, with d = min(decay, 1 - step^(-2/3))

The decay grows with the steps, so that a short run is not held back by the values it began with: it is 0.95 at step 100 and
0.99 at step 1,000. Source: Polyak and Juditsky, SIAM J. Control Optim. 30 (1992) 838; the growth is that of timm's ModelEmaV3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from svp.tuners import Tuner


class Average:
    """The moving average of the parameters that a tuner trains.

    Args:
        tuner: Names the parameters.
        decay: Largest decay, above 0 and below 1.
    """

    def __init__(self, tuner: Tuner, decay: float) -> None:
        self._names = tuner.trainable_names
        self._values = nn.ParameterList(tuner.trainable_parameters())
        self._average = ModelEmaV3(self._values, decay, use_warmup=True)

    def update(self, step: int) -> None:
        """Take in the values after a step.

        Args:
            step: Number of the step in the whole run, counted from 1.
        """
        self._average.update(self._values, step)

    @torch.no_grad()
    def swap(self) -> None:
        """Put the average into the model and the model's values here; once more puts them back."""
        for value, average in zip(self._values, self._average.module, strict=True):
            kept = value.clone()
            value.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The average by the parameters' names in the model."""
        return {name: value.detach() for name, value in zip(self._names, self._average.module, strict=True)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what ``state_dict`` gave."""
        for name, value in zip(self._names, self._average.module, strict=True):
            value.copy_(state[name])


@contextmanager
def averaged(average: Average | None) -> Iterator[None]:
    """Inside, the model holds its average, if there is one; afterwards its own values again."""
    if average is None:
        yield
        return
    average.swap()
    try:
        yield
    finally:
        average.swap()
