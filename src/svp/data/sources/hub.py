"""Data sets of the Hugging Face Hub, as ``hfds/OWNER/NAME``: read by timm's reader, written once as class folders."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svp.data.pipeline.formats import IMAGE_SUFFIXES
from svp.data.sources.source import part_of
from svp.data.sources.unpacked import UnpackedSource, unpacked
from svp.data.splits import DataError, enumerate_some
from svp.errors import UnavailableError

PREFIX = "hfds/"
"""What a data set of the Hub begins with, as in timm."""


def is_on_hub(data: str) -> bool:
    """Whether this names a data set of the Hub."""
    return data.startswith(PREFIX)


@dataclass(frozen=True)
class HubSource(UnpackedSource):
    """A `Source`: a data set of the Hub, fetched and written as class folders when first used, see `fetch_hub`.

    Attributes:
        data: ``hfds/OWNER/NAME``.
        root: The data root.
    """

    data: str
    root: Path

    @property
    def name(self) -> str:
        return self.data.removeprefix(PREFIX).replace("/", "-")

    def folder(self) -> Path:
        return fetch_hub(self.data, self.root)


def fetch_hub(data: str, root: Path) -> Path:
    """Write the images of a data set of the Hub to ``hfds/OWNER/NAME/<part>/<class>/<number>`` below `root`, once.

    The bytes of every image are kept as they are; only what is in no format of `IMAGE_SUFFIXES` becomes a PNG. Its splits
    train, validation and test, by any of `PART_NAMES`, are taken; images without a label (-1) and other splits are left out.

    Args:
        data: ``hfds/OWNER/NAME``, or ``hfds/NAME`` for the few data sets without an owner.

    Raises:
        DataError: No such data set, no network, or its columns or splits are none to classify by.
        RuntimeError: The package `datasets` is not installed.
    """
    name = data.removeprefix(PREFIX)
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name, re.ASCII):
        raise DataError(f"{data} is no name of a data set of the Hugging Face Hub; expected hfds/OWNER/NAME.")
    folder = root / "hfds" / name
    return unpacked(folder, f"https://huggingface.co/datasets/{name}", lambda target: _write(name, target))


def _write(name: str, folder: Path) -> None:
    from timm.data.readers import create_reader

    splits = _load(name, folder)
    taken = {split: part for split in splits if (part := part_of(split)) is not None}
    if "train" not in taken.values() or len(set(taken.values())) < len(taken):
        raise DataError(
            f"hfds/{name}: its splits are {enumerate_some(list(splits))}; expected train, and at most one each of "
            "validation and test. Write the parts as folders of images yourself and give that folder."
        )
    for split, part in taken.items():
        image, label = _columns(name, splits[split].features)
        reader = create_reader(f"hfds/{name}", split=split, input_key=image, target_key=label)
        class_names = _folder_names(splits[split].features[label].names)
        for number in range(len(reader)):
            file, target = reader[number]
            with file:
                if target in class_names:  # -1 where the labels are kept secret
                    _write_image(file.read(), folder / part / class_names[target], f"{number:07d}")


def _load(name: str, folder: Path) -> Mapping[str, Any]:
    """The data set by split; downloaded when first used."""
    try:
        import datasets
    except ImportError as error:
        raise UnavailableError(f"hfds/{name} needs the package datasets: pip install 'vim-svp[hub]'") from error
    try:
        return datasets.load_dataset(name)
    except (
        OSError,
        ValueError,
        datasets.exceptions.DatasetsError,
    ) as error:  # no network, absent, gated, several configurations
        raise DataError(
            f"hfds/{name} cannot be fetched from the Hugging Face Hub: {error}\nWithout network: fetch it on another "
            f"machine and copy its $HF_HOME, or the finished folder {folder}, to this one; or give a folder of images."
        ) from error


def _columns(name: str, features: Mapping[str, Any]) -> tuple[str, str]:
    """Names of the columns of the image and of the class."""
    import datasets

    found = []
    for kind, usual in ((datasets.Image, ("image", "img")), (datasets.ClassLabel, ("label", "labels"))):
        columns = [column for column, feature in features.items() if isinstance(feature, kind)]
        chosen = [column for column in usual if column in columns] or columns
        if len(chosen) != 1:
            raise DataError(
                f"hfds/{name}: expected one column of type {kind.__name__}, found {len(chosen)} among "
                f"{enumerate_some([f'{column} ({type(feature).__name__})' for column, feature in features.items()])}. "
                "Write the images as class folders yourself and give that folder."
            )
        found += chosen
    return found[0], found[1]


def _folder_names(class_names: Sequence[str]) -> dict[int, str]:
    """By label, the class name as a name of one folder that no tool hides."""
    signs = {ord(sign): "_" for sign in "/\\\0"}
    names = {label: name.translate(signs).strip() for label, name in enumerate(class_names)}
    safe = {label: f"_{name}" if not name or name.startswith(".") else name for label, name in names.items()}
    taken = list(safe.values())
    return {label: name if taken.count(name) == 1 else f"{name} ({label})" for label, name in safe.items()}


def _write_image(content: bytes, folder: Path, stem: str) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Image.open(io.BytesIO(content)) as image:
            suffix = {"MPO": ".jpeg"}.get(image.format or "", f".{image.format}".lower())
            if suffix not in IMAGE_SUFFIXES:
                image.save(folder / f"{stem}.png")
                return
    except Exception:  # it is for the check of all images to name it, as any other that cannot be decoded
        suffix = ".jpeg"
    (folder / f"{stem}{suffix}").write_bytes(content)
