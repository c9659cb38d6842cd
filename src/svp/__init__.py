"""Adapt Vision Mamba (Vim) image models to your own images with few trained parameters.

    import svp
    run = svp.train(data="my_photos")                  # train an adapter; a run directory with all there is to know
    print(run.result.top1)
    for image in svp.predict(run.directory, ["new.jpg"]):
        print(image.path, image.classes[0], image.probabilities[0])

Names are loaded when they are first used, so that ``import svp`` and ``svp --help`` stay instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from svp.registration import register_with_timm

__version__ = "0.1.0"

_EXPORTS = {
    "SvpError": "svp.errors",
    "create_model": "svp.models",
    "list_models": "svp.models",
    "model_info": "svp.models",
    "list_datasets": "svp.data",
    "list_methods": "svp.tuners",
    "load_adapter": "svp.tuners",
    "load_official": "svp.tuners",
    "save_adapter": "svp.tuners",
    "tune": "svp.tuners",
    "evaluate": "svp.runs",
    "open_run": "svp.runs",
    "predict": "svp.runs",
    "train": "svp.training",
}
_MODULES = ("data", "inspection", "models", "ops", "runs", "training", "tuners")

if TYPE_CHECKING:
    from svp import data, inspection, models, ops, runs, training, tuners
    from svp.data import list_datasets
    from svp.errors import SvpError
    from svp.models import create_model, list_models, model_info
    from svp.runs import open_run
    from svp.runs.evaluate import evaluate
    from svp.runs.predict import predict
    from svp.training import train
    from svp.tuners import list_methods, load_adapter, load_official, save_adapter, tune

__all__ = [
    "SvpError",
    "__version__",
    "create_model",
    "data",
    "evaluate",
    "inspection",
    "list_datasets",
    "list_methods",
    "list_models",
    "load_adapter",
    "load_official",
    "model_info",
    "models",
    "open_run",
    "ops",
    "predict",
    "runs",
    "save_adapter",
    "train",
    "training",
    "tune",
    "tuners",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"svp.{name}")
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'svp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


register_with_timm()
