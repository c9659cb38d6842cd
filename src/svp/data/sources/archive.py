"""Archives of class folders, unpacked once: a tar or zip of a layout of `svp.data.sources.folder`, or a folder of tars.

In a folder of tars, and for tars within a tar, each tar counts as the folder of its name, as timm's reader of tars has
it: ``cat.tar`` holds the images of a class, ``train.tar`` the class folders of a part.
"""

from __future__ import annotations

import errno
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from svp.data.fingerprints import file_state, fingerprint
from svp.data.sources.archive_names import check_encoding, decode_names, zip_names
from svp.data.sources.listing import entries
from svp.data.sources.unpacked import UnpackedSource, unpacked
from svp.data.splits import DataError, Parts

_NOTES = ".notes"
"""File of an unpacked archive that holds what to tell of its names."""

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
        encoding: Encoding of names that are not UTF-8; guessed, with a note, if None.
    """

    path: Path
    root: Path
    encoding: str | None = None

    @property
    def name(self) -> str:
        return archive_name(self.path)

    def folder(self) -> Path:
        """The folder of classes or parts that the archive holds, below ``archives/`` of the data root.

        An archive that was changed, or moved, is unpacked anew.

        Raises:
            DataError: The archive is damaged or reaches outside itself, or the encoding of its names cannot be told.
        """
        return _layout(self._unpacked())

    def parts(self, seed: int = 0) -> Parts:
        """The parts that the folder brings, with a note if the encoding of names was guessed."""
        notes = self._unpacked() / _NOTES
        parts = super().parts(seed)
        told = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []
        return replace(parts, notes=(*parts.notes, *told))

    def _unpacked(self) -> Path:
        if self.encoding is not None:
            check_encoding(self.encoding)
        archives = _tars_in(self.path) if self.path.is_dir() else [self.path]
        state = [(str(archive.resolve()), *file_state(archive)) for archive in archives]
        in_encoding = f" {self.encoding}" if self.encoding else " names" if any(map(_has_odd_names, archives)) else ""

        def write(folder: Path) -> None:
            notes: list[str] = []
            for archive in archives:
                notes += _extract(archive, folder / archive_name(archive) if self.path.is_dir() else folder, self.encoding)
            if notes:
                (folder / _NOTES).write_text("\n".join(notes), encoding="utf-8")

        target = self.root / "archives" / f"{self.name}-{fingerprint(repr(state) + in_encoding, 12)}"
        return unpacked(target, str(self.path.resolve()), write)


def _has_odd_names(archive: Path) -> bool:
    """Whether names in a zip are read otherwise than by 0.1.0, whose unpacked folder is then none of this."""
    try:
        with zipfile.ZipFile(archive) as members:
            return any(not name.isascii() or "\\" in name for name in (member.orig_filename for member in members.infolist()))
    except _DAMAGED:
        return False


def _extract(archive: Path, folder: Path, encoding: str | None) -> list[str]:
    """All members, and those of the tars among them; what to tell of their names. Nothing is written outside the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    try:
        note = (
            _extract_zip(archive, folder, encoding) if zipfile.is_zipfile(archive) else _extract_tar(archive, folder, encoding)
        )
    except DataError:
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # nothing is wrong with the archive
        reason = str(error) or type(error).__name__
        raise DataError(f"{archive}: cannot be unpacked ({reason}). Copy or download it again.") from error
    if note:
        notes.append(f"{archive.name}: {note}")
    for inner in _tars_in(folder, "**/"):
        notes += _extract(inner, inner.with_name(archive_name(inner)), encoding)
        inner.unlink()
    return notes


_DAMAGED = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, ArithmeticError, MemoryError, struct.error),
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
"""What the readers of a damaged archive raise."""


def _extract_zip(archive: Path, folder: Path, encoding: str | None) -> str | None:
    with zipfile.ZipFile(archive) as members:
        names, note = zip_names(members, encoding)
        for member, name in zip(members.infolist(), names, strict=True):
            parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".") and not part.endswith(":")]
            target = folder.joinpath(*parts)
            if not parts or name.endswith("/"):
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with members.open(member) as content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
    return note


def _extract_tar(archive: Path, folder: Path, encoding: str | None) -> str | None:
    with tarfile.open(archive) as members:
        found = members.getmembers()
        odd = [member for member in found if not member.name.isascii()]
        odd = (
            odd if not all(_is_utf8(member.name) for member in odd) else []
        )  # bytes that are UTF-8 by chance are with the others
        names, note = decode_names(str(archive), [member.name.encode("utf-8", "surrogateescape") for member in odd], encoding)
        for member, name in zip(odd, names, strict=True):
            member.name = name
        tops = {PurePosixPath(member.name).parts[:1] for member in found} - {()}
        named_alike = tops == {(folder.name,)}  # val.tar holds val/...
        members.extractall(folder.parent if named_alike else folder, found, filter="data")
    return note


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _layout(folder: Path) -> Path:
    """The folder, or the one deep inside that holds everything, where an archive starts with folders of no meaning."""
    while True:
        inside = entries(folder)
        if len(inside) != 1 or not inside[0].is_dir() or not any(entry.is_dir() for entry in entries(inside[0])):
            return folder
        folder = inside[0]


def _tars_in(folder: Path, below: str = "") -> Sequence[Path]:
    return sorted(path for path in folder.glob(f"{below}*") if path.name.lower().endswith(_TARS) and path.is_file())


def archive_name(path: Path) -> str:
    """Its name without the suffixes."""
    if path.is_dir():
        return path.resolve().name
    suffix = next(suffix for suffix in sorted((*_TARS, ".zip"), key=len, reverse=True) if path.name.lower().endswith(suffix))
    return path.name[: -len(suffix)]
