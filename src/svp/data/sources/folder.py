"""Folders of images as labelled splits: what is where, and what is wrong with it, before any work starts.

Two layouts are understood; a missing part is split off the training part, stratified by class, by seed:

    pets/cat/1.jpg   pets/dog/7.jpg                                  class folders
    pets/train/cat/1.jpg   [pets/val/dog/7.jpg]   [pets/test/...]    parts of class folders

Only names are read here; whether a file decodes is the business of `svp.data.pipeline.decoding`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from svp.data.sources.listing import ARCHIVE_SUFFIXES, describe, entries, files_below, is_image
from svp.data.sources.source import part_of
from svp.data.splits import DataError, ImageData, Parts, Split, complete, enumerate_some


def open_folder(path: str | Path, *, seed: int = 0, val_fraction: float = 0.15, test_fraction: float = 0.15) -> ImageData:
    """Read a folder of images in either layout of this module and split off what it does not bring (see `complete`).

    Raises:
        DataError: The folder cannot be trained on as it is; the message says why and what to do.
        InputError: A fraction is out of range.
    """
    source = FolderSource(path)
    return complete(source.name, source.parts(seed), seed=seed, val_fraction=val_fraction, test_fraction=test_fraction)


@dataclass(frozen=True)
class FolderSource:
    """A `Source`: class folders, or folders of parts that hold them.

    Attributes:
        path: The folder.
    """

    path: str | Path

    @property
    def name(self) -> str:
        return Path(self.path).expanduser().resolve().name

    def parts(self, seed: int = 0) -> Parts:
        """The parts that the folder brings. Classes are the class folders of the training part in sorted order."""
        root = _existing_folder(self.path)
        folders, ignored = _find_parts(root)
        given: dict[str, dict[str, list[Path]]] = {}
        for part, folder in folders.items():
            given[part], others = _read_classes(folder)
            ignored += others
        class_names = tuple(sorted(given["train"]))
        _check_classes(folders, given)
        origins = {part: "all images" if folder == root else f"folder {folder.name}/" for part, folder in folders.items()}
        splits = {part: Split.of_classes(given[part], class_names, origins[part]) for part in folders}
        return Parts(root, class_names, splits, ignored=tuple(sorted(ignored)))

    def labelled(self, class_names: Sequence[str]) -> Split:
        """The class folders in the test part of the folder if it has one, else in the folder itself."""
        root = _existing_folder(self.path)
        if "test" not in class_names:
            root = next((entry for entry in entries(root) if entry.is_dir() and part_of(entry.name) == "test"), root)
        classes, _ = _read_classes(root)
        unknown = sorted(classes.keys() - set(class_names))
        if unknown:
            absent = [name for name in class_names if name not in classes]
            raise DataError(
                f"{root}: {len(unknown)} of its {len(classes)} class folders are not among the {len(class_names)} classes "
                f"of the model: {enumerate_some(unknown)}. Classes of the model without a folder ({len(absent)}): "
                f"{enumerate_some(absent) or 'none'}. Folder names must be the class names used in training"
                + (f"; give {root / unknown[-1]}." if all(map(part_of, unknown)) else ".")
            )
        return Split.of_classes(classes, class_names, f"folder {root.resolve().name}/")


def _existing_folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if not folder.exists():
        raise DataError(f"{folder}: no such folder. Expected a folder of images.\n{_expected(folder)}")
    if folder.suffix.lower() in ARCHIVE_SUFFIXES:
        raise DataError(f"{folder}: is an archive of a kind that is not unpacked here. Unpack it and give the folder.")
    raise DataError(f"{folder}: is a file. Expected a folder of images.\n{_expected(folder.parent)}")


def _find_parts(root: Path) -> tuple[dict[str, Path], list[Path]]:
    """Folder by part, and the entries of root that belong to none; {"train": root} if class folders lie in root."""
    inside = entries(root)
    if not inside:
        raise DataError(f"{root}: the folder is empty.\n{_expected(root)}")
    parts: dict[str, Path] = {}
    others: list[Path] = []
    for entry in inside:
        part = part_of(entry.name) if entry.is_dir() else None
        if part is None:
            others.append(entry)
        elif part in parts:
            raise DataError(f"{root}: both {parts[part].name}/ and {entry.name}/ could be the {part} part. Remove one.")
        else:
            parts[part] = entry
    # A class may be called "train" too, so that folder makes a layout of parts if it holds folders or nothing but
    # parts lies beside it.
    beside = [entry.name for entry in others if entry.is_dir()]
    if "train" in parts and (not beside or any(entry.is_dir() for entry in entries(parts["train"]))):
        return parts, others
    held_out = enumerate_some([f"{folder.name}/" for part, folder in parts.items() if part != "train"])
    if held_out and not beside:
        raise DataError(f"{root}: has {held_out} but no train/.\n{_expected(root)}")
    if held_out:
        raise DataError(
            f"{root}: has {held_out} beside {enumerate_some(beside)}, but no train/ with class folders. "
            f"Move the class folders into {root / 'train'}; if {held_out} is a class, rename it."
        )
    return {"train": root}, []


def _read_classes(folder: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Images by class folder, and the files that are none. At least one class; none is empty."""
    inside = entries(folder)
    loose = [entry for entry in inside if not entry.is_dir() and is_image(entry)]
    if loose:
        raise DataError(
            f"{folder}: images directly in this folder, {len(loose)} of them, have no class "
            f"({enumerate_some([image.name for image in loose], 3)}). Move each into the folder of its class.\n"
            f"{_expected(folder)}"
        )
    classes: dict[str, list[Path]] = {}
    ignored = [entry for entry in inside if not entry.is_dir()]
    for entry in inside:
        if entry.is_dir():
            files = list(files_below(entry))
            classes[entry.name] = [file for file in files if is_image(file)]
            ignored += [file for file in files if not is_image(file)]
    if not any(classes.values()):
        raise DataError(f"{folder}: no images; {describe(ignored)}.\n{_expected(folder)}")
    empty = [name for name, images in classes.items() if not images]
    if empty:
        raise DataError(
            f"{folder}: no images in {len(empty)} of {len(classes)} class folders: {enumerate_some(empty)}. "
            "Put images there or remove the folder."
        )
    return classes, ignored


def _check_classes(folders: Mapping[str, Path], given: Mapping[str, Mapping[str, Sequence[Path]]]) -> None:
    train = given["train"]
    if len(train) == 1:
        (name,) = train
        raise DataError(
            f"{folders['train']}: only one class folder, {name!r}; a classifier needs two or more. "
            f"If the classes lie inside it, give {folders['train'] / name}.\n{_expected(folders['train'])}"
        )
    for part in given.keys() - {"train"}:
        unknown = sorted(given[part].keys() - train.keys())
        if unknown:
            raise DataError(
                f"{folders[part]}: {len(unknown)} of {len(given[part])} classes are not in {folders['train']}: "
                f"{enumerate_some(unknown)}. Name the class folders alike, or add these classes to "
                f"{folders['train'].name}/."
            )


def _expected(folder: Path) -> str:
    name = folder.resolve().name or "images"
    return (
        "Expected one folder per class, as in\n"
        f"  {name}/cat/001.jpg   {name}/dog/001.jpg\n"
        "or parts that hold them (val/ and test/ may be missing):\n"
        f"  {name}/train/cat/001.jpg   {name}/val/cat/002.jpg   {name}/test/cat/003.jpg"
    )
