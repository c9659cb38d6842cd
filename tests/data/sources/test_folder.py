"""Layouts of image folders: what is read, what is split off, and each way in which a folder can be wrong."""

import os
import random
import subprocess
import sys
from pathlib import Path
from unicodedata import normalize

import pytest

from svp.data import DataError, ImageData, ImageList, LeftOut, find_images, open_folder, open_labelled


def put(root: Path, *names: str) -> Path:
    """Create empty files; only names matter here."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def put_classes(root: Path, **counts: int) -> Path:
    return put(root, *(f"{name}/{index:03}.jpg" for name, count in counts.items() for index in range(count)))


def names_of(data: ImageData, part: str) -> list[tuple[str, str]]:
    split = getattr(data, part)
    labels = [data.class_names[label] for label in split.labels]
    return [(path.relative_to(data.root).as_posix(), label) for path, label in zip(split.paths, labels, strict=True)]


def test_class_folders_are_split_into_three_parts(tmp_path: Path) -> None:
    data = open_folder(put_classes(tmp_path / "pets", dog=20, cat=40), seed=3)
    assert data.name == "pets"
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.val), len(data.test)) == (28 + 14, 6 + 3, 6 + 3)
    assert data.val.origin == data.test.origin == "15% of all images, stratified, seed 3"
    assert data.train.origin == "rest of all images"
    everything = [name for part in ("train", "val", "test") for name in names_of(data, part)]
    assert sorted(everything) == sorted(
        (path.relative_to(data.root).as_posix(), path.parent.name) for path in data.root.glob("*/*")
    )


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("train", "valid", "TEST"),
        ("Train", "validation", "Test"),
        ("Training", "Val", "Testing"),
        ("training", "dev", "test"),
    ],
)
def test_parts_are_taken_as_given(tmp_path: Path, train: str, val: str, test: str) -> None:
    put_classes(tmp_path / train, a=2, b=3)
    put_classes(tmp_path / val, a=4, b=1)
    put_classes(tmp_path / test, b=5)
    data = open_folder(tmp_path)
    assert [len(part) for part in (data.train, data.val, data.test)] == [5, 5, 5]
    assert [part.origin for part in (data.train, data.val, data.test)] == [
        f"folder {train}/",
        f"folder {val}/",
        f"folder {test}/",
    ]
    assert data.test.labels == (1,) * 5
    assert "test has no image of a" in data.summary()
    assert open_labelled(tmp_path, ("a", "b")).paths == data.test.paths


@pytest.mark.parametrize(("given_part", "missing"), [("val", "test"), ("test", "val")])
def test_one_missing_part_is_split_off_train(tmp_path: Path, given_part: str, missing: str) -> None:
    put_classes(tmp_path / "train", a=10, b=10)
    put_classes(tmp_path / given_part, a=3, b=3)
    data = open_folder(tmp_path, val_fraction=0.2, test_fraction=0.2)
    assert len(data.train) == 16
    assert getattr(data, given_part).origin == f"folder {given_part}/"
    assert getattr(data, missing).origin == "20% of folder train/, stratified, seed 0"
    assert all(name.startswith("train/") for name, _ in names_of(data, missing))
    assert not set(data.train.paths) & set(getattr(data, missing).paths)


def test_images_are_found_below_and_by_any_suffix_case(tmp_path: Path) -> None:
    put(tmp_path, "a/x/1.JPG", "a/x/y/2.png", "a/3.Tiff", "b/1.webp", "b/2.pgm", "b/3.gif")
    data = open_folder(tmp_path)
    assert len(data.train) + len(data.val) + len(data.test) == 6


def test_other_files_are_reported_and_litter_is_not(tmp_path: Path) -> None:
    put_classes(tmp_path, a=3, b=3)
    put(tmp_path, "readme.txt", "a/notes.csv", ".DS_Store", "a/Thumbs.db", "b/desktop.ini", "__MACOSX/a/1.jpg")
    put(tmp_path, "a/._1.jpg", ".ipynb_checkpoints/1.jpg")
    data = open_folder(tmp_path)
    assert data.ignored == (tmp_path / "a/notes.csv", tmp_path / "readme.txt")
    assert data.class_names == ("a", "b")
    assert "2 ignored, not part of the data: a/notes.csv, readme.txt" in data.summary()
    assert "6 images in 2 classes (a, b)" in data.summary()


def test_what_lies_beside_the_parts_is_reported(tmp_path: Path) -> None:
    put_classes(tmp_path / "train", a=3, b=3)
    put(tmp_path, "unlabelled/1.jpg", "banner.png")
    assert open_folder(tmp_path).ignored == (tmp_path / "banner.png", tmp_path / "unlabelled")


def test_train_may_be_the_name_of_a_class(tmp_path: Path) -> None:
    assert open_folder(put_classes(tmp_path, train=3, plane=3)).class_names == ("plane", "train")


def test_linked_class_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    put_classes(tmp_path / "elsewhere", a=3, b=4)
    root = tmp_path / "root"
    root.mkdir()
    for name in ("a", "b"):
        (root / name).symlink_to(tmp_path / "elsewhere" / name, target_is_directory=True)
    (tmp_path / "elsewhere" / "a" / "loop").symlink_to(tmp_path / "elsewhere" / "a", target_is_directory=True)
    data = open_folder(root)
    assert len(data.train) + len(data.val) + len(data.test) == 7


def test_split_does_not_depend_on_the_order_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = put_classes(tmp_path, a=12, b=9)
    expected = open_folder(root)
    scandir = os.scandir

    def shuffled(path: Path) -> list[os.DirEntry[str]]:
        entries = list(scandir(path))
        random.Random(5).shuffle(entries)
        return entries

    monkeypatch.setattr(os, "scandir", shuffled)
    assert open_folder(root) == expected


def test_split_is_that_of_the_relative_paths(tmp_path: Path) -> None:
    one, other = (open_folder(put_classes(tmp_path / name, a=12, b=9)) for name in ("one", "other"))
    for part in ("train", "val", "test"):
        assert names_of(one, part) == names_of(other, part)


def test_split_of_a_seed_stays_the_same_between_versions(tmp_path: Path) -> None:
    data = open_folder(put_classes(tmp_path, a=9, b=9), seed=1)
    assert [name for name, _ in names_of(data, "val")] == ["a/000.jpg", "b/001.jpg"]


def wrong_missing(root: Path) -> Path:
    return root / "nowhere"


def wrong_file(root: Path) -> Path:
    return put(root, "photo.jpg") / "photo.jpg"


def wrong_archive(root: Path) -> Path:
    return put(root, "photos.zip") / "photos.zip"


def wrong_only_archive(root: Path) -> Path:
    return put(root, "photos.zip")


def wrong_nothing_but_text(root: Path) -> Path:
    return put(root, "a/1.txt", "b/2.txt", "b/3.csv")


def wrong_loose(root: Path) -> Path:
    return put(root, "1.jpg", "2.jpg", "notes.txt")


def wrong_loose_beside_classes(root: Path) -> Path:
    return put(put_classes(root, a=3, b=3), "stray.png")


def wrong_loose_in_train(root: Path) -> Path:
    return put(root, "train/1.jpg", "train/2.jpg")


def wrong_empty_classes(root: Path) -> Path:
    for name in ("fish", "newt"):
        (root / name).mkdir()
    return put_classes(root, a=3, b=3)


def wrong_empty_part(root: Path) -> Path:
    (root / "val").mkdir()
    return put_classes(root / "train", a=3, b=3).parent


def wrong_one_class(root: Path) -> Path:
    return put_classes(root / "pets", cat=9, dog=9).parent


def wrong_class_only_in_val(root: Path) -> Path:
    put_classes(root / "val", a=3, c=3, d=3)
    return put_classes(root / "train", a=3, b=3).parent


def wrong_too_few(root: Path) -> Path:
    return put_classes(root, a=9, b=2)


def wrong_too_few_for_test(root: Path) -> Path:
    put_classes(root / "val", a=1)
    return put_classes(root / "train", a=9, b=1).parent


def wrong_no_train(root: Path) -> Path:
    return put_classes(root / "test", a=3, b=3).parent


def wrong_test_beside_classes(root: Path) -> Path:
    return put_classes(put(root, "test/a/1.jpg"), a=3, b=3)


def wrong_two_val(root: Path) -> Path:
    for name in ("train", "val", "valid"):
        put_classes(root / name, a=3, b=3)
    return root


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (wrong_missing, r"nowhere: no such folder.*\n.*one folder per class"),
        (wrong_file, r"photo.jpg: is a file. Expected a folder"),
        (wrong_archive, r"photos.zip: is an archive.* Unpack it"),
        (wrong_only_archive, r"no images; found other files \(1 .zip\); unpack photos.zip first"),
        (lambda root: root, r"the folder is empty"),
        (wrong_nothing_but_text, r"no images; found other files \(2 .txt, 1 .csv\). Expected .*\.jpg"),
        (wrong_loose, r"directly in this folder, 2 of them.*1.jpg, 2.jpg(.|\n)*\n  data/cat/001.jpg"),
        (wrong_loose_beside_classes, r"directly in this folder, 1 of them.*stray.png"),
        (wrong_loose_in_train, r"train: images directly in this folder, 2 of them"),
        (wrong_empty_classes, r"no images in 2 of 4 class folders: fish, newt\. Put"),
        (wrong_empty_part, r"val: no images; found no files at all"),
        (wrong_one_class, r"only one class folder, 'pets'.*give .*data/pets"),
        (wrong_class_only_in_val, r"val: 2 of 3 classes are not in .*train: c, d\."),
        (wrong_too_few, r"1 of 2 classes have fewer than 3 training images.*val and test: b \(2\)\. Add images"),
        (wrong_too_few_for_test, r": 1 of 2 classes have fewer than 2 training images.*split off test: b \(1\)"),
        (wrong_no_train, r"has test/ but no train/"),
        (wrong_test_beside_classes, r"has test/ beside a, b, but no train/"),
        (wrong_two_val, r"both val/ and valid/"),
    ],
)
def test_wrong_folders_are_refused(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "data"
    root.mkdir()
    path = make(root)
    with pytest.raises(DataError, match=message) as caught:
        open_folder(path)
    assert str(root) in str(caught.value)


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot be listed \(Permission denied\)"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 0.0}, r"val_fraction \(=0.0\)"),
        ({"test_fraction": 1.0}, r"test_fraction \(=1.0\)"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, r"val_fraction \+ test_fraction \(=1\)"),
    ],
)
def test_wrong_fractions_are_refused(tmp_path: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_folder(put_classes(tmp_path, a=9, b=9), **options)  # type: ignore[arg-type]


def test_open_labelled_uses_the_given_labels(tmp_path: Path) -> None:
    split = open_labelled(put_classes(tmp_path / "new", dog=2, cat=1), ("ant", "cat", "dog"))
    assert split.labels == (1, 2, 2)
    assert [path.parent.name for path in split.paths] == ["cat", "dog", "dog"]
    assert split.origin == "folder new/"


def test_open_labelled_prefers_a_test_part(tmp_path: Path) -> None:
    put_classes(tmp_path / "train", a=3, b=3)
    put_classes(tmp_path / "test", a=2)
    split = open_labelled(tmp_path, ("a", "b"))
    assert (len(split), split.origin) == (2, "folder test/")


def test_open_labelled_names_unknown_and_absent_classes(tmp_path: Path) -> None:
    put_classes(tmp_path, a=1, x=1, y=1)
    with pytest.raises(DataError, match=r"2 of its 3 class folders .* 4 classes of the model: x, y\..*\(3\): b, c, d\."):
        open_labelled(tmp_path, ("a", "b", "c", "d"))


def test_open_labelled_points_to_a_part(tmp_path: Path) -> None:
    put_classes(tmp_path / "train", a=1, b=1)
    put_classes(tmp_path / "val", a=1, b=1)
    with pytest.raises(DataError, match=r"; give .*val\."):
        open_labelled(tmp_path, ("a", "b"))


def test_find_images_lists_each_once_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "z.jpg", "dir/b.png", "dir/a/1.jpg", "dir/notes.txt", "odd.dat")
    monkeypatch.chdir(tmp_path)
    found = find_images(["z.jpg", "dir", tmp_path / "z.jpg", "odd.dat", "dir/b.png"])
    assert [path.as_posix() for path in found] == ["z.jpg", "dir/a/1.jpg", "dir/b.png", "odd.dat"]


def test_find_images_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.jpg: no such file or folder"):
        find_images([tmp_path / "nowhere.jpg"])
    put(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=r"no images; found other files \(1 .txt\)"):
        find_images([tmp_path])


LITTER = (
    "@eaDir",
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
    "#recycle",
    ".thumbnails",
    "__MACOSX",
    "found.000",
)


def test_litter_is_no_class_and_no_image(tmp_path: Path) -> None:
    put_classes(tmp_path, a=3, b=3)
    for folder in (tmp_path, tmp_path / "a"):
        put(folder, "Thumbs.db", "desktop.ini", "Icon\r", "._001.jpg", ".DS_Store")
        for name in LITTER:
            put(folder / name, "001.jpg", "x/002.jpg")
    data = open_folder(tmp_path)
    assert data.class_names == ("a", "b")
    assert sum(map(len, data.splits.values())) == 6
    assert data.ignored == ()
    assert "left out as litter of a system or program, 32 images: " in data.summary()
    assert len(find_images([tmp_path])) == 6


def test_words_that_are_like_litter_are_classes(tmp_path: Path) -> None:
    names = ("recycled", "thumbnails", "lost", "icon", "System", "git", "found")
    put_classes(tmp_path, **dict.fromkeys(names, 3))
    assert open_folder(tmp_path).class_names == tuple(sorted(names))


def test_a_hidden_folder_or_image_is_named(tmp_path: Path) -> None:
    put_classes(tmp_path, a=3, b=3)
    put(tmp_path, ".22lr/1.jpg", ".22lr/2.jpg", "a/.seen.jpg", ".gitignore", ".config/x.yaml")
    data = open_folder(tmp_path)
    assert "left out because hidden, 3 images: .22lr, a/.seen.jpg; rename what is part of the data" in data.summary()
    left_out: list[LeftOut] = []
    assert len(find_images([tmp_path], left_out)) == 6
    assert [(entry.path.name, entry.reason, entry.images) for entry in left_out] == [
        (".22lr", "hidden", 2),
        (".seen.jpg", "hidden", 1),
    ]
    assert {entry.path.name for entry in ImageList([tmp_path]).left_out} == {".22lr", ".seen.jpg"}
    (tmp_path / ".22lr").rename(tmp_path / ".hidden")
    for name in ("a", "b"):
        for image in (tmp_path / name).iterdir():
            image.unlink()
        (tmp_path / name).rmdir()
    with pytest.raises(DataError, match=r"the folder is empty.\nleft out because hidden, 2 images: .hidden"):
        open_folder(tmp_path)
    for listing in (find_images, ImageList):
        with pytest.raises(DataError, match=r"no images; .*\n.*hidden, 2 images: .hidden"):
            listing([tmp_path])


@pytest.mark.parametrize("part", ["val", "test"])
def test_an_empty_class_folder_of_a_part_is_a_missing_one(tmp_path: Path, part: str) -> None:
    put_classes(tmp_path / "train", a=9, b=9)
    put_classes(tmp_path / part, a=2)
    (tmp_path / part / "b").mkdir()
    data = open_folder(tmp_path)
    assert getattr(data, part).labels == (0, 0)
    assert f"{part}/: no images in the class folders b; they count as missing" in data.notes
    assert len(open_labelled(tmp_path / part, ("a", "b"))) == 2
    for image in (tmp_path / part / "a").iterdir():
        image.unlink()
    assert getattr(open_folder(tmp_path), part).origin == "15% of folder train/, stratified, seed 0"


@pytest.mark.parametrize("inside", ["", "images/", "test/", "unknown/"])
def test_a_test_part_without_labels_is_left_out(tmp_path: Path, inside: str) -> None:
    put_classes(tmp_path / "train", a=9, b=9)
    put(tmp_path / "test", f"{inside}1.jpg", f"{inside}2.jpg", "sample_submission.csv")
    data = open_folder(tmp_path)
    assert "test/ is left out: its 2 images have no class folders; svp predict takes them" in data.notes
    assert data.test.origin.startswith("15% of folder train/")


def test_one_class_however_its_name_is_composed(tmp_path: Path) -> None:
    put_classes(tmp_path / "train", **{normalize("NFD", "caf\u00e9"): 9, "tea": 9})
    put_classes(tmp_path / "test", **{normalize("NFC", "caf\u00e9"): 2, "tea": 2})
    data = open_folder(tmp_path)
    assert data.class_names == ("caf\u00e9", "tea")
    assert data.test.labels == (0, 0, 1, 1)
    for form in ("NFC", "NFD"):
        assert open_labelled(tmp_path, (normalize(form, "caf\u00e9"), "tea")).labels == (0, 0, 1, 1)  # type: ignore[arg-type]
    put_classes(tmp_path / "train", **{normalize("NFC", "caf\u00e9"): 2})
    data = open_folder(tmp_path)
    assert len(data.train) + len(data.val) == 20
    assert "two folders are called 'caf\u00e9', composed differently" in data.summary()


def test_names_that_are_nearly_the_same_are_shown_in_quotes(tmp_path: Path) -> None:
    put_classes(tmp_path / "train", cat=3, Dog=3)
    put_classes(tmp_path / "test", **{"cat ": 2, "dog": 2})
    message = r"'cat ' and 'cat' differ in a space alone, 'dog' and 'Dog' differ in upper case alone"
    with pytest.raises(DataError, match=message):
        open_folder(tmp_path)
    with pytest.raises(DataError, match=message):
        open_labelled(tmp_path, ("Dog", "cat"))
    put_classes(tmp_path / "train", dog=3, **{"cat ": 3})
    assert "warning: the classes 'cat' and 'cat ' differ in a space alone" in open_folder(tmp_path).summary()


def test_reading_folders_imports_nothing_heavy() -> None:
    code = "import sys, svp.data; print(sorted({'torch', 'timm', 'torchvision', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
