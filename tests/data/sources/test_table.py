"""Tables of the user's own: what is read, and each way in which one can be wrong, named with file and line."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svp.data import DataError, open_data, open_labelled
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
@given(labels=st.lists(LABELS, min_size=2, max_size=20).filter(lambda labels: len(set(labels)) > 1))
def test_any_text_is_a_label(tmp_path_factory: pytest.TempPathFactory, labels: list[str]) -> None:
    folder = put(tmp_path_factory.mktemp("t"), *(f"{number}.png" for number in range(len(labels))))
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("label", "path"), *((label, f"{number}.png") for number, label in enumerate(labels))])
    parts = TableSource(folder / "t.csv").parts()
    train = parts.splits["train"]
    found = {path.name: parts.class_names[label] for path, label in zip(train.paths, train.labels, strict=True)}
    assert found == {f"{number}.png": label for number, label in enumerate(labels)}


GOOD = ("a.jpg,cat,train", "b.jpg,dog,train")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), r"t.csv, line 1: no column 'path'; found nothing"),
        (("a.jpg,cat",), r"t.csv, line 1: no column 'path'; found 'a.jpg', 'cat'\. The first line must name"),
        (("path;label", "a.jpg;cat"), r"line 1: no column 'path'; found 'path;label'.*a comma between"),
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
    (tmp_path / "t.csv").write_bytes("path,label\nä.jpg,cat\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"t.csv: not UTF-8 text after line 0.*Save it as CSV in UTF-8"):
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
    done = subprocess.run([sys.executable, "-c", code, str(table)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
