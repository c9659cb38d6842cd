"""What a file is, by its suffix and its first bytes: an image that Pillow reads, or something else that carries its name."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from PIL import Image

_SUFFIXES = (
    "jpg jpeg jpe jfif mpo png apng gif webp bmp dib tif tiff avif avifs heic heif hif jp2 j2k j2c jpc jpf jpx ppm pgm pbm "
    "pnm pfm tga icb vda vst sgi rgb rgba bw ras pcx dcx psd qoi dds ico cur icns xbm xpm fits fit im msp pcd pxr blp"
)

IMAGE_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())
"""Suffixes of the files that count as images: what Pillow decodes by itself, and HEIC where pillow-heif is installed."""

ARRAY_SUFFIX = ".npy"
"""Suffix of NumPy arrays, which count as images if they have three axes."""

EXPECTED_IMAGES = "images: .jpg, .png, .tif, .webp, .bmp, .gif and others that Pillow reads"
"""What a message says instead of all suffixes."""

FORMATS_FOR_STRANGERS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA", "HEIF")
"""Pillow's names of the formats that are read of what comes from strangers: none that runs a program, as EPS does."""

HEAD = 512
"""Number of first bytes that tell what a file is."""

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

_IMAGES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"8BPS", b"qoif", b"DDS "),
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"SIMPLE  ="),
)

_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the image itself; fetch the images by `git lfs pull`"),
    (0, b"%PDF-", "a PDF document; save its pages as images first"),
    (0, b"%!PS", "a PostScript document; save its pages as images first"),
    (4, b"ftyp", "a video; save frames of it as images first"),
    (8, b"AVI LIST", "a video; save frames of it as images first"),
    (0, b"\x1aE\xdf\xa3", "a video; save frames of it as images first"),
    (0, b"FLV\x01", "a video; save frames of it as images first"),
    (0, b"OggS", "a video or sound; save frames of it as images first"),
    (0, b"\0\0\x01\xba", "a video; save frames of it as images first"),
    (0, b"\0\0\x01\xb3", "a video; save frames of it as images first"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a video; save frames of it as images first"),
    (8, b"WAVE", "a sound, not an image"),
    (0, b"ID3", "a sound, not an image"),
    (0, b"PK\x03\x04", "a zip archive, or an office document; unpack it first"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (0, b"Rar!", "a RAR archive; unpack it first"),
    (0, b"BZh", "a bzip2 archive; unpack it first"),
    (0, b"\xfd7zXZ\0", "an xz archive; unpack it first"),
    (257, b"ustar", "a tar archive; unpack it first"),
    (128, b"DICM", "a DICOM file; save it as PNG or TIFF first"),
    (0, b"\x93NUMPY", "a NumPy array; save it as PNG or TIFF first"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file; save its images as PNG or TIFF first"),
    (0, b"SQLite format 3", "a database, not an image"),
    (0, b"AT&TFORM", "a DjVu document; save its pages as images first"),
)
"""Offset, bytes that stand there, and what such a file is and what can be done."""


class RefusedError(Exception):
    """The image is not to be decoded, whatever is done to the file; the message says why."""


def looks_like_image(path: Path) -> bool:
    """Whether the first bytes are those of an image, whatever the name; False where they cannot be read."""
    try:
        with path.open("rb") as file:
            return begins_as_image(file.read(HEAD))
    except OSError:
        return False


def begins_as_image(head: bytes) -> bool:
    """Whether these are the first bytes of an image."""
    return (
        head.startswith(_IMAGES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace())
        or is_heif(head)
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"))
    )


def is_heif(head: bytes) -> bool:
    """Whether these are the first bytes of a HEIC image."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head[12:32]


@cache
def enable_heif() -> bool:
    """Make HEIC known to Pillow by pillow-heif; False if that is not installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    Image.init()
    return True


def what_it_is(head: bytes) -> str | None:
    """What a file with these first bytes is and what to do about it, in words; None if that is not known."""
    if not head:
        return "the file is empty; copy or download it again"
    if is_heif(head):
        return None if enable_heif() else "a HEIC image, which needs pillow-heif: pip install 'vim-svp[heic]'"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return None
    for offset, magic, words in _OTHERS:
        if head.startswith(magic, offset):
            return words
    if not head.strip(b"\0"):
        return "begins with nothing but zeros, as a copy or download that was cut off; fetch it again"
    return _text(head)


def _text(head: bytes) -> str | None:
    """What a text is."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = head.decode(encoding, errors="ignore").lstrip()
    lower = text.lower()
    if "<svg" in lower:
        return "an SVG drawing; save it as PNG first"
    if lower.startswith(("<!doctype html", "<html", "<head", "<body", "<script", "<!--")) or "<html" in lower:
        return "a web page that was saved instead of an image; download the image again"
    if lower.startswith("<?xml") or (lower.startswith("<") and ">" in lower and text.isprintable()):
        return "an XML document, such as the error message of a server; download the image again"
    if lower.startswith(("{", "[")) and text.replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable():
        return "a JSON document, such as the error message of a server; download the image again"
    return None
