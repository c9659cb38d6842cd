"""Images decoded once: kept as they should be, on disk through every accident, and shared with every kind of worker."""

import io
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from svp.data import (
    AugmentConfig,
    CacheError,
    EpochSampler,
    ImageListDataset,
    ImageReader,
    InputConfig,
    KeptImageDataset,
    Place,
    Split,
    UnreadableImageError,
    eval_transform,
    keep_images,
    load_image,
    make_loader,
    normalized,
    train_transform,
)
from svp.data.pipeline.stages import Stages, take_apart

INPUTS = InputConfig(img_size=24)
AUGMENT = AugmentConfig(random_erasing=0.9, train_interpolation="random")


def write_image(path: Path, width: int, height: int, seed: int, mode: str = "RGB", orientation: int = 1) -> Path:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values, "RGBA").convert(mode).save(path, exif=exif)
    return path


@pytest.fixture
def split(tmp_path: Path) -> Split:
    paths = [write_image(tmp_path / f"{number}.png", 40 + 3 * number, 60 - number, number) for number in range(10)]
    return Split(tuple(paths), tuple(number % 3 for number in range(10)), "made up")


@pytest.fixture
def stages() -> Stages:
    return take_apart(train_transform(INPUTS, AUGMENT))


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def disk(told: list[str]) -> Place:
    return Place("disk", say=told.append)


def folder(home: Path) -> Path:
    (found,) = (home / "cache" / "images").iterdir()
    return found


# what is kept ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=4),
    img_size=st.integers(1, 40),
    crop_pct=st.floats(0.3, 1.0),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    interpolation=st.sampled_from(["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]),
    mode=st.sampled_from(["RGB", "L", "RGBA", "P"]),
    orientation=st.sampled_from([1, 3, 6]),
    place=st.sampled_from(["memory", "disk"]),
)
def test_evaluation_is_the_same_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, sizes, img_size, crop_pct, crop_mode, interpolation, mode, orientation, place
) -> None:  # type: ignore[no-untyped-def]
    # timm cannot pad an image whose short side would vanish
    assume(crop_mode != "border" or all(min(size) * img_size >= max(size) for size in sizes))
    root = tmp_path_factory.mktemp("images")
    paths = [write_image(root / f"{n}.png", *size, n, mode, orientation) for n, size in enumerate(sizes)]
    split = Split(tuple(paths), tuple(range(len(paths))), "made up")
    inputs = InputConfig(img_size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation)
    transform = eval_transform(inputs)
    plain = make_loader(ImageListDataset(split, transform), 3, train=False)
    kept = make_loader(KeptImageDataset(split, transform, Place(place)), 3, train=False)
    for one, other in zip(plain, normalized(kept, inputs), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert other[0].is_contiguous()
        assert other[0].dtype == torch.float32


def test_float_batches_pass_as_they_are(split: Split) -> None:
    (batch,) = make_loader(ImageListDataset(split, eval_transform(INPUTS)), 10, train=False)
    (passed,) = normalized([batch], INPUTS)
    assert all(one is other for one, other in zip(batch, passed, strict=True))


@pytest.mark.parametrize("mode", ["memory", "disk"])
@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 120), st.integers(1, 120)), min_size=1, max_size=4),
    scale_min=st.floats(0.05, 1.0),
)
def test_training_keeps_small_images_and_shrinks_large_ones(
    tmp_path_factory: pytest.TempPathFactory, mode, sizes, scale_min
) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path_factory.mktemp("images")
    paths = [write_image(root / f"{n}.png", *size, n) for n, size in enumerate(sizes)]
    stages = take_apart(train_transform(INPUTS, AugmentConfig(scale_min=scale_min)))
    side = stages.kept_side
    assert side is not None
    assert (side - 1) ** 2 * (1 + scale_min) / 2 < 24**2 <= side**2 * (1 + scale_min) / 2 + 1e-6  # the mean crop's area
    images = keep_images(paths, stages, Place(mode))
    assert len(images) == len(paths)
    for path, image in zip(paths, (images[n] for n in range(len(images))), strict=True):
        original = load_image(path)
        if min(original.size) <= side:
            np.testing.assert_array_equal(image.numpy(), np.asarray(original))
        else:
            height, width, _ = image.shape
            assert min(height, width) == side
            assert abs(width * original.height - height * original.width) <= max(original.size)  # within one pixel


