"""Archives of class folders: tar, zip, folders of tars, and those that are damaged or reach outside."""

import io
import os
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from svp.data import DataError, open_data, open_labelled
from tests.data.sources.test_folder import put_classes

FOLDERS = {"train": dict(cat=3, dog=4), "val": dict(cat=1, dog=1), "test": dict(cat=2, dog=1)}


def put_parts(root: Path) -> Path:
    for part, counts in FOLDERS.items():
        put_classes(root / part, **counts)
    return root


def tar(file: Path, folder: Path, inside: str = "", mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*")):
            archive.add(path, f"{inside}/{path.relative_to(folder)}".lstrip("/"), recursive=False)
    return file


def sizes(data: str | Path, root: Path) -> tuple[str, list[int]]:
    opened = open_data(str(data), root)
    assert opened.class_names == ("cat", "dog")
    assert opened.root.is_relative_to(root)
    return opened.name, [len(opened.train), len(opened.val), len(opened.test)]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "TAR", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("inside", ["", "pets", "./deep/er"])
def test_tar(tmp_path: Path, suffix: str, inside: str) -> None:
    mode = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(suffix.split(".")[-1], "w")
    file = tar(tmp_path / f"my.pets.{suffix}", put_parts(tmp_path / "folders"), inside, mode)
    assert sizes(file, tmp_path / "root") == ("my.pets", [7, 2, 3])
    assert open_labelled(file, ("ant", "cat", "dog"), tmp_path / "root").labels == (1, 1, 2)


def test_zip(tmp_path: Path) -> None:
    folders = put_parts(tmp_path / "folders")
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in sorted(folders.rglob("*.jpg")):
            archive.write(path, Path("pets") / path.relative_to(folders))
        archive.writestr("__MACOSX/pets/x", "")
    assert sizes(tmp_path / "pets.zip", tmp_path / "root") == ("pets", [7, 2, 3])


def test_a_folder_of_tars_one_per_class(tmp_path: Path) -> None:
    folders = put_classes(tmp_path / "folders", cat=20, dog=40)
    tar(tmp_path / "shards" / "cat.tar", folders / "cat")
    tar(tmp_path / "shards" / "dog.tar.gz", folders / "dog", "dog", "w:gz")
    assert sizes(tmp_path / "shards", tmp_path / "root") == ("shards", [42, 9, 9])


def test_a_folder_of_tars_one_per_part(tmp_path: Path) -> None:
    folders = put_parts(tmp_path / "folders")
    for part, inside in (("train", ""), ("val", "val"), ("test", "")):
        tar(tmp_path / "shards" / f"{part}.tar", folders / part, inside)
    assert sizes(tmp_path / "shards", tmp_path / "root") == ("shards", [7, 2, 3])


def test_a_tar_of_tars(tmp_path: Path) -> None:
    folders = put_classes(tmp_path / "folders", cat=20, dog=40)
    for name in ("cat", "dog"):
        tar(tmp_path / "inner" / f"{name}.tar", folders / name)
    file = tar(tmp_path / "all.tar", tmp_path / "inner")
    assert sizes(file, tmp_path / "root") == ("all", [42, 9, 9])
    assert open_data(str(file), tmp_path / "root").ignored == ()


def test_unpacked_once_and_again_after_a_change(tmp_path: Path) -> None:
    file = tar(tmp_path / "pets.tar", put_parts(tmp_path / "folders"))
    root = open_data(str(file), tmp_path / "root").root
    (root / "train" / "cat" / "000.jpg").write_text("mark")
    assert open_data(str(file), tmp_path / "root").root == root
    assert (root / "train" / "cat" / "000.jpg").read_text() == "mark"
    put_classes(tmp_path / "folders" / "train", cat=9)
    tar(file, tmp_path / "folders")
    assert len(open_data(str(file), tmp_path / "root").train) == 13
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # other content, of the same size
    assert open_data(str(file), tmp_path / "root").root != root
    assert len(list((tmp_path / "root" / "archives").iterdir())) == 3


def test_half_unpacked_is_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tar(tmp_path / "pets.tar", put_parts(tmp_path / "folders"))
    root = open_data(str(file), tmp_path / "root").root
    (root / ".complete").unlink()  # as a killed process leaves it
    (root / "test" / "dog" / "000.jpg").unlink()
    assert sizes(file, tmp_path / "root") == ("pets", [7, 2, 3])


def evil_tar(file: Path, name: str, link: str | None = None) -> Path:
    with tarfile.open(file, "w") as archive:
        for index in range(4):
            archive.addfile(tarfile.TarInfo(f"{'cat' if index % 2 else 'dog'}/{index}.jpg"))
        member = tarfile.TarInfo(name)
        if link:
            member.type, member.linkname = tarfile.SYMTYPE, link
        else:
            member.size = 4
        archive.addfile(member, None if link else io.BytesIO(b"evil"))
    return file


@pytest.mark.parametrize(("name", "link"), [("../../evil.jpg", None), ("cat/link.jpg", "../../../../evil"), ("cat/l", "/etc")])
def test_nothing_is_written_outside(tmp_path: Path, name: str, link: str | None) -> None:
    with pytest.raises(DataError, match=r"evil.tar: cannot be unpacked.*(outside|absolute)"):
        open_data(str(evil_tar(tmp_path / "evil.tar", name, link)), tmp_path / "root")
    assert not list(tmp_path.rglob("evil.jpg"))


def test_a_zip_stays_inside_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in ("../../../evil.jpg", "/evil.jpg", "cat/1.jpg"):
            archive.writestr(name, "")
    with pytest.raises(DataError):
        open_data(str(tmp_path / "evil.zip"), tmp_path / "root")
    assert all(path.is_relative_to(tmp_path / "root" / "archives") for path in tmp_path.rglob("evil.jpg"))


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    file = tar(tmp_path / "pets.tar.gz", put_parts(tmp_path / "folders"), mode="w:gz")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"pets.tar.gz: cannot be unpacked \(.*\)\. Copy or download it again"):
        open_data(str(file), tmp_path / "root")
    for name in ("x.zip", "x.tar"):
        (tmp_path / name).write_text("no archive")
        with pytest.raises(DataError, match=f"{name}: cannot be unpacked"):
            open_data(str(tmp_path / name), tmp_path / "root")
    with pytest.raises(DataError, match=r"gone.tar does not exist; give"):
        open_data("gone.tar")


