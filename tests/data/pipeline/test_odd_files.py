"""Files that others stumble over: odd EXIF, large texts, no end mark, too many pixels, other things that are named .jpg."""

import hashlib
import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from svp.data import UnreadableImageError, check_files, find_images, load_image, load_prepared
from svp.data.pipeline.decoding import NO_END_MARK, ImageReader
from svp.data.pipeline.formats import FORMATS_FOR_STRANGERS, IMAGE_SUFFIXES, enable_heif
from svp.data.pipeline.opening import MAX_ASPECT
from svp.inputs import InputConfig, eval_transform
from tests.data.pipeline.test_samples import write_tiff


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVP_HOME", str(tmp_path / "home"))


def photo(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(kind: str = "JPEG", image: Image.Image | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image or photo()).save(stream, kind, **options)
    return stream.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def same(path: Path, expected: Image.Image) -> bool:
    before = hashlib.sha256(path.read_bytes()).digest()
    found = load_image(path)
    assert hashlib.sha256(path.read_bytes()).digest() == before  # files are never rewritten
    return found.size == expected.size and found.tobytes() == expected.tobytes()


# EXIF, texts, profiles ---------------------------------------------------------------------------------------------------


def exif(*entries: tuple[int, int, int, bytes], order: str = "<", orientation: int = 6) -> bytes:
    """EXIF data with an orientation and further entries (tag, kind, count, data), written as they are."""
    start = 8 + 2 + 12 * (1 + len(entries)) + 4
    body, extra = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0), b""
    for tag, kind, count, data in entries:
        body += struct.pack(f"{order}HHII", tag, kind, count, start + len(extra))
        extra += data
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return mark + struct.pack(f"{order}IH", 8, 1 + len(entries)) + body + bytes(4) + extra


ODD = {
    "a resolution in words": exif((0x011A, 2, 7, b"72 dpi\0")),
    "a denominator of zero": exif((0x9204, 10, 1, struct.pack("<ii", -1, 0))),
    "an unknown kind": exif((0x9999, 99, 1, b"abcd")),
    "text of no encoding": exif((0x010E, 2, 4, b"\xff\xfe\xfd\0")),
    "an offset beyond the end": exif((0x011B, 5, 1000, b"")),
    "a folder that holds itself": exif((0x8769, 4, 1, b"")) + struct.pack("<I", 8),
    "a count that is too high": exif()[:8] + struct.pack("<H", 60_000) + exif()[10:],
    "the other order of bytes": exif((0x011A, 2, 7, b"72 dpi\0"), order=">"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP", "MPO"])
def test_odd_exif_leaves_the_pixels_and_the_orientation(tmp_path: Path, kind: str, suffix: str) -> None:
    options: dict[str, Any] = {"WEBP": {"lossless": True}}.get(suffix, {})
    upright = load_image(put(tmp_path / "a", encoded(suffix, **options))).transpose(Image.Transpose.ROTATE_270)
    data = ODD[kind] if suffix == "PNG" else b"Exif\0\0" + ODD[kind]
    assert same(put(tmp_path / "b", encoded(suffix, exif=data, **options)), upright)


@pytest.mark.parametrize("data", [b"Exif\0\0rubbish", b"rubbish", b"II*\0\xff\xff\xff\xff"])
@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP"])
def test_rubbish_in_the_place_of_exif(tmp_path: Path, data: bytes, suffix: str) -> None:
    options: dict[str, Any] = {"WEBP": {"lossless": True}}.get(suffix, {})
    plain = load_image(put(tmp_path / "a", encoded(suffix, **options)))
    content = encoded(suffix, exif=exif(), **options)
    assert same(put(tmp_path / "b", content.replace(exif(), data.ljust(len(exif())))), plain)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path: Path, orientation: int) -> None:
    path = put(tmp_path / "x.jpg", encoded(exif=b"Exif\0\0" + exif(orientation=orientation)))
    assert load_image(path).size == (64, 48)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("international", [True, False])
def test_a_png_with_a_text_of_megabytes(tmp_path: Path, zipped: bool, international: bool) -> None:
    text = PngImagePlugin.PngInfo()
    (text.add_itxt if international else text.add_text)("prompt", "x" * 2**21, zip=zipped)
    assert same(
        put(tmp_path / "x.png", encoded("PNG", pnginfo=text, exif=exif())), photo().transpose(Image.Transpose.ROTATE_270)
    )


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_a_png_with_more_text_after_its_pixels(tmp_path: Path) -> None:
    content = encoded("PNG")
    text = png_chunk(b"zTXt", b"late\0\0" + zlib.compress(bytes(2**21)))
    assert same(put(tmp_path / "x.png", content[:-12] + text + content[-12:]), photo())


@pytest.mark.parametrize("name", [b"pHYs", b"gAMA", b"cHRM", b"tIME", b"iCCP", b"eXIf", b"acTL", b"zTXt"])
@pytest.mark.parametrize("data", [b"", b"\xff" * 3, b"x\0\0rubbish"])
def test_a_png_with_broken_side_data(tmp_path: Path, name: bytes, data: bytes) -> None:
    content = encoded("PNG")
    for checksum in (zlib.crc32(name + data), 0):
        chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)
        assert same(put(tmp_path / "x.png", content[:33] + chunk + content[33:]), photo())


