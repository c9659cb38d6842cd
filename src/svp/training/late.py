"""Images that turn out to be unreadable while a run is under way, as not every file was decoded before it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from svp.data import MAX_UNREADABLE, DataError, ImageReader, Split, Unreadable, UnreadableImageError
from svp.training.display import Display


class LateUnreadable:
    """Names each of them once, counts them, and stops a run of too many.

    Args:
        reader: Decodes a file, to say why that fails.
        accelerator: Devices and processes.
        display: Told of each image.

    Attributes:
        found: The images and why they cannot be read, in the order found.
    """

    def __init__(self, reader: ImageReader, accelerator: Accelerator, display: Display) -> None:
        self.found: dict[Path, Unreadable] = {}
        self._reader, self._accelerator, self._display = reader, accelerator, display

    def add(self, split: Split, indices: Iterable[int], *, gathered: bool) -> None:
        """Note images of a split; all processes call this together.

        Args:
            split: The part that was read.
            indices: Positions in it.
            gathered: Whether `indices` are those of all processes already.

        Raises:
            DataError: More than `MAX_UNREADABLE` of the part are unreadable.
        """
        positions = sorted(set(indices))
        if not gathered and self._accelerator.num_processes > 1:
            positions = sorted(set(gather_object(positions)))
        for path in (split.paths[position] for position in positions):
            if path not in self.found:
                self.found[path] = Unreadable(path, self._reason(path))
                self._display.say(f"warning: cannot read {path}: {self.found[path].reason}")
        among = sum(path in self.found for path in split.paths) if positions else 0
        if among > MAX_UNREADABLE * len(split) and among > 1:
            some = next(reversed(self.found.values()))
            raise DataError(
                f"{among} of {len(split)} images of {split.origin} cannot be read, more than {MAX_UNREADABLE:.0%}, such as "
                f"{some.path} ({some.reason}). Repair or remove these files; svp data check lists all."
            )

    def _reason(self, path: Path) -> str:
        try:
            self._reader(path)
        except UnreadableImageError as error:
            return error.reason
        return "could not be read in time, and can be now"
