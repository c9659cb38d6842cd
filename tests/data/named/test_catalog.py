"""The catalog: every row is complete and says the same as its reader; the commands that show it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import svp
from svp.cli import main
from svp.data import DataError, DatasetInfo, dataset_info, list_datasets, open_data
from svp.data.named import catalog
from svp.data.splits import Parts
from tests.data.named.official import write_cifar10, write_cifar100, write_dtd, write_food101, write_gtsrb, write_svhn

WRITERS: dict[str, Callable[[Path], Path]] = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "dtd": write_dtd,
    "food101": write_food101,
    "gtsrb": write_gtsrb,
    "svhn": write_svhn,
}


@pytest.mark.parametrize("name", list_datasets())
def test_a_row_is_complete(name: str) -> None:
    row = dataset_info(name)
    assert Path(name).name == name  # tells names from folders
    assert all([row.title, row.group, row.license, row.layout, row.metric, row.fetching, row.citation])
    assert re.match(r"https?://", row.source)
    assert row.classes > 1
    assert "train" in row.sizes
    assert set(row.sizes) <= {"train", "val", "test"}
    assert min(row.sizes.values()) > 0
    assert re.search(r"\b(19|20)\d\d\b", row.citation)
    assert row.fetch is None or f"svp data fetch {name}" in row.fetching


def test_names_are_unique_and_public() -> None:
    assert len(set(list_datasets())) == len(list_datasets())
    assert set(WRITERS) <= set(svp.list_datasets())


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100), ("gtsrb", 43), ("svhn", 10)])
def test_classes_of_the_row_are_those_of_the_reader(tmp_path: Path, name: str, classes: int) -> None:
    WRITERS[name](tmp_path)
    row = dataset_info(name)
    parts = row.read(tmp_path, 0)
    assert row.classes == len(parts.class_names) == classes
    assert set(parts.splits) == set(row.sizes)


@pytest.mark.parametrize("name", WRITERS)
def test_present_below_the_data_root(tmp_path: Path, name: str) -> None:
    assert not dataset_info(name).is_present(tmp_path)
    WRITERS[name](tmp_path)
    assert dataset_info(name).is_present(tmp_path)
    assert [other for other in WRITERS if dataset_info(other).is_present(tmp_path)] == [name]
    assert list(tmp_path.rglob(".complete")) == []  # a glance writes nothing


def test_a_row_without_a_glance_is_present_if_it_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def read(root: Path, seed: int) -> Parts:
        if not (root / "flags").is_dir():
            raise DataError(f"flags are not in {root}; get them by hand")
        return Parts(root / "flags", ("a", "b"), {})

    facts = {"name": "flags", "title": "Flags", "group": "test", "classes": 2, "sizes": {"train": 4}, "source": "https://x"}
    texts = dict.fromkeys(("license", "layout", "metric", "fetching", "citation"), "text")
    row = DatasetInfo(**facts, **texts, read=read)
    monkeypatch.setattr(catalog, "_CATALOG", (*catalog._CATALOG, row))
    assert not row.is_present(tmp_path)
    assert main(["data", "fetch", "flags", "--data-root", str(tmp_path)]) == 1
    (tmp_path / "flags").mkdir()
    assert row.is_present(tmp_path)
    assert main(["data", "fetch", "flags", "--data-root", str(tmp_path)]) == 0


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dtd(tmp_path)
    assert main(["data", "list", "--data-root", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines.index(["HTA"]) == lines.index(["cifar10", "10", "50,000", "-", "10,000", "fetch"]) - 1
    assert ["dtd", "47", "1,880", "1,880", "1,880", "here"] in lines
    shown = [line[0] for line in lines if line[0] in list_datasets()]
    assert shown == list_datasets()
    assert f"here: in {tmp_path};" in " ".join(lines[-2])


def test_list_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_svhn(tmp_path)
    assert main(["data", "list", "--json", "--data-root", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list_datasets()
    assert [row["name"] for row in rows if row["present"]] == ["svhn"]
    assert rows[1]["sizes"] == {"train": 50000, "test": 10000}


def test_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gtsrb(tmp_path)
    assert main(["data", "info", "gtsrb", "--data-root", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    row = dataset_info("gtsrb")
    for value in (row.title, row.group, row.source, row.license, row.layout, row.metric, row.fetching, row.citation):
        assert value in text
    assert "sizes     train 26,640, test 12,630" in text
    assert f"present   yes, in {tmp_path}" in text


def test_info_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", "food101", "--json", "--data-root", str(tmp_path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    fields = {"name", "title", "group", "classes", "sizes", "source", "license", "layout", "metric", "fetching", "citation"}
    assert set(facts) == fields | {"images", "present"}
    assert facts["sizes"] == {"train": 75750, "test": 25250}
    assert facts["images"] == 101_000
    assert facts["present"] is False


def test_the_data_root_is_below_the_home_of_svp(svp_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_food101(svp_home / "data")
    assert main(["data", "info", "food101"]) == 0
    assert f"present   yes, in {svp_home / 'data'}" in capsys.readouterr().out
    assert len(open_data("food101").test) == 9


@pytest.mark.parametrize("name", ["cifar10", "gtsrb"])
def test_training_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    WRITERS[name](tmp_path / "data")
    model = ["--model", "vim_nano", "--weights", "random", "--img-size", "16", "--batch-size", "16", "--device", "cpu"]
    run = ["--epochs", "1", "--method", "linear", "--out", "run"]
    assert main(["train", "--data", name, "--data-root", "data", *model, *run]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["data"]["name"] == name
    assert result["data"]["classes"] == dataset_info(name).classes
    assert result["n_test"] == {"cifar10": 10, "gtsrb": 6}[name]
    assert main(["eval", "run"]) == 0
