"""Archives of class folders, unpacked once: a tar or zip of a layout of `svp.data.sources.folder`, or a folder of tars.

In a folder of tars, and for tars within a tar, each tar counts as the folder of its name, as timm's reader of tars has
it: ``cat.tar`` holds the images of a class, ``train.tar`` the class folders of a part.
"""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from svp.data.fingerprints import file_state, fingerprint
from svp.data.sources.unpacked import UnpackedSource, unpacked
from svp.data.splits import DataError

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def is_archive(path: Path) -> bool:
    """Whether this is a tar or a zip by its name, or a folder that holds tars and no folders."""
    if not path.is_dir():
        return path.name.lower().endswith((*_TARS, ".zip"))
    return bool(_tars_in(path)) and not any(entry.is_dir() for entry in path.iterdir() if not entry.name.startswith("."))


@dataclass(frozen=True)
class ArchiveSource(UnpackedSource):
    """A `Source`: a tar, a zip or a folder of tars.

    Attributes:
        path: The archive.
        root: The data root.
    """

    path: Path
    root: Path

    @property
    def name(self) -> str:
        return archive_name(self.path)

    def folder(self) -> Path:
        """The folder of classes or parts that the archive holds, below ``archives/`` of the data root.

        An archive that was changed, or moved, is unpacked anew.

        Raises:
            DataError: The archive is damaged or reaches outside itself.
        """
        archives = _tars_in(self.path) if self.path.is_dir() else [self.path]
        state = [(str(archive.resolve()), *file_state(archive)) for archive in archives]

        def write(folder: Path) -> None:
            for archive in archives:
                _extract(archive, folder / archive_name(archive) if self.path.is_dir() else folder)

        target = self.root / "archives" / f"{self.name}-{fingerprint(repr(state), 12)}"
        return _layout(unpacked(target, str(self.path.resolve()), write))


def _extract(archive: Path, folder: Path) -> None:
    """All members, and those of the tars among them. Nothing is written outside the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as members:
                members.extractall(folder)
        else:
            with tarfile.open(archive) as members:
                tops = {PurePosixPath(name).parts[:1] for name in members.getnames()} - {()}
                named_alike = tops == {(folder.name,)}  # val.tar holds val/...
                members.extractall(folder.parent if named_alike else folder, filter="data")
    except (OSError, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}). Copy or download it again.") from error
    for inner in _tars_in(folder, "**/"):
        _extract(inner, inner.with_name(archive_name(inner)))
        inner.unlink()


def _layout(folder: Path) -> Path:
    """The folder, or the one deep inside that holds everything, where an archive starts with folders of no meaning."""
    while True:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
        if len(entries) != 1 or not entries[0].is_dir() or not any(entry.is_dir() for entry in entries[0].iterdir()):
            return folder
        folder = entries[0]


def _tars_in(folder: Path, below: str = "") -> Sequence[Path]:
    return sorted(path for path in folder.glob(f"{below}*") if path.name.lower().endswith(_TARS) and path.is_file())


def archive_name(path: Path) -> str:
    """Its name without the suffixes."""
    if path.is_dir():
        return path.resolve().name
    suffix = next(suffix for suffix in sorted((*_TARS, ".zip"), key=len, reverse=True) if path.name.lower().endswith(suffix))
    return path.name[: -len(suffix)]
