"""Moved images: a run finds its own ones again, and never scores those it was trained on without a word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import svp
from svp.cli import main
from svp.runs import RunDirectory, RunError
from svp.runs.own_images import ScoredImages, images_to_score
from tests.training.conftest import write_photos

SETTINGS = {
    **dict(model="test_vim", weights="random", img_size=16, method="linear"),
    **dict(epochs=1, batch_size=8, device="cpu", progress=False),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on class folders, of which validation and test images were split off."""
    place = tmp_path_factory.mktemp("moved")
    return svp.train(write_photos(place / "photos"), out=place / "run", **SETTINGS).directory


def names(run: Path, part: str) -> list[str]:
    return [path for path, _ in json.loads((run / "splits.json").read_text())[part]]


def chosen(run: Path, data: Path) -> ScoredImages:
    return images_to_score(run, data, svp.open_run(run, "cpu").class_names)


def moved(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run.parent / "photos", to))


def rename_all(folder: Path) -> Path:
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        path.rename(path.with_name(f"renamed-{(number * 7919) % 1000}.jpg"))
    return folder


def as_table(folder: Path) -> Path:
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.jpg"))]
    (folder / "all.csv").write_text("\n".join(["path,label", *rows]))
    return folder / "all.csv"


@pytest.mark.parametrize("change", [lambda folder: folder, rename_all, as_table])
def test_own_test_images_are_found_where_they_lie_now(run: Path, tmp_path: Path, change: Callable[[Path], Path]) -> None:
    data = change(moved(run, tmp_path / "elsewhere"))
    found = chosen(run, data)
    assert len(found.split) == len(names(run, "test"))
    assert found.split.origin == f"the run's own test images, found below {data}"
    assert (found.trained_on, found.chosen_on) == (0, 0)
    before = [path.read_bytes() for path in RunDirectory(run).read_split("test").paths]
    assert [path.read_bytes() for path in found.split.paths] == before
    assert svp.evaluate(run, data, device="cpu").top1 == svp.evaluate(run, device="cpu").top1


def test_a_run_without_contents_goes_by_names(run: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(run, tmp_path / "run"))
    splits = json.loads((old / "splits.json").read_text())
    assert all(len(contents) == len(splits[part]) for part, contents in splits.pop("contents").items())
    (old / "splits.json").write_text(json.dumps(splits))
    found = chosen(old, moved(run, tmp_path / "elsewhere"))
    assert len(found.split) == len(names(run, "test"))


def test_a_test_image_that_is_gone_is_told(run: Path, tmp_path: Path) -> None:
    data = moved(run, tmp_path / "elsewhere")
    (data / names(run, "test")[0]).unlink()
    assert chosen(run, data).split.origin.endswith(f"; 1 of {len(names(run, 'test'))} are gone")


def test_training_images_that_are_scored_are_counted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "new"
    old, new = run.parent / "photos", write_photos(tmp_path / "other", per_class=3, seed=5)
    shutil.copytree(new, data)
    for number, name in enumerate(names(run, "train")[:4]):
        shutil.copy(old / name, data / Path(name).parent / f"copy-{number}.jpg")
    shutil.copy(old / names(run, "val")[0], data / Path(names(run, "val")[0]).parent / "x.jpg")
    scores = svp.evaluate(run, data, device="cpu")
    assert (scores.n_test, scores.trained_on, scores.chosen_on) == (14, 4, 1)
    assert main(["eval", str(run), "--data", str(data), "--device", "cpu"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: 4 of the 14 images were trained on, 1 of the 14 images chose the epoch: the scores are too good" in shown
    assert svp.evaluate(run, new, device="cpu").trained_on == 0


def test_a_run_goes_on_with_moved_images(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos"), tmp_path / "run"
    svp.train(photos, out=out, **SETTINGS)
    (out / "result.json").unlink()
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(svp.data.DataError, match=r"does not exist(.|\n)*If the images were moved, --resume --data NEW"):
        svp.train(photos, out=out, resume=True, **SETTINGS)
    result = svp.train(tmp_path / "elsewhere", out=out, resume=True, **SETTINGS).result
    assert result.data.root == str(tmp_path / "elsewhere")
    assert RunDirectory(out).read_split("test").paths[0].is_relative_to(tmp_path / "elsewhere")
    (out / "result.json").unlink()
    other = write_photos(tmp_path / "others", seed=9)
    with pytest.raises(RunError, match=r"others have the names but not the contents of the run's own"):
        svp.train(other, out=out, resume=True, **SETTINGS)
    next(other.rglob("*.jpg")).unlink()
    with pytest.raises(RunError, match="cannot resume"):
        svp.train(other, out=out, resume=True, **SETTINGS)


def test_a_table_is_opened_with_the_data_root_of_the_run(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "root" / "photos")
    rows = [f"photos/{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.rglob("*.jpg"))]
    table = tmp_path / "tables" / "t.csv"
    table.parent.mkdir()
    table.write_text("\n".join(["path,label", *rows]))
    run = svp.train(table, data_root=tmp_path / "root", out=tmp_path / "run", **SETTINGS).directory
    assert not Path(names(run, "test")[0]).is_absolute()
    assert chosen(run, table).split.origin.startswith("the run's own test images")
    moved_root = Path(shutil.move(tmp_path / "root", tmp_path / "new"))
    (moved_root / "t.csv").write_text(table.read_text())
    assert len(chosen(run, moved_root / "t.csv").split) == len(names(run, "test"))
