"""Groups: images of one patient, track or site stay in one part, whatever draws the parts."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svp.data import DataError, ImageData, Split, open_data
from svp.data.groups import looks_like_group, split_grouped
from svp.data.subsets import take_fraction, take_shots
from svp.runs import RunDirectory
from svp.training.protocol import images_used
from tests.data.sources.test_folder import put
from tests.data.sources.test_table import write


def put_patients(root: Path, column: str = "patient", split: str = "") -> Path:
    """8 patients with 3 images each, and a table."""
    names = [(f"imgs/{name}/{number}.jpg", name, f"{name}{number // 3}") for name in ("cat", "dog") for number in range(12)]
    put(root, *(path for path, _, _ in names))
    header = f"path,label,{column}" + (",split" if split else "")
    return write(root / "t.csv", header, *(",".join(row) + (f",{split}" if split else "") for row in names))


def check_apart(data: ImageData) -> None:
    groups = [set(split.groups) for split in data.splits.values()]
    assert all(groups)
    assert sum(map(len, groups)) == len(set().union(*groups))
    for split in data.splits.values():
        for path, group in zip(split.paths, split.groups, strict=True):
            assert group == f"{path.parent.name}{int(path.stem) // 3}"


@pytest.mark.parametrize("seed", range(5))
def test_a_column_keeps_groups_in_one_part(tmp_path: Path, seed: int) -> None:
    data = open_data(str(put_patients(tmp_path)), group="patient", seed=seed)
    check_apart(data)
    assert [set(split.labels) for split in data.splits.values()] == [{0, 1}] * 3
    assert "groups by column patient, each in one part: train 4, val 2, test 2" in data.summary()
    assert data == open_data(str(put_patients(tmp_path)), group="PATIENT", seed=seed)


def test_a_column_called_group_is_one_unless_it_is_said_to_be_none(tmp_path: Path) -> None:
    check_apart(open_data(str(put_patients(tmp_path, "Group"))))
    data = open_data(str(put_patients(tmp_path, "Group")), group="none")
    assert data.grouped_by is None
    assert data.train.groups == ()


def test_a_column_that_looks_like_a_group_gives_a_warning(tmp_path: Path) -> None:
    table = str(put_patients(tmp_path, "patient_id"))
    assert "warning: the column 'patient_id' looks like a group" in open_data(table).summary()
    assert "looks like a group" not in open_data(table, group="none").summary()
    assert "looks like a group" not in open_data(table, group="patient_id").summary()
    assert "looks like a group" not in open_data(str(put_patients(tmp_path, "age"))).summary()


@pytest.mark.parametrize(
    ("column", "is_one"),
    [
        *(
            (name, True)
            for name in ("patient", "PatientID", "subject_id", "Track", "scene no.", "site", "patientid", "videos")
        ),
        *((name, False) for name in ("age", "label", "width", "id", "sex", "date", "confidence", "disease")),
    ],
)
def test_names_of_columns_that_look_like_groups(column: str, is_one: bool) -> None:
    assert looks_like_group(column) is is_one


def test_file_names_tell_groups(tmp_path: Path) -> None:
    put(tmp_path, *(f"{name}/p{patient}_{n}.jpg" for name in ("a", "b") for patient in range(6) for n in range(4)))
    data = open_data(str(tmp_path), group_regex=r"^(p\d+)_")
    found = {part: {path.name.split("_")[0] for path in split.paths} for part, split in data.splits.items()}
    assert sum(map(len, found.values())) == 6
    assert all(found.values())
    by_folder = open_data(str(tmp_path), group_regex=r"^./(p\d+)_")
    assert by_folder.train.paths == data.train.paths
    with pytest.raises(DataError, match=r"finds no group in 48 of 48 names, such as p0_0.jpg"):
        open_data(str(tmp_path), group_regex=r"^q(\d)")
    with pytest.raises(DataError, match=r"is no regular expression"):
        open_data(str(tmp_path), group_regex="(")
    with pytest.raises(DataError, match=r"names a column of a table, and this is none; give group_regex"):
        open_data(str(tmp_path), group="patient")


def test_what_cannot_be_grouped_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'track' to group by; found 'path', 'label', 'patient'"):
        open_data(str(put_patients(tmp_path)), group="track")
    rows = [f"{n}.jpg,{'ab'[n % 2]},p{n % 2}" for n in range(8)]
    put(tmp_path, *(f"{n}.jpg" for n in range(8)))
    with pytest.raises(DataError, match=r"2 groups are too few to split off val and test"):
        open_data(str(write(tmp_path / "u.csv", "path,label,group", *rows)))
    with pytest.raises(DataError, match=r"line 2: the group is empty"):
        open_data(str(write(tmp_path / "u.csv", "path,label,group", "0.jpg,a,", *rows[1:])))
    torn = [f"{n}.jpg,{'ab'[n % 2]},p{n // 3},{'test' if n > 3 else ''}" for n in range(8)]
    with pytest.raises(DataError, match=r"1 groups by column group have images in two parts .*'p1' in test and train"):
        open_data(str(write(tmp_path / "u.csv", "path,label,group,split", *torn)))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 15)), min_size=12, max_size=120),
    st.integers(0, 2**32),
    st.sampled_from([0.1, 0.15, 0.3]),
)
def test_any_grouped_split_keeps_groups_whole_and_loses_no_class(
    images: list[tuple[int, int]], seed: int, share: float
) -> None:
    paths = tuple(Path(f"{index}.jpg") for index in range(len(images)))
    split = Split(paths, tuple(label for label, _ in images), "made up", tuple(str(group) for _, group in images))
    try:
        parts = [split.take(part) for part in split_grouped(Path("x"), split, ["val", "test"], [share, share], seed)]
    except DataError:
        return
    assert sorted(path for part in parts for path in part.paths) == sorted(paths)
    assert all(parts)
    groups = [set(part.groups) for part in parts]
    assert sum(map(len, groups)) == len(set(split.groups))
    assert set(parts[0].labels) == set(split.labels)


def test_shares_are_of_groups_and_shots_come_from_many(tmp_path: Path) -> None:
    paths = tuple(Path(f"{number}.jpg") for number in range(40))
    split = Split(paths, tuple(number // 20 for number in range(40)), "train", tuple(str(number % 5) for number in range(40)))
    half = take_fraction(split, ("a", "b"), 0.4, 0)
    assert len(half) == 16
    assert len(set(half.groups)) == 2
    shots = take_shots(split, ("a", "b"), 5, 0)
    assert [shots.groups[:5].count(str(group)) for group in range(5)] == [1] * 5
    assert set(take_shots(split, ("a", "b"), 3, 0).paths) < set(shots.paths)
    data = open_data(str(put_patients(tmp_path)), group="patient")
    for used in (images_used(data, "validation", shots=2), images_used(data, "validation", train_fraction=0.5)):
        check_apart(used)


def test_splits_json_records_the_groups(tmp_path: Path) -> None:
    data = open_data(str(put_patients(tmp_path)), group="patient")
    RunDirectory(tmp_path).write_splits(data)
    splits = json.loads((tmp_path / "splits.json").read_text())
    assert splits["groups"]["by"] == "column patient"
    for part in ("train", "val", "test"):
        groups = [f"{path.split('/')[1]}{int(Path(path).stem) // 3}" for path, _ in splits[part]]
        assert splits["groups"][part] == groups
