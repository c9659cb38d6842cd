"""Images of a contact sheet: as the model's crop shows them, in a size that people see something in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from svp.data import ImageReader, InputConfig, UnreadableImageError, eval_transform, load_prepared
from svp.inspection.maps import pixels
from svp.inspection.page import Picture, data_address

_SIDE = 176  # pixels


def take_pictures(
    paths: Sequence[Path], lines: Sequence[Sequence[tuple[str, str]]], notes: Sequence[str], inputs: InputConfig
) -> list[Picture]:
    """Pictures of image files with the lines under each; images that cannot be read (any more) are left out.

    Args:
        paths: The files.
        lines: Lines under each, see `Picture`.
        notes: What stands in the corner of each.
        inputs: How the model's images are prepared: the same part of the image is shown.
    """
    shown = replace(inputs, img_size=_SIDE)
    transform, reader = eval_transform(shown), ImageReader.of(inputs)
    found = []
    for path, told, note in zip(paths, lines, notes, strict=True):
        try:
            image = pixels(load_prepared(path, transform, reader), shown)
        except (UnreadableImageError, OSError):
            continue
        stream = BytesIO()
        Image.fromarray((255 * image).round().astype(np.uint8)).save(stream, "JPEG", quality=85)
        found.append(Picture(data_address(stream.getvalue(), "jpeg"), path, told, note))
    return found
