"""Loading: a seed fixes every batch, whoever prepares it, and leaves the caller's random streams alone."""

import pickle
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from svp.data import (
    AugmentConfig,
    EpochSampler,
    ImageListDataset,
    InputConfig,
    Split,
    UnreadableImageError,
    eval_transform,
    make_loader,
    train_transform,
)
from tests.processes import printed_by

INPUTS = InputConfig(img_size=24)
# Every step draws: numpy chooses the operations, random their strength, torch the noise and the flips.
AUGMENT = AugmentConfig(random_erasing=0.9, train_interpolation="random")
Batches = list[list[torch.Tensor]]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    paths = []
    for index in range(10):
        values = np.random.default_rng(index).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(values).save(paths[-1])
    return Split(tuple(paths), tuple(index % 3 for index in range(10)), "made up")


@pytest.fixture
def dataset(split: Split) -> ImageListDataset:
    return ImageListDataset(split, train_transform(INPUTS, AUGMENT), seed=7)


def epochs(dataset: ImageListDataset, numbers: list[int], seed: int = 7, num_workers: int = 0) -> list[Batches]:
    loader = make_loader(dataset, 4, train=True, seed=seed, num_workers=num_workers)
    batches = []
    for number in numbers:
        assert isinstance(loader.sampler, EpochSampler)
        loader.sampler.set_epoch(number)
        batches.append([list(batch) for batch in loader])
    return batches


def equal(one: Batches, other: Batches) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_do_not_depend_on_the_workers(dataset: ImageListDataset, num_workers: int) -> None:
    expected = epochs(dataset, [0, 1])
    actual = epochs(dataset, [0, 1], num_workers=num_workers)
    assert all(equal(one, other) for one, other in zip(expected, actual, strict=True))


def test_batches_do_not_depend_on_what_came_before(dataset: ImageListDataset) -> None:
    (_, _, expected) = epochs(dataset, [0, 1, 2])
    torch.rand(3), random.random(), np.random.rand()
    (resumed,) = epochs(dataset, [2])
    assert equal(expected, resumed)


def test_items_do_not_depend_on_the_batch(dataset: ImageListDataset) -> None:
    images, labels, indices = (torch.cat(column) for column in zip(*epochs(dataset, [3])[0], strict=True))
    for image, label, index in zip(images, labels.tolist(), indices.tolist(), strict=True):
        again, its_label, its_index = dataset[3, index]
        assert torch.equal(again, image)
        assert (its_label, its_index) == (label, index) == (index % 3, index)


def test_order_and_augmentation_differ_by_epoch_and_seed(split: Split, dataset: ImageListDataset) -> None:
    other = ImageListDataset(split, dataset.transform, seed=8)
    items = [dataset[0, 0][0], dataset[1, 0][0], dataset[0, 1][0], other[0, 0][0]]
    assert all(not torch.equal(one, another) for i, one in enumerate(items) for another in items[:i])
    twice = ImageListDataset(Split(split.paths[:1] * 2, (0, 0), "one image twice"), dataset.transform)
    assert not torch.equal(twice[0, 0][0], twice[0, 1][0])
    orders = [list(sampler_at(seed, epoch)) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert len({tuple(index for _, index in order) for order in orders}) == 4
    assert [order[0][0] for order in orders] == [0, 1, 0, 1]
    assert all(sorted(index for _, index in order) == list(range(50)) for order in orders)


def test_another_transform_takes_the_place_of_the_first(dataset: ImageListDataset) -> None:
    dataset.transform = lambda image: torch.tensor(image.size)
    assert dataset[0, 0][0].shape == dataset[0][0].shape == (2,)


def sampler_at(seed: int, epoch: int) -> EpochSampler:
    sampler = EpochSampler(50, seed)
    sampler.set_epoch(epoch)
    return sampler


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_random_streams_of_the_caller_are_left_alone(dataset: ImageListDataset, num_workers: int) -> None:
    def state() -> tuple[object, ...]:
        name, keys, *rest = np.random.get_state()
        return random.getstate(), name, keys.tolist(), rest, torch.get_rng_state().tolist()  # type: ignore[union-attr]

    before = state()
    epochs(dataset, [0, 1], num_workers=num_workers)
    assert state() == before


def test_states_are_put_back_after_an_error(split: Split) -> None:
    def fail(image: Image.Image) -> torch.Tensor:
        random.random(), np.random.rand(), torch.rand(1)
        raise RuntimeError("as a transform may")

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index, union-attr]
    with pytest.raises(UnreadableImageError, match=rf"{split.paths[0].name}: as a transform may"):
        ImageListDataset(split, fail)[0, 0]
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index, union-attr]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_evaluation_keeps_the_order_and_every_image(split: Split) -> None:
    loader = make_loader(ImageListDataset(split, eval_transform(INPUTS)), 4, train=False)
    batches = list(loader)
    assert [len(labels) for _, labels, _ in batches] == [4, 4, 2]
    assert torch.cat([indices for _, _, indices in batches]).tolist() == list(range(10))
    assert torch.cat([labels for _, labels, _ in batches]).tolist() == list(split.labels)
    assert batches[0][0].shape == (4, 3, 24, 24)


@pytest.mark.parametrize(("batch_size", "batches"), [(4, 2), (10, 1), (11, 1)])
def test_drop_last_never_drops_everything(dataset: ImageListDataset, batch_size: int, batches: int) -> None:
    assert len(list(make_loader(dataset, batch_size, train=True, drop_last=True))) == batches


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_lost_during_the_run_is_named(split: Split, dataset: ImageListDataset, num_workers: int) -> None:
    split.paths[5].unlink()
    with pytest.raises(UnreadableImageError, match=r"5\.png: No such file or directory"):
        epochs(dataset, [0], num_workers=num_workers)


def test_datasets_can_be_sent_to_spawned_workers(dataset: ImageListDataset) -> None:
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[0, 3][0], dataset[0, 3][0])


def test_workers_outlive_the_epoch(dataset: ImageListDataset) -> None:
    loader = make_loader(dataset, 5, train=True, num_workers=1)
    iterators = [iter(loader) for _ in range(2)]
    assert all(one is other for one, other in pairwise(iterators))


def test_processes_share_an_epoch_without_overlap(dataset: ImageListDataset) -> None:
    from accelerate.data_loader import BatchSamplerShard

    loader = make_loader(dataset, 5, train=True, seed=7)
    shards = [list(BatchSamplerShard(loader.batch_sampler, 2, rank)) for rank in range(2)]
    assert [shards[0][0], shards[1][0]] == list(loader.batch_sampler)


COMPILED = """
import sys
from pathlib import Path
from PIL import Image
from svp.data import ImageListDataset, InputConfig, Split, eval_transform, make_loader
for side in (40, 200):
    path = Path(sys.argv[1]) / f"{side}.png"
    Image.new("RGB", (side, side)).save(path)
    transform = eval_transform(InputConfig(img_size=side))
    make_loader(ImageListDataset(Split((path,), (0,), "made up"), transform), 1, train=False, num_workers=1)
    print(*(name in sys.modules for name in ("svp.data.pipeline.kernels", "svp.data.pipeline.resampling")))
"""


def test_loaders_of_small_images_compile_nothing(tmp_path: Path) -> None:
    assert printed_by(COMPILED, tmp_path).split() == ["False", "False", "True", "True"]
