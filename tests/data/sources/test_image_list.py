"""Images to predict, listed one after the other."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from svp.data import DataError, ImageList, find_images


def write(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def test_it_lists_what_find_images_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(
        *(tmp_path / name for name in ("z.jpg", "dir/b.png", "dir/deep/a.jpg", "dir/notes.txt", "dir/.hidden.jpg", "odd.dat"))
    )
    for paths in (["z.jpg", "dir", tmp_path / "z.jpg", "odd.dat", "dir/b.png"], ["dir/deep", "dir"], ["dir"], ["odd.dat"]):
        images = ImageList(paths)
        assert list(images) == find_images(paths)
        assert len(images) == len(list(images))


def test_it_refuses_what_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="no such file or folder"):
        ImageList([tmp_path / "nowhere.jpg"])
    with pytest.raises(DataError, match=r"no images; found other files \(1 .txt\)"):
        ImageList([tmp_path])


def test_memory_is_that_of_the_names(tmp_path: Path) -> None:
    names = [f"{number:05d}.jpg" for number in range(5000)]
    write(*(tmp_path / name for name in names))
    tracemalloc.start()
    try:
        assert len(ImageList([tmp_path])) == len(names)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150 * len(names)  # paths would take four times as much
