"""Splits: which images are taken, and that a part drawn by a seed stays the same."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from svp.data import Split
from svp.data.splitting import split_stratified


def split_of(counts: dict[str, int]) -> Split:
    classes = {name: [Path(f"{name}/{index}.jpg") for index in range(count)] for name, count in counts.items()}
    return Split.of_classes(classes, list(counts), "made up")


def test_take_and_where_keep_labels_with_their_paths() -> None:
    split = Split((Path("a"), Path("b"), Path("c")), (2, 0, 1), "three")
    assert split.take([2, 0]) == Split((Path("c"), Path("a")), (1, 2), "three")
    assert split.where(lambda path: path.name > "a", "later") == Split((Path("b"), Path("c")), (0, 1), "later")
    assert split.take(iter(()), "") == Split((), (), "")
    assert split.joined(split.take([1]), "four") == Split((*split.paths, Path("b")), (2, 0, 1, 0), "four")
    assert split.by_class(4) == [[1], [2], [0], []]
    with pytest.raises(ValueError, match=r"paths \(1\) and labels \(2\)"):
        Split((Path("a"),), (0, 1), "")


counts_and_fractions = st.lists(st.floats(0.01, 0.45), min_size=1, max_size=2).flatmap(
    lambda fractions: st.tuples(
        st.dictionaries(st.text(min_size=1, max_size=4), st.integers(len(fractions) + 1, 60), min_size=1, max_size=6),
        st.just(fractions),
    )
)


@settings(max_examples=50, deadline=None)
@given(counts_and_fractions, st.integers(0, 2**32))
@example(({"a": 4, "b": 3}, [0.45, 0.45]), 0)  # rounding alone would leave nothing to train on
def test_stratified_parts_partition_every_class(case: tuple[dict[str, int], list[float]], seed: int) -> None:
    counts, fractions = case
    split = split_of(counts)
    parts = [split.take(indices) for indices in split_stratified(split, list(counts), fractions, seed)]
    assert len(parts) == len(fractions) + 1
    assert sorted(path for part in parts for path in part.paths) == sorted(split.paths)
    for label, count in enumerate(counts.values()):
        sizes = [part.labels.count(label) for part in parts]
        assert all(sizes)
        assert all(size <= max(1, share * count + 0.5) for size, share in zip(sizes[1:], fractions, strict=True))
    backwards = split_of(dict(reversed(counts.items())))
    drawn = split_stratified(backwards, list(reversed(counts)), fractions, seed)
    assert [set(backwards.take(indices).paths) for indices in drawn] == [set(part.paths) for part in parts]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_another_seed_gives_another_split(seed: int, other: int) -> None:
    split = split_of({"a": 60, "b": 60})
    same = split_stratified(split, "ab", [0.3], seed) == split_stratified(split, "ab", [0.3], other)
    assert same == (seed == other)
