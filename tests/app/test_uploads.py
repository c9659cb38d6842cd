"""What strangers hand in: limits that hold, zips that lie."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svp.app import Limits, Upload
from svp.app.uploads import gather_images, read_image
from svp.data import DataError, InputConfig, UnreadableImageError


def png(width: int, height: int) -> bytes:
    """A gray PNG; its pixels are only claimed, and cost nothing to make."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def real_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def zipped(path: Path, members: Mapping[str, bytes]) -> Upload:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return Upload(path.name, path)


@pytest.mark.parametrize("side", [8_000, 12_000, 30_000])
def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow's first of two steps
        with pytest.raises(UnreadableImageError, match=f"{side} x {side} pixels|decompression bomb"):
            read_image(path, Limits())


def test_a_file_may_only_be_so_large(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(real_png() + b"\0" * 3_000_000)
    assert read_image(path, Limits()).size == (8, 8)
    with pytest.raises(UnreadableImageError, match=r"3\.0 MB, expected at most 2\.0 MB"):
        read_image(path, Limits(max_file_size=2_000_000))


def test_no_other_program_is_run_to_read_an_image(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with Image.open(path) as file:
        assert file.format == "EPS"  # Pillow would
    with pytest.raises(UnreadableImageError, match="a PostScript document"):
        read_image(path, Limits())


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_usual_formats_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix.lower()}"
    Image.new("RGB", (8, 8), "teal").save(path, suffix)
    assert read_image(path, Limits()).size == (8, 8)


def test_a_zip_is_read_by_its_images(tmp_path: Path) -> None:
    image = real_png()
    archive = zipped(
        tmp_path / "photos.zip",
        {
            "b/2.png": image,
            "a/1.PNG": image,
            "a/7": image,
            "README": b"words",
            "notes.txt": b"",
            "__MACOSX/a/._1.png": b"",
            ".hidden.png": b"",
        },
    )
    single = tmp_path / "3.png"
    single.write_bytes(image)
    found = gather_images([archive, Upload("c/3.png", single)], Limits(), make(tmp_path / "out"))
    assert [upload.name for upload in found] == ["b/2.png", "a/1.PNG", "a/7", "c/3.png"]
    assert all(upload.path.read_bytes() == image for upload in found)


def test_arrays_of_three_axes_are_images(tmp_path: Path) -> None:
    found = {}
    for name, values in {
        "image": np.zeros((4, 4, 5)),
        "list": np.zeros(4),
        "objects": np.array([[[{}]]], dtype=object),
    }.items():
        buffer = io.BytesIO()
        np.save(buffer, values)
        found[f"{name}.npy"] = buffer.getvalue()
    found["damaged.npy"] = b"no array"
    (tmp_path / "image.npy").write_bytes(found["image.npy"])
    uploads = [zipped(tmp_path / "arrays.zip", found), Upload("image.npy", tmp_path / "image.npy")]
    images = gather_images(uploads, Limits(), tmp_path)
    assert [image.name for image in images] == ["image.npy", "objects.npy", "image.npy"]
    inputs = InputConfig(mean=(0.5,) * 5, std=(0.5,) * 5)
    assert len(read_image(images[0].path, Limits(), inputs)) == 5  # type: ignore[arg-type]
    with pytest.raises(UnreadableImageError):
        read_image(images[1].path, Limits(), inputs)


def test_members_of_a_zip_stay_inside_the_folder(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "evil.zip", {"../../evil.png": b"1", "/tmp/evil.png": b"2", "C:\\evil.png": b"3"})
    out = make(tmp_path / "deep" / "out")
    found = gather_images([archive], Limits(), out)
    assert all(upload.path.parent == out for upload in found)
    assert {path.name for path in tmp_path.rglob("*evil*")} == {"evil.zip"}


def test_a_zip_bomb_is_stopped_while_it_unpacks(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "bomb.zip", {"zeros.png": bytes(20_000_000)})
    assert archive.path.stat().st_size < 50_000
    out = make(tmp_path / "out")
    with pytest.raises(DataError, match=r"bomb\.zip: the zip holds more once unpacked"):
        gather_images([archive], Limits(max_upload_size=5_000_000), out)
    assert sum(path.stat().st_size for path in out.iterdir()) <= 5_000_000


def test_limits_count_over_all_zips(tmp_path: Path) -> None:
    archives = [zipped(tmp_path / f"{n}.zip", {"a.png": bytes(3_000_000)}) for n in range(2)]
    with pytest.raises(DataError, match=r"1\.zip: the zip holds more"):
        gather_images(archives, Limits(max_upload_size=5_000_000), make(tmp_path / "out"))


def test_only_so_many_images_are_taken(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "many.zip", {f"{n}.png": b"" for n in range(11)})
    out = make(tmp_path / "out")
    with pytest.raises(DataError, match="11 images, expected at most 10"):
        gather_images([archive], Limits(max_images=10), out)
    assert not list(out.iterdir())


def test_what_holds_no_image_is_told(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "notes.zip", {"notes.txt": b"hello"})
    with pytest.raises(DataError, match=r"no images in notes\.zip; expected images: \.jpg"):
        gather_images([archive], Limits(), tmp_path)
    with pytest.raises(DataError, match="no files; expected images, a folder"):
        gather_images([], Limits(), tmp_path)


def test_a_damaged_or_encrypted_zip_is_told(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"damaged\.zip: the zip cannot be read"):
        gather_images([Upload("damaged.zip", damaged)], Limits(), tmp_path)
    secret = zipped(tmp_path / "secret.zip", {"a.png": real_png()})
    data = bytearray(secret.path.read_bytes())
    data[6] |= 1  # the flags of the member, and of its entry in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    secret.path.write_bytes(data)
    with pytest.raises(DataError, match=r"secret\.zip: the zip cannot be read \(.*encrypted"):
        gather_images([secret], Limits(), tmp_path)


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="max_images is 0, expected 1 or more"):
        Limits(max_images=0)


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
