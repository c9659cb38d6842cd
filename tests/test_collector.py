"""The garbage collector rests while kernels are compiled, and only then."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from svp.collector import collector_paused
from tests.processes import printed_by

# prints how many collections the first call of an op sets off, kernels imported and compiled in it
CODE = """
import gc
import torch
from svp.ops import causal_conv1d
x, weight = torch.randn(1, 4, 16), torch.randn(16, 4)
seen = []
gc.callbacks.append(lambda phase, info: seen.append(info["generation"]))
causal_conv1d(x, weight, backend="numba")
print(seen.count(2), gc.isenabled())
"""


@pytest.mark.parametrize("on", [True, False])
def test_it_goes_on_only_if_it_did_before(on: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with collector_paused():
            assert not gc.isenabled()
        assert gc.isenabled() == on
        with pytest.raises(ZeroDivisionError), collector_paused():
            raise ZeroDivisionError
        assert gc.isenabled() == on
    finally:
        (gc.enable if before else gc.disable)()


@pytest.fixture
def thawed() -> Iterator[None]:
    """Tests run with what is imported frozen."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("thawed")
def test_what_is_allocated_within_counts_as_old() -> None:
    with collector_paused():
        kept: list[list[int]] = [[] for _ in range(100)]
    old = set(map(id, gc.get_objects(generation=2)))
    assert all(id(item) in old for item in kept)


@pytest.mark.usefixtures("thawed")
def test_what_is_frozen_stays_so() -> None:
    kept: list[list[int]] = [[] for _ in range(100)]
    gc.freeze()
    with collector_paused():
        pass
    collectable = set(map(id, gc.get_objects()))  # of any age, the frozen ones not among them
    assert not any(id(item) in collectable for item in kept)


def test_the_first_call_of_an_op_walks_through_all_objects_at_most_once(tmp_path: Path) -> None:
    full_collections, is_on = printed_by(CODE, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert int(full_collections) <= 2  # a collection calls back when it starts and when it ends
    assert is_on == "True"
