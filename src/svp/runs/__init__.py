"""A trained model and its directory: open it, score it, classify images with it, read what its training found."""

from svp.runs.directory import RunDirectory
from svp.runs.evaluate import Evaluation, evaluate
from svp.runs.predict import Prediction, as_csv, predict, save_features
from svp.runs.result import ClassScore, DataUsed, EpochRow, Result, RunError, UnreadableImage
from svp.runs.trained import TrainedModel, open_run

__all__ = [
    "ClassScore",
    "DataUsed",
    "EpochRow",
    "Evaluation",
    "Prediction",
    "Result",
    "RunDirectory",
    "RunError",
    "TrainedModel",
    "UnreadableImage",
    "as_csv",
    "evaluate",
    "open_run",
    "predict",
    "save_features",
]
