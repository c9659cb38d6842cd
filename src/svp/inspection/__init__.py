"""Look inside: what the gates of a Vim do on images, as numbers and as figures."""

from svp.inspection.activation import Activation, Change, quarters, record_activation, relative_change
from svp.inspection.data_check import ModelCheck, check_with_model
from svp.inspection.predictions import Predictions, record_predictions
from svp.inspection.recording import GATES, Gates, HiddenAttention, PromptRecord, ScanGates, gates
from svp.inspection.runs import inspect_run, show_gates

__all__ = [
    "GATES",
    "Activation",
    "Change",
    "Gates",
    "HiddenAttention",
    "ModelCheck",
    "Predictions",
    "PromptRecord",
    "ScanGates",
    "check_with_model",
    "gates",
    "inspect_run",
    "quarters",
    "record_activation",
    "record_predictions",
    "relative_change",
    "show_gates",
]
