"""What a head says of an image: one class, several labels or a number. Every place that depends on it asks the task."""

from svp.tasks.metrics import LOWER_IS_BETTER, METRICS, Metric, show_metric
from svp.tasks.multi_label import MultiLabel
from svp.tasks.regression import Regression
from svp.tasks.single_label import SINGLE_LABEL, SingleLabel
from svp.tasks.task import KINDS, Kind, Loss, Target, Task, read_task

__all__ = [
    "KINDS",
    "LOWER_IS_BETTER",
    "METRICS",
    "SINGLE_LABEL",
    "Kind",
    "Loss",
    "Metric",
    "MultiLabel",
    "Regression",
    "SingleLabel",
    "Target",
    "Task",
    "read_task",
    "show_metric",
]
