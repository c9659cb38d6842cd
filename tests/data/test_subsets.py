"""Fewer training images: how many, which, and the same ones again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svp.data import Split
from svp.data.subsets import take_fraction, take_shots

NAMES = ("ant", "bee", "cat")


def split_of(sizes: tuple[int, ...]) -> Split:
    """Images of all classes in turn, as a list file may have them."""
    pairs = [(Path(f"{NAMES[label]}/{number}.png"), label) for label, size in enumerate(sizes) for number in range(size)]
    pairs.sort(key=lambda pair: (pair[0].name, pair[1]))
    return Split(tuple(path for path, _ in pairs), tuple(label for _, label in pairs), "folder train/")


def counts(split: Split) -> list[int]:
    return [split.labels.count(label) for label in range(len(NAMES))]


sizes = st.tuples(*[st.integers(0, 30)] * 3)
seeds = st.integers(0, 5)


@given(sizes, st.integers(1, 40), st.integers(1, 40), seeds)
def test_shots_are_counted_per_class_and_nested(sizes: tuple[int, ...], few: int, more: int, seed: int) -> None:
    few, more = sorted((few, more))
    whole = split_of(sizes)
    small, large = (take_shots(whole, NAMES, shots, seed) for shots in (few, more))
    assert counts(small) == [min(few, size) for size in sizes]
    assert set(small.paths) <= set(large.paths) <= set(whole.paths)
    assert all(path.parent.name == NAMES[label] for path, label in zip(small.paths, small.labels, strict=True))
    assert take_shots(whole, NAMES, few, seed) == small


@given(sizes, st.floats(0.01, 1), st.floats(0.01, 1), seeds)
def test_fractions_are_stratified_and_nested(sizes: tuple[int, ...], less: float, more: float, seed: int) -> None:
    less, more = sorted((less, more))
    whole = split_of(sizes)
    small, large = (take_fraction(whole, NAMES, fraction, seed) for fraction in (less, more))
    assert counts(small) == [min(size, max(1, round(less * size))) for size in sizes]
    assert set(small.paths) <= set(large.paths)
    assert set(take_fraction(whole, NAMES, 1, seed).paths) == set(whole.paths)


def test_the_seed_draws_and_the_order_of_the_split_stays() -> None:
    whole = split_of((30, 30, 30))
    first, second = (take_shots(whole, NAMES, 5, seed) for seed in (0, 1))
    assert set(first.paths) != set(second.paths)
    for label, name in enumerate(NAMES):
        taken = [path for path, of in zip(first.paths, first.labels, strict=True) if of == label]
        assert taken == [path for path in whole.paths if path in taken and path.parent.name == name]
    # neighbouring classes of equal size are drawn apart
    assert len({tuple(path.name for path in first.paths[start : start + 5]) for start in (0, 5, 10)}) == 3


def test_origins_say_what_was_taken() -> None:
    whole = split_of((9, 3, 0))
    assert take_fraction(whole, NAMES, 0.1, 7).origin == "10% of folder train/, stratified, seed 7"
    assert take_shots(whole, NAMES, 3, 7).origin == "3 per class of folder train/, seed 7"
    assert take_shots(whole, NAMES, 4, 7).origin == (
        "4 per class of folder train/, seed 7; fewer in 1 of 3 classes, all taken: bee (3)"
    )


@pytest.mark.parametrize("shots", [0, -1])
def test_too_few_shots_are_refused(shots: int) -> None:
    with pytest.raises(ValueError, match=f"shots is {shots}, expected 1 or more"):
        take_shots(split_of((3, 3, 3)), NAMES, shots, 0)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.1, float("nan")])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="expected 0 < train_fraction <= 1"):
        take_fraction(split_of((3, 3, 3)), NAMES, fraction, 0)
