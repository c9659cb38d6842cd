"""The models are known to timm once both packages are imported, and neither waits for the other."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=250)


@pytest.mark.parametrize(
    "order",
    [
        "import timm, svp",
        pytest.param("import svp, timm", marks=pytest.mark.exhaustive),  # as below
        pytest.param("import svp.data; import timm", marks=pytest.mark.exhaustive),
        pytest.param("import svp.models, timm", marks=pytest.mark.exhaustive),
    ],
)
def test_in_any_order(order: str) -> None:
    run(f"{order}; assert timm.create_model('vim_nano_patch4_32').embed_dim == 128")


def test_svp_alone_loads_nothing_large() -> None:
    run("import svp, sys; assert not {'torch', 'timm', 'numpy', 'numba'} & set(sys.modules)")


LOOKED_FOR = """
import gc, svp, sys, importlib.util
assert importlib.util.find_spec("timm")
assert "timm" not in sys.modules
collected = []
gc.callbacks.append(lambda phase, info: collected.append(info["generation"]))
import timm
assert 2 not in collected, "walked through all objects"
assert timm.is_model("vim_tiny_patch16_224")
assert type(timm.__loader__).__name__ == "SourceFileLoader"
"""


def test_looking_for_timm_is_not_importing_it_and_importing_it_collects_no_garbage() -> None:
    run(LOOKED_FOR)
