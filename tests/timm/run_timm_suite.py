"""Run timm's own model tests (tests/test_models.py of its source distribution) on the models of this package.

    python tests/timm/run_timm_suite.py                                 every name; half an hour on two cores
    python tests/timm/run_timm_suite.py -k vim_nano -- -x               one name, further arguments for pytest
    python tests/timm/run_timm_suite.py --source timm-1.0.31.tar.gz     without network

timm's suite is not installed by pip, so the source distribution of the installed version is fetched. The suite runs from a
temporary folder with the two edits that a contribution of Vim to timm would make: "vim" joins the modules with
``forward_intermediates`` and "vim_*" the models with a class token. Not part of `make test`, where
tests/models/test_timm_contract.py checks the same contract in seconds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# what needs more than the model: weights from the network, and TorchScript, which cannot compile a custom operator's dispatch
LEFT_OUT = "pretrained or torchscript or fx_torchscript"


def fetch(folder: Path) -> Path:
    """Download the source distribution of the installed timm."""
    requirement = f"timm=={importlib.metadata.version('timm')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
    subprocess.run([*pip, requirement], check=True)
    return next(folder.glob("timm-*.tar.gz"))


def unpack_suite(archive: Path, folder: Path) -> Path:
    """Unpack the tests of `archive` and add our models to them; returns the test file."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    suite = next(folder.glob("*/tests/test_models.py"))
    text = suite.read_text(encoding="utf-8")
    for name, entry in (("FEAT_INTER_FILTERS", "vim"), ("NON_STD_FILTERS", "vim_*")):
        text, count = re.subn(rf"^{name} = \[", f"{name} = [\n    '{entry}',", text, flags=re.MULTILINE)
        if count != 1:
            raise SystemExit(f"{suite} has no list {name}: this version of timm needs a change here")
    text = text.replace("\nimport timm\n", "\nimport timm\nimport svp.models  # registers vim_*\n", 1)
    suite.write_text(text, encoding="utf-8")
    return suite


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", dest="select", default="vim_", help="models, as pytest's -k (default: all of ours)")
    parser.add_argument("--source", type=Path, help="timm's source distribution, instead of downloading it")
    parser.add_argument("--all", action="store_true", help=f"also what is left out by default: {LEFT_OUT}")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        suite = unpack_suite(arguments.source or fetch(Path(folder)), Path(folder))
        ours = f"({arguments.select}) and not efficientvim"
        select = ours if arguments.all else f"{ours} and not ({LEFT_OUT})"
        # timm's limits are for compiled models on idle machines
        environment = {"TIMEOUT": "3600", "GOMP_SPINCOUNT": "1000"} | os.environ
        command = [sys.executable, "-m", "pytest", suite, "-k", select, "-p", "no:cacheprovider", "-o", "timeout=3600"]
        root = suite.parent.parent
        return subprocess.run([*command, "--rootdir", root, *arguments.pytest], cwd=root, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
