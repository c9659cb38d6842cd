"""Predictions as files that grow: wherever a call is stopped, the next one goes on, and no image has two rows."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from svp.errors import InputError
from svp.runs import Prediction, as_csv
from svp.runs.prediction_files import Form, Share, open_file, parts_of, read_done
from svp.tasks.single_label import RankedColumns

NAMES = ["a.jpg", 'quo"te.jpg', "line\nbreak,comma.jpg", "\N{CAT FACE}.jpg", os.fsdecode(b"\xff.jpg"), "path", "z.jpg"]
PREDICTIONS = [
    Prediction(Path(name), ("cat", 'd"og\n'), (0.75, 0.25)) if name != "path" else Prediction(Path(name), error="no image")
    for name in NAMES
]
ALONE = Share()


def write(target: Path, form: Form, predictions: Sequence[Prediction], share: Share = ALONE, resume: bool = False) -> None:
    writer = open_file(target, form, RankedColumns(2), share, resume)
    for prediction in predictions:
        writer.write([prediction])
    writer.close()


def go_on(target: Path, form: Form, share: Share = ALONE) -> int:
    """Write what is not there; returns how many that were."""
    done = read_done(target, form, RankedColumns(2))
    rest = [prediction for prediction in PREDICTIONS if prediction.path not in done]
    write(target, form, rest, share, resume=True)
    assert done.failed == (PREDICTIONS[5].path in done)
    return len(rest)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_file_cut_anywhere_is_completed(form: Form, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    write(whole, form, PREDICTIONS)
    text = whole.read_bytes()
    rests = set()
    for length in range(len(text) + 1):
        cut.write_bytes(text[:length])
        rests.add(go_on(cut, form))
        assert cut.read_bytes() == text, length
    assert rests == set(range(len(PREDICTIONS) + 1))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_half_a_row_goes_even_if_nothing_follows(form: Form, tmp_path: Path) -> None:
    """The image of the half row may be gone."""
    write(tmp_path / "p", form, PREDICTIONS[:2])
    whole = (tmp_path / "p").read_bytes()
    (tmp_path / "p").write_bytes(whole + b"half a row")
    write(tmp_path / "p", form, [], resume=True)
    assert (tmp_path / "p").read_bytes() == whole


def test_the_rows_are_what_they_were(tmp_path: Path) -> None:
    write(tmp_path / "p.csv", "csv", PREDICTIONS)
    text = (tmp_path / "p.csv").read_bytes().decode()
    assert text == as_csv(PREDICTIONS).encode("utf-8", "backslashreplace").decode()
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert (rows[2]["path"], rows[2]["class_2"], rows[5]["error"]) == (NAMES[2], 'd"og\n', "no image")
    write(tmp_path / "p.jsonl", "jsonl", PREDICTIONS)
    found = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["path"] for row in found] == NAMES
    assert found[0]["probabilities"] == [0.75, 0.25]


def test_parquet_is_a_folder_of_files_with_the_same_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "p.parquet"
    write(target, "parquet", PREDICTIONS[:3])
    (target / ".part-00000-00001.parquet.1.tmp").write_text("half a file of a process that was killed")
    assert go_on(target, "parquet") == 4
    assert go_on(target, "parquet") == 0
    rows = parquet.read_table(target).to_pylist()
    assert [row["path"] for row in rows] == [*NAMES[:4], "\\udcff.jpg", *NAMES[5:]]
    assert rows[0] == dict(path="a.jpg", class_1="cat", probability_1=0.75, class_2='d"og\n', probability_2=0.25, error=None)
    assert rows[5] == dict(path="path", class_1=None, probability_1=None, class_2=None, probability_2=None, error="no image")
    write(target, "parquet", PREDICTIONS[:1])  # without resume: replaced
    assert len(parquet.read_table(target)) == 1
    (target / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds mine.txt"):
        write(target, "parquet", PREDICTIONS)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_adapter_with_a_threshold_writes_a_column_more(form: Form, tmp_path: Path) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    target = tmp_path / f"p.{form}"
    sure, unsure, lost = (
        Prediction(Path("a"), ("cat",), (0.9,), rejected=False),
        Prediction(Path("b"), ("cat",), (0.4,), rejected=True),
        PREDICTIONS[5],
    )
    for prediction in (sure, unsure, lost):  # one call each
        assert prediction.path not in read_done(target, form, RankedColumns(1, rejects=True))
        writer = open_file(target, form, RankedColumns(1, rejects=True), ALONE, prediction is not sure)
        writer.write([prediction])
        writer.close()
    done = read_done(target, form, RankedColumns(1, rejects=True))
    assert (len(done), done.failed) == (3, 1)
    if form == "csv":
        assert [row["rejected"] for row in csv.DictReader(target.read_text().splitlines())] == ["false", "true", ""]
        assert target.read_bytes().decode() == as_csv([sure, unsure, lost])
    elif form == "jsonl":
        rows = [json.loads(line) for line in target.read_text().splitlines()]
        assert [row.get("rejected") for row in rows] == [False, True, None]
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(target).to_pylist()
        assert [row["rejected"] for row in rows] == [False, True, None]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_processes_write_parts_that_any_number_goes_on_with(form: Form, tmp_path: Path) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    target = tmp_path / f"p.{form}"
    by_path = {prediction.path: prediction for prediction in PREDICTIONS}
    shares = [Share(rank, 3) for rank in range(3)]
    taken = [list(share.of(by_path, 2)) for share in shares]
    assert sorted(path for paths in taken for path in paths) == sorted(by_path)
    for share, paths in zip(shares[:2], taken[:2], strict=True):
        write(target, form, [by_path[path] for path in paths], share)
    if form != "parquet":
        assert [part.name for part in parts_of(target)] == [f"p-0000{rank}-of-00003.{form}" for rank in range(2)]
    assert go_on(target, form) == len(taken[2])
    assert len(read_done(target, form, RankedColumns(2))) == len(PREDICTIONS)
    write(target, form, PREDICTIONS[:1], Share(0, 2))  # anew, by two: nothing of before is left
    assert len(read_done(target, form, RankedColumns(2))) == 1 + (form != "parquet") * len(taken[2])


def test_other_columns_and_damage_are_one_line(tmp_path: Path) -> None:
    write(tmp_path / "p.csv", "csv", PREDICTIONS)
    with pytest.raises(InputError, match=r"its columns are path, class_1, .* this call's are .* Choose the same --topk"):
        read_done(tmp_path / "p.csv", "csv", RankedColumns(1))
    (tmp_path / "p.jsonl").write_text('{"path": "a", "error": null}\nnonsense\n')
    with pytest.raises(InputError, match="line 2 is no prediction"):
        read_done(tmp_path / "p.jsonl", "jsonl", RankedColumns(2))
    pytest.importorskip("pyarrow")
    (tmp_path / "p.parquet").mkdir()
    (tmp_path / "p.parquet" / "part-0.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match=r"part-0.parquet is damaged"):
        read_done(tmp_path / "p.parquet", "parquet", RankedColumns(2))
