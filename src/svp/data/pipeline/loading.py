"""Splits to batches, the same for a seed whatever the number of workers and processes.

Training items are asked for by (epoch, index), and all randomness of an item comes from (seed, epoch, index): it does
not matter which worker prepares it, or after how many others.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from svp.data.pipeline.cache import KeptImages, Place, keep_images
from svp.data.pipeline.decoding import ImageReader, UnreadableImageError, decoding, load_prepared
from svp.data.pipeline.faster import faster, normalized_values
from svp.data.pipeline.features import FeatureDataset
from svp.data.pipeline.randomness import own_randomness, seed_by
from svp.data.pipeline.samplers import BalancedSampler, EpochSampler
from svp.data.pipeline.stages import take_apart
from svp.data.splits import Split
from svp.inputs import InputConfig, Transform
from svp.limits import shared_memory, usable_cpus

Item = tuple[Tensor, int | Tensor, int]
"""Image (channels, height, width), label or target, index in the split."""

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (batch, channels, height, width), labels and indices (batch,)."""

_FEW = 8
"""Images that are prepared to see which kernels a data set needs."""

_KERNELS = {"svp.data.pipeline.kernels", "svp.data.pipeline.resampling"}

_MOST_TRIED = 100
"""Images that are tried to stand in for one that cannot be read."""


