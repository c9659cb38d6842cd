"""What the runs of a study share in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from svp.data.pipeline.decoding import ImageReader
from svp.data.pipeline.shared import Shared
from svp.studies import make_study
from svp.studies.engine import execute
from svp.training import Workshop, train


def test_runs_that_share_images_and_features_find_what_they_would_alone(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values["settings"] |= {"augment": "none", "num_workers": 0}
    values["methods"] = {
        "linear": {"lr": 0.01},
        "head": {"method": "linear", "lr": 0.1},
        "bias": {"method": "bitfit", "lr": 0.01},
    }
    cells = make_study(values).cells
    decoded: list[Path] = []
    decode = ImageReader.decode
    monkeypatch.setattr(ImageReader, "decode", lambda self, path: decoded.append(path) or decode(self, path))
    workshop = Workshop()
    counts, found = [], []
    for folder in ("shared", "alone"):
        for cell in cells:
            job = cell.job(tmp_path / folder, cell.candidates[0], 0)
            decoded.clear()
            if folder == "shared":
                assert execute(job, workshop) is None
            else:
                train(config=job.config, progress=False)
            counts.append(len(set(decoded)))
            trained = (job.directory / "adapter.safetensors").read_bytes()
            found.append((trained, (job.directory / "test_predictions.csv").read_bytes()))
    assert found[:3] == found[3:]
    assert counts == [30, 0, 0, 30, 30, 30]
    logs = [path.read_text() for path in sorted((tmp_path / "shared" / "logs").glob("*.log"))]
    assert sorted(log.count("are computed once") for log in logs) == [0, 0, 3]  # training, validation and test images


def test_the_oldest_goes_when_there_is_no_room() -> None:
    made: list[str] = []

    def get(text: str) -> str:
        return shared.get(text, lambda: made.append(text) or text)

    shared: Shared[str] = Shared(len, limit=5)
    assert [get(text) for text in ("aa", "bb", "aa", "cc", "aa", "bb", "too long")] == [
        "aa",
        "bb",
        "aa",
        "cc",
        "aa",
        "bb",
        "too long",
    ]
    assert made == ["aa", "bb", "cc", "bb", "too long"]
