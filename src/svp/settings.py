"""Checks of settings where they are set: a value against its annotation, with the known values in the message."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from svp.errors import InputError

Device = str
"""Where a model runs: "auto", or a device as PyTorch names it, such as "cpu", "cuda", "cuda:1", "xpu" or "mps"."""
TaskChoice = Literal["auto", "single", "multi", "regression"]
"""What the labels of images are: one class, several labels or a number; "auto" tells it by the labels."""
Precision = Literal["auto", "fp32", "bf16"]
"""Number format of the arithmetic; "auto" is bf16 on a GPU that has it and fp32 elsewhere."""
Tta = Literal["none", "flip", "crops", "flip+crops"]
"""Views of an image whose mean probabilities count: flipped, corners, or both; "none" is the image alone."""

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Mapping: "settings", NoneType: "null"}


def check_fields(settings: Any) -> None:
    """Check every field of a dataclass against its annotation.

    Raises:
        InputError: A field does not fit; names it, its value and what was expected.
    """
    for name, hint in get_type_hints(type(settings)).items():
        check_value(name, getattr(settings, name), hint)


def check_value(name: str, value: Any, hint: Any) -> None:
    """Check one setting against an annotation.

    Args:
        name: Name of the setting in the message.
        value: Value that was given.
        hint: Annotation, such as ``Device`` or ``float | None``.

    Raises:
        InputError: The value does not fit.
    """
    if not _fits(value, hint):
        raise InputError(f"{name} is {value!r}, expected {_expected(hint)}")


def alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    if len(alternatives(hint)) > 1:
        return any(_fits(value, part) for part in alternatives(hint))
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(known) and value == known for known in parts)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if origin in (tuple, list):
        return isinstance(value, list | tuple)
    return isinstance(value, origin or hint)


def _expected(hint: Any) -> str:
    known = [repr(value) for part in alternatives(hint) if get_origin(part) is Literal for value in get_args(part)]
    others = [part for part in alternatives(hint) if get_origin(part) is not Literal]
    kinds = [_WORDS.get(get_origin(part) or part, getattr(part, "__name__", str(part))) for part in others]
    words = [*known, *kinds]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
