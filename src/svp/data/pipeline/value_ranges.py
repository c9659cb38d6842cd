"""What the samples of images with more than 8 bits are, and the range of values that becomes black to white."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

TOPS = (255, 1023, 4095, 16383, 65535)
"""Largest values of the usual numbers of bits."""

_TOPS_BY_TYPE = (255, 65535)  # as in 0.1.0


@dataclass(frozen=True)
class SampleFacts:
    """The samples of one file with more than 8 bits per sample.

    Attributes:
        kind: "16-bit", "32-bit", "signed" or "floating-point".
        least: Smallest value; 0 if none has any.
        greatest: Largest value; 0 if none has any.
        bits: Bits per sample that are used, where the file says so and they are fewer than it holds.
        no_data: Whether samples without a value are among them.
    """

    kind: str
    least: float
    greatest: float
    bits: int | None = None
    no_data: bool = False


def choose_range(facts: Iterable[SampleFacts], by_type: bool = False) -> tuple[float, float]:
    """The values that become black and white: 0 and the largest of the fewest usual bits that hold all values.

    Usual are 8, 10, 12, 14 and 16 bits, and 0..1 for floats. Where values are below 0 or above 65535, the smallest
    and the largest are taken; of floats, the largest also where it is below a quarter of what is usual.

    Args:
        facts: What the files hold, one or more.
        by_type: Whether the type alone decides, which svp 0.1.0 did: 16 bits for 16-bit samples, and 8 or 16 bits otherwise.
    """
    facts = list(facts)
    least, greatest = min(fact.least for fact in facts), max(fact.greatest for fact in facts)
    if by_type and all(fact.kind == "16-bit" for fact in facts):
        return 0, 65535
    if not by_type:
        greatest = max([greatest, *(2**fact.bits - 1 for fact in facts if fact.bits)])
    floating = all(fact.kind == "floating-point" for fact in facts)
    tops = (1,) * floating + (_TOPS_BY_TYPE if by_type else TOPS)
    if least < 0 or greatest > tops[-1]:
        return least, greatest if greatest > least else least + 1
    top = smallest_top(greatest, tops)
    return 0, greatest if floating and not by_type and 0 < greatest < top / 4 else top


@dataclass(frozen=True)
class SampleSummary:
    """The samples of the files of a data set that have more than 8 bits.

    Attributes:
        value_range: The range that fits them all.
        text: What was found, in words.
        mixed: Whether the files are of kinds that no one range fits.
    """

    value_range: tuple[float, float]
    text: str
    mixed: bool


def describe_samples(found: Mapping[Path, SampleFacts]) -> SampleSummary:
    """What the samples of a data set are.

    Args:
        found: What they are by file, one or more.
    """
    facts = list(found.values())
    low, high = choose_range(facts)
    parts = []
    for kind, number in Counter(fact.kind for fact in facts).most_common():
        of_kind = [fact for fact in facts if fact.kind == kind]
        least, greatest = min(fact.least for fact in of_kind), max(fact.greatest for fact in of_kind)
        parts.append(f"{number:,} {'image' if number == 1 else 'images'} of {kind} samples, {least:g} to {greatest:g}")
    if without := sum(fact.no_data for fact in facts):
        parts.append(f"{without:,} with samples that have no value, which become black")
    fractions = [fact.greatest <= 1 for fact in facts if fact.kind == "floating-point"]
    mixed = high > 255 and any(fractions) and not all(fractions + [fact.kind == "floating-point" for fact in facts])
    remark = "; no one range fits fractions of 1 beside larger numbers: convert one of them" if mixed else ""
    return SampleSummary((low, high), "; ".join(parts) + remark, mixed)


def smallest_top(greatest: float, tops: tuple[int, ...]) -> int:
    return next((top for top in tops if greatest <= top), tops[-1])
