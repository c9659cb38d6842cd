"""Image folders in, batches out. Names that need torch are imported when they are first used."""

from typing import TYPE_CHECKING, Any, Literal

from svp.data.checks import check_data
from svp.data.named.catalog import DatasetInfo, dataset_info, list_datasets
from svp.data.opening import data_folder, open_data, open_fraction, open_labelled
from svp.data.pipeline.decoding import ImageReader, UnreadableImageError, load_image, load_prepared
from svp.data.pipeline.formats import IMAGE_SUFFIXES
from svp.data.sources.folder import open_folder
from svp.data.sources.image_list import ImageList
from svp.data.sources.listing import find_images
from svp.data.splits import DataError, ImageData, LeftOut, Split
from svp.data.unreadable import (
    MAX_UNREADABLE,
    Unreadable,
    check_files,
    check_unreadable,
    drop_unreadable,
    find_unreadable,
)
from svp.inputs import InputConfig, eval_transform

CacheMode = Literal["none", "memory", "disk"]
"""Whether images are decoded anew every time, or kept: see `svp.data.pipeline.cache`."""

if TYPE_CHECKING:
    from svp.data.pipeline.cache import CacheError, KeptImages, Place, keep_images
    from svp.data.pipeline.loading import (
        ImageListDataset,
        KeptImageDataset,
        choose_num_workers,
        make_loader,
        normalized,
        open_images,
    )
    from svp.data.pipeline.samplers import EpochSampler
    from svp.data.pipeline.transforms import AugmentConfig, train_transform

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_UNREADABLE",
    "AugmentConfig",
    "CacheError",
    "CacheMode",
    "DataError",
    "DatasetInfo",
    "EpochSampler",
    "ImageData",
    "ImageList",
    "ImageListDataset",
    "ImageReader",
    "InputConfig",
    "KeptImageDataset",
    "KeptImages",
    "LeftOut",
    "Place",
    "Split",
    "Unreadable",
    "UnreadableImageError",
    "check_data",
    "check_files",
    "check_unreadable",
    "choose_num_workers",
    "data_folder",
    "dataset_info",
    "drop_unreadable",
    "eval_transform",
    "find_images",
    "find_unreadable",
    "keep_images",
    "list_datasets",
    "load_image",
    "load_prepared",
    "make_loader",
    "normalized",
    "open_data",
    "open_folder",
    "open_fraction",
    "open_images",
    "open_labelled",
    "train_transform",
]

_LAZY = {
    "cache": ("CacheError", "KeptImages", "Place", "keep_images"),
    "loading": (
        "ImageListDataset",
        "ImageReader",
        "KeptImageDataset",
        "choose_num_workers",
        "make_loader",
        "normalized",
        "open_images",
    ),
    "samplers": ("EpochSampler",),
    "transforms": ("AugmentConfig", "train_transform"),
}


def __getattr__(name: str) -> Any:
    for module, names in _LAZY.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(f"{__name__}.pipeline.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
