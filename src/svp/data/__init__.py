"""Image folders in, batches out. Names that need torch are imported when they are first used."""

from typing import TYPE_CHECKING, Any

from svp.data.catalog import DatasetInfo, dataset_info, list_datasets
from svp.data.checks import check_data
from svp.data.folder import IMAGE_SUFFIXES, find_images, open_folder
from svp.data.images import (
    MAX_UNREADABLE,
    Unreadable,
    UnreadableImageError,
    check_unreadable,
    drop_unreadable,
    find_unreadable,
    load_image,
)
from svp.data.opening import data_folder, open_data, open_fraction, open_labelled
from svp.data.splits import DataError, ImageData, Split

if TYPE_CHECKING:
    from svp.data.loading import EpochSampler, ImageListDataset, make_loader
    from svp.data.transforms import AugmentConfig, InputConfig, eval_transform, train_transform

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_UNREADABLE",
    "AugmentConfig",
    "DataError",
    "DatasetInfo",
    "EpochSampler",
    "ImageData",
    "ImageListDataset",
    "InputConfig",
    "Split",
    "Unreadable",
    "UnreadableImageError",
    "check_data",
    "check_unreadable",
    "data_folder",
    "dataset_info",
    "drop_unreadable",
    "eval_transform",
    "find_images",
    "find_unreadable",
    "list_datasets",
    "load_image",
    "make_loader",
    "open_data",
    "open_folder",
    "open_fraction",
    "open_labelled",
    "train_transform",
]

_LAZY = {
    "EpochSampler": "loading",
    "ImageListDataset": "loading",
    "make_loader": "loading",
    "AugmentConfig": "transforms",
    "InputConfig": "transforms",
    "eval_transform": "transforms",
    "train_transform": "transforms",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
