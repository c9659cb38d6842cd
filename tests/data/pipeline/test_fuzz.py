"""Damaged files of every format: an image comes out, or the one error that is documented, within bounds of memory and time."""

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from svp.data import UnreadableImageError
from svp.data.pipeline.decoding import ImageReader
from svp.data.pipeline.formats import FORMATS_FOR_STRANGERS

MAX_PIXELS = 1_000_000
SECONDS = 5.0
MEGABYTES = 150

FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0", "icc_profile": b"x" * 200},
    "JPEG progressive": {"progressive": True},
    "MPO": {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]},
    "PNG": {"optimize": True},
    "PNG L": {},
    "PNG I;16": {},
    "PNG P": {"transparency": 0},
    "GIF P": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "TIFF I;16": {},
    "TIFF F": {},
    "TIFF RGBA": {"compression": "tiff_lzw"},
    "TIFF 1": {"compression": "group4"},
    "BMP": {},
    "PPM": {},
    "TGA": {"compression": "tga_rle"},
    "JPEG2000": {},
    "AVIF": {},
    "ICO": {},
    "QOI": {},
    "PCX": {},
    "SGI": {},
    "DDS": {},
    "ICNS": {},
    "IM": {},
    "XBM 1": {},
}


def samples() -> dict[str, bytes]:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    made = {}
    for name, options in FORMATS.items():
        kind, _, mode = name.replace(" progressive", "").partition(" ")
        image = small.resize((32, 24))
        if mode in ("I;16", "F"):
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16 if mode == "I;16" else np.float32) * 9)
        elif mode:
            image = image.convert(mode)
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        made[name] = stream.getvalue()
    return made


SAMPLES = samples()

bytes_changed = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8)
numbers_changed = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])), max_size=2
)
damages = st.tuples(
    bytes_changed,
    numbers_changed,
    st.floats(0, 1),  # what is left of it
    st.booleans(),  # whether it is cut
    st.sampled_from(["", "zeros", "again"]),  # what follows
)


def damaged(content: bytes, damage: Any) -> bytes:
    changed, numbers, left, cut, ending = damage
    data = bytearray(content)
    for position, value in changed:
        data[int(position * len(data))] = value
    for position, value in numbers:
        width = 4 if value > 0xFFFF else 2
        if position + width <= len(data):
            data[position : position + width] = value.to_bytes(width, "little" if position % 2 else "big")
    if cut:
        del data[int(left * len(data)) :]
    return bytes(data) + {"": b"", "zeros": bytes(600), "again": content[:300]}[ending]


def outcome(reader: ImageReader, path: Path) -> tuple[str, Image.Image | None]:
    """Why the file cannot be read, or the image. Any other error is a failure of the test."""
    try:
        return "", reader(path)
    except UnreadableImageError as error:
        return str(error).removeprefix(f"{path}: "), None


@pytest.mark.parametrize("kind", SAMPLES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(damage=damages, strangers=st.booleans())
@example(damage=([], [], 1.0, False, ""), strangers=False)
@example(damage=([], [], 0.5, True, ""), strangers=False)
@example(damage=([], [], 0.5, True, "zeros"), strangers=True)
@pytest.mark.filterwarnings("ignore")
def test_an_image_or_the_documented_error(kind: str, damage: Any, strangers: bool, tmp_path_factory: Any) -> None:
    path: Path = tmp_path_factory.getbasetemp() / f"fuzz-{kind.replace(' ', '-').replace(';', '')}"
    content = damaged(SAMPLES[kind], damage)
    path.write_bytes(content)
    reader = ImageReader(max_pixels=MAX_PIXELS, formats=FORMATS_FOR_STRANGERS if strangers else None)
    start = time.process_time()
    reason, image = outcome(reader, path)
    if image is None:
        assert reason
        assert "\n" not in reason
    else:
        assert image.mode == "RGB"
        assert image.width * image.height <= MAX_PIXELS
        assert len(image.tobytes()) == 3 * image.width * image.height
    assert time.process_time() - start < SECONDS
    assert path.read_bytes() == content


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has another unit")
def test_damages_take_little_memory(tmp_path: Path) -> None:
    code = f"""
import random, resource, sys, warnings
from pathlib import Path
import tests.data.pipeline.test_fuzz as fuzz
warnings.simplefilter("ignore")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
generator, path = random.Random(0), Path(sys.argv[1])
for kind, content in fuzz.SAMPLES.items():
    for _ in range(60):
        changed = [(generator.random(), generator.randrange(256)) for _ in range(generator.randrange(9))]
        large = [0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]
        numbers = [(generator.randrange(80), generator.choice(large)) for _ in range(generator.randrange(3))]
        damage = changed, numbers, generator.random(), generator.random() < 0.3, generator.choice(["", "zeros", "again"])
        noise = content[:30] + generator.randbytes(2000)
        path.write_bytes(fuzz.damaged(content, damage) if generator.random() < 0.9 else noise)
        fuzz.outcome(fuzz.ImageReader(max_pixels=fuzz.MAX_PIXELS), path)
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes
        assert now - before < {MEGABYTES} * 1000, (kind, damage, now - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
