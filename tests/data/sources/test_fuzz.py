"""Tables and archives with anything in them: read, or refused by the one documented error, and nothing is written outside."""

import io
import tarfile
import zipfile
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from svp.data import DataError
from svp.data.sources.archive import ArchiveSource
from svp.data.sources.table import TableSource

ROWS = b'path,label,split,patient\na.jpg,cat,train,p1\nb.jpg,dog,test,p2\n"c,d.jpg",cat,,p3\n'
TABLES = [
    ROWS,
    ROWS.replace(b",", b";"),
    b"sep=;\r\n" + ROWS.replace(b",", b";"),
    ROWS.decode().encode("utf-16"),
    b"\xef\xbb\xbf" + ROWS,
    "file_name\tlabel\ncaf\u00e9/1.jpg\tB\u00e4r\n~nobody/x\\y.jpg\tcat\n".encode("cp1252"),
]


def packed(kind: str) -> bytes:
    """A small archive of the kind."""
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("cat/1.jpg", "d\u00f6g/2.jpg", "pets\\x.jpg"):
                archive.writestr(name, b"jpeg" * 20)
    else:
        with tarfile.open(fileobj=stream, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]
            for name in ("cat/1.jpg", "d\u00f6g/2.jpg"):
                member = tarfile.TarInfo(name)
                member.size = 80
                archive.addfile(member, io.BytesIO(b"jpeg" * 20))
    return stream.getvalue()


ARCHIVES = {"zip": packed("zip"), "tar": packed(""), "tar.gz": packed("gz"), "tar.bz2": packed("bz2"), "tar.xz": packed("xz")}


def mutated(contents: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of the contents with some bytes replaced, put in, or cut off."""
    edits = st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=6), st.integers(0, 4)), max_size=6)

    def apply(drawn: tuple[bytes, list[tuple[int, bytes, int]], int]) -> bytes:
        content, changes, end = drawn
        for place, new, removed in changes:
            place %= len(content) + 1
            content = content[:place] + new + content[place + removed :]
        return content[: len(content) - end] if end < 8 else content

    return st.tuples(st.sampled_from(contents), edits, st.integers(0, 40)).map(apply)


@settings(max_examples=150)
@given(
    content=mutated(TABLES) | st.binary(max_size=200),
    suffix=st.sampled_from([".csv", ".tsv"]),
    group=st.sampled_from([None, "patient"]),
)
@example(b"\xa0", ".csv", None)
def test_any_bytes_as_a_table(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str, group: str | None
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    for name in ("a.jpg", "b.jpg", "c,d.jpg"):
        (folder / name).touch()
    table = folder / f"table{suffix}"
    table.write_bytes(content)
    for read in (lambda: TableSource(table, group=group).parts(), lambda: TableSource(table).labelled(("cat", "dog"))):
        with suppress(DataError):
            read()


@settings(max_examples=100)
@given(kind=st.sampled_from(sorted(ARCHIVES)), data=st.data())
def test_any_bytes_as_an_archive(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("fuzzed")
    archive = folder / f"pets.{kind}"
    archive.write_bytes(data.draw(mutated([ARCHIVES[kind]])))
    with suppress(DataError):
        ArchiveSource(archive, folder / "root").parts()
    written = [path for path in folder.rglob("*") if path.is_file() and path != archive]
    assert all(path.is_relative_to(folder / "root" / "archives") for path in written)
    assert sum(path.stat().st_size for path in written) < 100_000


names = st.text(st.sampled_from("a.\\/:C\0 \u00e9\u732b~%") | st.characters(), min_size=1, max_size=12)


@settings(max_examples=60)
@given(names=st.lists(names, min_size=1, max_size=6, unique=True), kind=st.sampled_from(["zip", "tar"]))
def test_any_names_in_an_archive_stay_inside(tmp_path_factory: pytest.TempPathFactory, names: list[str], kind: str) -> None:
    folder = tmp_path_factory.mktemp("fuzzed")
    archive = folder / f"pets.{kind}"
    try:
        if kind == "zip":
            with zipfile.ZipFile(archive, "w") as members:
                for name in names:
                    members.writestr(name, b"x")
        else:
            with tarfile.open(archive, "w") as members_of_tar:
                for name in names:
                    members_of_tar.addfile(tarfile.TarInfo(name))
    except (ValueError, IndexError):  # not a name that can be packed
        return
    with suppress(DataError):
        ArchiveSource(archive, folder / "root").parts()
    written = {path for path in folder.rglob("*") if path.is_file()} - {archive}
    assert all(path.is_relative_to(folder / "root" / "archives") for path in written)
