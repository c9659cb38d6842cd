"""What is built from this repository: a wheel for users, an sdist that has all that `make test` needs."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import svp

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "svp"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("the tests run outside of the repository")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return out


def test_wheel(built: Path) -> None:
    (file,) = built.glob("vim_svp-*.whl")
    with zipfile.ZipFile(file) as wheel:
        names = wheel.namelist()
        information = f"vim_svp-{svp.__version__}.dist-info"
        metadata = wheel.read(f"{information}/METADATA").decode()
        entry_points = wheel.read(f"{information}/entry_points.txt").decode()
    assert "Name: vim-svp\n" in metadata
    assert "svp = svp.cli:main" in entry_points
    expected = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if not name.startswith(information)} == expected
    assert f"{information}/licenses/LICENSE" in names
    for needed in (
        "py.typed",
        "assets/vim_nano_patch4_32.tiny_in200.safetensors",
        "assets/recipes/paper.yaml",
        "assets/studies/digits.yaml",
    ):
        assert f"svp/{needed}" in names
    assert any(name.startswith("svp/assets/") and name.endswith(".html") for name in names), "the pages' templates"


def test_sdist(built: Path) -> None:
    (file,) = built.glob("vim_svp-*.tar.gz")
    with tarfile.open(file) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    for needed in ("Makefile", "constraints-oldest.txt", "pyproject.toml", "README.md", ".ci/run", "tests/conftest.py"):
        assert needed in names
    for folder in ("src", "tests", "docs", "examples", "benchmarks"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert {path.relative_to(ROOT).as_posix() for path in files} <= names
    assert not [name for name in names if name.split("/")[0] in (".git", ".venv", "runs", ".pytest_cache")]
