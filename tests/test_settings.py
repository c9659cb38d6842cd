"""Values against annotations."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from svp.errors import InputError
from svp.settings import Device, check_value


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (3, int), (np.int64(3), int), (3, float), (0.5, float), (np.float32(0.5), float), (None, float | None), (True, bool),
        ("cpu", Device), ("x", str | None), ([1], list[int]), ((1, 2), tuple[int, int]), ({"a": 1}, dict[str, Any]),
        (object(), Any),
    ],
)  # fmt: skip
def test_values_that_fit(value: object, hint: Any) -> None:
    check_value("x", value, hint)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (True, int, "a whole number"),
        (2.0, int, "a whole number"),
        ("1", float, "a number"),
        (1, bool, "true or false"),
        (0, Device, "text"),
        (1, Literal[True, "x"], "True or 'x'"),
        (3, str | None, "text or null"),
        ("x", Literal["a"] | None, "'a' or null"),
    ],
)
def test_others_are_named_with_what_is_known(value: object, hint: Any, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        check_value("x", value, hint)
    assert str(caught.value) == f"x is {value!r}, expected {expected}"
