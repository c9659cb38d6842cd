"""What label columns say, how it is told, and how such rows are split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from svp.data import DataError, open_data
from svp.data.opening import open_labelled
from svp.tasks import MultiLabel, Regression, SingleLabel


def table(folder: Path, *rows: str, header: str = "path,label") -> str:
    for row in rows:
        image = folder / row.split(",")[0]
        image.touch()
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    return str(folder / "t.csv")


def many(count: int, label: Any) -> list[str]:
    return [f"{k:03d}.jpg,{label(k)}" for k in range(count)]


def test_labels_with_a_semicolon_are_several(tmp_path: Path) -> None:
    data = open_data(table(tmp_path, *many(30, lambda k: ["a; b", "b;b", "", "b;a"][k % 4])))
    assert data.task == MultiLabel()
    assert data.output_names == ("a", "b")
    said = {
        path.name: target for split in data.splits.values() for path, target in zip(split.paths, split.targets, strict=True)
    }
    assert [said[f"{k:03d}.jpg"] for k in range(4)] == [(1, 1), (0, 1), (0, 0), (1, 1)]
    assert any("'a; b' hold ';'; --task single takes them whole" in note for note in data.notes)
    assert "several labels per image (a, b)" in data.summary()
    whole = open_data(table(tmp_path, *many(30, lambda k: "ab"[k % 2] + ";c")), task="single")
    assert (whole.task, whole.class_names) == (SingleLabel(), ("a;c", "b;c"))


def test_one_column_per_label(tmp_path: Path) -> None:
    rows = many(30, lambda k: ["1,0", "0,TRUE", "0,0"][k % 3])
    path = table(tmp_path, *rows, header="path,red,Round")
    data = open_data(path, label="Round, red")
    assert data.output_names == ("Round", "red")
    assert Counter(data.train.targets) == {(0.0, 1.0): 6, (1.0, 0.0): 6, (0.0, 0.0): 6}
    # scored by the names of the labels alone, whatever their order
    split = open_labelled(path, ("red", "Round"), task=MultiLabel())
    assert split.truth(split.paths.index(tmp_path / "000.jpg")) == (1.0, 0.0)


def test_numbers(tmp_path: Path) -> None:
    data = open_data(table(tmp_path, *many(60, lambda k: k / 4)))
    assert data.task == Regression()
    assert any("all 60 different labels are numbers, some with fractions such as 0.25" in note for note in data.notes)
    for split in data.splits.values():  # from all of the range
        numbers = [target[0] for target in split.targets]
        assert min(numbers) < 2.5
        assert max(numbers) > 12
    assert "stratified by range of numbers" in data.val.origin


def test_numbers_of_classes_stay_classes_unless_asked(tmp_path: Path) -> None:
    path = table(tmp_path, *many(60, lambda k: k % 10))
    data = open_data(path)
    assert (data.task, len(data.class_names)) == (SingleLabel(), 10)
    assert data.notes == ("labels are numbers, taken as 10 classes; --task regression predicts numbers",)
    assert open_data(path, task="regression").output_names == ("label",)
    grades = open_data(table(tmp_path, *many(60, lambda k: k % 6 / 2)))
    assert grades.task == SingleLabel()


@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_groups_stay_whole(tmp_path: Path, kind: Any) -> None:
    rows = [f"{k:03d}.jpg,{'a;b' if k % 3 else 'b'},{k / 7},p{k // 5}" for k in range(60)]
    path = table(tmp_path, *rows, header="path,label,number,group")
    data = open_data(path, task=kind, label="number" if kind == "regression" else None)
    groups = [set(split.groups) for split in data.splits.values()]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups)) == 12
    assert all(len(split.targets) == len(split) for split in data.splits.values())


def test_test_rows_without_any_label_are_left_out(tmp_path: Path) -> None:
    rows = [f"{row},{'test' if k >= 20 else 'train'}" for k, row in enumerate(many(24, lambda k: "a;b" if k < 10 else ""))]
    path = table(tmp_path, *rows, header="path,label,split")
    assert any("4 test rows without a label are left out" in note for note in open_data(path).notes)
    labelled = [*rows[:-1], "023.jpg,a,test"]
    assert len(open_data(table(tmp_path, *labelled, header="path,label,split")).test) == 4


@pytest.mark.parametrize(
    ("rows", "header", "settings", "message"),
    [
        (many(9, lambda k: ["1", "x"][k % 2] + ",0"), "path,a,b", {"label": "a,b"}, r"line 3: a is 'x'. Expected 1 or 0"),
        (many(9, lambda k: "1,0"), "path,a,b", {"label": "a,c"}, r"no column 'c'; found 'path', 'a', 'b'"),
        (many(9, lambda k: "1,0"), "path,a,b", {}, r"no column 'label'.*--label names others"),
        (many(9, lambda k: "1,0"), "path,a,b", {"label": "a,b", "task": "single"}, r"task single has one label column"),
        (many(9, lambda k: f"{k}{'cm' * (k == 4)}"), "path,label", {"task": "regression"}, r"line 6: '4cm' is no number"),
        (many(9, lambda k: "" if k == 2 else k), "path,label", {"task": "regression"}, r"line 4: the label is empty"),
        (many(9, lambda k: "" if k == 2 else "ab"[k % 2]), "path,label", {}, r"label is empty.*--task multi it means none"),
        (many(9, lambda k: ""), "path,label", {"task": "multi"}, r"no training row has any label"),
        (
            many(2, lambda k: k),
            "path,label",
            {"task": "regression"},
            r"2 training images are too few to split off val and test",
        ),
    ],
)
def test_errors(tmp_path: Path, rows: list[str], header: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(table(tmp_path, *rows, header=header), **settings)


def test_unknown_labels_are_named(tmp_path: Path) -> None:
    rows = [f"{row},train" for row in many(9, lambda k: "ab"[k % 2] + ";c")]
    path = table(tmp_path, *rows, "x.jpg,C,test", header="path,label,split")
    with pytest.raises(
        DataError, match=r"line 11: label 'C' is none of the labels in training \(a, b, c\). 'C' and 'c' differ"
    ):
        open_data(path)


def test_other_data_is_of_classes(tmp_path: Path) -> None:
    for kind in ("multi", "regression"):
        with pytest.raises(DataError, match="is no table: several labels or numbers are read from a table"):
            open_data(str(tmp_path), task=kind)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the model says a number per image, and"):
        open_labelled(tmp_path, ("x",), task=Regression())


@pytest.mark.parametrize(
    ("kind", "label"),
    [("regression", lambda k: 1_700_000_000 + k), ("multi", lambda k: ["none", "a;b", "", "a"][k % 4])],
    ids=["large numbers", "a label called none"],
)
def test_every_row_is_one_image(tmp_path: Path, kind: Any, label: Any) -> None:
    data = open_data(table(tmp_path, *many(60, label)), task=kind)
    paths = [path for split in data.splits.values() for path in split.paths]
    assert len(paths) == len(set(paths)) == 60
