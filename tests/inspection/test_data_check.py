"""``svp data check DATA --with RUN``: what was put wrong is named, and nothing else."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import svp
from svp.cli import main
from tests.models.small import small_vim
from tests.training.conftest import write_photos

INPUTS: dict[str, Any] = dict(img_size=16, mean=[0.5] * 3, std=[0.5] * 3, crop_pct=1.0, interpolation="bicubic")


def adapter(directory: Path, *names: str) -> Path:
    """Untrained: its features tell colors apart nevertheless."""
    model = small_vim(num_classes=len(names))
    svp.tune(model, "linear")
    svp.save_adapter(model, directory, names, INPUTS)
    return directory


def test_what_is_wrong_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, photos = adapter(tmp_path / "run", "amber", "blue", "green", "red"), write_photos(tmp_path / "photos")
    (photos / "blue" / "00.jpg").rename(photos / "green" / "wrong.jpg")
    Image.open(photos / "amber" / "01.jpg").save(photos / "blue" / "copy.png")
    stripes = np.zeros((24, 24, 3), dtype=np.uint8)
    stripes[::2, :, 0] = 255
    Image.fromarray(stripes).save(photos / "green" / "odd.png")
    (photos / "green" / "broken.jpg").write_bytes(b"no image")
    assert main(["data", "check", str(photos), "--with", str(run), "--device", "cpu"]) == 1  # for the broken one
    told = capsys.readouterr().out
    assert "44 images judged by the model's features" in told
    assert "green/wrong.jpg (green, seems blue)" in told
    rows = list(csv.DictReader((run / "data-check" / "findings.csv").open()))
    found = {(row["kind"], Path(row["path"]).name, row["label"], row["suggested"]) for row in rows}
    assert ("label", "wrong.jpg", "green", "blue") in found
    assert {Path(row["path"]).name for row in rows if row["kind"] == "label"} <= {"wrong.jpg", "copy.png", "odd.png"}
    pairs = [(row["kind"], Path(row["path"]).name, Path(row["other"]).name) for row in rows if row["other"]]
    assert pairs == [("conflict", "01.jpg", "copy.png")]
    assert [Path(row["path"]).name for row in rows if row["kind"] == "outlier"] == ["odd.png"]
    page = (run / "data-check" / "index.html").read_text(encoding="utf-8")
    assert 'alt="wrong.jpg: label green, seems blue' in page
    assert "http" not in page
    assert main(["data", "check", str(photos), "--with", str(run), "--json", "--out", str(tmp_path / "out")]) == 1
    model = json.loads(capsys.readouterr().out)["model"]
    assert [entry["kind"] for entry in model["findings"]] == [row["kind"] for row in rows]
    assert Path(model["page"]).parent == tmp_path / "out"


def test_labels_of_a_table_are_in_the_column_that_is_named(tmp_path: Path) -> None:
    run, photos = adapter(tmp_path / "run", "amber", "blue", "green"), write_photos(tmp_path / "photos", per_class=4)
    rows = [f"{photo},{photo.parent.name}" for photo in sorted(photos.rglob("*.jpg"))]
    (tmp_path / "t.csv").write_text("\n".join(["path,kind", *rows]))
    assert main(["data", "check", str(tmp_path / "t.csv"), "--label", "kind", "--with", str(run), "--device", "cpu"]) == 0


def test_images_of_many_bands_are_read_as_the_run_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_vim(num_classes=2, in_chans=5)
    svp.tune(model, "linear")
    svp.save_adapter(model, tmp_path / "run", ("dark", "light"), INPUTS | dict(mean=[0.5] * 5, std=[0.5] * 5))
    random, photos = np.random.default_rng(0), tmp_path / "photos"
    for name, base in (("dark", 20), ("light", 200)):
        (photos / name).mkdir(parents=True)
        for k in range(6):
            np.save(photos / name / f"{k}.npy", random.integers(base, base + 40, (24, 24, 5)).astype(np.uint8))
    one = np.load(photos / "dark" / "0.npy")
    one[..., 4] += 1  # another image, by its last band
    np.save(photos / "dark" / "other.npy", one)
    assert main(["data", "check", str(photos), "--with", str(tmp_path / "run"), "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "13 images judged" in told
    assert "[copies]" not in told
    assert main(["data", "check", str(photos), "--channels", "5"]) == 0
    assert main(["data", "check", str(photos)]) == 1


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            ("amber", "blue", "pink"),
            "has classes that the model of .* does not know: green; it knows amber, blue, pink",
        ),
        (
            ("amber", "blue", "green", "few"),
            r"fewer than 2 readable images of a class: few \(1\)",
        ),
    ],
)
def test_errors(tmp_path: Path, classes: tuple[str, ...], message: str) -> None:
    run, photos = adapter(tmp_path / "run", *classes), write_photos(tmp_path / "photos", per_class=3)
    if "few" in classes:
        (photos / "few").mkdir()
        Image.new("RGB", (20, 20), "red").save(photos / "few" / "0.png")
    with pytest.raises(svp.SvpError, match=message):
        svp.inspection.check_with_model(str(photos), run, device="cpu")


def test_a_run_that_is_not_there_and_images_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_photos(tmp_path / "photos", per_class=3)
    assert main(["data", "check", str(photos), "--with", str(tmp_path / "run")]) == 1
    assert "run holds no adapter.json" in capsys.readouterr().err
    with pytest.raises(svp.data.DataError, match="blue"):
        svp.inspection.check_with_model(str(photos / "blue"), adapter(tmp_path / "run", "a", "b"), device="cpu")
