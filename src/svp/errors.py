"""What a user can cause. ``svp.SvpError`` is the base of all of it: the command prints such an error as one line.

Anything else that is raised is a bug of this package and keeps its traceback.
"""

from pathlib import Path


class SvpError(Exception):
    """Base of every error that a user can cause; its message says what is wrong, where, and what would be right."""


class InputError(SvpError, ValueError):
    """A value, an option, or the content of a file is not what was expected."""


class UnavailableError(SvpError, RuntimeError):
    """This machine lacks something: a package, a device, a file that has to be fetched, room on a disk."""


class WriteError(UnavailableError, OSError):
    """A file cannot be written: the disk is full, or may not be written to."""


class Interrupted(KeyboardInterrupt):
    """Training was interrupted by Ctrl-C.

    Args:
        directory: Run directory, from which the run can go on.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(f"interrupted: {directory}")
        self.directory = directory
