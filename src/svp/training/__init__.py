"""Train an adapter on a folder of images, score it, use it."""

from svp.training.config import ConfigError, TrainConfig, make_config
from svp.training.faults import NonFiniteLossError
from svp.training.loop import Run, train
from svp.training.records import RunDirectory, RunError
from svp.training.use import Prediction, evaluate, predict

__all__ = [
    "ConfigError",
    "NonFiniteLossError",
    "Prediction",
    "Run",
    "RunDirectory",
    "RunError",
    "TrainConfig",
    "evaluate",
    "make_config",
    "predict",
    "train",
]
