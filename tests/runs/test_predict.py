"""Classes of images, one batch after the other."""

from __future__ import annotations

import gc
import os
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svp.data import ImageList, InputConfig
from svp.runs.predict import Classifier, classify, classify_batches
from svp.runs.prediction_files import Share, open_file
from svp.tasks.single_label import RankedColumns

CLASSIFIER = Classifier(
    lambda images: images.mean((2, 3)), ("red", "green", "blue"), InputConfig(img_size=8), torch.device("cpu")
)


def write_tiny(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        if number == 0:
            Image.new("RGB", (8, 8), (200, 10, 10)).save(folder / "00000.png")
        else:
            os.link(folder / "00000.png", folder / f"{number:05d}.png")
    return folder


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    def most_held(count: int) -> int:
        """Bytes that are held between two batches, at most; not the interpreter's table of interned strings, among which
        are the names of files: it grows at once by megabytes when it is full, which is a matter of the tests before."""
        held = 0
        images = ImageList([write_tiny(tmp_path / f"{count}", count)])
        writer = open_file(tmp_path / f"{count}.csv", "csv", RankedColumns(3), Share(), resume=False)
        for number, batch in enumerate(classify_batches(CLASSIFIER, images, len(images), batch_size=8)):
            writer.write(batch)
            if number % 24 == 0:
                gc.collect()  # by itself it comes the later the more other tests have left
                held = max(held, sum(trace.size for trace in tracemalloc.take_snapshot().traces if trace.size < 10**6))
        writer.close()
        return held

    tracemalloc.start()
    try:
        most_held(100)
        few, many = most_held(200), most_held(1200)
    finally:
        tracemalloc.stop()
    assert (tmp_path / "1200.csv").read_text().count("\n") == 1201
    assert many - few < 200 * 1000  # bytes; the names in the folder. A path takes 500, a prediction more


def test_images_are_listed_as_they_are_needed(tmp_path: Path) -> None:
    taken = []

    def paths():  # type: ignore[no-untyped-def]
        for image in ImageList([write_tiny(tmp_path / "images", 100)]):
            taken.append(image)
            yield image

    first = next(classify_batches(CLASSIFIER, paths(), 100, batch_size=4))
    assert [prediction.classes[0] for prediction in first] == ["red"] * 4
    assert len(taken) < 30


def test_whatever_fails_in_one_image_is_its_error(tmp_path: Path) -> None:
    def read(path: Path) -> Image.Image:
        return Image.new("RGB", (0, 8) if path.name == "00001.png" else (8, 8))  # without pixels, resizing divides by zero

    images = [tmp_path / f"0000{number}.png" for number in range(3)]
    found = list(classify(CLASSIFIER, images, 3, read=read))
    assert [bool(prediction.error) for prediction in found] == [False, True, False]
    assert [len(prediction.classes) for prediction in found] == [3, 0, 3]


def test_batches_are_of_the_size_asked_for(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    sizes = []

    def model(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images.mean((2, 3))

    classifier = Classifier(model, CLASSIFIER.class_names, CLASSIFIER.inputs, CLASSIFIER.device)
    done: list[tuple[int, int]] = []
    paths = [Path(f"{number}") for number in range(10)]
    found = classify(
        classifier,
        paths,
        10,
        batch_size=4,
        progress=lambda *numbers: done.append(numbers),
        read=lambda _: Image.fromarray(pixels),
    )
    assert [prediction.path for prediction in found] == paths
    assert sizes == [4, 4, 2]
    assert done == [(4, 10), (8, 10), (10, 10)]
