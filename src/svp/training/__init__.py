"""Train an adapter on a folder of images."""

from svp.inputs import InputOverrides
from svp.training.config import TrainConfig
from svp.training.config_sources import make_config
from svp.training.nonfinite import NonFiniteLossError
from svp.training.recipes import ConfigError, list_recipes
from svp.training.runner import Run, Workshop, train

__all__ = [
    "ConfigError",
    "InputOverrides",
    "NonFiniteLossError",
    "Run",
    "TrainConfig",
    "Workshop",
    "list_recipes",
    "make_config",
    "train",
]
