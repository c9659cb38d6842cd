"""Small copies of list-based data sets: folders, file names and formats as published, images of a few pixels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

Listed = Sequence[tuple[str, int]]
"""Path and class of every image."""


def write_image(path: Path, number: int = 0) -> None:
    """Noise around a color of the number's own; the suffix tells the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    color = (40 * number % 256, 90 * number % 256, 200)
    pixels = np.clip(np.random.default_rng(number).normal(color, 20, size=(12, 16, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def write_images(folder: Path, listed: Listed) -> None:
    for path, class_id in listed:
        write_image(folder / path, class_id)


def write_lines(file: Path, lines: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_vtab(folder: Path, classes: int, train: int = 12, val: int = 6, test: int = 8) -> dict[str, list[tuple[str, int]]]:
    """A task of VTAB-1K with the four lists; some paths hold blanks.

    Returns:
        Path and label by part.
    """
    listed = {
        part: [(f"images/{part} part/{number:06d}.jpg", number % classes) for number in range(count)]
        for part, count in (("train", train), ("val", val), ("test", test))
    }
    for pairs in listed.values():
        write_images(folder, pairs)
    lines = {part: [f"{path} {label}" for path, label in pairs] for part, pairs in listed.items()}
    write_lines(folder / "train800.txt", lines["train"])
    write_lines(folder / "val200.txt", lines["val"])
    write_lines(folder / "train800val200.txt", lines["val"] + lines["train"])
    write_lines(folder / "test.txt", lines["test"])
    return listed


def write_vpt(folder: Path, **parts: Mapping[str, Any]) -> None:
    """Split files of VPT: train.json and so on; ``train_0_1`` is ``train_0.1.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in parts.items():
        name = part.replace("_", ".").replace(".", "_", 1)
        (folder / f"{name}.json").write_text(json.dumps(content))


def write_birds(folder: Path, listed: Mapping[str, Listed], names: Mapping[int, str], *, hexadecimal: bool) -> None:
    """Lists of CUB-200-2011 (image ids 1, 2, ...) or of NABirds (hexadecimal ids), over the parts "train" and "test"."""
    rows = [(path, class_id, part) for part, pairs in listed.items() for path, class_id in pairs]
    ids = [f"{number:08x}-21dc-4d0c-bfe1-4cae3c85c829" if hexadecimal else f"{number}" for number in range(1, len(rows) + 1)]
    write_lines(folder / "images.txt", [f"{image} {path}" for image, (path, _, _) in zip(ids, rows, strict=True)])
    labels = [f"{image} {class_id}" for image, (_, class_id, _) in zip(ids, rows, strict=True)]
    write_lines(folder / "image_class_labels.txt", labels)
    is_train = [f"{image} {int(part == 'train')}" for image, (_, _, part) in zip(ids, rows, strict=True)]
    write_lines(folder / "train_test_split.txt", is_train)
    write_lines(folder / "classes.txt", [f"{number} {name}" for number, name in names.items()])
    write_images(folder / "images", [(path, class_id) for path, class_id, _ in rows])


def write_cub200(root: Path, per_class: int = 6) -> Path:
    names = {1: "001.Black_footed_Albatross", 2: "002.Laysan_Albatross", 10: "010.Red_winged_Blackbird"}
    listed: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for class_id, name in names.items():
        for number in range(per_class):
            part = "test" if number % 3 == 2 else "train"
            listed[part].append((f"{name}/{name[4:]}_{number:04d}_{class_id}.jpg", class_id))
    write_birds(root / "CUB_200_2011", listed, names, hexadecimal=False)
    return root / "CUB_200_2011"


NABIRD_NAMES = {
    0: "Birds",
    295: "Black-bellied Whistling-Duck",
    1: "Ducks, Geese, and Swans",
    900: "Lark Bunting (Female/Nonbreeding male)",
    1010: "Dickcissel",
}


def write_nabirds(root: Path, per_class: int = 6) -> Path:
    listed: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for class_id in (295, 900, 1010):
        for number in range(per_class):
            part = "test" if number % 3 == 2 else "train"
            listed[part].append((f"{class_id:04d}/{class_id:04x}{number:028x}.jpg", class_id))
    write_birds(root / "nabirds", listed, NABIRD_NAMES, hexadecimal=True)
    return root / "nabirds"


def write_flowers(folder: Path, per_part: int = 4, classes: int = 3) -> Path:
    """setid.mat, imagelabels.mat and jpg/: classes in blocks, the parts shuffled over all numbers."""
    count = 3 * per_part * classes
    labels = np.arange(count) // (3 * per_part) + 1
    order = np.random.default_rng(0).permutation(count) + 1
    parts = [np.sort(order[index::3])[None].astype(np.uint16) for index in range(3)]
    write_images(folder, [(f"jpg/image_{number:05d}.jpg", int(labels[number - 1])) for number in range(1, count + 1)])
    savemat(folder / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    savemat(folder / "setid.mat", dict(zip(("trnid", "valid", "tstid"), parts, strict=True)))
    return folder


def write_dogs(root: Path, folder: str = "stanford-dogs", images: str = "Images") -> Path:
    names = {1: "n02085620-Chihuahua", 2: "n02085782-Japanese_spaniel", 3: "n02087046-toy_terrier"}
    parts: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for class_id, name in names.items():
        for number in range(8):
            parts["test" if number % 4 == 3 else "train"].append((f"{name}/{name[:9]}_{number}.jpg", class_id))
    for part, listed in parts.items():
        write_images(root / folder / images, listed)
        write_dogs_list(root / folder / f"{part}_list.mat", listed)
    write_dogs_list(root / folder / "file_list.mat", sorted(parts["train"] + parts["test"]))
    return root / folder


def write_dogs_list(file: Path, listed: Listed) -> None:
    savemat(
        file,
        {
            "file_list": _cells([path for path, _ in listed])[:, None],
            "annotation_list": _cells([path.removesuffix(".jpg") for path, _ in listed])[:, None],
            "labels": np.array([class_id for _, class_id in listed], dtype=np.float64)[:, None],
        },
    )


def write_cars(root: Path, folder: str = "stanford_cars", *, labels_in_devkit: bool = False) -> Path:
    devkit = root / folder / "devkit"
    devkit.mkdir(parents=True)
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012"]
    savemat(devkit / "cars_meta.mat", {"class_names": _cells(names)[None]})
    test = devkit if labels_in_devkit else devkit.parent
    files = {"train": devkit / "cars_train_annos.mat", "test": test / "cars_test_annos_withlabels.mat"}
    for (part, file), count in zip(files.items(), (9, 6), strict=True):
        listed = [(f"{number:05d}.jpg", number % 3 + 1) for number in range(1, count + 1)]
        write_images(root / folder / f"cars_{part}", listed)
        write_cars_list(file, listed)
    return root / folder


def write_cars_list(file: Path, listed: Listed) -> None:
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    rows = np.zeros((1, len(listed)), dtype=[(name, object) for name in fields])
    for index, (name, class_id) in enumerate(listed):
        rows[0, index] = (*(np.uint16(value) for value in (1, 2, 10, 9)), np.uint8(class_id), name)
    savemat(file, {"annotations": rows})


def _cells(values: Sequence[str]) -> np.ndarray:
    cells = np.empty(len(values), dtype=object)
    cells[:] = values
    return cells
