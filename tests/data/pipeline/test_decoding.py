"""Decoding: every mode comes out as the RGB one would see; what cannot be decoded is named, counted and remembered."""

import sqlite3
import struct
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svp.data import (
    DataError,
    ImageData,
    Split,
    Unreadable,
    UnreadableImageError,
    check_unreadable,
    drop_unreadable,
    find_unreadable,
    load_image,
)
from svp.data.pipeline import samples
from svp.data.pipeline.decoding import DecodedImage, ImageReader
from svp.data.remembered import Memory


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SVP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def pixel(path: Path, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = load_image(path)
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "expected"),
    [
        ("RGB", (10, 200, 30), "png", (10, 200, 30)),
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("LA", (0, 0), "png", (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), "png", (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), "png", (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), "webp", (127, 127, 127)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),
        ("I;16", 32896, "png", (128, 128, 128)),  # 128 * 257
        ("I;16", 65535, "tif", (255, 255, 255)),
        ("I", 65535, "tif", (255, 255, 255)),
        ("I", 200, "tif", (200, 200, 200)),
        ("F", 0.5, "tif", (128, 128, 128)),
        ("F", 1.0, "tif", (255, 255, 255)),
        ("F", 200.0, "tif", (200, 200, 200)),
        ("F", -7.0, "tif", (0, 0, 0)),
    ],
)
def test_modes(tmp_path: Path, mode: str, color, suffix: str, expected) -> None:  # type: ignore[no-untyped-def]
    path = save(tmp_path / f"x.{suffix}", Image.new(mode, (4, 4), color), **({"lossless": True} if suffix == "webp" else {}))
    assert pixel(path) == expected