def test_estimates_are_those_of_what_is_kept(split: Split, stages: Stages, told: list[str]) -> None:
    images = keep_images(split.paths, stages, Place("memory", say=told.append))
    (line,) = told
    assert f"{images.nbytes / 1e6:.1f} MB" in line


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_unreadable_files_are_named(split: Split, stages: Stages, mode: str) -> None:
    split.paths[4].write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match=r"4\.png: not an image"):
        keep_images(split.paths, stages, Place(mode))  # type: ignore[arg-type]
    split.paths[4].unlink()
    with pytest.raises(UnreadableImageError, match=r"4\.png: No such file"):
        keep_images(split.paths, stages, Place(mode))  # type: ignore[arg-type]


# randomness ------------------------------------------------------------------------------------------------------------


def epochs(
    dataset: KeptImageDataset, numbers: list[int], num_workers: int = 0, context: str | None = None
) -> list[torch.Tensor]:
    loader = make_loader(dataset, 4, train=True, seed=7, num_workers=num_workers)
    if context:
        loader.multiprocessing_context = context
    outcome = []
    for number in numbers:
        assert isinstance(loader.sampler, EpochSampler)
        loader.sampler.set_epoch(number)
        for images, labels, indices in normalized(loader, INPUTS):
            assert labels.tolist() == [index % 3 for index in indices.tolist()]
            outcome.append(torch.cat([images.flatten(1), indices[:, None]], dim=1))
    return outcome


@pytest.mark.parametrize(
    ("mode", "num_workers", "context"),
    [
        *(("memory", 1, None), ("memory", 2, None), ("disk", 1, None), ("disk", 2, None)),
        ("memory", 1, "forkserver"),
        pytest.param("memory", 1, "spawn", marks=pytest.mark.exhaustive),
    ],
)
def test_batches_do_not_depend_on_the_workers(split: Split, mode: str, num_workers: int, context: str | None) -> None:
    transform = train_transform(INPUTS, AUGMENT)
    dataset = KeptImageDataset(split, transform, Place(mode), seed=7)  # type: ignore[arg-type]
    expected = epochs(dataset, [0, 1])
    actual = epochs(dataset, [0, 1], num_workers, context)
    assert all(torch.equal(one, other) for one, other in zip(expected, actual, strict=True))


def test_batches_do_not_depend_on_what_came_before(split: Split) -> None:
    dataset = KeptImageDataset(split, train_transform(INPUTS, AUGMENT), Place("memory"), seed=7)
    before = torch.get_rng_state()
    (*_, last) = epochs(dataset, [0, 1, 2])
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(epochs(KeptImageDataset(split, train_transform(INPUTS, AUGMENT), Place("memory"), 7), [2])[-1], last)


def test_items_do_not_depend_on_the_batch_and_differ_by_epoch_and_seed(split: Split) -> None:
    dataset = KeptImageDataset(split, train_transform(INPUTS, AUGMENT), Place("memory"), seed=7)
    images, labels, indices = dataset.__getitems__([(3, 5), (3, 2), (4, 5)])
    assert (labels.tolist(), indices.tolist()) == ([2, 2, 2], [5, 2, 5])
    again, label, index = dataset[3, 5]
    assert torch.equal(again, images[0])
    assert (label, index) == (2, 5)
    other = KeptImageDataset(split, train_transform(INPUTS, AUGMENT), Place("memory"), seed=8)
    assert not torch.equal(images[0], images[2])
    assert not torch.equal(images[0], other[3, 5][0])


def test_threads_of_the_caller_are_left_alone(split: Split, two_threads: None) -> None:
    before = torch.get_num_threads()
    KeptImageDataset(split, train_transform(INPUTS, AUGMENT), Place("memory"))[0, 0]
    assert torch.get_num_threads() == before == 2


