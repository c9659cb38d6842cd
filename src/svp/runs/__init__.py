"""A trained model and its directory: open it, score it, classify images with it, read what its training found."""

from svp.runs.directory import RunDirectory
from svp.runs.evaluate import Evaluation, evaluate
from svp.runs.feature_file import save_features
from svp.runs.hub import Pushed, push_to_hub
from svp.runs.predict import Prediction, predict
from svp.runs.prediction_files import as_csv
from svp.runs.result import ClassScore, DataUsed, EpochRow, Result, RunError, UnreadableImage
from svp.runs.trained import TrainedModel, open_run

__all__ = [
    "ClassScore",
    "DataUsed",
    "EpochRow",
    "Evaluation",
    "Prediction",
    "Pushed",
    "Result",
    "RunDirectory",
    "RunError",
    "TrainedModel",
    "UnreadableImage",
    "as_csv",
    "evaluate",
    "open_run",
    "predict",
    "push_to_hub",
    "save_features",
]
