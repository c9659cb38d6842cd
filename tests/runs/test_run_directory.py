"""What a run wrote down is read back, whole or as an error that names what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import svp
from svp.runs import EpochRow, Result, RunDirectory, RunError
from tests.models.small import small_vim
from tests.runs.records import make_result, make_row


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    result = make_result(validation_seconds=1.5, batch_size=8)
    RunDirectory(tmp_path).write_result(result)
    assert RunDirectory(tmp_path).read_result() == result
    assert json.loads((tmp_path / "result.json").read_text())["per_class"]["cat"]["accuracy"] == 0.5


def test_what_another_version_wrote_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    values = make_result().to_dict() | {"from_the_future": 1}
    del values["validation_seconds"], values["batch_size"]
    found = Result.from_dict(values)
    assert found.validation_seconds is found.batch_size is None
    row = make_row().to_dict()
    del row["training_seconds"], row["validation_seconds"]
    assert EpochRow.from_dict(row).validation_seconds is None


def test_a_metric_that_does_not_exist_leaves_the_choice_to_the_loss() -> None:
    early, late, low = (
        EpochRow(epoch, 0.1, 1.0, "val", loss, None, 1.0, chosen_by="mean_average_precision", selection_value=value)
        for epoch, (loss, value) in enumerate([(0.7, float("nan")), (0.3, float("nan")), (0.9, 0.1)])
    )
    assert early.merit < late.merit < low.merit


def test_a_missing_entry_is_named(tmp_path: Path) -> None:
    values = make_result().to_dict()
    del values["top1"]
    (tmp_path / "result.json").write_text(json.dumps(values))
    with pytest.raises(RunError, match=r"result\.json is damaged: top1 is missing"):
        RunDirectory(tmp_path).read_result()
    (tmp_path / "metrics.jsonl").write_text("[]\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged"):
        RunDirectory(tmp_path).read_metrics()


def test_an_adapter_without_a_run_opens(tmp_path: Path) -> None:
    model = small_vim(num_classes=3)
    svp.tune(model, "linear")
    svp.save_adapter(model, tmp_path)
    trained = svp.open_run(tmp_path, "cpu")
    assert trained.class_names == ("0", "1", "2")
    assert trained.how_chosen is trained.result is None
    assert not trained.model.training
    assert not any(p.requires_grad for p in trained.model.parameters())
    size = trained.inputs.img_size
    assert trained.model(torch.zeros(1, 3, size, size)).shape == (1, 3)


def test_a_run_without_a_finished_epoch_does_not_open(tmp_path: Path) -> None:
    RunDirectory(tmp_path).write_settings({"protocol": "validation"})
    with pytest.raises(RunError, match="no epoch of"):
        svp.open_run(tmp_path)
    RunDirectory(tmp_path).write_metrics([make_row()])
    assert RunDirectory(tmp_path).how_chosen() == "unfinished run, best of 1 epochs so far"
