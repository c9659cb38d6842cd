"""Files that were not decoded before a run: those that cannot be read are found in an epoch, named, counted and kept out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import svp
from svp.data import DataError, ImageListDataset, InputConfig, Split, UnreadableImageError, eval_transform
from svp.data import unreadable as checking
from svp.training import images
from tests.training.conftest import write_photos

SETTINGS = {
    **dict(model="test_vim", weights="random", img_size=16, method="linear"),
    **dict(epochs=2, batch_size=8, device="cpu", val_fraction=0.2, test_fraction=0.2),
}


def put_parts(root: Path, per_class: int = 30) -> Path:
    """Photos in parts, one file of each of which holds text."""
    for part, number in (("train", per_class), ("val", 8), ("test", 8)):
        write_photos(root / part, per_class=number, seed=number)
        sorted((root / part).rglob("*.jpg"))[1].write_text("no image")
    return root


@pytest.mark.parametrize("check", ["none", "sample"])
def test_what_is_found_late_is_named_counted_and_kept_out(
    tmp_path: Path, check: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "SAMPLE", 3)
    photos = put_parts(tmp_path / "photos")
    run = svp.train(photos, out=tmp_path / "run", check=check, **SETTINGS)
    shown = capsys.readouterr().out
    assert f"{0 if check == 'none' else 3} of 138 files are checked, as --check {check} says" in " ".join(shown.split())
    broken = sorted(path for path in photos.rglob("*.jpg") if path.read_bytes() == b"no image")
    assert sorted(image.path for image in run.result.unreadable_images) == [str(path) for path in broken]
    (test_image,) = run.result.unreadable_test_images
    assert test_image.path == str(next(path for path in broken if "test" in path.parts))
    assert run.result.n_test == 24
    assert " ".join(shown.split()).count("warning: cannot read") == 3  # once, and not once per epoch
    again = svp.train(photos, out=tmp_path / "all", check="all", **SETTINGS)
    assert again.result.top1 == pytest.approx(svp.evaluate(again.directory, device="cpu").top1)
    assert svp.evaluate(run.directory, device="cpu").top1 == pytest.approx(run.result.top1)


def test_too_many_stop_the_run(tmp_path: Path) -> None:
    photos = put_parts(tmp_path / "photos")
    for path in sorted((photos / "train").rglob("*.jpg"))[::10]:
        path.write_text("no image")
    with pytest.raises(DataError, match=r"10 of 90 images of folder train/ cannot be read, more than 5%"):
        svp.train(photos, out=tmp_path / "run", check="none", progress=False, **SETTINGS)


def test_another_image_stands_in(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{number}.png" for number in range(4))
    for number, path in enumerate(paths):
        Image.new("RGB", (16, 16), (60 * number,) * 3).save(path)
    paths[1].write_text("no image")
    split, transform = Split(paths, (0, 1, 2, 3), "made up"), eval_transform(InputConfig(img_size=16))
    data = ImageListDataset(split, transform, stand_in=True)
    for key, label in ((1, 1), ((0, 1), 2)):
        image, found, index = data[key]
        assert (found, index) == (label, -2)
        assert torch.equal(image, data[2][0])
    assert data[3][1:] == (3, 3)
    with pytest.raises(UnreadableImageError):
        ImageListDataset(split, transform)[1]
    for path in paths:
        path.write_text("no image")
    with pytest.raises(UnreadableImageError):
        data[0]


def test_a_check_that_is_stopped_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(write_photos(tmp_path / "photos").rglob("*.jpg"))

    def stop(done: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checking.check_files(files, stop)
    decoded: list[Path] = []
    reader = checking.ImageReader.decode
    monkeypatch.setattr(checking.ImageReader, "decode", lambda self, path: decoded.append(path) or reader(self, path))
    found = checking.check_files(files)
    assert len(decoded) <= len(files) - 20
    assert set(found.contents) == set(files)
    decoded.clear()
    assert checking.check_files(files) == found
    assert decoded == []
