"""Does an exported file say what the model says, and how fast?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from svp.data import DataError, ImageReader, InputConfig, UnreadableImageError, eval_transform, load_prepared
from svp.errors import UnavailableError
from svp.tasks import SINGLE_LABEL, Task

TOLERANCE = 1e-4
"""Largest difference in probability that passes."""
MAX_IMAGES = 50
MAX_IMAGES_INT8 = 500
"""Images that both are compared on where they may differ: accuracy on 50 says little."""
BATCH_SIZE = 8


class ExportError(UnavailableError):
    """An exported program does not compute what the model computes."""


@dataclass(frozen=True)
class Comparison:
    """An exported program beside the model it was made of, on the CPU.

    Args:
        images: How many were classified by both.
        max_difference: Largest difference in probability over images and classes; of numbers, in standard deviations.
        same_top1: Images with the same likeliest class.
        images_per_second: Speed of the exported program, in batches of `batch_size`.
        images_per_second_svp: Speed of svp, measured batch by batch in turn with the exported program.
        batch_size: Images at a time.
        correct: Images that the exported program gives their class; None if it is not known.
        correct_svp: Images that svp gives their class; None if it is not known.
    """

    images: int
    max_difference: float
    same_top1: int
    images_per_second: float
    images_per_second_svp: float
    batch_size: int = BATCH_SIZE
    correct: int | None = None
    correct_svp: int | None = None

    def require_same(self, name: str) -> None:
        """Raise ``ExportError`` unless every probability is within the tolerance and every top-1 is the same."""
        if self.max_difference <= TOLERANCE and self.same_top1 == self.images:  # NaN fails
            return
        raise ExportError(
            f"the {name} program differs from the model: by up to {self.max_difference:.1e} in probability ({TOLERANCE:.0e} "
            f"is allowed), the same top-1 for {self.same_top1} of {self.images} images; no file was written"
        )


def read_some(
    paths: Sequence[Path], inputs: InputConfig, labels: Sequence[int] = (), most: int = MAX_IMAGES
) -> tuple[Tensor, Tensor | None]:
    """Some of the images, taken evenly from first to last, as the model takes them; unreadable ones left out.

    Args:
        paths: Images to choose from.
        inputs: How they are read.
        labels: Class of every image; empty if it is not known.
        most: Largest number of images.

    Returns:
        Images, (n, channels, img_size, img_size), and the class of each, (n,), or None.

    Raises:
        DataError: None can be read.
    """
    number = min(most, len(paths))
    transform, reader = eval_transform(inputs), ImageReader.of(inputs)
    images, read = [], []
    for place in (k * len(paths) // number for k in range(number)):
        try:
            images.append(load_prepared(paths[place], transform, reader))
            read.append(place)
        except UnreadableImageError as error:
            reason = str(error)
    if not images:
        raise DataError(f"none of the {number} images to check the file on can be read; the last: {reason}")
    return torch.stack(images), torch.tensor([labels[place] for place in read]) if labels else None


@torch.no_grad()
def compare(
    model: Callable[[Tensor], Tensor],
    exported: Callable[[Tensor], Tensor],
    images: Tensor,
    inputs: InputConfig,
    task: Task = SINGLE_LABEL,
    labels: Tensor | None = None,
) -> Comparison:
    """Classify the same images by both, batch by batch in turn.

    Args:
        model: Normalized images to logits.
        exported: Images in 0..1 to probabilities, or numbers.
        images: Normalized, (n, channels, img_size, img_size).
        inputs: Holds mean and std.
        task: What the outputs of the model mean.
        labels: Class of every image, (n,), or None.
    """
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (inputs.mean, inputs.std))
    pairs = [(batch, batch * std + mean) for batch in torch.split(images, BATCH_SIZE)]
    for normalized, pixels in (pairs[0], pairs[-1]):
        model(normalized), exported(pixels)  # the first call of a size may compile, or load
    expected, actual, seconds, seconds_svp = [], [], 0.0, 0.0
    for normalized, pixels in pairs:
        start = perf_counter()
        expected.append(task.activate(model(normalized)))
        middle = perf_counter()
        actual.append(exported(pixels))
        seconds_svp += middle - start
        seconds += perf_counter() - middle
    wanted, found = torch.cat(expected), torch.cat(actual)
    return Comparison(
        images=len(images),
        max_difference=(found - wanted).abs().max().item() / task.scale,
        same_top1=int((found.argmax(-1) == wanted.argmax(-1)).sum()),
        images_per_second=len(images) / seconds,
        images_per_second_svp=len(images) / seconds_svp,
        correct=None if labels is None else int((found.argmax(-1) == labels).sum()),
        correct_svp=None if labels is None else int((wanted.argmax(-1) == labels).sum()),
    )