@pytest.mark.parametrize("mark", [*range(0xE1, 0xF0), 0xFE])
@pytest.mark.parametrize(
    "data", [b"", b"MPF\0rubbish", b"Exif\0\0rubbish", b"ICC_PROFILE\0\x05\x02x", b"Photoshop 3.0\0" + bytes(9)]
)
def test_a_jpeg_with_broken_side_data(tmp_path: Path, mark: int, data: bytes) -> None:
    content = encoded()
    plain = load_image(put(tmp_path / "a.jpg", content))
    segment = bytes((0xFF, mark)) + struct.pack(">H", 2 + len(data)) + data
    assert same(put(tmp_path / "b.jpg", content[:2] + segment + content[2:]), plain)


@pytest.mark.parametrize(("tag", "value"), [(34665, 4_000_000), (34853, 8), (40965, 7), (700, (1, 2, 3)), (330, 99_999)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_tiff_with_broken_side_data(tmp_path: Path, tag: int, value: Any, orientation: int) -> None:
    plain = load_image(write_tiff(tmp_path / "a.tif", np.asarray(photo()), t274=orientation))
    assert same(write_tiff(tmp_path / "b.tif", np.asarray(photo()), t274=orientation, **{f"t{tag}": value}), plain)


@pytest.mark.parametrize("profile", [bytes(2**21), b"rubbish"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_profile_too_large_or_broken(tmp_path: Path, profile: bytes, kind: str) -> None:
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 90}}.get(kind, {})
    plain = load_image(put(tmp_path / "a", encoded(kind, **options)))
    assert same(put(tmp_path / "b", encoded(kind, icc_profile=profile, **options)), plain)


@pytest.mark.parametrize("space", ["LAB", "XYZ", "sRGB"])
@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("PNG", "L"), ("JPEG", "L"), ("JPEG", "CMYK"), ("JPEG", "RGB")])
def test_a_profile_of_another_space(tmp_path: Path, space: Any, kind: str, mode: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
    plain = load_image(put(tmp_path / "a", encoded(kind, photo(mode=mode))))
    assert same(put(tmp_path / "b", encoded(kind, photo(mode=mode), icc_profile=profile)), plain)


# JPEGs without their end -------------------------------------------------------------------------------------------------

JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "gray": {"image": photo(mode="L")},
    "restarts": {"restart_marker_blocks": 1},
    "no subsampling": {"subsampling": 0, "optimize": True},
    "odd size": {"image": photo(37, 51), "quality": 95},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("ending", [b"", b"\xff", bytes(700)], ids=["cut", "half a mark", "zeros"])
def test_a_jpeg_without_end_mark_is_read_with_a_note(tmp_path: Path, kind: str, ending: bytes) -> None:
    content = encoded(**JPEGS[kind])
    expected = load_image(put(tmp_path / "a.jpg", content))
    path = put(tmp_path / "b.jpg", content[:-2] + ending)
    assert same(path, expected)
    assert check_files([path]).notes == check_files([path]).notes == {path: NO_END_MARK}  # the second time as remembered


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_lacks_more_is_not_read(tmp_path: Path, kind: str) -> None:
    content = encoded(**JPEGS[kind])
    begin = content.index(b"\xff\xda")
    marks = [i for i in range(begin, len(content) - 2) if content[i] == 0xFF and content[i + 1] not in (0, 0xFF)]
    for length in {begin, *marks, *range(begin + 20, len(content) - 4, 97), len(content) - 5}:
        with pytest.raises(UnreadableImageError, match=r"x\.jpg: "):
            load_image(put(tmp_path / "x.jpg", content[:length]))
        with pytest.raises(UnreadableImageError, match=r"x\.jpg: "):
            load_image(put(tmp_path / "x.jpg", content[:length] + bytes(700)))


def test_what_follows_the_end_mark_does_not_matter(tmp_path: Path) -> None:
    for ending in (bytes(700), b"a video" + bytes(9)):
        path = put(tmp_path / "x.jpg", encoded() + ending)
        assert same(path, load_image(put(tmp_path / "a.jpg", encoded())))
        assert not check_files([path]).notes


# size --------------------------------------------------------------------------------------------------------------------


def test_too_many_pixels_are_read_where_they_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "x.png", encoded("PNG", photo(400, 300)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    with pytest.raises(UnreadableImageError, match=r"400 x 300 pixels, above the limit .* --max-pixels 120000 reads it"):
        load_image(path)
    assert load_image(path, max_pixels=120_000).tobytes() == photo(400, 300).tobytes()
    with pytest.raises(UnreadableImageError, match="expected at most 119,999 in all"):
        load_image(path, max_pixels=119_999)
    assert check_files([path]).unreadable
    assert not check_files([path], max_pixels=120_000).unreadable
    assert check_files([path]).unreadable  # what was allowed once is not remembered as readable


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_far_too_many_pixels_are_decoded_small(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "x", encoded(kind, photo(640, 480)))
    whole = load_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    small = load_image(path, max_pixels=1_000_000)
    assert small.size == (160, 120)
    assert np.abs(np.asarray(small, int) - np.asarray(whole.resize((160, 120), Image.Resampling.BOX))).mean() < 4


def test_a_line_is_no_image(tmp_path: Path) -> None:
    path = put(tmp_path / "x.png", encoded("PNG", Image.new("1", (MAX_ASPECT + 1, 1))))
    with pytest.raises(UnreadableImageError, match="100001 x 1 pixels, expected one side at most 100,000 times the other"):
        load_image(path)
    path = put(tmp_path / "x.png", encoded("PNG", Image.new("1", (MAX_ASPECT, 1), 1)))
    tensor = load_prepared(path, eval_transform(InputConfig(mean=(0, 0, 0), std=(1, 1, 1))), load_image)
    assert (tensor == 1).all()


def test_a_transform_that_fails_is_the_failure_of_the_image(tmp_path: Path) -> None:
    def fail(image: Image.Image) -> Any:
        raise MemoryError

    with pytest.raises(UnreadableImageError, match=r"x\.jpg: not enough memory"):
        load_prepared(put(tmp_path / "x.jpg", encoded()), fail, load_image)


# what is named as an image -----------------------------------------------------------------------------------------------

OTHERS = {
    "a Git LFS pointer.*git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    + b"0" * 64
    + b"\nsize 12345\n",
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a web page.*": b"\xef\xbb\xbf\n  <HTML lang=en>\n",
    "a web page..*": "<html>\n".encode("utf-16"),
    "an XML document": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "an SVG drawing": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "a JSON document": b'{"message": "Not Found"}',
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3",
    "a video": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    "a video.*": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
    "a video..*": b"RIFF\0\0\0\0AVI LIST",
    "a video...*": b"\x1aE\xdf\xa3\x93B\x82\x88matroska",
    "a video....*": b"\0\0\x01\xb3\x14\0\xf0\x13\xff\xff\xe0\x18",
    "a zip archive": b"PK\x03\x04\x14\0\0\0",
    "a gzip archive": b"\x1f\x8b\x08\0",
    "a tar archive": b"cat/1.jpg".ljust(257, b"\0") + b"ustar\x0000",
    "a DICOM file": bytes(128) + b"DICM",
    "a NumPy array": b"\x93NUMPY\x01\0",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "nothing but zeros": bytes(4096),
    "the file is empty": b"",
    "not an image in a known format": b"notes",
}


@pytest.mark.parametrize("words", OTHERS)
def test_what_is_no_image_is_called_what_it_is(tmp_path: Path, words: str) -> None:
    for reader in (ImageReader(), ImageReader(max_pixels=10**6, formats=FORMATS_FOR_STRANGERS)):
        with pytest.raises(UnreadableImageError, match=rf"x\.jpg: .*{words}") as caught:
            reader(put(tmp_path / "x.jpg", OTHERS[words]))
        assert "\n" not in str(caught.value)


# suffixes ----------------------------------------------------------------------------------------------------------------


def test_what_pillow_reads_is_an_image(tmp_path: Path) -> None:
    kinds = {"a.jfif": "JPEG", "b.JPE": "JPEG", "c.avif": "AVIF", "d.jp2": "JPEG2000", "e.tga": "TGA", "f.pnm": "PPM"}
    kinds |= {"g.qoi": "QOI", "h.pcx": "PCX", "i.sgi": "SGI", "j.ico": "ICO", "k.dds": "DDS", "no_suffix": "PNG", "m": "WEBP"}
    for name, kind in kinds.items():
        put(tmp_path / name, encoded(kind, photo(32, 32)))
    for name in ("README", "x.txt", "Makefile"):
        put(tmp_path / name, b"BMP is a format")
    found = find_images([tmp_path])
    assert [path.name for path in found] == sorted(kinds)
    assert not check_files(found).unreadable


def test_all_suffixes_are_those_of_pillow() -> None:
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    assert known | {".mpo", ".heic", ".heif", ".hif"} >= IMAGE_SUFFIXES
    harmful = {".eps", ".ps", ".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf"}
    assert not IMAGE_SUFFIXES & harmful


def test_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    content = encoded("HEIF", quality=95)
    Image.OPEN.pop("HEIF")  # it is found without being asked for
    enable_heif.cache_clear()
    for reader in (ImageReader(), ImageReader(max_pixels=10_000, formats=FORMATS_FOR_STRANGERS)):
        found = reader(put(tmp_path / "x.jpg", content))
        assert np.abs(np.asarray(found, int) - np.asarray(photo())).mean() < 8


def test_heic_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    enable_heif.cache_clear()
    with pytest.raises(UnreadableImageError, match=r"a HEIC image, .*: pip install 'vim-svp\[heic\]'"):
        load_image(put(tmp_path / "x.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"))
    enable_heif.cache_clear()
