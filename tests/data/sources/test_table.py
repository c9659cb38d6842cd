"""Tables of the user's own: what is read, and each way in which one can be wrong, named with file and line."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp.data import DataError, ImageData, open_data, open_labelled
from svp.data.sources.table import TableSource
from tests.data.sources.test_folder import put

LABELS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)


def write(file: Path, *rows: str, encoding: str = "utf-8") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{row}\n" for row in rows), encoding=encoding)
    return file


def named(folder: Path, *rows: str, header: str = "path,label,split") -> Path:
    """A table of `rows`, with the images it names."""
    put(folder, *(row.split(",")[0] for row in rows))
    return write(folder / "photos.csv", header, *rows)


def test_rows_go_where_the_split_column_says(tmp_path: Path) -> None:
    splits = ("train", "", "dev", "valid", "Validation", "test", "TEST", " training ")
    rows = [f"in/{number}.jpg,{'cat' if number % 2 else 'dog'},{split}" for number, split in enumerate(splits)]
    data = open_data(str(named(tmp_path, *rows)))
    assert data.name == "photos"
    assert data.class_names == ("cat", "dog")
    by_part = {
        part: [(path.name, data.class_names[label]) for path, label in zip(s.paths, s.labels, strict=True)]
        for part, s in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    assert by_part == {
        "train": [("1.jpg", "cat"), ("7.jpg", "cat"), ("0.jpg", "dog")],
        "val": [("3.jpg", "cat"), ("2.jpg", "dog"), ("4.jpg", "dog")],
        "test": [("5.jpg", "cat"), ("6.jpg", "dog")],
    }
    assert data.test.origin == "rows of photos.csv with split test"
    assert data.train.paths[0] == tmp_path / "in" / "1.jpg"


def test_without_splits_validation_and_test_are_split_off(tmp_path: Path) -> None:
    rows = [f"{number}.jpg,{'cat' if number % 2 else 'dog'}" for number in range(40)]
    data = open_data(str(named(tmp_path, *rows, header="path,label")), seed=5)
    assert [len(split) for split in (data.train, data.val, data.test)] == [28, 6, 6]
    assert data.val.origin == "15% of all rows of photos.csv, stratified, seed 5"


def test_further_columns_are_ignored_and_listed(tmp_path: Path) -> None:
    rows = [f"Ann,{number}.jpg,2024,{'cat' if number % 2 else 'dog'}" for number in range(8)]
    put(tmp_path, *(f"{number}.jpg" for number in range(8)))
    data = open_data(str(write(tmp_path / "t.csv", " author , Path ,year,LABEL", *rows)))
    assert "columns ignored: author, year" in data.summary()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_with_and_without_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    put(tmp_path, "ä, b.jpg", "c.jpg")
    table = write(tmp_path / "t.csv", "path,label", '"ä, b.jpg","Bär, ""groß"""', "", "c.jpg, 猫", encoding=encoding)
    parts = TableSource(table).parts()
    assert parts.class_names == ('Bär, "groß"', "猫")
    assert [path.name for path in parts.splits["train"].paths] == ["ä, b.jpg", "c.jpg"]


def test_paths_may_be_absolute_and_anywhere(tmp_path: Path) -> None:
    put(tmp_path, "far/a.jpg", "near/tables/b.jpg")
    table = write(tmp_path / "near/tables/t.csv", "path,label", f"{tmp_path}/far/a.jpg,a", "./../tables/b.jpg,b")
    assert TableSource(table).parts().splits["train"].paths == (tmp_path / "far/a.jpg", tmp_path / "near/tables/b.jpg")


def test_paths_are_relative_to_the_table_itself_not_to_a_link(tmp_path: Path) -> None:
    put(tmp_path, "real/a.jpg", "real/b.jpg")
    write(tmp_path / "real/t.csv", "path,label", "a.jpg,a", "b.jpg,b")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real/t.csv")
    assert TableSource(tmp_path / "link.csv").parts().splits["train"].paths[0] == tmp_path / "real/a.jpg"


def test_tabs(tmp_path: Path) -> None:
    put(tmp_path, "a, 1.jpg", "b.jpg")
    parts = TableSource(write(tmp_path / "t.tsv", "path\tlabel", "a, 1.jpg\ta", "b.jpg\tb")).parts()
    assert [path.name for path in parts.splits["train"].paths] == ["a, 1.jpg", "b.jpg"]


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(LABELS, min_size=2, max_size=20).filter(
        lambda labels: len({normalize("NFC", label) for label in labels}) > 1
    )
)
def test_any_text_is_a_label(tmp_path_factory: pytest.TempPathFactory, labels: list[str]) -> None:
    folder = put(tmp_path_factory.mktemp("t"), *(f"{number}.png" for number in range(len(labels))))
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("label", "path"), *((label, f"{number}.png") for number, label in enumerate(labels))])
    parts = TableSource(folder / "t.csv", task="single").parts()
    train = parts.splits["train"]
    found = {path.name: parts.class_names[label] for path, label in zip(train.paths, train.labels, strict=True)}
    assert found == {f"{number}.png": normalize("NFC", label) for number, label in enumerate(labels)}