def test_an_archive_of_one_class_says_so(tmp_path: Path) -> None:
    file = tar(tmp_path / "pets.tar", put_classes(tmp_path / "folders", cat=5), "pets")
    with pytest.raises(DataError, match=r"only one class folder, 'cat'"):
        open_data(str(file), tmp_path / "root")


def test_a_folder_of_class_folders_with_a_tar_beside_is_a_folder(tmp_path: Path) -> None:
    folders = put_classes(tmp_path / "pets", cat=20, dog=40)
    tar(folders / "more.tar", folders / "cat")
    assert open_data(str(folders), tmp_path / "root").root == folders


def zip_of(file: Path, names: dict[str, bytes], inside: bytes = b"") -> Path:
    """A zip whose names are these bytes, without a mark of their encoding."""
    stored = []
    with zipfile.ZipFile(file, "w") as archive:
        for number, raw in enumerate(names.values()):
            for index in range(4):
                placeholder = f"{number}".encode() * (len(inside) + len(raw))
                archive.writestr(f"{placeholder.decode()}/{index}.jpg", b"")
            stored.append((placeholder, inside + raw))
    content = file.read_bytes()
    for placeholder, raw in stored:
        content = content.replace(placeholder + b"/", raw + b"/")
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("gbk", ("\u732b\u732b", "\u72d7", "\u9e1f")),
        ("cp932", ("\u732b", "\u72ac", "\u3068\u308a")),
        ("cp866", ("\u043a\u043e\u0448\u043a\u0430", "\u0421\u043e\u0431\u0430\u043a\u0430")),
        ("cp437", ("B\u00e4r", "K\u00fche", "caf\u00e9")),
        ("utf-8", ("\u732b", "B\u00e4r")),
    ],
)
def test_names_of_a_zip_are_read_in_the_encoding_they_are_in(tmp_path: Path, encoding: str, names: tuple[str, ...]) -> None:
    file = zip_of(tmp_path / "pets.zip", {name: name.encode(encoding) for name in names})
    data = open_data(str(file), tmp_path / "root")
    assert data.class_names == tuple(sorted(names))
    said = f"pets.zip: names in the archive are not UTF-8; read as {encoding}"
    assert (said in data.summary()) == (encoding != "utf-8")
    assert open_data(str(file), tmp_path / "root").notes == data.notes  # unpacked before
    data = open_data(str(file), tmp_path / "root", archive_encoding=encoding)
    assert data.class_names == tuple(sorted(names))
    assert data.notes == ()


def test_an_encoding_that_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    names = {name: name.encode("cp1255") for name in ("\u05d7\u05ea\u05d5\u05dc", "\u05db\u05dc\u05d1")}
    file = zip_of(tmp_path / "pets.zip", names)
    with pytest.raises(DataError, match=r"pets.zip: names of its members are not UTF-8 .*Name it by --archive-encoding"):
        open_data(str(file), tmp_path / "root")
    assert open_data(str(file), tmp_path / "root", archive_encoding="cp1255").class_names == tuple(sorted(names))
    with pytest.raises(DataError, match=r"pets.zip: the name .* is not in ascii. Name another"):
        open_data(str(file), tmp_path / "root", archive_encoding="ascii")
    for wrong in ("klingon", "rot13"):
        with pytest.raises(DataError, match=rf"archive_encoding is '{wrong}', expected one of Python's"):
            open_data(str(file), tmp_path / "root", archive_encoding=wrong)


def test_backslashes_are_slashes(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "pets.zip", {"a": b"a", "b": b"b"}, inside=b"pets\\")
    assert open_data(str(file), tmp_path / "root").class_names == ("a", "b")
    file = zip_of(tmp_path / "evil.zip", {"a": b"a", "b": b"b"}, inside=b"..\\..\\..\\")
    with suppress(DataError):
        open_data(str(file), tmp_path / "root")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path.parent / "a").exists()


def test_names_of_a_tar_in_another_encoding(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "pets.tar", "w", format=tarfile.GNU_FORMAT, encoding="gbk") as archive:
        for name in ("\u732b\u732b", "\u72d7"):
            for index in range(4):
                archive.addfile(tarfile.TarInfo(f"{name}/{index}.jpg"))
    data = open_data(str(tmp_path / "pets.tar"), tmp_path / "root")
    assert data.class_names == ("\u72d7", "\u732b\u732b")
    assert "read as gbk" in data.summary()


def test_litter_beside_the_folder_in_an_archive(tmp_path: Path) -> None:
    folders = put_parts(tmp_path / "folders")
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in sorted(folders.rglob("*.jpg")):
            archive.write(path, Path("pets") / path.relative_to(folders))
        for name in ("Thumbs.db", "@eaDir/x.jpg", "pets/@eaDir/cat/1.jpg", "__MACOSX/pets/._1.jpg"):
            archive.writestr(name, "")
    assert sizes(tmp_path / "pets.zip", tmp_path / "root") == ("pets", [7, 2, 3])
