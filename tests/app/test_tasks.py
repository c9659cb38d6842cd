"""The page of several labels and of numbers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("gradio") is None:  # importing it takes seconds
    pytest.skip("gradio is not installed: pip install 'vim-svp[app]'", allow_module_level=True)

from svp.app.page import _bars, _headers, _row
from svp.app.workbench import TOPK, Workbench
from svp.runs import RunDirectory, as_csv


def test_labels_and_numbers_are_shown_as_such(task_runs: Path) -> None:
    bench = Workbench([task_runs / "multi", task_runs / "regression"], "cpu")
    image = next((task_runs / "photos" / "amber").iterdir())
    labels, number = bench.predict(image, "multi"), bench.predict(image, "regression")
    bars = _bars(labels)
    assert isinstance(bars, dict)
    assert sum(name.startswith("\N{CHECK MARK} ") for name in bars) == len(labels.labels or ())
    assert number.value is not None
    assert _bars(number) == f"{number.value:.4g}"
    assert _row(number, bench.adapters["regression"].columns(TOPK))[1:] == [f"{number.value:.4g}", "", "", ""]
    assert as_csv([number], bench.adapters["regression"].columns(TOPK)).splitlines()[0] == "path,value,error"
    assert _headers(bench) == ["labels", "next", ""]
    mae = RunDirectory(task_runs / "regression").read_result().metrics["mae"]
    assert bench.adapters["regression"].score == f"MAE {mae:.4g}"
