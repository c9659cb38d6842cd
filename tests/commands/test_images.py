"""Images of every kind through the commands: one range of values for a run, thin and endless images beside good ones."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import svp
from svp.cli import main
from tests.commands.conftest import FAST


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 16-bit images: dark ones up to 800, bright ones up to 3,500 of 4,095."""
    root = tmp_path_factory.mktemp("scans") / "scans"
    generator = np.random.default_rng(0)
    for name, top in (("bright", 3500), ("dark", 800)):
        (root / name).mkdir(parents=True)
        for number in range(8):
            values = generator.integers(0, top + 1, (20, 24)).astype(np.uint16)
            values[0, 0] = top
            Image.fromarray(values).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def scans_run(scans: Path) -> Path:
    out = scans.parent / "run"
    assert main(["train", "--data", str(scans), *FAST, "--method", "linear", "--out", str(out)]) == 0
    return out


def classify(run: Path, *paths: Path) -> list[dict[str, Any]]:
    return [vars(p) for p in svp.predict(run, list(paths), device="cpu")]


def test_one_range_for_a_run_and_for_its_predictions(scans: Path, scans_run: Path, tmp_path: Path) -> None:
    assert json.loads((scans_run / "adapter.json").read_text())["inputs"]["value_range"] == [0, 4095]
    assert svp.open_run(scans_run, "cpu").inputs.value_range == (0, 4095)
    scan = scans / "dark" / "0.png"
    with Image.open(scan) as image:
        values = np.asarray(image)
    for name, top in (("run.png", 4095), ("own.png", 1023)):
        Image.fromarray(np.floor(values * (255 / top) + 0.5).astype(np.uint8)).save(tmp_path / name)
    as_is, in_the_range, in_its_own = (
        p["probabilities"] for p in classify(scans_run, scan, *sorted(tmp_path.iterdir())[::-1])
    )
    assert as_is == pytest.approx(in_the_range, rel=1e-5)
    assert as_is != pytest.approx(in_its_own, rel=1e-5)


def test_a_range_that_is_given_wins(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["train", "--data", str(scans), *FAST, "--method", "linear", "--out", str(out)]
    assert main([*words, "--value-range", "-10", "900.5"]) == 0
    assert "black is -10.0, white 900.5, as --value-range says" in " ".join(capsys.readouterr().out.split())
    assert svp.open_run(out, "cpu").inputs.value_range == (-10, 900.5)
    assert yaml.safe_load((out / "config.yaml").read_text())["inputs"]["value_range"] == [-10.0, 900.5]
    assert main(["train", "--out", str(out), "--resume"]) == 0
    assert main([*words[:-1], str(tmp_path / "other"), "--value-range", "5", "5"]) == 1
    assert "the first number must be below the second" in capsys.readouterr().err


def test_adapters_of_before_keep_their_range(scans: Path, scans_run: Path, tmp_path: Path) -> None:
    old = shutil.copytree(scans_run, tmp_path / "old")
    content = json.loads((old / "adapter.json").read_text())
    del content["inputs"]["value_range"]
    (old / "adapter.json").write_text(json.dumps(content))
    assert svp.open_run(old, "cpu").inputs.value_range == "type"
    scan = scans / "bright" / "0.png"
    with Image.open(scan) as image:
        values = np.asarray(image)
    eight_bits = tmp_path / "as_0_1_0.png"
    Image.fromarray(np.floor(values * (255 / 65535) + 0.5).astype(np.uint8)).save(eight_bits)
    first, second = classify(old, scan, eight_bits)
    assert first["probabilities"] == pytest.approx(second["probabilities"], rel=1e-5)


def test_the_check_says_what_it_found(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(scans), "--json"]) == 0
    (found,) = [entry for entry in json.loads(capsys.readouterr().out)["findings"] if entry["code"] == "value-range"]
    assert found["level"] == "info"
    assert found["message"].startswith("16 images of 16-bit samples, 0 to 3500; training takes 0 as black and 4095 as white")
    assert len(found["files"]) == 16


def test_one_odd_image_is_its_own_failure(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("a.jpg", "z.jpg"):
        shutil.copy(photos / "blue" / "00.jpg", folder / name)
    Image.new("1", (1_000_000, 1)).save(folder / "endless.png")
    Image.new("RGB", (20_000, 2), (30, 60, 200)).save(folder / "thin.png")
    (folder / "pointer.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    Image.new("1", (400, 400)).save(folder / "large.png")
    assert main(["predict", str(run), str(folder), "--format", "csv", "--device", "cpu", "--max-pixels", "150000"]) == 1
    rows = {Path(row["path"]).name: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    errors = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert sorted(rows) == ["a.jpg", "endless.png", "large.png", "pointer.jpg", "thin.png", "z.jpg"]
    assert errors.keys() == {"endless.png", "large.png", "pointer.jpg"}
    assert "git lfs pull" in errors["pointer.jpg"]
    assert "expected at most 150,000 in all" in errors["large.png"]
    assert rows["thin.png"]["class_1"]
    assert rows["a.jpg"]["class_1"] == rows["z.jpg"]["class_1"]


def test_training_takes_thin_images_and_notes_a_missing_end_mark(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = Path(shutil.copytree(photos, tmp_path / "odd"))
    Image.new("RGB", (20_000, 2), (30, 60, 200)).save(odd / "blue" / "thin.png")
    cut = odd / "green" / "00.jpg"
    cut.write_bytes(cut.read_bytes()[:-2])
    before = cut.read_bytes()
    out = tmp_path / "run"
    assert main(["train", "--data", str(odd), *FAST, "--method", "linear", "--out", str(out), "--val-fraction", "0.3"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "a JPEG without its end mark; all pixels are there" in text
    assert cut.read_bytes() == before
    assert svp.open_run(out, "cpu").inputs.value_range == "file"
