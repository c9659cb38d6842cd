"""The fine-grained data sets of the paper: CUB-200-2011, NABirds, Stanford Dogs, Oxford Flowers and Stanford Cars.

The split files that VPT published (train.json, val.json, test.json: ``{path: class id}``) come first; without them the data
set's own lists are read. Source of the layout: github.com/KMnP/vpt, whose files SVP's code takes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from svp.data.named.fgvc_lists import (
    ClassNames,
    Lists,
    bird_names,
    car_names,
    read_birds,
    read_cars,
    read_dogs,
    read_flowers,
)
from svp.data.named.lists import (
    ClassId,
    Entry,
    ImageList,
    as_split,
    check_apart,
    check_files,
    check_known,
    find_folder,
    image_list,
    read_json,
)
from svp.data.splits import DataError, Parts, Split

_SPLIT_FILES = {"train": "train.json", "val": "val.json", "test": "test.json"}


@dataclass(frozen=True)
class _Layout:
    """How a data set lies on disk.

    Attributes:
        title: Name of the data set, for messages.
        folders: Names that its folder goes by.
        images: Names that the folder in it goes by to which paths are relative; "" for itself.
        own_lists: Files of which at least one is there if the data set's own lists are.
        read_own: Reads them.
        read_names: Reads the names of the classes; None if the data set has none.
    """

    title: str
    folders: tuple[str, ...]
    images: tuple[str, ...]
    own_lists: tuple[str, ...]
    read_own: Callable[[Path], Lists]
    read_names: Callable[[Path], ClassNames | None] = lambda folder: None


_BIRD_LISTS = "images.txt", "image_class_labels.txt", "train_test_split.txt"
_LAYOUTS = {
    "cub200": _Layout("CUB-200-2011", ("CUB_200_2011",), ("images",), _BIRD_LISTS, read_birds, bird_names),
    "nabirds": _Layout("NABirds", ("nabirds",), ("images",), _BIRD_LISTS, read_birds, bird_names),
    "stanford_dogs": _Layout(
        "Stanford Dogs",
        ("stanford-dogs", "Stanford-dogs"),
        ("images", "Images"),
        ("train_list.mat", "test_list.mat", "file_list.mat"),
        read_dogs,
    ),
    "oxford_flowers": _Layout(
        "Oxford Flowers", ("OxfordFlower", "flowers-102"), ("",), ("setid.mat", "imagelabels.mat"), read_flowers
    ),
    "stanford_cars": _Layout(
        "Stanford Cars",
        ("stanford-cars", "Stanford-cars", "stanford_cars"),
        ("",),
        ("devkit", "cars_test_annos_withlabels.mat"),
        read_cars,
        car_names,
    ),
}


def read_fgvc(root: Path, seed: int, *, name: str) -> Parts:
    """The parts of a data set of this module, by its name in the catalog.

    Its folder is looked for in `root` and in ``root/FGVC``; `root` may also be that folder itself. Classes are numbered in
    the order of their ids, over all parts. What is validation is no training: Stanford Cars' val.json repeats images of
    train.json, which are left out of it here; `Parts.paper_train` has the list as it is.

    Raises:
        DataError: A list is missing, empty or wrong, or an image of it is missing; names file and line (in JSON the entry).
    """
    found = _find(root, name)
    lists = found.lists
    splits = {part: found.split(images, images.file.name) for part, images in lists.items()}
    if "val" not in lists:
        return Parts(found.folder, found.class_names, splits)
    paper_train = splits["train"]
    splits["train"] = found.training_split(lists["train"])
    return Parts(found.folder, found.class_names, splits, paper_train)


def read_fraction(root: Path, name: str, fraction: float) -> Split | None:
    """The published sub-sample of train.json, as it is: ``train_0.1.json`` for a fraction of 0.1.

    Like train.json it may hold images that are held out for validation: Stanford Cars', those that a run draws itself.

    Returns:
        None where there is no such file, and for a data set that is not of this module.
    Raises:
        DataError: See `read_fgvc`; or the list holds images of the data set's own test part.
    """
    if name not in _LAYOUTS:
        return None
    found = _find(root, name)
    file = found.folder / f"train_{fraction:g}.json"
    if not file.exists():
        return None
    images = _read_json(file)
    check_known(images, found.labels, "the class list")
    check_files(found.images, [images])
    if "test" in found.lists:
        check_apart(images, found.lists["test"])
    return found.split(images, file.name)


def has_fgvc(root: Path, *, name: str) -> bool:
    """Whether `read_fgvc` finds the folder of the data set; its lists are not read."""
    try:
        return _find_folder(root, _LAYOUTS[name]).is_dir()
    except DataError:
        return False


@dataclass(frozen=True)
class _Found:
    """A data set as it lies on disk: its folder, that of its images, its lists, and its classes in order."""

    folder: Path
    images: Path
    lists: Lists
    labels: Mapping[ClassId, int]
    class_names: tuple[str, ...]

    def split(self, images: ImageList, origin: str) -> Split:
        return as_split(images, self.images, self.labels, origin)

    def training_split(self, images: ImageList) -> Split:
        """Without what is for validation."""
        val = self.lists.get("val")
        kept = images.without(val) if val else images
        if val and not kept.entries:
            raise DataError(
                f"{images.file}: all of its {len(images)} images are in {val.file}, too; none is left to train on."
            )
        dropped = len(images) - len(kept)
        origin = images.file.name
        return self.split(kept, f"{origin} without {dropped} images of {_SPLIT_FILES['val']}" if dropped else origin)


def _find(root: Path, name: str) -> _Found:
    layout = _LAYOUTS[name]
    folder = _find_folder(root, layout)
    lists = _read_split_files(folder) if _has_split_files(folder) else layout.read_own(folder)
    names = layout.read_names(folder)
    for part, images in lists.items():
        if names:
            check_known(images, names[1], str(names[0]))
        elif part != "train":
            check_known(images, {entry.class_id for entry in lists["train"].entries}, lists["train"].file.name)
    images_folder = _image_folder(folder, layout.images)
    check_files(images_folder, lists.values())
    for part, images in lists.items():
        if part != "test" and "test" in lists:
            check_apart(images, lists["test"])
    ids = sorted({entry.class_id for images in lists.values() for entry in images.entries}, key=_order)
    if len(ids) < 2:
        raise DataError(f"{lists['train'].file}: only one class, {ids[0]!r}; a classifier needs two or more.")
    labels = {class_id: label for label, class_id in enumerate(ids)}
    class_names = _unique_names(ids, names[1] if names else _names_of_folders(lists))
    return _Found(folder, images_folder, lists, labels, class_names)


def _find_folder(root: Path, layout: _Layout) -> Path:
    places = [above / folder for above in (root / "FGVC", root) for folder in layout.folders]
    if root.resolve().name in layout.folders:
        places.append(root)
    return find_folder(layout.title, places, (*_SPLIT_FILES.values(), *layout.own_lists))


def _has_split_files(folder: Path) -> bool:
    return any((folder / file).exists() for file in _SPLIT_FILES.values())


def _read_split_files(folder: Path) -> Lists:
    files = {part: folder / file for part, file in _SPLIT_FILES.items()}
    if not files["val"].exists():
        del files["val"]
    return {part: _read_json(file) for part, file in files.items()}


def _read_json(file: Path) -> ImageList:
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError(f'{file}: is not one JSON object of the form {{"path of image": class id}}.')
    return image_list(file, _json_entries(file, content))


def _json_entries(file: Path, content: Mapping[str, object]) -> Iterator[Entry]:
    for path, class_id in content.items():
        at = f"{file}, entry {path!r}"
        if isinstance(class_id, bool) or not isinstance(class_id, (int, str)):
            raise DataError(f"{at}: class id {class_id!r} is neither a whole number nor a string.")
        if isinstance(class_id, str) and class_id.isdecimal():
            class_id = int(class_id)  # "007" in one file may be 7 in another
        yield Entry(path, class_id, at, at)


def _image_folder(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise DataError(f"{folder}: no folder {names[0]}/, which the paths of the lists are relative to. Unpack the images there.")


def _order(class_id: ClassId) -> tuple[bool, ClassId]:
    """Numbers by value, before strings."""
    return isinstance(class_id, str), class_id


def _names_of_folders(lists: Lists) -> dict[ClassId, str]:
    """Folders by class id, if every class has one of its own."""
    folders: dict[ClassId, set[str]] = {}
    for images in lists.values():
        for entry in images.entries:
            folders.setdefault(entry.class_id, set()).add(entry.path.rpartition("/")[0])
    names = {class_id: next(iter(paths)) for class_id, paths in folders.items()}
    one_each = all(len(paths) == 1 for paths in folders.values()) and len(set(names.values())) == len(names) > 1
    return names if one_each else {}


def _unique_names(ids: list[ClassId], names: Mapping[ClassId, str]) -> tuple[str, ...]:
    """Names in the order of the ids; a class without one is called by its id, and those of one name by both."""
    given = [names.get(class_id, str(class_id)) for class_id in ids]
    return tuple(f"{name} ({class_id})" if given.count(name) > 1 else name for class_id, name in zip(ids, given, strict=True))
