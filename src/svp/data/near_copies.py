"""Images that look the same: saved again at another size or quality, as equal pixels do not tell.

An image is looked at in small and in gray. Two are near copies where these correlate almost wholly and are about as bright. An
image of hardly any contrast is left out: in small all of those are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = 12
"""Pixels along a side of what an image is compared by."""

_MIN_CONTRAST = 6.0
"""Standard deviation of gray values, of 256, below which images are not compared."""

_MIN_CORRELATION = 0.993
_MAX_BRIGHTNESS = 6.0
"""Difference of mean gray values, of 256."""

_MAX_ASPECT = 0.03
_FREQUENCIES = 4
"""Frequencies along a side that candidates are looked up by."""

_NEIGHBORS = 6
"""Candidates that are compared with each image."""


def look_of(image: Image.Image) -> bytes:
    """What an image looks like: its aspect ratio and `SIDE` x `SIDE` gray values."""
    width, height = image.size
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX).convert("L")
    aspect = round(1000 * width / (width + height))
    return aspect.to_bytes(2, "big") + small.tobytes()


def find_near_copies(looks: Mapping[Path, bytes], among: Sequence[Path], of: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs of images that look the same: one of `among`, one of `of`.

    Args:
        looks: What `look_of` gave, by image; images without are left out.
        among: Images that are searched.
        of: Images whose near copies are searched for; may be the same ones.
    """
    import numpy as np
    from scipy.fft import dctn
    from scipy.spatial import KDTree

    def vectors(paths: Sequence[Path]) -> tuple[list[Path], Any, Any, Any, Any]:
        """Paths with contrast; their unit vectors, low frequencies, mean gray values and aspects."""
        paths = [path for path in paths if len(looks.get(path, b"")) == 2 + SIDE * SIDE]
        values = np.frombuffer(b"".join(looks[path] for path in paths), np.uint8).reshape(-1, 2 + SIDE * SIDE)
        gray, aspect = values[:, 2:].astype(np.float32), values[:, 0] * 256.0 + values[:, 1]
        mean = gray.mean(1)
        gray -= mean[:, None]
        good = gray.std(1) >= _MIN_CONTRAST
        gray = gray[good] / np.linalg.norm(gray[good], axis=1, keepdims=True)
        small = gray.reshape(-1, SIDE, SIDE)
        low = dctn(small, axes=(1, 2), norm="ortho") if len(small) else small
        low = low[:, :_FREQUENCIES, :_FREQUENCIES].reshape(-1, _FREQUENCIES**2)
        return (
            [path for path, keep in zip(paths, good, strict=True) if keep],
            gray,
            low,
            mean[good],
            aspect[good],
        )

    names, gray, low, mean, aspect = vectors(among)
    wanted, gray_of, low_of, mean_of, aspect_of = vectors(of)
    if not names or not wanted:
        return []
    # distances of low frequencies are no larger than those of whole vectors: no near copy is out of reach
    reach = (2 - 2 * _MIN_CORRELATION) ** 0.5
    _, places = KDTree(low).query(low_of, k=min(_NEIGHBORS, len(names)), distance_upper_bound=reach)
    found = []
    for number, row in enumerate(np.asarray(places).reshape(len(wanted), -1)):
        for place in row[row < len(names)].tolist():
            same = (
                names[place] != wanted[number]
                and gray[place] @ gray_of[number] >= _MIN_CORRELATION
                and abs(mean[place] - mean_of[number]) <= _MAX_BRIGHTNESS
                and abs(aspect[place] - aspect_of[number]) <= 1000 * _MAX_ASPECT
            )
            if same:
                found.append((names[place], wanted[number]))
    return found
