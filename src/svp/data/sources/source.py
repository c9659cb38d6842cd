"""What a folder, a table, an archive, a data set of the Hub and a published one have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from svp.data.splits import Parts, Split

PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What the parts of a data set are called, in lower case, in folders, tables, archives and on the Hub."""


class Source(Protocol):
    """Labelled images of a user, or of a published data set.

    Attributes:
        name: What runs and reports call the data.
    """

    @property
    def name(self) -> str: ...

    def parts(self, seed: int = 0) -> Parts:
        """What the data brings itself, to train on.

        Args:
            seed: Seeds what a published data set draws; the user's own data brings nothing that is drawn.

        Raises:
            DataError: It cannot be trained on as it is; the message says why and what to do.
        """

    def labelled(self, class_names: Sequence[str]) -> Split:
        """Images to score known classes on: the test part where the data has parts, else all of it.

        Args:
            class_names: Names of the classes, which the labels index; some may be missing from the data.

        Raises:
            DataError: A class is not among `class_names`, or there are no labelled images.
        """


def part_of(name: str) -> str | None:
    """The part that a folder, a split or a cell of a table of this name is: "train", "val" or "test"; None if it is none."""
    return PART_NAMES.get(name.strip().lower())
