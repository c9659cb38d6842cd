"""What a run learns of its confidence at its end: a temperature, a threshold for "none of these".

It learns on validation images, or on those that its folds held out.
"""

from __future__ import annotations

import math

from svp.data import normalized
from svp.runs.certainty import at_temperature, fit_temperature
from svp.runs.rejection import DOUBT, LEVELS, Threshold, choose_threshold, most_promised
from svp.runs.scores import Scores, score
from svp.training.config import TrainConfig
from svp.training.recipes import ConfigError
from svp.training.setup import Prepared
from svp.tuners import save_adapter
from svp.tuners.adapter_files import divide_logits


def check_reject(config: TrainConfig, validation_images: int) -> None:
    """Refuse, before any work, an accuracy that so few images cannot promise.

    Raises:
        ConfigError: Names how many images would do, and what these can promise.
    """
    if config.reject is not None and most_promised(validation_images) < config.reject:
        needed = math.ceil(math.log(DOUBT / LEVELS) / math.log(config.reject))
        possible = math.floor(100 * most_promised(validation_images)) / 100
        raise ConfigError(
            f"reject {config.reject:g} needs {needed} validation images or more, there are {validation_images}: "
            f"ask for {possible:g} or less, or for more validation images (val_fraction)"
        )


def fit_confidence(prepared: Prepared, held_out: Scores | None) -> tuple[float | None, Threshold | None]:
    """Fit what the settings ask for, write it into the adapter and let the model divide its logits by the temperature.

    Args:
        prepared: The run.
        held_out: What the folds of the run say of the images that they held out; validation images are scored if None.
    """
    config, data = prepared.config, prepared.data
    if not config.calibrate and config.reject is None:
        return None, None
    scores = held_out
    if scores is None:
        batches = normalized(prepared.scored_loader, prepared.inputs)
        found = score(prepared.wrapped, batches, prepared.accelerator)
        assert isinstance(found, Scores)  # the settings are those of classes
        scores = found
    temperature = fit_temperature(scores.probabilities, scores.labels) if config.calibrate else 1.0
    threshold = None
    if config.reject is not None:
        confidence = at_temperature(scores.probabilities, temperature).max(axis=1)
        threshold = choose_threshold(confidence, scores.right, config.reject)
    if prepared.accelerator.is_main_process:  # the trained values as they are: a run that is killed here does this again
        reject_below = threshold.confidence if threshold else 0.0
        save_adapter(prepared.model, prepared.directory.path, data.class_names, prepared.inputs, temperature, reject_below)
    divide_logits(prepared.model, temperature)
    return temperature if config.calibrate else None, threshold