class ImageListDataset(Dataset[Item]):
    """The images of a split, transformed.

    A key is an index, or (epoch, index) for an item whose random transform is drawn from (seed, epoch, index); the
    caller's random generators are then left as they were.

    Args:
        split: The images.
        transform: Prepares an image.
        seed: Seeds random transforms.
        reader: Decodes a file; ``ImageReader()`` if None.
        stand_in: Let the next readable image stand in for one that cannot be read, whose index then is -1 - index: with its
            own label where the key holds an epoch, to be trained on, else with that of the image it stands in for.

    Raises:
        UnreadableImageError: On access, a file that cannot be decoded, or an image that cannot be transformed.
    """

    def __init__(
        self,
        split: Split,
        transform: Transform,
        seed: int = 0,
        reader: ImageReader | None = None,
        stand_in: bool = False,
    ) -> None:
        self.split = split
        self.transform = transform
        self.seed = seed
        self.reader = reader or ImageReader()
        self.stand_in = stand_in

    @property
    def transform(self) -> Transform:
        """What prepares an image."""
        return self._transform

    @transform.setter
    def transform(self, transform: Transform) -> None:
        self._transform, self._prepare = transform, faster(transform)

    def warm_up(self) -> None:
        """Prepare a few images, so that the kernels that they need are compiled here, before workers are forked."""
        for index in range(0, len(self), max(len(self) // _FEW, 1)):
            if sys.modules.keys() >= _KERNELS:
                break
            with suppress(UnreadableImageError):
                self._read((0, index))

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        try:
            return self._read(key)
        except UnreadableImageError:
            if not self.stand_in:
                raise
            return self._read_another(key)

    def _read_another(self, key: int | tuple[int, int]) -> Item:
        index = key[1] if isinstance(key, tuple) else key
        for step in range(1, min(len(self), _MOST_TRIED)):
            other = (index + step) % len(self)
            with suppress(UnreadableImageError):
                image, label, _ = self._read((key[0], other) if isinstance(key, tuple) else other)
                return image, label if isinstance(key, tuple) else _truth(self.split, index), -1 - index
        return self._read(key)

    def _read(self, key: int | tuple[int, int]) -> Item:
        if isinstance(key, tuple):
            epoch, index = key
            path = self.split.paths[index]
            image = self.reader(path)
            with own_randomness(), decoding(path):
                seed_by(self.seed, epoch, index)
                return self._prepare(image), _truth(self.split, index), index
        return load_prepared(self.split.paths[key], self._prepare, self.reader), _truth(self.split, key), key


class KeptImageDataset(Dataset[Item]):
    """The same for images that are decoded once, and kept; uint8, so for `normalized` to finish.

    Without random steps every item then equals that of `ImageListDataset`. With random steps it is drawn from (seed, epoch,
    index) as there; `svp.data.pipeline.stages` says in what it differs.

    Raises:
        UnreadableImageError, CacheError: When it is made, see `keep_images`.
    """

    def __init__(
        self, split: Split, transform: Transform, place: Place, seed: int = 0, reader: ImageReader | None = None
    ) -> None:
        import svp.data.pipeline.kernels  # noqa: F401  compiles, once for all workers

        self.split = split
        self.seed = seed
        self.stages = take_apart(transform)
        self.images: KeptImages = keep_images(split.paths, self.stages, place, reader)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        images, labels, indices = self.__getitems__([key])
        return images[0], labels[0] if self.split.targets else int(labels[0]), int(indices[0])

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> Batch:
        """A batch, as a `DataLoader` asks for it."""
        indices = [key[1] if isinstance(key, tuple) else key for key in keys]
        images = torch.empty(len(keys), *self.stages.size, 3, dtype=torch.uint8)
        with own_randomness(), _one_thread():
            for key, index, image in zip(keys, indices, images, strict=True):
                if isinstance(key, tuple):
                    seed_by(self.seed, *key)
                image[:] = self.stages.finish(self.images[index])
        labels = torch.tensor([self.split.truth(index) for index in indices])
        return images.permute(0, 3, 1, 2), labels, torch.tensor(indices)


def _truth(split: Split, index: int) -> int | Tensor:
    return torch.tensor(split.targets[index], dtype=torch.float32) if split.targets else split.labels[index]


ImageDataset = ImageListDataset | KeptImageDataset
AnyDataset = ImageDataset | FeatureDataset


def open_images(
    split: Split,
    transform: Transform,
    seed: int = 0,
    place: Place | None = None,
    reader: ImageReader | None = None,
    stand_in: bool = False,
) -> ImageDataset:
    """The images of a split, decoded every time, or once and kept if there is a place for them."""
    if place is None:
        return ImageListDataset(split, transform, seed, reader, stand_in)
    return KeptImageDataset(split, transform, place, seed, reader)


def make_loader(
    dataset: AnyDataset,
    batch_size: int,
    *,
    train: bool,
    balanced: bool = False,
    seed: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
    drop_last: bool = False,
) -> DataLoader[Item]:
    """Batches of (images, labels, indices): (batch, 3, height, width), (batch,) or targets (batch, outputs), (batch,).

    Kept images are uint8, for `normalized` to finish. For training the order comes from an `EpochSampler`,
    `loader.sampler`, whose `set_epoch` is to be called before each epoch; otherwise it is that of the split. Workers live as
    long as the loader. They are started as the platform does; fork is safe, for all that they run after it is Pillow, PyTorch
    on one thread, and kernels of ours on one.

    Args:
        balanced: For training: draw every class as often, see `BalancedSampler`.
        drop_last: Leave an incomplete last batch out, unless it is the only one.
    """
    if num_workers and isinstance(dataset, ImageListDataset):
        dataset.warm_up()
    sampler = None
    if train:
        sampler = BalancedSampler(dataset.split.labels, seed) if balanced else EpochSampler(len(dataset), seed)
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=None if isinstance(dataset, ImageListDataset) else _as_it_is,
        pin_memory=pin_memory,
        drop_last=drop_last and len(dataset) >= batch_size,
        generator=torch.Generator().manual_seed(seed),  # else each epoch would draw from the caller's
        persistent_workers=num_workers > 0,
    )


def normalized(batches: Iterable[Batch], inputs: InputConfig) -> Iterator[Batch]:
    """The batches with uint8 images made ready for the model, on the device they are on; others as they are."""
    values = normalized_values(inputs.mean, inputs.std)
    for images, labels, indices in batches:
        yield images if images.dtype != torch.uint8 else _look_up(images, values), labels, indices


def _look_up(images: Tensor, values: Tensor) -> Tensor:
    """Values (3, 256) by channel and uint8."""
    if images.device.type != "cpu":
        values = values.to(images.device)
        return torch.stack([values[channel][images[:, channel].int()] for channel in range(3)], dim=1)
    from svp.data.pipeline.kernels import normalize  # compiles

    ready = torch.empty(images.shape)
    normalize(images.permute(0, 2, 3, 1).contiguous().numpy(), values.numpy(), ready.numpy())
    return ready


def choose_num_workers(
    asked: int | None, device: torch.device, batch: tuple[int, ...], say: Callable[[str], object] | None = None
) -> int:
    """Worker processes that read images: on a CPU the model needs the cores, and macOS and Windows start workers slowly.

    Batches come from workers through shared memory, of which a container may have little. What does not fit is left to fewer
    workers, or to this process.

    Args:
        asked: Number that the user wants; None leaves it to this function.
        device: Where the model is.
        batch: Images of a batch, the side of an image in pixels and, if they are not three, its channels.
        say: Is told of fewer workers, and why; the error stream if None.
    """
    workers = asked
    if workers is None:
        workers = min(16, usable_cpus()) if device.type != "cpu" and sys.platform == "linux" else 0
    free = shared_memory()
    if not workers or free is None:
        return workers
    images, side, channels = (*batch, 3)[:3]
    each = _SHARED + _AHEAD * images * channels * side * side * 4
    fitting = min(workers, free // each)
    if fitting < workers:
        (say or _warn)(
            f"{workers} worker processes need {workers * each / 1e6:.1f} MB of shared memory, /dev/shm has {free / 1e6:.1f} "
            f"MB free: images are read by {f'{fitting} of them' if fitting else 'this process'} "
            "(docker run --shm-size 1g gives more)"
        )
    return fitting


def _warn(text: str) -> None:
    print(f"svp: {text}", file=sys.stderr)


_AHEAD = 3
"""Batches of a worker in shared memory: one being made, two waiting."""
_SHARED = 2**16
"""Bytes of shared memory that a worker takes besides: its semaphores."""


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch on one thread: on single images to wait for a second one takes longer than to do without."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
