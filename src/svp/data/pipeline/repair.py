"""Files that a decoder stumbles over although their pixels are whole: what is in its way is left out, in memory only."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator

from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS")
_TIFF_NEEDED = {
    *(254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
    *(332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532, 42113),
}
_JPEG_SIDE = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # application segments and comments; 0xE0 is JFIF's, 0xEE Adobe's
_END = b"\xff\xd9"
_FILLINGS = (b"\0" * 64, b"\xaa" * 64, b"\x55" * 64, bytes(37 * k * k % 251 for k in range(1, 65)))
_TAILS = tuple(data + b"".join(bytes((0xFF, 0xD0 + k)) + data for k in range(8)) for data in _FILLINGS)
"""Coded data that might follow in a JPEG, beside all marks that might stand before them."""


def without_side_data(content: bytes) -> bytes | None:
    """A PNG or TIFF of pixels alone, or a JPEG without application segments; None if there is nothing to leave out.

    The segments of JFIF and Adobe stay: they say what the colors are.
    """
    if content.startswith(_PNG):
        kept = [data for name, data in _png_chunks(content) if name in _PNG_NEEDED]
        shorter = _PNG + b"".join(kept)
    elif content.startswith(b"\xff\xd8"):
        dropped = [
            (start, end) for mark, start, end in _jpeg_segments(content) if 0xE1 <= mark <= 0xED or mark in (0xEF, 0xFE)
        ]
        shorter, last = b"", 0
        for start, end in dropped:
            shorter += content[last:start]
            last = end
        shorter += content[last:]
    elif content.startswith((b"II*\0", b"MM\0*")):
        shorter = _tiff_pixels(content)
    else:
        return None
    return shorter if shorter != content else None


def find_exif(content: bytes) -> bytes:
    """EXIF data of a JPEG or PNG as they stand in the file; empty if there are none."""
    if content.startswith(_PNG):
        return next((data[8:-4] for name, data in _png_chunks(content) if name == b"eXIf"), b"")
    parts = (content[start + 4 : end] for mark, start, end in _jpeg_segments(content) if mark == 0xE1)
    return next((part for part in parts if part.startswith(b"Exif\0\0")), b"")


def exif_orientation(exif: bytes) -> int:
    """The tag of orientation, 1..8, of EXIF data whatever else is in them; 1 if there is none."""
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    try:
        if order is None:
            return 1
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", data, entry)
            if tag == 0x0112:
                return int(value)
    except struct.error:  # cut short
        pass
    return 1


def significant_bits(head: bytes) -> int | None:
    """Bits per sample that a PNG says are used (sBIT), given its first bytes; None if it says nothing."""
    for name, data in _png_chunks(head):
        if name == b"sBIT" and len(data) > 12:
            return max(data[8:-4])
    return None


def lacks_end(tail: bytes) -> bool:
    """Whether a JPEG with these last bytes may have been cut off and filled up with zeros, which decoders take for data."""
    return not tail.rstrip(b"\0").endswith(_END) and tail.endswith(b"\0\0")


def with_end_mark(content: bytes) -> bytes | None:
    """A JPEG with the end mark that it lacks; None if it has one, or if more is missing than that.

    All pixels are there if they do not depend on what would follow, and if no scan is missing.
    """
    if not content.startswith(b"\xff\xd8") or has_end_mark(content) or not _has_all_scans(content):
        return None
    unfilled = content.rstrip(b"\0")  # zeros at the end would stand for coded data
    for data in (content if len(content) - len(unfilled) < 2 else unfilled, unfilled.removesuffix(b"\xff")):
        with contextlib.suppress(Exception):  # as many kinds as there are damages
            pixels = _decode(data + _END)
            if all(_decode(data + tail + _END) == pixels for tail in _TAILS):
                return data + _END
    return None


def has_end_mark(content: bytes) -> bool:
    """Whether a JPEG has its end mark, whatever follows it."""
    return any(mark == 0xD9 for mark, _, _ in _jpeg_segments(content))


def _decode(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        return image.tobytes()


def _has_all_scans(content: bytes) -> bool:
    """Whether every component of a JPEG has all its coefficients to the last bit."""
    components: list[int] = []
    progressive = False
    precision: dict[tuple[int, int], int] = {}  # bits still missing by component and coefficient
    for mark, start, end in _jpeg_segments(content):
        data = content[start + 4 : end]
        if mark in (0xC0, 0xC1, 0xC2) and len(data) > 5:
            progressive = mark == 0xC2
            components = list(data[6::3])
        elif mark == 0xDA and data and len(data) >= 4 + 2 * data[0]:
            first, last, bits = data[1 + 2 * data[0] :][:3]
            wanted = range(first, min(last, 63) + 1) if progressive else range(64)
            precision |= {
                (component, k): bits & 15 if progressive else 0 for component in data[1::2][: data[0]] for k in wanted
            }
    return bool(components) and all(precision.get((component, k), 1) == 0 for component in components for k in range(64))


def _tiff_pixels(content: bytes) -> bytes:
    """The file with the first image alone, and no tags but those that its pixels need."""
    order = {b"I": "<", b"M": ">"}[content[:1]]
    try:
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, start)
    except struct.error:  # cut short
        return content
    entries = [content[position : position + 12] for position in range(start + 2, start + 2 + 12 * count, 12)]
    needed = [entry for entry in entries if len(entry) == 12 and struct.unpack(f"{order}H", entry[:2])[0] in _TIFF_NEEDED]
    directory = struct.pack(f"{order}H", len(needed)) + b"".join(needed) + bytes(4)
    return content[:start] + directory + content[start + len(directory) :]


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and bytes, with length and checksum, of every chunk; what is cut short as it is."""
    position = len(_PNG)
    while position < len(content):
        (length,) = struct.unpack(">I", content[position : position + 4].rjust(4, b"\0"))
        end = position + 12 + length
        yield content[position + 4 : position + 8], content[position:end]
        position = end


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Mark, start and end of every segment, that of a scan without its coded data."""
    position = 2
    while 0 <= position < len(content) - 3:
        if content[position] != 0xFF:  # coded data, or rubbish: on to the next mark
            position = content.find(b"\xff", position)
            continue
        mark = content[position + 1]
        if mark == 0xFF:
            position += 1
        elif mark in (0x00, 0x01) or 0xD0 <= mark <= 0xD8:
            position += 2
        elif mark == 0xD9:
            yield mark, position, position + 2
            return
        else:
            end = position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")
            yield mark, position, end
            position = max(end, position + 4)
