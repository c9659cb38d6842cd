"""Names of the members of an archive, whose encoding a zip does not tell: given, or guessed from all names together."""

from __future__ import annotations

import codecs
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence

from svp.data.splits import DataError, enumerate_some

_DOS = "cp437"
"""What zipfile decodes names with that are not marked as UTF-8; every byte has a character in it."""

_UNICODE_PATH = 0x7075
"""Number of the extra field that holds a name in UTF-8."""


def _is_common_hanzi(sign: str) -> bool:
    return _lead_byte(sign, "gb2312", 0xB0, 0xD7)


def _is_japanese(sign: str) -> bool:
    return "\u3041" <= sign <= "\u30fe" or _lead_byte(sign, "cp932", 0x88, 0x97)


def _is_hangul(sign: str) -> bool:
    return "\uac00" <= sign <= "\ud7a3"


def _is_common_traditional(sign: str) -> bool:
    return _lead_byte(sign, "big5", 0xA4, 0xC6)


def _is_cyrillic(sign: str) -> bool:
    return "\u0410" <= sign <= "\u044f" or sign in "\u0401\u0451\u0404\u0454\u0406\u0456\u0407\u0457\u2116"


def _is_western(sign: str) -> bool:
    return sign in "äöüÄÖÜßéèêëàâáåæçîïìíñòóôùûúÿÅÆÇÉÑ"


_MIXED = re.compile("[A-Za-z][\u0400-\u04ff]|[\u0400-\u04ff][A-Za-z]")
"""Latin and Cyrillic letters in one word."""

_CANDIDATES: dict[str, Callable[[str], bool]] = {
    "gbk": _is_common_hanzi,
    "cp932": _is_japanese,
    "cp949": _is_hangul,
    "big5": _is_common_traditional,
    "cp866": _is_cyrillic,
    "cp437": _is_western,
}
"""By encoding, whether a character is one of those that names are mostly written in; of two that fit, the first is taken."""


def zip_names(archive: zipfile.ZipFile, encoding: str | None) -> tuple[list[str], str | None]:
    """The names of all members with slashes between their parts, and a note if their encoding was guessed.

    Args:
        archive: An open zip.
        encoding: Encoding of names that are not marked as UTF-8; guessed if None.

    Raises:
        DataError: The names are not in `encoding`, or in none that is known.
    """
    members = archive.infolist()
    raw: dict[int, bytes] = {}
    names = []
    for place, member in enumerate(members):
        name = member.orig_filename
        if not member.flag_bits & 0x800 and not name.isascii():
            stored = name.encode(_DOS)
            unicode_name = _unicode_path(member.extra, stored)
            if unicode_name is None:
                raw[place] = stored
            else:
                name = unicode_name
        names.append(name)
    decoded, note = decode_names(str(archive.filename), list(raw.values()), encoding)
    for place, name in zip(raw, decoded, strict=True):
        names[place] = name
    return [name.split("\0")[0].replace("\\", "/") for name in names], note


def decode_names(archive: str, raw: Sequence[bytes], encoding: str | None) -> tuple[list[str], str | None]:
    """Names from their bytes, and a note if their encoding was guessed.

    Args:
        archive: For messages.
        raw: Names that are not ASCII.
        encoding: What they are in; guessed if None.

    Raises:
        DataError: They are not in `encoding`, or in none that is known.
    """
    if encoding is not None:
        return [_decode(archive, name, encoding) for name in raw], None
    if (decoded := _try(raw, "utf-8")) is not None:
        return decoded, None
    fitting: dict[str, list[str]] = {}
    for candidate, is_common in _CANDIDATES.items():
        names = _try(raw, candidate)
        if names is None or any(map(_MIXED.search, names)):
            continue
        if all(is_common(sign) for name in names for sign in name if not sign.isascii()):
            fitting[candidate] = names
    if not fitting:
        shown = enumerate_some([repr(name.decode("ascii", "backslashreplace")) for name in raw], 3)
        raise DataError(
            f"{archive}: names of its members are not UTF-8 ({shown}), and their encoding cannot be told. Name it by "
            "--archive-encoding (gbk, cp932, cp866, ...), or pack the folder anew."
        )
    chosen, names = next(iter(fitting.items()))
    parts = dict.fromkeys(part for name in names for part in name.replace("\\", "/").split("/") if not part.isascii())
    others = f", which {', '.join(list(fitting)[1:])} would fit too" if len(fitting) > 1 else ""
    return names, (
        f"names in the archive are not UTF-8; read as {chosen}{others}, as in {enumerate_some(list(parts), 3)}; "
        "--archive-encoding sets another"
    )


def check_encoding(encoding: str) -> None:
    """Raise `DataError` for an encoding that Python does not know, or that is none of text."""
    try:
        known = codecs.lookup(encoding)._is_text_encoding
    except (LookupError, ValueError):
        known = False
    if not known:
        raise DataError(
            f"archive_encoding is {encoding!r}, expected one of Python's text encodings, such as gbk, cp932 or cp866."
        )


def _lead_byte(sign: str, encoding: str, low: int, high: int) -> bool:
    """Whether the first of a character's two bytes is in a range: that of the characters in daily use."""
    try:
        stored = sign.encode(encoding)
    except UnicodeEncodeError:
        return False
    return len(stored) == 2 and low <= stored[0] <= high


def _try(raw: Sequence[bytes], encoding: str) -> list[str] | None:
    try:
        return [name.decode(encoding) for name in raw]
    except UnicodeDecodeError:
        return None


def _decode(archive: str, name: bytes, encoding: str) -> str:
    try:
        return name.decode(encoding)
    except UnicodeDecodeError as error:
        shown = name.decode("ascii", "backslashreplace")
        raise DataError(f"{archive}: the name {shown!r} is not in {encoding}. Name another by --archive-encoding.") from error


def _unicode_path(extra: bytes, stored: bytes) -> str | None:
    """The name in UTF-8 that Info-ZIP keeps beside another, if it is still that of the stored one."""
    while len(extra) >= 4:
        number, size = struct.unpack_from("<HH", extra)
        if number == _UNICODE_PATH and 5 < size <= len(extra) - 4:
            version, checksum = struct.unpack_from("<BL", extra, 4)
            if version == 1 and checksum == zlib.crc32(stored):
                names = _try([extra[9 : 4 + size]], "utf-8")
                return names[0] if names else None
        extra = extra[4 + size :]
    return None