GOOD = ("a.jpg,cat,train", "b.jpg,dog,train")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), r"t.csv, line 1: no column 'path'; found nothing"),
        (("a.jpg,cat",), r"t.csv, line 1: no column 'path'; found 'a.jpg', 'cat'\. The first line must name"),
        (("path;name", "a.jpg;cat"), r"line 1: no column 'path'; found 'path;name'.*a comma, a semicolon, a tab or a bar"),
        (("path,class", "a.jpg,cat"), r"line 1: no column 'label'; found 'path', 'class'"),
        (("path,label,Path", "a.jpg,cat,b.jpg"), r"line 1: 2 columns are called 'path'"),
        (("path,label",), r"t.csv: no rows below the header"),
        (("path,label", "a.jpg,cat", "b.jpg,dog,big"), r"t.csv, line 3: 3 values where the header has 2 columns"),
        (("path,label", "a.jpg,cat", "b.jpg, "), r"t.csv, line 3: the label is empty"),
        (("path,label", "a.jpg,cat", ",dog"), r"t.csv, line 3: the path is empty"),
        (
            ("path,label,split", *GOOD, "c.jpg,cat,holdout"),
            r"t.csv, line 4: unknown split 'holdout'\. Expected train, val or test",
        ),
        (("path,label,split", *GOOD, "", "./a.jpg,cat,train"), r"t.csv, line 5: .*a.jpg stands in line 2 already"),
        (
            ("path,label,split", *GOOD, "x/../b.jpg,dog,test"),
            r"t.csv, line 4: .*b.jpg is a test image here and a train image in line 3: a leak",
        ),
        (("path,label", "a.jpg,cat", "b.jpg,cat"), r"t.csv: only one label, 'cat'"),
        (("path,label,split", "a.jpg,cat,test", "b.jpg,dog,val"), r"t.csv: no row has split train"),
        (
            ("path,label,split", *GOOD, "c.jpg,cow,val"),
            r"t.csv, line 4: label 'cow' of a val row is none of the training rows \(cat, dog\)",
        ),
        (
            ("path,label", *(f"no{n}.jpg,cat" for n in range(7))),
            r"t.csv: 7 of 7 images are no files \(line 2: .*no0.jpg.* and 2 more",
        ),
        (("path,label", "a.jpg,cat", "folder,dog"), r"t.csv: 1 of 2 images are no files \(line 3: .*folder\).*relative to /"),
        (("path,label", 'a.jpg,"cat'), r"t.csv, after line 1: unexpected end of data"),
        (("path,label", '"a\n.jpg",cat', "c.jpg,"), r"t.csv, line 4: the label is empty"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(tmp_path: Path, rows: tuple[str, ...], message: str) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg", "folder/x")
    with pytest.raises(DataError, match=f"(?s){message}"):
        TableSource(write(tmp_path / "t.csv", *rows)).parts()


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path,label\n\u043a\u043e\u0442.jpg,cat\n".encode("cp1251"))
    with pytest.raises(DataError, match=r"t.csv: not UTF-8 text after line 1.*Save it as CSV in UTF-8"):
        TableSource(tmp_path / "t.csv").parts()
    (tmp_path / "t.csv").write_bytes(b"path,label\na\0.jpg,cat\n")
    with pytest.raises(DataError, match=r"t.csv.*line"):
        TableSource(tmp_path / "t.csv").parts()


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"photos.csv does not exist; give .* a table"):
        open_data(str(tmp_path / "photos.csv"))
    with pytest.raises(DataError, match=r"photos.csv does not exist"):
        open_data("photos.csv")
    with pytest.raises(DataError, match=r"photos.csv does not exist"):
        open_labelled(tmp_path / "photos.csv", ("a", "b"))


def test_a_class_too_small_to_split_is_blamed_on_the_table(tmp_path: Path) -> None:
    rows = [f"{number}.jpg,{'cat' if number else 'dog'}" for number in range(9)]
    with pytest.raises(DataError, match=r"photos.csv: 1 of 2 classes have fewer than 3 training images.*dog \(1\)"):
        open_data(str(named(tmp_path, *rows, header="path,label")))