# on disk ---------------------------------------------------------------------------------------------------------------


def same(split: Split, stages: Stages, place: Place) -> bool:
    """Whether what is kept is what the files hold now."""
    kept, fresh = keep_images(split.paths, stages, place), keep_images(split.paths, stages, Place("memory"))
    return len(kept) == len(fresh) and all(torch.equal(kept[n], fresh[n]) for n in range(len(fresh)))


def test_a_second_run_decodes_nothing(split: Split, stages: Stages, disk: Place, told: list[str]) -> None:
    first = keep_images(split.paths, stages, disk)
    assert len(told) == 1
    assert "keeping decoded images in" in told[0]
    for path in split.paths:  # same size, same time of change, nothing to decode
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = keep_images(split.paths, stages, disk)
    assert len(told) == 1
    assert all(torch.equal(first[n], second[n]) for n in range(len(first)))


def test_changed_files_are_decoded_again(split: Split, stages: Stages, disk: Place, told: list[str], svp_home: Path) -> None:
    keep_images(split.paths, stages, disk)
    write_image(split.paths[2], 33, 44, seed=99)
    assert same(split, stages, disk)
    assert "image files have changed since; decoding" in told[1]
    os.utime(split.paths[3], ns=(1, 1))
    assert same(split, stages, disk)
    assert len(told) == 5
    assert sorted(file.name for file in folder(svp_home).iterdir()) == ["images.bin", "index.json"]


def test_other_lists_sizes_and_crops_lie_apart(split: Split, disk: Place, svp_home: Path) -> None:
    for transform in (
        train_transform(INPUTS, AUGMENT),
        train_transform(INPUTS, AugmentConfig(scale_min=0.1)),
        train_transform(InputConfig(img_size=30), AUGMENT),
        eval_transform(INPUTS),
        eval_transform(InputConfig(img_size=24, crop_pct=0.9)),
        eval_transform(InputConfig(img_size=24, interpolation="nearest")),
        eval_transform(InputConfig(img_size=24, crop_mode="border")),
    ):
        assert same(split, take_apart(transform), disk)
    fewer = Split(split.paths[1:], split.labels[1:], "made up")
    swapped = Split(split.paths[::-1], split.labels, "made up")
    assert same(fewer, take_apart(eval_transform(INPUTS)), disk)
    assert same(swapped, take_apart(eval_transform(INPUTS)), disk)
    assert len(list((svp_home / "cache" / "images").iterdir())) == 9


def test_augmentation_that_keeps_the_same_shares_it(split: Split, disk: Place, svp_home: Path) -> None:
    for augment in (AugmentConfig(), AugmentConfig(auto_augment=None, hflip=0.0)):
        keep_images(split.paths, take_apart(train_transform(INPUTS, augment)), disk)
    assert folder(svp_home)


