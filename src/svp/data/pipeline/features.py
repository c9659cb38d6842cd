"""Features of the images of a split, in the place of the images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from svp.data.splits import Split


class FeatureDataset(Dataset[tuple[Tensor, int, int]]):
    """What a dataset of images gives, with the features of an image for the image.

    A key is an index, or (epoch, index), as for images; the epoch changes nothing.

    Args:
        split: The images.
        features: Features of each, (n, embed_dim).
        labels: What the dataset of images gives as the label of each, (n,).
        indices: What it gives as the index of each, (n,).
    """

    def __init__(self, split: Split, features: Tensor, labels: Tensor, indices: Tensor) -> None:
        self.split, self.features, self.labels, self.indices = split, features, labels, indices

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int, int]:
        features, labels, indices = self.__getitems__([key])
        return features[0], int(labels[0]), int(indices[0])

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """A batch, as a `DataLoader` asks for it."""
        places = torch.tensor([key[1] if isinstance(key, tuple) else key for key in keys])
        return self.features[places], self.labels[places], self.indices[places]
