"""What the check of a data set finds: every kind of finding, provoked on real files, and nothing where all is well."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from svp.data import DataError, checks, find_unreadable
from svp.data.checks import Report, check_data
from svp.data.facts import read_facts
from svp.data.named.catalog import DatasetInfo, dataset_info
from svp.data.pipeline.decoding import ImageReader
from svp.data.sources.folder import FolderSource
from svp.data.splits import Parts, Split


def picture(path: Path, seed: int, size: tuple[int, int] = (32, 24), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def put_photos(root: Path, parts: tuple[str, ...] = ("train", "val", "test"), per_class: int = 4) -> Path:
    """Class folders of images that are all different."""
    for part_number, part in enumerate(parts):
        for class_number, name in enumerate(("cat", "dog")):
            for number in range(per_class):
                picture(root / part / name / f"{number}.png", 10_000 * part_number + 100 * class_number + number)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return put_photos(tmp_path / "photos")


def check(photos: Path) -> Report:
    return check_data(str(photos), img_size=16)


def codes(report: Report) -> list[tuple[str, str]]:
    return [(finding.level, finding.code) for finding in report.findings]


def names(report: Report, code: str) -> set[str]:
    (finding,) = [finding for finding in report.findings if finding.code == code]
    return {path.relative_to(report.root).as_posix() for path in finding.files}


def message(report: Report, code: str) -> str:
    (finding,) = [finding for finding in report.findings if finding.code == code]
    return finding.message


def test_nothing_to_find(photos: Path) -> None:
    report = check(photos)
    assert report.findings == report.copies == report.unreadable == ()
    assert not report.has_errors
    assert report.counts() == {"cat": {"train": 4, "val": 4, "test": 4}, "dog": {"train": 4, "val": 4, "test": 4}}
    assert report.modes == {"RGB": 24}
    assert (report.width, report.height) == (checks.Range(32, 32, 32), checks.Range(24, 24, 24))
    assert report.aspect == checks.Range(32 / 24, 32 / 24, 32 / 24)


@pytest.mark.parametrize("other", ["dog", "cat"])
def test_a_copy_in_another_part_is_a_leak(photos: Path, other: str) -> None:
    shutil.copy(photos / "train/cat/1.png", photos / f"test/{other}/copy.png")
    report = check(photos)
    assert codes(report) == [("error", "leak")]
    assert report.has_errors
    assert names(report, "leak") == {"train/cat/1.png", f"test/{other}/copy.png"}
    (copies,) = report.copies
    assert copies.same_bytes
    assert set(zip(copies.parts, copies.classes, strict=True)) == {("train", "cat"), ("test", other)}


@pytest.mark.parametrize(
    ("name", "mode"),
    [("copy.bmp", "RGB"), ("copy.tiff", "RGB"), ("copy.webp", "RGB"), ("copy.png", "RGBA"), ("copy.pgm", "L")],
)
def test_a_copy_in_another_format_is_found_by_its_pixels(photos: Path, name: str, mode: str) -> None:
    original = photos / "train/cat/1.png"
    if mode == "L":
        picture(original, 5, mode="L")
    with Image.open(original) as image:
        options = {"lossless": True} if name.endswith("webp") else {}
        image.convert(mode).save(photos / "val" / "cat" / name, **options)
    report = check(photos)
    assert names(report, "leak") == {"train/cat/1.png", f"val/cat/{name}"}
    assert "(1 by equal pixels in unequal files)" in message(report, "leak")
    assert not report.copies[0].same_bytes


def test_a_copy_under_another_class_is_a_conflict(photos: Path) -> None:
    shutil.copy(photos / "train/cat/1.png", photos / "train/dog/copy.png")
    report = check(photos)
    assert codes(report) == [("warning", "label-conflict")]
    assert names(report, "label-conflict") == {"train/cat/1.png", "train/dog/copy.png"}
    assert not report.has_errors


def test_copies_in_one_class_are_noted(photos: Path) -> None:
    for number in range(3):
        shutil.copy(photos / "train/cat/1.png", photos / f"train/cat/copy{number}.png")
    report = check(photos)
    assert codes(report) == [("info", "copies")]
    assert message(report, "copies") == "1 image is more than once in one class (by equal files)"
    assert len(names(report, "copies")) == 4


@pytest.mark.parametrize("parts", [("train",), ("train", "val"), ("train", "test")])
def test_copies_are_a_warning_where_parts_are_drawn_from_them(tmp_path: Path, parts: tuple[str, ...]) -> None:
    put_photos(tmp_path / "photos", parts)
    shutil.copy(tmp_path / "photos/train/cat/1.png", tmp_path / "photos/train/cat/copy.png")
    report = check(tmp_path / "photos")
    assert codes(report) == [("warning", "copies")]
    assert "copies may fall on both sides" in message(report, "copies")


def test_the_same_pixels_in_another_shape_are_no_copy(photos: Path) -> None:
    Image.new("RGB", (20, 30), "red").save(photos / "train/cat/flat.png")
    Image.new("RGB", (30, 20), "red").save(photos / "test/cat/flat.png")
    assert check(photos).findings == ()


def test_unreadable_images_are_errors_with_their_reason(photos: Path) -> None:
    (photos / "train/cat/bad.png").write_text("no image")
    cut = (photos / "val/dog/0.png").read_bytes()
    (photos / "val/dog/0.png").write_bytes(cut[: len(cut) // 2])
    report = check(photos)
    assert codes(report) == [("error", "unusable"), ("error", "unreadable")]
    assert "1 of 9 training images cannot be read, more than 5%" in message(report, "unusable")
    assert names(report, "unreadable") == {"train/cat/bad.png", "val/dog/0.png"}
    assert message(report, "unreadable").startswith("2 of 25 images cannot be read")
    assert {image.path.name: image.reason for image in report.unreadable}["bad.png"] == "not an image in a known format"
    assert report.modes == {"RGB": 23}


def test_a_few_unreadable_test_images_are_an_error_too(photos: Path) -> None:
    (photos / "test/cat/bad.png").write_text("no image")
    assert codes(check(photos)) == [("error", "unreadable")]


def test_nothing_readable(photos: Path) -> None:
    for path in photos.rglob("*.png"):
        path.write_text("no image")
    report = check(photos)
    assert ("error", "unusable") in codes(report)
    assert report.width is None
    assert json.loads(json.dumps(report.to_dict()))["sizes"]["width"] is None


def test_classes_too_small_to_be_split(tmp_path: Path) -> None:
    picture(put_photos(tmp_path / "photos", ("train",)) / "train/rat/1.png", 77)
    report = check(tmp_path / "photos")
    assert codes(report) == [("error", "not-splittable")]
    assert "rat (1)" in message(report, "not-splittable")
    assert report.counts()["rat"] == {"train": 1}


def test_modes_and_sizes(photos: Path) -> None:
    for number, (mode, suffix) in enumerate(
        [("L", "png"), ("L", "jpg"), ("1", "png"), ("LA", "png"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpg")]
    ):
        picture(photos / f"train/cat/x{number}.{suffix}", 500 + number, mode=mode)
    Image.fromarray(np.arange(32 * 64, dtype=np.uint16).reshape(32, 64) * 30).save(photos / "train/cat/deep.png")
    picture(photos / "train/dog/low.png", 600, size=(40, 10))
    picture(photos / "train/dog/narrow.png", 601, size=(15, 50))
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: rotate by 90 degrees
    with Image.open(picture(photos / "train/dog/y.png", 602, size=(60, 20))) as image:
        image.save(photos / "train/dog/turned.jpg", exif=turned)
    (photos / "train/dog/y.png").unlink()
    report = check(photos)
    assert codes(report) == [("info", "small"), ("info", "converted"), ("info", "value-range")]
    assert report.modes == {"RGB": 27, "L": 2, "1": 1, "LA": 1, "RGBA": 1, "P": 1, "CMYK": 1, "I;16": 1}
    text = message(report, "converted")
    assert text.startswith("8 of 35 images not plain RGB")
    assert all(kind in text for kind in ("2 gray", "1 16-bit gray", "1 CMYK", "1 palette", "1 RGB with transparency"))
    assert names(report, "small") == {"train/dog/low.png", "train/dog/narrow.png"}
    assert report.height == checks.Range(10, 24, 60)
    assert report.width == checks.Range(15, 32, 64)
    assert report.aspect is not None
    assert (report.aspect.least, report.aspect.greatest) == (15 / 50, 40 / 10)


@pytest.mark.parametrize(("count", "found"), [(39, []), (40, [("warning", "imbalance")])])
def test_imbalance(photos: Path, count: int, found: list[tuple[str, str]]) -> None:
    for number in range(4, count):
        picture(photos / f"train/dog/{number}.png", 700 + number)
    report = check(photos)
    assert codes(report) == found
    if found:
        assert message(report, "imbalance").startswith("10.0 times as many training images of dog (40) as of cat (4)")


def test_a_class_absent_from_a_part(photos: Path) -> None:
    shutil.rmtree(photos / "val" / "dog")
    report = check(photos)
    assert codes(report) == [("warning", "class-absent")]
    assert message(report, "class-absent") == "val has no image of 1 class: dog"


def test_ignored_files(photos: Path) -> None:
    (photos / "train/cat/notes.txt").touch()
    report = check(photos)
    assert codes(report) == [("info", "ignored")]
    assert names(report, "ignored") == {"train/cat/notes.txt"}


def test_findings_come_worst_first(photos: Path) -> None:
    (photos / "notes.txt").touch()
    shutil.copy(photos / "train/cat/1.png", photos / "train/dog/copy.png")
    shutil.copy(photos / "train/cat/2.png", photos / "val/cat/copy.png")
    assert [level for level, _ in codes(check(photos))] == ["error", "warning", "info"]


def as_published(photos: Path, **changes: object) -> DatasetInfo:
    row = replace(dataset_info("digits"), name="photos", classes=2, sizes={"train": 8, "val": 8, "test": 8})
    return replace(row, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"classes": 3}, ["2 classes, the catalog says 3"]),
        (
            {"sizes": {"train": 9, "val": 7, "test": 8}},
            ["train: 8 images, the catalog says 9", "val: 8 images, the catalog says 7"],
        ),
        ({"sizes": {"train": 16, "test": 8}}, []),  # the validation part is not official
        ({"sizes": {"train": 15, "test": 8}}, ["train and val: 16 images, the catalog says 15"]),
        ({"sizes": {"train": 8, "val": 8, "test": 1000}}, ["test: 8 images, the catalog says 1,000"]),
        ({"sizes": {"train": 8, "val": 8}}, ["test: 8 images, the catalog says 0"]),
    ],
)
def test_against_the_catalogue(
    photos: Path, changes: dict[str, object], found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = as_published(photos, read=lambda root, seed: read(photos), **changes)
    monkeypatch.setattr("svp.data.named.catalog._CATALOG", (row,))
    monkeypatch.chdir(photos)  # where no folder is called "photos"
    report = check_data("photos", img_size=16)
    assert [finding.message for finding in report.findings] == found
    assert all(finding.level == "error" for finding in report.findings)


def read(photos: Path) -> Parts:
    return FolderSource(photos).parts()


def test_a_folder_called_like_a_data_set_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_photos(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert check_data("digits", img_size=16).findings == ()


def test_a_file_listed_twice_is_read_once_and_leaks(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = read(photos)
    test = parts.splits["test"]
    first = parts.splits["train"].paths[0]
    leaking = Split((*test.paths, first), (*test.labels, 0), test.origin)
    parts = replace(parts, splits={**parts.splits, "test": leaking})
    monkeypatch.setattr(checks, "find_source", lambda *_: SimpleNamespace(name="x", parts=lambda seed: parts))
    done: list[tuple[int, int]] = []
    report = check_data("x", img_size=16, progress=lambda now, total: done.append((now, total)))
    assert codes(report) == [("error", "leak")]
    assert report.copies[0].files == (first, first)
    assert done == [(number, 24) for number in range(1, 25)]


def test_training_after_a_check_decodes_nothing_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "test/cat/bad.png").write_text("no image")
    check(photos)
    decoded: list[Path] = []
    decode = ImageReader.decode
    monkeypatch.setattr(ImageReader, "decode", lambda reader, path: (decoded.append(path), decode(reader, path))[1])
    find_unreadable(sorted(photos.rglob("*.png")))
    assert [path.name for path in decoded] == ["bad.png"]
    find_unreadable([picture(photos / "new.png", 1)])
    assert [path.name for path in decoded] == ["bad.png", "new.png"]


@settings(max_examples=50, deadline=None)
@given(size=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 5), other=st.integers(0, 5))
def test_pixel_digests_are_equal_where_pixels_are(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int], seed: int, other: int
) -> None:
    folder = tmp_path_factory.mktemp("pixels")
    one, two = picture(folder / "a.png", seed, size), picture(folder / "b.bmp", other, size)
    with Image.open(one) as a, Image.open(two) as b:
        equal = a.tobytes() == b.tobytes()
    assert (read_facts(one).pixel_digest == read_facts(two).pixel_digest) == equal
    assert read_facts(one).file_digest != read_facts(two).file_digest


def test_every_image_is_decoded_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    decode = ImageReader.decode
    monkeypatch.setattr(ImageReader, "decode", lambda reader, path: (decoded.append(path), decode(reader, path))[1])
    check(photos)
    assert len(decoded) == 24


def test_wrong_arguments(photos: Path) -> None:
    with pytest.raises(ValueError, match="img_size is 0, expected 1 or more"):
        check_data(str(photos), img_size=0)
    with pytest.raises(DataError, match="does not exist"):
        check_data(str(photos / "no" / "where"))
