"""Images with more than 8 bits per sample: the range of values, no-data, alpha, color of 16 bits, in Pillow's layouts."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svp.data import UnreadableImageError, check_files, load_image
from svp.data.pipeline.decoding import ImageReader
from svp.data.pipeline.value_ranges import SampleFacts, choose_range, describe_samples
from svp.inputs import ValueRange

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVP_HOME", str(tmp_path / "home"))


def write_tiff(path: Path, values: Array, order: str = "<", **tags: Any) -> Path:
    """An uncompressed TIFF: (height, width) or (height, width, samples), with further tags by number, as SHORT or ASCII."""
    height, width, samples = values.shape if values.ndim == 3 else (*values.shape, 1)
    ordered = np.moveaxis(values, -1, 0) if tags.get("t284") == 2 else values
    data = ordered.astype(values.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    given = {int(name[1:]): value for name, value in tags.items()}
    entries = {256: width, 257: height, 258: (8 * values.itemsize,) * samples, 259: 1, 262: 2 if samples > 2 else 1}
    planes = given.get(284) == 2
    entries |= {
        273: (0,) * samples if planes else 0,
        277: samples,
        278: height,
        279: len(data),
        339: (kind,) * samples,
    } | given
    extra, body = b"", b""
    start = 8 + 2 + 12 * len(entries) + 4
    first = start + sum(2 * len(v) for v in entries.values() if isinstance(v, tuple | str | bytes)) + 64
    entries[273] = tuple(first + k * len(data) // samples for k in range(samples)) if planes else first
    if planes:
        entries[279] = (len(data) // samples,) * samples
    for tag, value in sorted(entries.items()):
        if isinstance(value, str):
            text = value.encode() + b"\0"
            body += (
                struct.pack(f"{order}HHII", tag, 2, len(text), start + len(extra))
                if len(text) > 4
                else (struct.pack(f"{order}HHI", tag, 2, len(text)) + text.ljust(4, b"\0"))
            )
            extra += text if len(text) > 4 else b""
        elif isinstance(value, tuple) and len(value) > 2:
            body += struct.pack(f"{order}HHII", tag, 3, len(value), start + len(extra))
            extra += struct.pack(f"{order}{len(value)}H", *value)
        elif isinstance(value, tuple):
            body += struct.pack(f"{order}HHI", tag, 3, len(value)) + struct.pack(f"{order}{len(value)}H", *value).ljust(
                4, b"\0"
            )
        else:
            body += struct.pack(f"{order}HHII", tag, 4, 1, value)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8) + struct.pack(f"{order}H", len(entries)) + body
    content = (head + bytes(4) + extra).ljust(first, b"\0")
    path.write_bytes(content + data)
    return path


def write_png(path: Path, values: Array, chunks: bytes = b"") -> Path:
    """A 16-bit PNG of 1 to 4 samples, every line filtered by another filter."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    values = values if values.ndim == 3 else values[..., None]
    height, width, samples = values.shape
    lines = values.astype(">u2").reshape(height, -1).view(np.uint8).astype(int)
    pixel, packed = 2 * samples, b""
    for row, line in enumerate(lines):
        left = np.concatenate([np.zeros(pixel, int), line[:-pixel]])
        above = lines[row - 1] if row else np.zeros_like(line)
        number = row % 3  # none, from the left, from above
        packed += bytes([number]) + ((line - [0 * left, left, above][number]) % 256).astype(np.uint8).tobytes()
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[samples]
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    for name, data in [] if not chunks else [(chunks[:4], chunks[4:])]:
        content += chunk(name, data)
    path.write_bytes(content + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b""))
    return path


def ramp(top: float, dtype: Any, bottom: float = 0) -> Array:
    return np.tile(np.linspace(bottom, top, 64).astype(dtype), (6, 1))


def levels(path: Path, value_range: ValueRange = "file") -> Array:
    return np.asarray(load_image(path, value_range=value_range))[..., 0]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", ["png", "tif", "big.tif", "pgm"])
def test_the_range_is_that_of_the_bits_in_use(tmp_path: Path, bits: int, suffix: str) -> None:
    values = ramp(2**bits - 1, np.uint16)
    path = tmp_path / f"x.{suffix}"
    if suffix == "big.tif":
        write_tiff(path, values, ">")
    else:
        Image.fromarray(values).save(path)
    np.testing.assert_array_equal(levels(path), np.floor(values * (255 / (2**bits - 1)) + 0.5))


def test_twelve_bits_in_a_row_of_bytes(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 2000, 4000]])  # 4000 of 4095, though 12 bits are what the file says
    a, b, c, d = values[0].tolist()
    packed = bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255, c >> 4, (c & 15) << 4 | d >> 8, d & 255])
    path = write_tiff(tmp_path / "x.tif", np.frombuffer(packed, np.uint8)[None], t256=4, t258=12, t279=6)
    assert levels(path)[0].tolist() == [0, 62, 125, 249]


