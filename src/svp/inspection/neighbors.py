"""What the distances between features tell: images that are nearly the same, and images that are like no other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_NEIGHBORS = 10
_NEAR = 0.15
"""Images whose distance is below this part of the median distance to the next image are near-duplicates."""
_FAR = 4.0
"""Standard deviations, estimated by the median absolute deviation, from which an image is like no other."""


@dataclass(frozen=True)
class Neighbors:
    """The nearest other images of every image.

    Args:
        distances: Distances of the unit vectors of centered features, 0 to 2, nearest first, (images, k).
        images: Their indices, (images, k).
    """

    distances: Array
    images: Integers


def find_neighbors(features: Array) -> Neighbors:
    """The `_NEIGHBORS` nearest images of every image, or all others.

    Args:
        features: (images, embed_dim), two images or more.
    """
    from sklearn.neighbors import NearestNeighbors

    vectors = features - features.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    searched = NearestNeighbors(n_neighbors=min(_NEIGHBORS, len(vectors) - 1), algorithm="brute").fit(vectors)
    distances, images = searched.kneighbors()
    return Neighbors(distances, images)


def near_duplicates(neighbors: Neighbors) -> list[tuple[int, int, float]]:
    """Pairs of images that are nearly the same and the cosine of their features, the nearest first."""
    limit = _NEAR * float(np.median(neighbors.distances[:, 0]))
    found: dict[tuple[int, int], float] = {}
    for image, place in np.argwhere(neighbors.distances <= limit).tolist():
        other = int(neighbors.images[image, place])
        found[min(image, other), max(image, other)] = float(neighbors.distances[image, place])
    return [(*pair, 1 - found[pair] ** 2 / 2) for pair in sorted(found, key=lambda pair: (found[pair], pair))]


def outliers(neighbors: Neighbors) -> list[tuple[int, float]]:
    """Images that are far from all others, and by how many robust standard deviations, the farthest first.

    z = (d - median) / (1.4826 median |d - median|),        d = log of the mean distance to the neighbors
    """
    distance = np.log(np.maximum(neighbors.distances.mean(axis=1), 1e-12))
    center = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - center))
    z = (distance - center) / max(spread, 1e-12)
    far = np.flatnonzero(z > _FAR)
    return [(int(i), float(z[i])) for i in far[np.argsort(-z[far], kind="stable")]]
