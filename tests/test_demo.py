"""``svp demo``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from svp.commands.demo import compare
from svp.demo import demo
from svp.errors import InputError
from svp.limits import usable_cpus
from svp.runs import RunDirectory

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it fails
from svp.cli import main
main(["demo", "--out", sys.argv[1]])
"""


def test_title_comes_before_what_is_slow(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.startswith("svp demo")
    assert "torch" in done.stderr


SMALL = "inherit: demo\nshots: 2\nepochs: 1\nval_fraction: 0.02\ntest_fraction: 0.02\n"


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A recipe like the demo's."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(SMALL)
    return str(recipe)


def test_three_methods_side_by_side(tmp_path: Path, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    compare(out, small)
    shown = capsys.readouterr().out.splitlines()
    places = [shown.index(line) for line in (f"{out}/linear", f"{out}/vpt_deep", f"{out}/svp", "test images, backbone frozen")]
    assert places == sorted(places)  # one after the other
    assert (out / "demo.png").is_file()
    results = {method: RunDirectory(out / method).read_result() for method in ("linear", "vpt_deep", "svp")}
    assert [result.method for result in results.values()] == list(results)
    if usable_cpus() > 1:  # it ran in a process of its own
        assert results["svp"].command == f"svp train --recipe {small} --out {out / 'svp'}"


def test_a_second_process_that_is_killed_is_made_good(
    tmp_path: Path, small: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("svp.demo.RIVALS", {})
    (tmp_path / "svp.log").write_text("what it had printed\n")
    demo(tmp_path, small, subprocess.Popen([sys.executable, "-c", "import os; os.abort()"]))
    shown = capsys.readouterr().out.splitlines()
    assert shown.index("what it had printed") < shown.index(f"{tmp_path}/svp")
    assert RunDirectory(tmp_path / "svp").read_result().epochs == 1


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="something else than an earlier demo: choose another --out"):
        compare(tmp_path)
    assert (tmp_path / "thesis.txt").is_file()