def test_the_bits_that_a_png_names_count(tmp_path: Path) -> None:
    values = ramp(900, np.uint16)
    assert levels(write_png(tmp_path / "a.png", values)).max() == 224  # of 1023
    assert levels(write_png(tmp_path / "b.png", values, b"sBIT\x0c")).max() == 56  # of 4095
    assert levels(write_png(tmp_path / "d.png", values, b"sBIT\x10")).max() == 224  # all there are, which says nothing
    assert levels(write_png(tmp_path / "c.png", values * 70, b"sBIT\x0c")).max() == 245  # shifted up, as PNG has it


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_samples_span_what_they_hold(tmp_path: Path, dtype: Any, order: str) -> None:
    path = write_tiff(tmp_path / "x.tif", ramp(3071, dtype, -1024), order)
    found = levels(path)
    assert (found[0, 0], found[0, -1]) == (0, 255)
    assert len(np.unique(found)) == 64
    np.testing.assert_array_equal(levels(path, (0, 3071))[0, :16], 0)


def test_unsigned_32_bits_do_not_turn_negative(tmp_path: Path) -> None:
    found = levels(write_tiff(tmp_path / "x.tif", ramp(2**32 - 1, np.uint32)))
    assert (np.diff(found[0].astype(int)) >= 0).all()
    assert (found[0, 0], found[0, -1]) == (0, 255)


@pytest.mark.parametrize("top", [1.0, 255.0, 4095.0])
@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, -9999.0, -3.4028235e38, 9.96921e36, 1e20])
def test_no_data_is_black_and_no_end_of_the_range(tmp_path: Path, top: float, hole: float) -> None:
    values = ramp(top, np.float32)
    expected = np.floor(values * np.float64(255 / top) + 0.5)
    values[:2], expected[:2] = hole, 0
    path = write_tiff(tmp_path / "x.tif", values)
    np.testing.assert_allclose(levels(path), expected, atol=1)
    facts = ImageReader().decode(path).samples
    assert facts is not None
    assert (facts.least, facts.greatest, facts.no_data) == (0, top, True)


@pytest.mark.parametrize(("dtype", "hole"), [(np.float32, 7777.0), (np.uint16, 65535), (np.int16, 32767), (np.float32, 1e20)])
def test_gdal_names_what_has_no_value(tmp_path: Path, dtype: Any, hole: float) -> None:
    values = ramp(1000, dtype)
    values[:2] = hole
    found = levels(write_tiff(tmp_path / "x.tif", values, t42113=f"{hole:g}" if hole != 65535 else "65535"))
    assert found[:2].max() == 0
    assert found[2:].max() == 249  # of 1023


def test_nothing_but_no_data_is_black(tmp_path: Path) -> None:
    assert levels(write_tiff(tmp_path / "x.tif", np.full((4, 4), np.nan, np.float32))).max() == 0


def color(top: int, samples: int) -> Array:
    values = np.random.default_rng(samples).integers(0, top + 1, (9, 11, samples)).astype(np.uint16)
    values[0, 0] = top
    return values


def scaled(values: Array, top: float) -> Array:
    return np.floor(values * (255 / top) + 0.5)


@pytest.mark.parametrize("top", [1023, 4095, 65535])
def test_color_of_16_bits(tmp_path: Path, top: int) -> None:
    values = color(top, 3)
    for path in (
        write_png(tmp_path / "x.png", values),
        write_tiff(tmp_path / "l.tif", values),
        write_tiff(tmp_path / "b.tif", values, ">"),
        write_tiff(tmp_path / "lp.tif", values, t284=2),
        write_tiff(tmp_path / "bp.tif", values, ">", t284=2),
    ):
        np.testing.assert_array_equal(np.asarray(load_image(path)), scaled(values, top), str(path))
        np.testing.assert_array_equal(np.asarray(load_image(path, value_range="type")), values >> 8)  # as 0.1.0


def test_compressed_color_of_16_bits(tmp_path: Path) -> None:
    values = color(4095, 3)
    plain = write_tiff(tmp_path / "x.tif", values)
    with Image.open(plain) as image:
        tags = dict(image.tag_v2)  # type: ignore[attr-defined]
    data = zlib.compress(values.astype("<u2").tobytes())
    content = bytearray(plain.read_bytes()[: tags[273][0]] + data)
    for entry in range(10, 10 + 12 * len(tags), 12):
        tag = struct.unpack_from("<H", content, entry)[0]
        if tag in (259, 279):
            struct.pack_into("<I", content, entry + 8, {259: 8, 279: len(data)}[tag])
    plain.write_bytes(content)
    np.testing.assert_array_equal(np.asarray(load_image(plain)), scaled(values, 4095))


@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize("top", [4095, 65535])
def test_transparency_of_16_bits_lies_over_white(tmp_path: Path, samples: int, top: int) -> None:
    values = color(top, samples)
    values[:4, :, -1], values[4:, :, -1] = top, 0
    found = np.asarray(load_image(write_png(tmp_path / "x.png", values)))
    np.testing.assert_array_equal(found[:4], np.broadcast_to(scaled(values[:4, :, :-1], top), found[:4].shape))
    assert found[4:].min() == 255


