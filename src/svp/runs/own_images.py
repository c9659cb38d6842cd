"""Which images a trained model is scored on: never those it was trained on without saying so, wherever they lie now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svp.data import DataError, Split, open_labelled
from svp.data.fingerprints import content_fingerprints
from svp.data.opening import folder_of
from svp.runs.directory import RunDirectory
from svp.runs.splits_file import OwnImage, OwnImages
from svp.tasks import SINGLE_LABEL, Task


@dataclass(frozen=True)
class ScoredImages:
    """Images to score on.

    Args:
        split: The images and their labels.
        trained_on: Number of them that the model was trained on.
        chosen_on: Number of them that its epoch was chosen on.
    """

    split: Split
    trained_on: int = 0
    chosen_on: int = 0


def describe_seen(images: int, trained_on: int, chosen_on: int) -> str | None:
    """What scores on so many images are worth if the model has seen some of them; None if it has seen none."""
    counts = ((trained_on, "were trained on"), (chosen_on, "chose the epoch"))
    seen = [f"{count:,} of the {images:,} images {what}" for count, what in counts if count]
    return f"{', '.join(seen)}: the scores are too good" if seen else None


def images_to_score(run: Path, data: str | Path | None, class_names: Sequence[str], task: Task = SINGLE_LABEL) -> ScoredImages:
    """The images that a run is scored on.

    Without `data`, those are the run's own test images. With `data`, they are its labelled images, see
    `svp.data.open_labelled`; but where those hold training images of the run and its own test images are among them (the
    folder was moved, say), the own test images alone.

    Args:
        run: Run directory, or any directory with an adapter pair.
        data: Folder, table, archive or name.
        class_names: Classes of the model, or what else its outputs are.
        task: What the outputs mean.

    Raises:
        RunError: The run's own test images are gone, or a file is damaged.
        DataError: The classes of `data` are not those of the model, or it cannot be used.
    """
    directory = RunDirectory(run)
    if data is None:
        return ScoredImages(directory.read_split("test"))
    own = directory.read_images()
    root, encoding, label = _opened_with(directory)
    folder = folder_of(data, root, encoding)
    try:
        given = open_labelled(data, class_names, root, encoding, task, label)
    except DataError:
        found = _find_own(own, folder, {}) if own is not None else []
        if own is None or not found or len(found) < len(own.parts["test"]):
            raise
        return ScoredImages(_as_split(own, found, data))
    if own is None:
        return ScoredImages(given)
    contents = dict(zip(given.paths, content_fingerprints(given.paths), strict=True))
    trained_on, chosen_on = (_count(own.parts[part], own.root, folder, contents) for part in ("train", "val"))
    if trained_on:
        found = _find_own(own, folder, {content: path for path, content in contents.items()})
        if 2 * len(found) >= len(own.parts["test"]):
            split = _as_split(own, found, data)
            scored = dict(zip(split.paths, content_fingerprints(split.paths), strict=True))
            again = [_count(own.parts[part], own.root, folder, scored) for part in ("train", "val")]
            return ScoredImages(split, *again)
    return ScoredImages(given, trained_on, chosen_on)


def _opened_with(directory: RunDirectory) -> tuple[str | None, str | None, str | None]:
    """What a run opens its images with: the data root, if it is still there, the encoding of names in archives, and the label
    columns of a table."""
    settings = directory.read_settings() if directory.config_file.is_file() else {}
    root, encoding = settings.get("data_root"), settings.get("archive_encoding")
    return (root if isinstance(root, str) and Path(root).is_dir() else None), encoding, settings.get("label")


def _as_split(own: OwnImages, found: Sequence[tuple[OwnImage, Path]], data: str | Path) -> Split:
    gone = len(own.parts["test"]) - len(found)
    lost = f"; {gone} of {len(own.parts['test'])} are gone" if gone else ""
    paths, labels = tuple(path for _, path in found), tuple(image.label for image, _ in found)
    targets = tuple(image.target for image, _ in found if image.target)
    return Split(paths, labels, f"the run's own test images, found below {data}{lost}", targets=targets)


def _find_own(own: OwnImages, folder: Path | None, by_content: dict[str, Path]) -> list[tuple[OwnImage, Path]]:
    """The run's own test images, by name and content below the folder, or by content alone."""
    test = own.parts["test"]
    found = []
    named = [folder / image.name if folder is not None else Path(image.name) for image in test]
    contents = content_fingerprints(named)
    for image, path, content in zip(test, named, contents, strict=True):
        same = content and (content == image.content or not image.content)
        other = by_content.get(image.content) if image.content else None
        if same or other is not None:
            found.append((image, path if same or other is None else other))
    return found


def _count(own: Sequence[OwnImage], root: Path, folder: Path | None, contents: dict[Path, str]) -> int:
    """How many images are of a part of the run: by content, or by name where the run knows no contents."""
    known = {image.content for image in own if image.content}
    names = {image.name for image in own if not image.content}

    def is_own(path: Path, content: str) -> bool:
        if content in known:
            return True
        return any(
            base is not None and path.is_relative_to(base) and path.relative_to(base).as_posix() in names
            for base in (folder, root)
        )

    return sum(is_own(path, content) for path, content in contents.items())
