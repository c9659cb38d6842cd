"""The pool of threads: results in order, and no more work under way than asked for."""

import threading
from collections.abc import Iterator

import pytest

from svp.data.pipeline.threads import in_threads


def test_results_come_in_the_order_of_the_items() -> None:
    second = threading.Event()

    def double(number: int) -> int:
        if number == 0:
            second.wait(1)  # the second one is done first where there are two threads
        if number == 1:
            second.set()
        return 2 * number

    assert list(in_threads(double, range(100), ahead=4)) == [2 * number for number in range(100)]


def test_items_are_taken_as_they_are_needed() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = in_threads(str, items(), ahead=5)
    assert [next(results) for _ in range(3)] == ["0", "1", "2"]
    assert len(taken) == 8
    results.close()  # type: ignore[attr-defined]
    assert len(taken) == 8


def test_an_error_is_raised_in_its_place() -> None:
    results = in_threads(lambda number: 1 // number, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
