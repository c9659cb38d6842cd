"""``svp.train`` where notebooks run it: under an event loop, twice in a process, with a bar in the cell."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

import svp
from svp.training import Run
from svp.training.notebook import NotebookProgress


def test_twice_under_an_event_loop(photos: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    """In its thread, which blocks it, and in another thread, where no signal handler could be set."""
    short = settings | {"epochs": 1}

    async def cells() -> tuple[Run, Run]:
        first = svp.train(photos, **short)
        return first, await asyncio.to_thread(svp.train, photos, **short | {"out": str(tmp_path / "second")})

    first, second = asyncio.run(cells())
    assert second.result.loss == first.result.loss


def test_the_bar_is_text_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svp.training.notebook._PAUSE", 0.0)
    shown: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=10), MofNCompleteColumn())
    with NotebookProgress(*columns, show=shown.append) as bar:
        task = bar.add_task("epoch 1", total=2)
        bar.update(task, advance=1)
        bar.update(task, advance=1)
    assert [text.replace("╸", "━") for text in shown] == ["epoch 1 ━━━━━      1/2", "epoch 1 ━━━━━━━━━━ 2/2", ""]


@pytest.mark.exhaustive
def test_a_kernel(photos: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, which runs an event loop; every cell shows a bar, and lines below."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from nbformat.v4 import new_code_cell, new_notebook

    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    spec = tmp_path / "jupyter_data_dir" / "kernels" / "python3"
    spec.mkdir(parents=True)
    words = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": words, "display_name": "Python", "language": "python"}))
    options = settings | {"model": "vim_nano", "progress": True, "epochs": 1}
    outs = [str(tmp_path / name) for name in ("first", "second")]
    sources = [f"import svp\nrun = svp.train({str(photos)!r}, **{options | {'out': out}!r})" for out in outs]
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    updates = []

    class Client(nbclient.NotebookClient):  # type: ignore[misc, name-defined]
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            if msg["msg_type"] == "update_display_data":
                updates.append((cell_index, msg["content"]["data"]["text/plain"]))
            return super().process_message(msg, cell, cell_index)

    Client(notebook, timeout=250).execute()
    for index, cell in enumerate(notebook.cells):
        assert any("epoch 1 " in text and "/3" in text for i, text in updates if i == index)
        assert not [output for output in cell.outputs if output.output_type == "error"]
        said = "".join(str(output.get("data", output.get("text"))) for output in cell.outputs)
        assert "test top-1" in said
        assert "epoch 1/1" in said