def test_a_transparent_color_of_16_bits(tmp_path: Path) -> None:
    values = color(65535, 3)
    path = write_png(tmp_path / "x.png", values, b"tRNS" + struct.pack(">3H", *values[3, 3].tolist()))
    found, expected = np.asarray(load_image(path)), scaled(values, 65535)
    expected[3, 3] = 255
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("extra", "alpha"), [(None, False), (0, False), (2, True)])
def test_a_fourth_sample_is_alpha_where_the_file_says_so(tmp_path: Path, dtype: Any, extra: int | None, alpha: bool) -> None:
    top = np.iinfo(dtype).max
    values = np.random.default_rng(0).integers(0, top, (8, 8, 4)).astype(dtype)
    values[0, 0, 0], values[..., 3] = top, 0
    path = write_tiff(tmp_path / "x.tif", values, **({} if extra is None else {"t338": (extra,)}))
    expected = np.full((8, 8, 3), 255) if alpha else scaled(values[..., :3], top)
    np.testing.assert_array_equal(np.asarray(load_image(path)), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_premultiplied_alpha(tmp_path: Path, dtype: Any) -> None:
    top = int(np.iinfo(dtype).max)
    values = np.zeros((4, 4, 4), dtype)
    values[..., 0], values[..., 3] = top // 2, top // 2  # pure red, half of it there
    values[0, 0] = top
    found = np.asarray(load_image(write_tiff(tmp_path / "x.tif", values, t338=(1,)))).astype(int)
    assert np.abs(found[1:] - [255, 128, 128]).max() <= 1
    assert found[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_white_may_be_the_low_end(tmp_path: Path, dtype: Any) -> None:
    values = ramp(1023, dtype)
    path = write_tiff(tmp_path / "x.tif", values, t262=0)
    np.testing.assert_array_equal(levels(path), 255 - scaled(values, 1023))


def test_one_range_for_all_files(tmp_path: Path) -> None:
    dark = write_tiff(tmp_path / "dark.tif", ramp(200, np.uint16))
    bright = write_tiff(tmp_path / "bright.tif", ramp(4000, np.uint16))
    checked = check_files([dark, bright])
    assert checked.samples == {
        dark: SampleFacts("16-bit", 0, 200),
        bright: SampleFacts("16-bit", 0, 4000),
    }
    assert check_files([dark, bright]) == checked  # as it is remembered
    summary = describe_samples(checked.samples)
    assert (summary.value_range, summary.mixed) == ((0, 4095), False)
    assert summary.text == "2 images of 16-bit samples, 0 to 4000"
    assert levels(dark, summary.value_range).max() == 12
    assert levels(dark).max() == 200  # alone, it takes the range for its own


def test_fractions_beside_larger_numbers_are_warned_of(tmp_path: Path) -> None:
    paths = [write_tiff(tmp_path / "a.tif", ramp(1, np.float32)), write_tiff(tmp_path / "b.tif", ramp(4000, np.uint16))]
    summary = describe_samples(check_files(paths).samples)
    assert summary.mixed
    assert "no one range fits" in summary.text


@pytest.mark.parametrize(
    ("least", "greatest", "kind", "expected", "by_type"),
    [
        (0, 0, "16-bit", (0, 255), (0, 65535)),
        (5, 256, "16-bit", (0, 1023), (0, 65535)),
        (0, 20_000, "16-bit", (0, 65535), (0, 65535)),
        (-3, 7, "signed", (-3, 7), (-3, 7)),
        (0, 70_000, "32-bit", (0, 70_000), (0, 70_000)),
        (0, 300, "32-bit", (0, 1023), (0, 65535)),
        (0, 0.5, "floating-point", (0, 1), (0, 1)),
        (0, 2.5, "floating-point", (0, 2.5), (0, 255)),
        (0, 0.003, "floating-point", (0, 0.003), (0, 1)),
        (0, 200, "floating-point", (0, 255), (0, 255)),
        (0, 0, "floating-point", (0, 1), (0, 1)),
        (-5, -5, "signed", (-5, -4), (-5, -4)),
    ],
)
def test_ranges(least: float, greatest: float, kind: str, expected: Any, by_type: Any) -> None:
    assert choose_range([SampleFacts(kind, least, greatest)]) == expected
    assert choose_range([SampleFacts(kind, least, greatest)], by_type=True) == by_type


def test_8_bit_images_take_no_range(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(ramp(40, np.uint8)).save(path)
    np.testing.assert_array_equal(levels(path, (0, 40)), ramp(40, np.uint8))
    assert check_files([path]).samples == {}


def test_a_tiff_that_pillow_does_not_read_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="a TIFF that is damaged or of a kind that Pillow does not read"):
        load_image(write_tiff(tmp_path / "x.tif", ramp(1, np.float64)))


def test_a_fourth_sample_of_a_tga_is_alpha_where_its_header_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.tga"
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(path)
    assert load_image(path).getpixel((0, 0)) == (255, 255, 255)
    content = bytearray(path.read_bytes())
    content[17] &= 0xF0
    path.write_bytes(content)
    assert load_image(path).getpixel((0, 0)) == (10, 20, 30)