def flip_a_bit(home: Path) -> None:
    data = bytearray((folder(home) / "images.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (folder(home) / "images.bin").write_bytes(data)


def cut_short(home: Path) -> None:
    os.truncate(folder(home) / "images.bin", 100)


def empty(home: Path) -> None:
    os.truncate(folder(home) / "images.bin", 0)


def garble_the_index(home: Path) -> None:
    (folder(home) / "index.json").write_bytes(b"\xff{")


def another_index(home: Path) -> None:
    (folder(home) / "index.json").write_text("[1, 2]")


def swap_a_shape(home: Path) -> None:
    index = json.loads((folder(home) / "index.json").read_text())
    index["shapes"][0].reverse()
    (folder(home) / "index.json").write_text(json.dumps(index))


def lose_the_index(home: Path) -> None:
    (folder(home) / "index.json").unlink()


@pytest.mark.parametrize(
    ("damage", "notice"),
    [
        (flip_a_bit, "is damaged"),
        (cut_short, "is damaged"),
        (empty, "is damaged"),
        (garble_the_index, "is damaged"),
        (another_index, "is damaged"),
        (swap_a_shape, "is damaged"),
        (lose_the_index, "was never finished"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_damage_is_told_and_repaired(
    split: Split, stages: Stages, disk: Place, told: list[str], svp_home: Path, damage, notice: str
) -> None:  # type: ignore[no-untyped-def]
    keep_images(split.paths, stages, disk)
    damage(svp_home)
    assert same(split, stages, disk)
    assert f"{notice}; decoding the images again" in told[1]
    assert same(split, stages, disk)
    assert len(told) == 3


def in_a_process(function: Callable[[], object]) -> int | None:
    """The exit code of a forked process that calls `function`: it need not import PyTorch again."""
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join(60)
    process.kill()
    return process.exitcode


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_kill_while_writing_leaves_nothing_that_is_used(
    split: Split, stages: Stages, disk: Place, told: list[str], svp_home: Path
) -> None:
    def die(done: int) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    code = in_a_process(lambda: keep_images(split.paths, stages, Place("disk", progress=die)))
    assert code == -signal.SIGKILL
    (leftover,) = folder(svp_home).iterdir()
    assert leftover.name.startswith(".images.bin.")
    assert same(split, stages, disk)
    assert "was never finished; decoding the images again" in told[0]
    assert sorted(file.name for file in folder(svp_home).iterdir()) == ["images.bin", "index.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
def test_a_disk_that_does_not_take_it_all_is_named(split: Split, svp_home: Path) -> None:
    def fill() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        expected = rf"cannot keep images in {svp_home}/cache/images/\w+: File too large\. Make room there"
        with pytest.raises(CacheError, match=expected):
            keep_images(split.paths, take_apart(eval_transform(INPUTS)), Place("disk"))

    assert in_a_process(fill) == 0
    assert list(folder(svp_home).iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(
    split: Split, stages: Stages, disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SVP_HOME", str(tmp_path / "file"))
    with pytest.raises(CacheError, match=r"cannot keep images in .*Not a directory.*choose --cache memory or none"):
        keep_images(split.paths, stages, disk)


def test_too_little_memory_is_told_before_any_work(split: Split, stages: Stages) -> None:
    with pytest.raises(CacheError, match=r"takes \S+ MB in each of 100000000 processes, .* --cache disk or none"):
        keep_images(split.paths, stages, Place("memory", processes=10**8))


def test_a_full_disk_is_told_before_any_work(
    split: Split, stages: Stages, disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(CacheError, match=r"takes \S+ MB, and 0\.0 MB are free: make room"):
        keep_images(split.paths, stages, disk)


def test_a_file_in_use_can_be_replaced(split: Split, stages: Stages, disk: Place) -> None:
    images = keep_images(split.paths, stages, disk)
    expected = images[1].clone()
    write_image(split.paths[1], 50, 50, seed=5)
    changed = keep_images(split.paths, stages, disk)
    assert torch.equal(images[1], expected)
    assert not torch.equal(changed[1], expected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_shared_not_copied(tmp_path: Path, stages: Stages) -> None:
    """A spawned worker of disk images maps the file: what is pickled stays small."""
    import pickle

    paths = [write_image(tmp_path / f"{number}.png", 80, 80, number) for number in range(20)]
    on_disk = keep_images(paths, stages, Place("disk"))
    data = pickle.dumps(on_disk)
    assert len(data) < on_disk.nbytes / 20
    copy = pickle.loads(data)
    assert all(torch.equal(copy[n], on_disk[n]) for n in range(20))
    assert str(on_disk.file) in Path("/proc/self/maps").read_text()
    in_memory = keep_images(paths, stages, Place("memory"))
    shared = io.BytesIO()
    from multiprocessing.reduction import ForkingPickler

    ForkingPickler(shared).dump(in_memory)  # as `DataLoader` does to spawn
    assert len(shared.getvalue()) < in_memory.nbytes / 20


def test_images_that_were_decoded_at_a_smaller_scale_are_kept_apart(tmp_path: Path, stages: Stages, disk: Place) -> None:
    path = tmp_path / "large.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(path)
    whole, scaled = (keep_images([path], stages, disk, ImageReader(least_side=side)) for side in (None, 100))
    assert whole.file != scaled.file
    assert not torch.equal(whole[0], scaled[0])