def test_unusual_float_range_is_stretched(tmp_path: Path) -> None:
    values = np.array([[-1000.0, 0.0, 3000.0]], dtype=np.float32)
    path = save(tmp_path / "x.tif", Image.fromarray(values))
    assert [pixel(path, x)[0] for x in range(3)] == [0, 64, 255]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    red, green, blue = pixel(save(tmp_path / "x.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95))
    assert red > 240
    assert max(green, blue) < 15


def test_transparent_palette_color_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    path = save(tmp_path / "x.png", image, transparency=0)
    assert [pixel(path, x) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste("white", (0, 0, 16, 8))  # white in the upper left only
    turned = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(save(tmp_path / "x.jpg", turned, exif=exif, quality=95))
    assert image.size == (32, 16)
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(upright, dtype=int)).max() < 40


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    assert pixel(save(tmp_path / "x.gif", frames[0], save_all=True, append_images=frames[1:])) == (255, 0, 0)


def noise(path: Path, size: int = 64) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return save(path, Image.fromarray(values))


def make_truncated(path: Path) -> None:
    content = noise(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def make_bomb(path: Path) -> None:
    """A PNG header that claims 50,000 x 50,000 pixels."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")))
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)


BROKEN = {
    "truncated": (make_truncated, r"truncated"),
    "text": (lambda path: path.write_text("not an image"), r"not an image in a known format"),
    "zero bytes": (lambda path: path.touch(), r"the file is empty; copy or download it again"),
    "bomb": (make_bomb, r"decompression bomb"),
    "missing": (lambda path: None, r"No such file or directory"),
    "folder": (lambda path: path.mkdir(), r"Is a directory"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_decoded_is_named_with_the_reason(tmp_path: Path, kind: str) -> None:
    make, reason = BROKEN[kind]
    path = tmp_path / "x.jpg"
    make(path)
    with pytest.raises(UnreadableImageError, match=rf"x\.jpg: .*{reason}") as caught:
        load_image(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    (found,) = find_unreadable([path])
    assert found == Unreadable(path, caught.value.reason)


@pytest.mark.parametrize("error", [IndexError("x"), struct.error("x"), SyntaxError("x"), KeyError("x")])
def test_any_failure_of_a_decoder_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(samples, "read_samples", fail)
    with pytest.raises(UnreadableImageError, match=r"x\.png: .*x"):
        load_image(noise(tmp_path / "x.png"))


def count_decoding(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    decoded: list[Path] = []

    decode = ImageReader.decode

    def count(reader: ImageReader, path: Path) -> DecodedImage:
        decoded.append(path)
        return decode(reader, path)

    monkeypatch.setattr(ImageReader, "decode", count)
    return decoded


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    good = [noise(tmp_path / f"{index}.png", 8) for index in range(4)]
    make_truncated(tmp_path / "bad.png")
    (tmp_path / "worse.png").write_text("x")
    return [good[0], tmp_path / "worse.png", *good[1:], tmp_path / "bad.png"]


def test_find_unreadable_keeps_the_order_and_tells_progress(files: list[Path]) -> None:
    steps: list[int] = []
    found = find_unreadable(files, steps.append)
    assert [entry.path.name for entry in found] == ["worse.png", "bad.png"]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_readable_files_are_decoded_once(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = count_decoding(monkeypatch)
    first = find_unreadable(files)
    assert sorted(decoded) == sorted(files)
    decoded.clear()
    assert find_unreadable(files) == first
    assert {path.name for path in decoded} == {"worse.png", "bad.png"}


def test_a_changed_file_is_decoded_again(files: list[Path]) -> None:
    find_unreadable(files)
    files[0].write_text("overwritten")
    assert files[0] in {entry.path for entry in find_unreadable(files)}


def test_cache_of_several_folders_is_kept(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    good = [files[0], files[2]]
    find_unreadable(good[:1])
    find_unreadable(good[1:])
    decoded = count_decoding(monkeypatch)
    assert find_unreadable(good) == ()
    assert decoded == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"SQLite format 3\0" + bytes(4096)], ids=range(4))
def test_a_broken_cache_is_ignored_and_replaced(
    files: list[Path], home: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    find_unreadable(files)
    (cache,) = (home / "cache").iterdir()  # nothing temporary is left
    cache.write_bytes(content)
    decoded = count_decoding(monkeypatch)
    for _ in range(2):  # one check finds it broken, and its successor finds what that one wrote
        decoded.clear()
        assert len(find_unreadable(files)) == 2
    assert {path.name for path in decoded} == {"worse.png", "bad.png"}


def test_entries_of_another_form_are_ignored(files: list[Path], home: Path) -> None:
    find_unreadable(files)
    (cache,) = (home / "cache").iterdir()
    with closing(sqlite3.connect(cache)) as database, database:
        database.execute("UPDATE readable SET found = '[1]'")
    assert len(find_unreadable(files)) == 2


def test_a_run_reads_what_is_known_of_its_own_images_alone(files: list[Path]) -> None:
    find_unreadable(files)
    assert set(Memory(files[:1], None).known) == {files[0]}
    assert not Memory(files[:1], 10_000).known  # found by another limit


def test_a_cache_that_cannot_be_written_is_done_without(files: list[Path], home: Path) -> None:
    home.write_text("a file where the folder should be")
    assert len(find_unreadable(files)) == 2


def split(part: str, *counts: int) -> Split:
    paths = [(Path(part) / f"{label}/{index}.jpg", label) for label, count in enumerate(counts) for index in range(count)]
    return Split(tuple(path for path, _ in paths), tuple(label for _, label in paths), "made up")


DATA = ImageData("x", Path("root"), ("a", "b"), split("train", 40, 60), split("val", 1, 1), split("test", 1, 1))


def broken(paths: tuple[Path, ...]) -> list[Unreadable]:
    return [Unreadable(path, "cut short") for path in paths]


def test_drop_unreadable_keeps_labels_with_their_paths() -> None:
    kept = drop_unreadable(DATA.train, broken(DATA.train.paths[1:3] + DATA.train.paths[-1:]))
    assert len(kept) == 97
    assert all(path.parent.name == str(label) for path, label in zip(kept.paths, kept.labels, strict=True))
    assert kept.origin == "made up"


def test_up_to_five_percent_of_train_may_be_unreadable() -> None:
    check_unreadable(DATA, broken(DATA.train.paths[:5] + DATA.test.paths[:1]))
    with pytest.raises(
        DataError, match=r"root: 6 of 100 training images .* more than 5%: cut short \(train/0/0.jpg, .* and 3 more\)"
    ):
        check_unreadable(DATA, broken(DATA.train.paths[:6]))


def test_a_class_must_keep_a_training_image() -> None:
    data = replace(DATA, train=split("train", 1, 99))
    with pytest.raises(DataError, match=r"1 of 100 training .* leaves none of a: train/0/0.jpg"):
        check_unreadable(data, broken(data.train.paths[:1]))


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_part_must_keep_an_image(part: str) -> None:
    with pytest.raises(DataError, match=r"2 of 2 (validation|test) images cannot be read, which leaves none"):
        check_unreadable(DATA, broken(getattr(DATA, part).paths))


def smooth(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("least_side", "size"), [(None, (640, 480)), (241, (640, 480)), (240, (320, 240)), (110, (160, 120)), (8, (80, 60))]
)
def test_a_large_jpeg_is_decoded_at_the_scale_that_is_enough(
    tmp_path: Path, least_side: int | None, size: tuple[int, int]
) -> None:
    path = save(tmp_path / "a.jpg", smooth(640, 480), quality=95)
    read = ImageReader(least_side=least_side).decode(path).image
    assert read.size == size
    shrunk = load_image(path).resize(size, Image.Resampling.BOX)
    assert np.abs(np.asarray(read, float) - np.asarray(shrunk)).mean() < 1


def test_scaled_decoding_turns_and_leaves_other_formats(tmp_path: Path) -> None:
    reader = ImageReader(least_side=100)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save(tmp_path / "turned.jpg", smooth(640, 480), exif=exif)
    assert reader.decode(turned).image.size == (120, 160)
    assert reader.decode(save(tmp_path / "a.png", smooth(640, 480))).image.size == (640, 480)
    gray = reader.decode(save(tmp_path / "gray.jpg", smooth(640, 480).convert("L")))
    assert (gray.image.size, gray.image.mode, gray.mode) == ((160, 120), "RGB", "L")
    path = save(tmp_path / "cut.jpg", smooth(640, 480))
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(UnreadableImageError, match=r"cut\.jpg"):
        reader.decode(path)
