"""What a run learns of its confidence is kept, used wherever images are classified, and refused where nothing can tell it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import svp
from svp.cli import main
from svp.runs import RunDirectory
from svp.training import ConfigError
from svp.tuners import read_adapter_info
from tests.training.conftest import write_photos


def test_less_sure_guesses_are_none_of_these_wherever_the_run_is_used(
    tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "photos", per_class=40)
    for image in sorted((photos / "amber").iterdir())[:10]:  # nobody can be sure of green
        image.rename(photos / "green" / f"amber-{image.name}")
    settings |= dict(method="linear", calibrate=True, reject=0.4, progress=True)
    run = svp.train(photos, **settings)
    kept = run.result.rejection
    assert kept is not None
    assert kept.target == 0.4
    threshold = read_adapter_info(run.directory).reject_below
    assert 1 / 3 < threshold == kept.threshold < 1
    assert f'A guess below {threshold:.1%} is shown as "none of these"' in " ".join(capsys.readouterr().out.split())
    assert RunDirectory(run.directory).read_result() == run.result

    validation = list(svp.predict(run.directory, RunDirectory(run.directory).read_split("val").paths, device="cpu"))
    assert not all(p.rejected for p in validation)
    assert all(p.rejected == (p.probabilities[0] < threshold) for p in validation)

    assert main(["eval", str(run.directory), "--json", "--device", "cpu"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["accepted"]["coverage"] == kept.coverage
    assert scores["accepted"]["accuracy"] == kept.accuracy
    assert main(["eval", str(run.directory), "--device", "cpu"]) == 0
    assert f"accepted, from confidence {threshold:.1%}" in " ".join(capsys.readouterr().out.split())

    strict = json.loads((run.directory / "adapter.json").read_text()) | {"reject_below": 1.0}
    (run.directory / "adapter.json").write_text(json.dumps(strict))
    image = str(tmp_path / "grey.png")
    Image.new("RGB", (20, 20), (128, 128, 128)).save(image)
    assert main(["predict", str(run.directory), image, "--device", "cpu"]) == 0
    assert "none of these" in " ".join(capsys.readouterr().out.split())
    assert main(["predict", str(run.directory), image, "--device", "cpu", "--format", "csv"]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (row["rejected"], row["error"]) == ("true", "")

    (run.directory / "result.json").unlink()  # as if killed before it was written
    assert svp.train(photos, **settings | dict(resume=True)).result.rejection == kept


def test_what_the_validation_images_cannot_promise_is_refused_before_any_work(photos: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"reject 0.9 needs 51 validation images or more, there are 6: ask for 0.41 or less"):
        svp.train(photos, **settings | dict(reject=0.9))
    assert not Path(settings["out"]).exists()
    with pytest.raises(ConfigError, match="reject needs validation images, protocol trainval has none"):
        svp.train(photos, **settings | dict(reject=0.9, protocol="trainval"))
    with pytest.raises(ConfigError, match=r"reject is 1.5, expected 0 < reject < 1"):
        svp.train(photos, **settings | dict(reject=1.5))
