"""Folders of images as labelled splits: what is where, and what is wrong with it, before any work starts.

Two layouts are understood; a missing part is split off the training part, stratified by class, by seed:

    pets/cat/1.jpg   pets/dog/7.jpg                                  class folders
    pets/train/cat/1.jpg   [pets/val/dog/7.jpg]   [pets/test/...]    parts of class folders

Only names are read here; whether a file decodes is the business of `svp.data.pipeline.images`.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from svp.data.splits import DataError, ImageData, Parts, Split, as_split, complete, enumerate_some

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})

_ARCHIVE_SUFFIXES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"})
_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # written by the system, of no interest to anyone
_PART_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def open_folder(path: str | Path, *, seed: int = 0, val_fraction: float = 0.15, test_fraction: float = 0.15) -> ImageData:
    """Read a folder of images in either layout of this module and split off what it does not bring (see `complete`).

    Raises:
        DataError: The folder cannot be trained on as it is; the message says why and what to do.
        ValueError: A fraction is out of range.
    """
    parts = read_folder(path)
    name = parts.root.resolve().name
    return complete(name, parts, seed=seed, val_fraction=val_fraction, test_fraction=test_fraction)


def read_folder(path: str | Path) -> Parts:
    """The parts that a folder of images brings. Classes are the class folders of the training part in sorted order.

    Raises:
        DataError: The folder cannot be trained on as it is; the message says why and what to do.
    """
    root = _existing_folder(path)
    folders, ignored = _find_parts(root)
    given: dict[str, dict[str, list[Path]]] = {}
    for part, folder in folders.items():
        given[part], others = _read_classes(folder)
        ignored += others
    class_names = tuple(sorted(given["train"]))
    _check_classes(folders, given)
    origins = {part: "all images" if folder == root else f"folder {folder.name}/" for part, folder in folders.items()}
    splits = {part: as_split(given[part], class_names, origins[part]) for part in folders}
    return Parts(root, class_names, splits, ignored=tuple(sorted(ignored)))


def read_labelled(path: str | Path, class_names: Sequence[str]) -> Split:
    """Read class folders, or those in `test/` of a folder that has one, to score known classes on them.

    Classes may be missing from the folder; labels index `class_names`.

    Raises:
        DataError: The folder holds a class that is not in `class_names`, or no labelled images at all.
    """
    root = _existing_folder(path)
    if "test" not in class_names:
        root = next((entry for entry in _entries(root) if entry.is_dir() and entry.name.lower() == "test"), root)
    classes, _ = _read_classes(root)
    unknown = sorted(classes.keys() - set(class_names))
    if unknown:
        absent = [name for name in class_names if name not in classes]
        raise DataError(
            f"{root}: {len(unknown)} of its {len(classes)} class folders are not among the {len(class_names)} classes "
            f"of the model: {enumerate_some(unknown)}. Classes of the model without a folder ({len(absent)}): "
            f"{enumerate_some(absent) or 'none'}. Folder names must be the class names used in training"
            + ("." if {name.lower() for name in unknown} - _PART_OF_FOLDER.keys() else f"; give {root / unknown[-1]}.")
        )
    return as_split(classes, class_names, f"folder {root.resolve().name}/")


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """List the images to predict: a file as given whatever its suffix, a folder by all images below it, sorted.

    Nothing is listed twice.

    Raises:
        DataError: A path does not exist, or a folder has no image below it.
    """
    found: dict[Path, Path] = {}  # by absolute path
    for path in (Path(path).expanduser() for path in paths):
        if path.is_dir():
            files = list(_files_below(path))
            images = [file for file in files if _is_image(file)]
            if not images:
                raise DataError(f"{path}: no images; {_describe(files)}. Expected {_suffixes()}.")
        elif path.exists():
            images = [path]
        else:
            raise DataError(f"{path}: no such file or folder.")
        for image in images:
            found.setdefault(image.absolute(), image)
    return list(found.values())


def _existing_folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if not folder.exists():
        raise DataError(f"{folder}: no such folder. Expected a folder of images.\n{_expected(folder)}")
    if folder.suffix.lower() in _ARCHIVE_SUFFIXES:
        raise DataError(f"{folder}: is an archive of a kind that is not unpacked here. Unpack it and give the folder.")
    raise DataError(f"{folder}: is a file. Expected a folder of images.\n{_expected(folder.parent)}")


def _find_parts(root: Path) -> tuple[dict[str, Path], list[Path]]:
    """Folder by part, and the entries of root that belong to none; {"train": root} if class folders lie in root."""
    entries = _entries(root)
    if not entries:
        raise DataError(f"{root}: the folder is empty.\n{_expected(root)}")
    named = [entry for entry in entries if entry.is_dir() and entry.name.lower() in _PART_OF_FOLDER]
    others = [entry for entry in entries if entry not in named]
    parts: dict[str, Path] = {}
    for folder in named:
        part = _PART_OF_FOLDER[folder.name.lower()]
        if part in parts:
            raise DataError(f"{root}: both {parts[part].name}/ and {folder.name}/ could be the {part} part. Remove one.")
        parts[part] = folder
    # A class may be called "train" too, so that folder makes a layout of parts if it holds folders or nothing but
    # parts lies beside it.
    beside = [entry.name for entry in others if entry.is_dir()]
    if "train" in parts and (not beside or any(entry.is_dir() for entry in _entries(parts["train"]))):
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
    entries = _entries(folder)
    loose = [entry for entry in entries if not entry.is_dir() and _is_image(entry)]
    if loose:
        raise DataError(
            f"{folder}: images directly in this folder, {len(loose)} of them, have no class "
            f"({enumerate_some([image.name for image in loose], 3)}). Move each into the folder of its class.\n"
            f"{_expected(folder)}"
        )
    classes: dict[str, list[Path]] = {}
    ignored = [entry for entry in entries if not entry.is_dir()]
    for entry in entries:
        if entry.is_dir():
            files = list(_files_below(entry))
            classes[entry.name] = [file for file in files if _is_image(file)]
            ignored += [file for file in files if not _is_image(file)]
    if not any(classes.values()):
        raise DataError(f"{folder}: no images; {_describe(ignored)}. Expected {_suffixes()}.\n{_expected(folder)}")
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


def _entries(folder: Path) -> list[Path]:
    """What the folder holds, sorted, without hidden entries and litter."""
    try:
        entries = [Path(entry.path) for entry in os.scandir(folder)]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}).") from error
    kept = [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _LITTER]
    return sorted(kept, key=lambda entry: entry.name)


def _files_below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Every file below, links followed but no link back to a folder above. A dangling link counts as a file."""
    above |= {folder.resolve()}
    for entry in _entries(folder):
        if not entry.is_dir():
            yield entry
        elif entry.resolve() not in above:
            yield from _files_below(entry, above)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _describe(files: Sequence[Path]) -> str:
    """What was found instead of images: "found other files (10 .txt, 2 .zip)"."""
    if not files:
        return "found no files at all"
    kinds = Counter(file.suffix.lower() or "no suffix" for file in files)
    found = f"found other files ({enumerate_some([f'{count} {kind}' for kind, count in kinds.most_common()])})"
    archives = [file.name for file in files if file.suffix.lower() in _ARCHIVE_SUFFIXES]
    return f"{found}; unpack {enumerate_some(archives, 3)} first" if archives else found


def _suffixes() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES))


def _expected(folder: Path) -> str:
    name = folder.resolve().name or "images"
    return (
        "Expected one folder per class, as in\n"
        f"  {name}/cat/001.jpg   {name}/dog/001.jpg\n"
        "or parts that hold them (val/ and test/ may be missing):\n"
        f"  {name}/train/cat/001.jpg   {name}/val/cat/002.jpg   {name}/test/cat/003.jpg"
    )
