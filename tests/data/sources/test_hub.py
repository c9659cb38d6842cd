"""Data sets of the Hugging Face Hub by ``hfds/OWNER/NAME``, on small ones in a folder of that name: no network."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svp.data import DataError, load_image, open_data, open_labelled
from svp.data.sources.hub import fetch_hub

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, where `datasets` looks for OWNER/NAME before it asks the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    return tmp_path


def picture(seed: int, form: str = "JPEG", mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels).convert(mode)
    more = {"save_all": True, "append_images": [image]} if form == "MPO" else {}  # of one image alone it is a JPEG
    image.save(buffer, form, **more)
    return buffer.getvalue()


def put_parquet(name: str, columns: Any, **splits: list[dict[str, Any]]) -> None:
    """A data set as the Hub serves most: one Parquet file per split, images as bytes within."""
    for split, rows in splits.items():
        file = Path(name) / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows, features=datasets.Features(columns)).to_parquet(str(file))


def rows(count: int, classes: int, seed: int = 0, image: str = "image", label: str = "label") -> list[dict[str, Any]]:
    return [{image: {"bytes": picture(seed + number)}, label: number % classes} for number in range(count)]


def columns(*names: str, image: str = "image", label: str = "label") -> dict[str, Any]:
    return {image: datasets.Image(), label: datasets.ClassLabel(names=list(names))}


def test_parquet_with_all_splits(here: Path) -> None:
    splits = {"train": rows(8, 2), "validation": rows(4, 2, 100), "test": rows(6, 2, 200)}
    put_parquet("ann/pets", columns("dog", "cat"), **splits)
    data = open_data("hfds/ann/pets", here / "root")
    assert data.name == "ann-pets"
    assert data.root == here / "root" / "hfds" / "ann" / "pets"
    assert data.class_names == ("cat", "dog")
    assert [len(split) for split in (data.train, data.val, data.test)] == [8, 4, 6]
    for part, split in (("train", data.train), ("validation", data.val), ("test", data.test)):
        found = {path.read_bytes(): data.class_names[label] for path, label in zip(split.paths, split.labels, strict=True)}
        assert found == {row["image"]["bytes"]: ("dog", "cat")[row["label"]] for row in splits[part]}
    assert data.test.paths[0] == data.root / "test" / "cat" / "0000001.jpeg"
    labelled = open_labelled("hfds/ann/pets", ("cat", "cow", "dog"), here / "root")
    assert sorted(labelled.labels) == [0, 0, 0, 2, 2, 2]


def test_an_image_folder_keeps_its_files_as_they_are(here: Path) -> None:
    for number in range(40):
        file = here / "ann" / "photos" / "train" / ("cat" if number % 2 else "dog") / f"{number:02}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))
    data = open_data("hfds/ann/photos", here / "root", seed=1)
    assert [len(split) for split in (data.train, data.val, data.test)] == [28, 6, 6]
    found = {path.read_bytes() for split in (data.train, data.val, data.test) for path in split.paths}
    assert found == {picture(number) for number in range(40)}


def test_written_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_parquet("ann/pets", columns("dog", "cat"), train=rows(40, 2))
    first = open_data("hfds/ann/pets", here / "root")
    Path("ann").rename("gone")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert open_data("hfds/ann/pets", here / "root") == first


def test_columns_of_other_names_and_odd_class_names(here: Path) -> None:
    names = ("a/b", ".hidden", "..", "a_b", "ü \\ 猫")
    put_parquet("ann/odd", columns(*names, image="img", label="kind"), train=rows(20, 5, image="img", label="kind"))
    data = open_data("hfds/ann/odd", here / "root")
    assert data.class_names == ("_..", "_.hidden", "a_b (0)", "a_b (3)", "ü _ 猫")
    assert len(data.train) + len(data.val) + len(data.test) == 20


def test_every_format_decodes_to_the_same_pixels(here: Path) -> None:
    forms = [("JPEG", "RGB"), ("PNG", "L"), ("WEBP", "RGB"), ("JPEG2000", "RGB"), ("MPO", "RGB"), ("TIFF", "CMYK")]
    contents = [picture(number, *form) for number, form in enumerate(forms)] + [b"no image at all"] * 2
    table = [{"image": {"bytes": content}, "label": number % 2} for number, content in enumerate(contents)]
    put_parquet("ann/forms", columns("a", "b"), train=table, test=rows(2, 2), validation=rows(2, 2))
    data = open_data("hfds/ann/forms", here / "root")
    by_number = {int(path.stem): path for path in data.train.paths}
    assert sorted(by_number) == list(range(8))
    assert [by_number[n].suffix for n in range(8)] == [".jpeg", ".png", ".webp", ".png", ".jpeg", ".tiff", ".jpeg", ".jpeg"]
    for number, content in enumerate(contents[:6]):
        (here / "original").write_bytes(content)
        assert load_image(by_number[number]).tobytes() == load_image(here / "original").tobytes()
        assert (by_number[number].read_bytes() == content) == (forms[number][0] != "JPEG2000")


def test_a_test_split_of_secret_labels_is_left_out(here: Path) -> None:
    secret = [{**row, "label": -1} for row in rows(5, 2)]
    put_parquet("ann/secret", columns("a", "b"), train=rows(40, 2), test=secret)
    data = open_data("hfds/ann/secret", here / "root")
    assert len(data.test) == 6
    assert data.test.origin.startswith("15% of")


@pytest.mark.parametrize("name", ["../x", "a/b/c", "a/../b", "", "/etc", "a/.b", "ä/b"])
def test_what_is_no_name(here: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"is no name of a data set of the Hugging Face Hub; expected hfds/OWNER/NAME"):
        open_data(f"hfds/{name}", here / "root")


def test_without_network_it_says_what_to_place_where(here: Path) -> None:
    with pytest.raises(DataError) as error:
        open_data("hfds/ann/far", here / "root")
    message = str(error.value)
    assert "hfds/ann/far cannot be fetched" in message
    assert "$HF_HOME" in message
    assert str(here / "root" / "hfds" / "ann" / "far") in message
    with pytest.raises(DataError, match="cannot be fetched"):
        open_data("hfds/ann/far", here / "root")  # nothing half made is taken for the data


def test_without_the_package_it_says_what_to_install(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # as Python marks what cannot be imported
    with pytest.raises(RuntimeError, match=r"hfds/ann/pets needs the package datasets: pip install 'vim-svp\[hub\]'"):
        fetch_hub("hfds/ann/pets", here / "root")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": "Image", "text": "Value"}, r"expected one column of type ClassLabel, found 0 among .*text \(Value\)"),
        (
            {"image": "Image", "fine": "ClassLabel", "coarse": "ClassLabel"},
            r"expected one column of type ClassLabel, found 2 among",
        ),
        ({"text": "Value", "label": "ClassLabel"}, r"expected one column of type Image, found 0"),
    ],
)
def test_columns_that_are_none_to_classify_by(here: Path, features: dict[str, str], message: str) -> None:
    kinds = {"Image": datasets.Image(), "ClassLabel": datasets.ClassLabel(names=["a", "b"]), "Value": datasets.Value("string")}
    values = {"Image": {"bytes": picture(0)}, "ClassLabel": 1, "Value": "x"}
    row = {name: values[kind] for name, kind in features.items()}
    put_parquet("ann/odd", {name: kinds[kind] for name, kind in features.items()}, train=[row, row])
    with pytest.raises(DataError, match=f"hfds/ann/odd: {message}"):
        open_data("hfds/ann/odd", here / "root")


def test_no_train_split(here: Path) -> None:
    put_parquet("ann/odd", columns("a", "b"), test=rows(4, 2), validation=rows(4, 2))
    with pytest.raises(DataError, match=r"hfds/ann/odd: its splits are .*; expected train"):
        open_data("hfds/ann/odd", here / "root")
