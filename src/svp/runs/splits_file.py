"""``splits.json``: which image a run uses for what, by names below a folder and by contents, so that they may move."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from svp.data import ImageData
from svp.runs.result import RunError
from svp.tasks import Target


@dataclass(frozen=True)
class OwnImage:
    """An image of a run.

    Args:
        name: Its path below the root of the run's images, with slashes; absolute in runs of 0.1.0 on tables.
        label: Index into the class names.
        content: Stands for its bytes, see `svp.data.fingerprints.content_fingerprint`; "" where that is not known.
        target: What is to be said of it, see `svp.data.Split`; empty where that is the label.
    """

    name: str
    label: int
    content: str
    target: Target = ()


@dataclass(frozen=True)
class OwnImages:
    """The images of a run as they were when it began.

    Args:
        root: Folder that they lay in.
        parts: Images of "train", "val" and "test".
    """

    root: Path
    parts: Mapping[str, tuple[OwnImage, ...]]

    def differ(self, data: ImageData) -> bool:
        """Whether other images, or the same ones in another order, are in the parts of `data`; wherever they lie."""
        root = _root(data)
        now = {
            part: [(_below(root, path), s.truth(index)) for index, path in enumerate(s.paths)]
            for part, s in data.splits.items()
        }
        return any(self._names(part, own, data, now[part]) for part, own in self.parts.items())

    def _names(self, part: str, own: tuple[OwnImage, ...], data: ImageData, now: list[tuple[str, int | Target]]) -> bool:
        if [(image.name, image.target or image.label) for image in own] == now:
            return False
        split = data.splits[part]
        there = [(os.path.normpath(self.root / image.name), image.target or image.label) for image in own]
        return there != [(os.path.normpath(path.absolute()), split.truth(index)) for index, path in enumerate(split.paths)]

    def content_differs(self, contents: Mapping[str, list[str]]) -> bool:
        """Whether the contents of the images, by part in their order, are others than when the run began."""
        return any(
            image.content and image.content != content
            for part, own in self.parts.items()
            for image, content in zip(own, contents[part], strict=True)
        )


def splits_text(data: ImageData, contents: Mapping[Path, str]) -> str:
    """What ``splits.json`` holds.

    Args:
        data: The images as the run uses them.
        contents: What stands for the bytes of each image, as far as it is known.
    """
    root = _root(data)
    values: dict[str, object] = {
        "root": str(root.resolve()),
        "origins": {name: split.origin for name, split in data.splits.items()},
    }
    for name, split in data.splits.items():
        values[name] = [[_below(root, path), label] for path, label in zip(split.paths, split.labels, strict=True)]
    if any(split.targets for split in data.splits.values()):
        values["targets"] = {name: split.targets for name, split in data.splits.items()}
    if contents:
        values["contents"] = {name: [contents.get(path, "") for path in split.paths] for name, split in data.splits.items()}
    if data.grouped_by:
        values["groups"] = {"by": data.grouped_by, **{name: split.groups for name, split in data.splits.items()}}
    return json.dumps(values) + "\n"


def read_splits(file: Path) -> OwnImages:
    """What ``splits.json`` says.

    Raises:
        RunError: The file is damaged.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        known, wanted = values.get("contents", {}), values.get("targets", {})
        parts = {}
        for name in ("train", "val", "test"):
            contents = known.get(name, [""] * len(values[name]))
            targets = wanted.get(name, [()] * len(values[name]))
            parts[name] = tuple(
                OwnImage(str(path), int(label), str(content), tuple(map(float, target)))
                for (path, label), content, target in zip(values[name], contents, targets, strict=True)
            )
        return OwnImages(Path(values["root"]), parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file} is damaged: {error!r}") from error


def _root(data: ImageData) -> Path:
    """The folder that all images lie in: that of the data or of its table, or the closest one above all images."""
    root = data.root if data.root.is_dir() else data.root.parent
    folders = {path.parent for split in data.splits.values() for path in split.paths}
    if all(folder.is_relative_to(root) for folder in folders):
        return root
    try:
        return Path(os.path.commonpath([folder.absolute() for folder in folders]))
    except ValueError:  # several drives
        return root


def _below(root: Path, path: Path) -> str:
    """Relative to the root if it lies there, absolute if not."""
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    path = path.absolute()
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