def test_scoring_takes_the_test_rows_or_all(tmp_path: Path) -> None:
    table = named(tmp_path, "a.jpg,cow,train", "b.jpg,dog,test", "c.jpg,cat,test")
    split = open_labelled(table, ("ant", "cat", "dog"))
    assert [(path.name, label) for path, label in zip(split.paths, split.labels, strict=True)] == [("c.jpg", 1), ("b.jpg", 2)]
    table = named(tmp_path, "a.jpg,dog", "b.jpg,dog", header="path,label")
    assert open_labelled(str(table), ("cat", "dog")).labels == (1, 1)


def test_scoring_other_classes_or_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"photos.csv, line 3: label 'cow' is none of the 2 classes of the model: cat, dog"):
        open_labelled(named(tmp_path, "a.jpg,dog,test", "b.jpg,cow,test"), ("cat", "dog"))
    with pytest.raises(DataError, match=r"photos.csv: no row has split test"):
        open_labelled(named(tmp_path, *GOOD), ("cat", "dog"))


def test_reading_a_table_imports_nothing_heavy(tmp_path: Path) -> None:
    table = named(tmp_path, *(f"{number}.jpg,{number % 2}" for number in range(8)), header="path,label")
    code = (
        "import sys; from svp.data.opening import open_data; open_data(sys.argv[1]);"
        "heavy = {'torch', 'timm', 'numpy', 'datasets'} & set(sys.modules); sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(table)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr


def labels_of(data: ImageData) -> set[tuple[str, str]]:
    everything = [
        (path, label) for split in data.splits.values() for path, label in zip(split.paths, split.labels, strict=True)
    ]
    return {(path.relative_to(data.root.parent).as_posix(), data.class_names[label]) for path, label in everything}


IMAGES = [(f"in/{name}/{number}.jpg", name) for name in ("cat", "dog") for number in range(4)]


@pytest.mark.parametrize(
    ("separator", "start", "encoding"),
    [
        (";", "", "utf-8"),
        (";", "sep=;\n", "utf-8-sig"),
        (",", '"sep=,"\n', "utf-8"),
        ("\t", "", "utf-16"),
        (";", "sep=;\n", "utf-16-le"),
        (",", "", "utf-16-be"),
        ("|", "", "utf-8"),
        ("\t", "sep=\t\n", "utf-8"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_of_other_programs_are_read(tmp_path: Path, separator: str, start: str, encoding: str, suffix: str) -> None:
    put(tmp_path, *(path for path, _ in IMAGES))
    text = start + "\r\n".join(separator.join(row) for row in [("path", "label"), *IMAGES])
    (tmp_path / f"t{suffix}").write_bytes(text.encode(encoding))
    assert labels_of(open_data(str(tmp_path / f"t{suffix}"))) == set(IMAGES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", r"is an Excel workbook or another zip file, not a text table"),
        (b"\x89PNG\r\n\x1a\n\0\0", r"holds zero bytes"),
        (
            "path,label\n\u043a\u043e\u0442.jpg,\u043a\u043e\u0442\n".encode("cp1251"),
            r"cannot be told. Save it as CSV in UTF-8",
        ),
        ("path,label\na.jpg,\u72d7\n".encode("gbk"), r"cannot be told"),
        ("path,label\na.jpg,\u732b\n".encode("cp932"), r"cannot be told"),
        ("path,label\na.jpg,\u0142\u00f3d\u017a\n".encode("cp1250"), r"cannot be told"),
        (b"path,label,;path;label\na.jpg,cat\n", r"line 1: may be read with a comma and a semicolon between the columns"),
        (b"file,image,label\na.jpg,a.jpg,cat\n", r"the columns 'image' and 'file' may both hold paths. Call one path"),
        (b"path,label\na.jpg;cat\nb.jpg;dog\n", r"line 2: 1 values where the header has 2 columns"),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        TableSource(tmp_path / "t.csv").parts()


def test_a_western_table_is_read_with_a_note(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "t.csv").write_bytes("path;label\na.jpg;B\u00e4r\nb.jpg;caf\u00e9\n".encode("cp1252"))
    parts = TableSource(tmp_path / "t.csv").parts()
    assert parts.class_names == ("B\u00e4r", "caf\u00e9")
    assert "read as Windows-1252, where a name is 'B\u00e4r'" in parts.notes[0]


@pytest.mark.parametrize("column", ["file_name", "filename", "image", "File", " path ", "filepath"])
def test_the_column_of_paths_has_many_names(tmp_path: Path, column: str) -> None:
    put(tmp_path, *(path for path, _ in IMAGES))
    rows = [f"{path} , {label} " for path, label in IMAGES]
    assert labels_of(open_data(str(write(tmp_path / "t.csv", f"{column},label", *rows)))) == set(IMAGES)


def test_path_goes_before_its_other_names(tmp_path: Path) -> None:
    put(tmp_path, *(path for path, _ in IMAGES))
    rows = [f"x,{path},{label}" for path, label in IMAGES]
    data = open_data(str(write(tmp_path / "t.csv", "image,path,label", *rows)))
    assert labels_of(data) == set(IMAGES)
    assert "columns ignored: image" in data.notes


@pytest.mark.parametrize(
    "spelled",
    [
        lambda p: p.replace("/", "\\"),
        lambda p: ".\\" + p.replace("/", "\\"),
        lambda p: "D:\\photos\\2024\\" + p.replace("/", "\\"),
    ],
)
def test_paths_of_windows(tmp_path: Path, spelled: Callable[[str], str]) -> None:
    put(tmp_path, *(path for path, _ in IMAGES))
    table = write(tmp_path / "t.csv", "path,label", *(f"{spelled(path)},{label}" for path, label in IMAGES))
    assert labels_of(open_data(str(table))) == set(IMAGES)


def test_absolute_paths_of_another_machine_are_found_below_the_table(tmp_path: Path) -> None:
    put(tmp_path, *(path for path, _ in IMAGES))
    rows = [f"/mnt/gone/photos/{path},{label}" for path, label in IMAGES]
    assert labels_of(open_data(str(write(tmp_path / "t.csv", "path,label", *rows)))) == set(IMAGES)
    write(tmp_path / "t.csv", "path,label", *rows, "/mnt/gone/photos/in/cat/new.jpg,cat")
    with pytest.raises(DataError, match=r"9 of 9 images are no files"):
        open_data(str(tmp_path / "t.csv"))


def test_paths_may_be_relative_to_the_data_root(tmp_path: Path) -> None:
    put(tmp_path / "root", *(path for path, _ in IMAGES))
    table = write(tmp_path / "tables/t.csv", "path,label", *(f"{path},{label}" for path, label in IMAGES))
    assert len(open_data(str(table), tmp_path / "root").train) == 4
    assert len(open_labelled(table, ("cat", "dog"), tmp_path / "root")) == 8
    with pytest.raises(DataError, match=r"8 of 8 images are no files .*relative to .*tables"):
        open_data(str(table))


@pytest.mark.parametrize(("in_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_files_and_labels_are_found_however_composed(
    tmp_path: Path, in_table: Literal["NFC"], on_disk: Literal["NFC"]
) -> None:
    folder = normalize(on_disk, "caf\u00e9")
    put(tmp_path, f"{folder}/a.jpg", f"{folder}/b.jpg", "c.jpg")
    label = normalize(in_table, "caf\u00e9")
    table = write(tmp_path / "t.csv", "path,label", f"{label}/a.jpg,{label}", f"{label}/b.jpg,caf\u00e9", "c.jpg,tea")
    parts = TableSource(table).parts()
    assert parts.class_names == ("caf\u00e9", "tea")
    assert all(path.is_file() for path in parts.splits["train"].paths)
    assert len(TableSource(table).labelled((normalize("NFD", "caf\u00e9"), "tea"))) == 3


def test_test_rows_without_any_label_are_left_out(tmp_path: Path) -> None:
    rows = [f"{number}.jpg,{'cat' if number % 2 else 'dog'},train" for number in range(8)]
    data = open_data(str(named(tmp_path, *rows, "8.jpg,,test", "9.jpg,,test")))
    assert "2 test rows without a label are left out; svp predict takes their images" in data.notes
    assert data.test.origin.startswith("15% of rows of photos.csv with split train")
    with pytest.raises(DataError, match=r"photos.csv, line 10: the label is empty"):
        open_data(str(named(tmp_path, *rows, "8.jpg,,test", "9.jpg,cat,test")))


def test_labels_that_differ_in_case_alone_are_told(tmp_path: Path) -> None:
    data = open_data(str(named(tmp_path, *(f"{n}.jpg,{'Dog' if n % 2 else 'dog'}" for n in range(8)), header="path,label")))
    assert "warning: the classes 'Dog' and 'dog' differ in upper case alone" in data.summary()
    with pytest.raises(DataError, match=r"label 'Cat' of a test row .*'Cat' and 'cat' differ in upper case alone"):
        open_data(str(named(tmp_path, *GOOD, "c.jpg,Cat,test")))
