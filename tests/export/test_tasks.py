"""Exported files of several labels and of numbers say what their output means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import svp
from svp.export.program import Classifier
from svp.export.run import _metadata, export_run
from svp.runs import RunDirectory, open_run
from svp.tasks import Regression


@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_a_program_says_what_predict_says(task_runs: Path, kind: str) -> None:
    trained = open_run(task_runs / kind, "cpu")
    task, images = trained.info.task, torch.rand(2, 3, 16, 16)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (trained.inputs.mean, trained.inputs.std))
    with torch.no_grad():
        said = Classifier(trained.model, trained.inputs, task)(images)
        assert torch.allclose(said, task.activate(trained.model((images - mean) / std)), rtol=1e-5)
    output = json.loads(_metadata(trained)["output"])
    assert output["task"] == kind
    if isinstance(task, Regression):
        assert (output["output"], output["mean"]) == ("numbers", task.mean)
    else:
        assert (output["output"], len(output["thresholds"])) == ("probabilities", 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_an_onnx_file_gives_probabilities_or_numbers(task_runs: Path, kind: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    file = export_run(task_runs / kind, "onnx", tmp_path / "model.onnx").path
    session = runtime.InferenceSession(file)
    (name,) = [output.name for output in session.get_outputs()]
    assert name == json.loads(session.get_modelmeta().custom_metadata_map["output"])["output"]
    paths = RunDirectory(task_runs / kind).read_split("test").paths
    assert len(list(svp.predict(task_runs / kind, paths, device="cpu"))) == len(paths)
