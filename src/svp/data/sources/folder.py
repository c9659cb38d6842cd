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
from svp.data.sources.names import check_class_name, composed, explain_nearly_equal, note_nearly_equal
from svp.data.sources.source import part_of
from svp.data.splits import DataError, ImageData, LeftOut, Parts, Split, describe_left_out, enumerate_some
from svp.data.splitting import complete


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
        left_out: list[LeftOut] = []
        folders, others = _find_parts(root, left_out)
        left_out += map(LeftOut, others)
        given: dict[str, dict[str, list[Path]]] = {}
        notes: list[str] = []
        for part, folder in sorted(folders.items(), key=lambda item: item[0] != "train"):
            if part == "test" and (note := _unlabelled(folder, given["train"])):
                notes.append(note)
                continue
            classes = _read_classes(folder, left_out, notes, may_be_empty=part != "train")
            if classes:
                given[part] = classes
        class_names = tuple(sorted(given["train"]))
        _check_classes(folders, given)
        origins = {part: "all images" if folders[part] == root else f"folder {folders[part].name}/" for part in given}
        splits = {part: Split.of_classes(given[part], class_names, origins[part]) for part in folders if part in given}
        notes += note_nearly_equal(class_names)
        left_out.sort(key=lambda entry: entry.path)
        return Parts(root, class_names, splits, left_out=tuple(left_out), notes=tuple(notes))

    def labelled(self, class_names: Sequence[str]) -> Split:
        """The class folders in the test part of the folder if it has one, else in the folder itself."""
        root = _existing_folder(self.path)
        if "test" not in class_names:
            root = next((entry for entry in entries(root) if entry.is_dir() and part_of(entry.name) == "test"), root)
        found = _read_classes(root, [], [], may_be_empty=True)
        by_composed = {composed(name): name for name in class_names}
        classes = {by_composed.get(name, name): images for name, images in found.items()}
        if not classes:
            raise DataError(f"{root}: no images in its class folders.\n{_expected(root)}")
        unknown = sorted(classes.keys() - set(class_names))
        if unknown:
            absent = [name for name in class_names if name not in classes]
            raise DataError(
                f"{root}: {len(unknown)} of its {len(classes)} class folders are not among the {len(class_names)} classes "
                f"of the model: {enumerate_some(unknown)}.{explain_nearly_equal(unknown, class_names)} Classes of the model "
                f"without a folder ({len(absent)}): "
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


def _find_parts(root: Path, left_out: list[LeftOut]) -> tuple[dict[str, Path], list[Path]]:
    """Folder by part, and the entries of root that belong to none; {"train": root} if class folders lie in root."""
    hidden: list[LeftOut] = []
    inside = entries(root, hidden)
    if not inside:
        reasons = "".join(f"\n{line}" for line in describe_left_out(hidden, root))
        raise DataError(f"{root}: the folder is empty.{reasons}\n{_expected(root)}")
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
        left_out += hidden
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


def _read_classes(
    folder: Path, left_out: list[LeftOut], notes: list[str], may_be_empty: bool = False
) -> dict[str, list[Path]]:
    """Images by class folder, named in Unicode's composed form.

    Args:
        folder: Holds the class folders.
        left_out: Collects what is no image.
        notes: Collects what else to tell.
        may_be_empty: Leave class folders without images out; without images at all, the part counts as missing.
    """
    beside: list[LeftOut] = []
    inside = entries(folder, beside)
    loose = [entry for entry in inside if not entry.is_dir() and is_image(entry)]
    if loose:
        raise DataError(
            f"{folder}: images directly in this folder, {len(loose)} of them, have no class "
            f"({enumerate_some([image.name for image in loose], 3)}). Move each into the folder of its class.\n"
            f"{_expected(folder)}"
        )
    classes: dict[str, list[Path]] = {}
    others = [entry for entry in inside if not entry.is_dir()]
    for entry in inside:
        if entry.is_dir():
            files = list(files_below(entry, left_out=beside))
            name = check_class_name(entry.name, entry)
            if name in classes:
                notes.append(f"{folder.name}/: two folders are called {name!r}, composed differently; they are one class")
            classes.setdefault(name, []).extend(file for file in files if is_image(file))
            others += [file for file in files if not is_image(file)]
    empty = [name for name, images in classes.items() if not images]
    if may_be_empty and empty:
        notes.append(f"{folder.name}/: no images in the class folders {enumerate_some(empty)}; they count as missing")
        classes = {name: images for name, images in classes.items() if images}
    elif not any(classes.values()):
        reasons = "".join(f"\n{line}" for line in describe_left_out(beside, folder))
        raise DataError(f"{folder}: no images; {describe(others)}.{reasons}\n{_expected(folder)}")
    elif empty:
        raise DataError(
            f"{folder}: no images in {len(empty)} of {len(classes)} class folders: {enumerate_some(empty)}. "
            "Put images there or remove the folder."
        )
    left_out += [*map(LeftOut, others), *beside]
    return classes


_OF_NO_CLASS = frozenset(
    ("test", "testing", "images", "image", "imgs", "img", "data", "all", "files", "unknown", "unlabelled", "unlabeled")
)


def _unlabelled(folder: Path, classes: Mapping[str, object]) -> str | None:
    """A note if a test part holds images without class folders, as that of a competition; None if it is labelled."""
    inside = entries(folder)
    folders = [entry for entry in inside if entry.is_dir()]
    loose = sum(not entry.is_dir() and is_image(entry) for entry in inside)
    if len(folders) == 1 and not loose and folders[0].name.lower() in _OF_NO_CLASS and folders[0].name not in classes:
        loose = sum(map(is_image, files_below(folders[0])))
    elif folders or not loose:
        return None
    return f"{folder.name}/ is left out: its {loose:,} images have no class folders; svp predict takes them"


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
                f"{enumerate_some(unknown)}.{explain_nearly_equal(unknown, sorted(train))} Name the class folders alike, or "
                f"add these classes to {folders['train'].name}/."
            )


def _expected(folder: Path) -> str:
    name = folder.resolve().name or "images"
    return (
        "Expected one folder per class, as in\n"
        f"  {name}/cat/001.jpg   {name}/dog/001.jpg\n"
        "or parts that hold them (val/ and test/ may be missing):\n"
        f"  {name}/train/cat/001.jpg   {name}/val/cat/002.jpg   {name}/test/cat/003.jpg"
    )
