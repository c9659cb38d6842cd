"""Train an adapter on a folder of images, score it, use it."""

from svp.inputs import InputOverrides
from svp.training.config import TrainConfig, make_config
from svp.training.faults import NonFiniteLossError
from svp.training.loop import Run, train
from svp.training.recipes import ConfigError, list_recipes
from svp.training.records import RunDirectory, RunError
from svp.training.use import Prediction, evaluate, predict, save_features

__all__ = [
    "ConfigError",
    "InputOverrides",
    "NonFiniteLossError",
    "Prediction",
    "Run",
    "RunDirectory",
    "RunError",
    "TrainConfig",
    "evaluate",
    "list_recipes",
    "make_config",
    "predict",
    "save_features",
    "train",
]
