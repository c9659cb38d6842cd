"""Everything that a run needs before its first step, in one frozen value."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from svp.data import (
    DataError,
    ImageData,
    ImageListDataset,
    ImageReader,
    Place,
    Split,
    Unreadable,
    check_files,
    check_unreadable,
    choose_num_workers,
    drop_unreadable,
    eval_transform,
    make_loader,
    open_data,
    open_fraction,
    open_images,
    train_transform,
)
from svp.data.fingerprints import content_fingerprints
from svp.data.near_copies import find_near_copies
from svp.data.pipeline.loading import ImageDataset
from svp.data.pipeline.value_ranges import describe_samples
from svp.data.splits import shuffled
from svp.data.unreadable import CheckedFiles
from svp.inputs import InputConfig, Transform
from svp.models import Backbone, Origin, create_model, model_info
from svp.models.factory import full_name
from svp.paths import is_temporary
from svp.runs.directory import RunDirectory
from svp.runs.result import RunError
from svp.training.balance import Criterion, make_criterion, warn_of_uneven_classes
from svp.training.config import TrainConfig, differences, make_config
from svp.training.display import Display
from svp.training.late import LateUnreadable
from svp.training.protocol import images_used, selection_part
from svp.training.schedule import Schedule
from svp.tuners import Tuner, read_adapter_info, tune

SAMPLE = 1000
"""Files that are decoded before the first step of a run that checks a sample."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready for its first step.

    Args:
        config: Settings, with nothing left to the place, the machine or the name.
        directory: Run directory, not made yet.
        accelerator: Devices and processes.
        display: Told of progress.
        data: Images of the run, as its protocol uses them.
        unreadable: Those of them that cannot be read.
        late: Those that turn out to be unreadable while the run is under way.
        contents: What stands for the bytes of each image.
        inputs: How an image is prepared for the model.
        model: The tuned model.
        tuner: What trains of it.
        wrapped: The model as the processes share it.
        optimizer: Updates what trains.
        schedule: Sets the learning rate before every step.
        criterion: The loss.
        mixup: Mixes a batch; None if no images are mixed.
        train_images: The images trained on.
        train_loader: Batches of the images trained on, augmented.
        scored_loader: Batches of the images that are scored after every epoch.
        test_loader: Batches of the test images.
        batch_size: Images per step over all processes, fitted to the number of images.
        peak_lr: Peak learning rate, scaled with the fitted batch size if the settings say so.
    """

    config: TrainConfig
    directory: RunDirectory
    accelerator: Accelerator
    display: Display
    data: ImageData
    unreadable: tuple[Unreadable, ...]
    late: LateUnreadable
    contents: Mapping[Path, str]
    inputs: InputConfig
    model: Backbone
    tuner: Tuner
    wrapped: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    criterion: Criterion
    mixup: Mixup | None
    train_images: Split
    train_loader: DataLoader[Any]
    scored_loader: DataLoader[Any]
    test_loader: DataLoader[Any]
    batch_size: int
    peak_lr: float

    @property
    def selection_split(self) -> str | None:
        """The part that chooses the epoch; None if nothing does and the last is kept."""
        return selection_part(self.config.protocol)


def open_images_of(config: TrainConfig, accelerator: Accelerator) -> ImageData:
    """The images of a run, as its protocol uses them."""
    with accelerator.main_process_first():  # a named data set is made once
        try:
            data = open_data(
                config.data,
                config.data_root,
                seed=config.seed,
                val_fraction=config.val_fraction,
                test_fraction=config.test_fraction,
                group=config.group,
                group_regex=config.group_regex,
                archive_encoding=config.archive_encoding,
            )
        except DataError as error:
            if config.resume and not Path(config.data).expanduser().exists():
                raise DataError(f"{error}\nIf the images were moved, --resume --data NEW goes on with them.") from error
            raise
    share = config.train_fraction
    return images_used(
        data,
        config.protocol,
        shots=config.shots,
        train_fraction=share,
        published=open_fraction(config.data, share, config.data_root) if share is not None else None,
        seed=config.seed,
    )


def resolve(config: TrainConfig, data: ImageData, accelerator: Accelerator) -> TrainConfig:
    """Leave nothing to the place, the machine or the name: what ``config.yaml`` holds can be run again anywhere."""
    out = config.out
    if not out:
        out = f"runs/{data.name}-{config.model}-{config.method}-{config.seed}"
        number = 1
        while not config.resume and Path(out if number == 1 else f"{out}-{number}").exists():
            number += 1  # a second try of the same command is a second run
        out = out if number == 1 else f"{out}-{number}"
    folder = Path(config.data).expanduser()
    weights = config.weights
    img_size = config.img_size or model_info(config.model).img_size
    own = InputConfig.of_model(create_model(config.model, img_size=img_size, device="meta"))
    return replace(
        config,
        out=out,
        data=str(folder.resolve()) if folder.exists() else config.data,
        data_root=str(Path(config.data_root).expanduser().resolve()) if config.data_root else None,
        model=full_name(config.model),
        weights=weights if weights in ("published", "random") else str(weights_file(weights).resolve()),
        img_size=img_size,
        inputs=config.inputs.resolved(own),
        precision="bf16" if accelerator.mixed_precision == "bf16" else "fp32",
    )


def check_directory(directory: RunDirectory, config: TrainConfig, data: ImageData) -> None:
    """Refuse a directory that holds something else, before any work.

    Raises:
        RunError: It lies among the images, holds another run, or is not empty.
    """
    path, root = directory.path, data.root.resolve()
    if path.resolve().is_relative_to(root):
        raise RunError(f"the run directory {path} would lie among the images of {root}: choose another --out")
    if directory.config_file.is_file():
        if not config.resume:
            raise RunError(f"{path} holds a run already: go on with it by --resume, or choose another --out")
        old, own = make_config({}, directory.config_file), directory.read_images()
        if old.data != config.data and own is not None and not own.differ(data):
            paths = {part: split.paths for part, split in data.splits.items()}
            if own.content_differs({part: content_fingerprints(some) for part, some in paths.items()}):
                raise RunError(
                    f"cannot resume {path}: images in {data.root} have the names but not the contents of the run's own"
                )
            old = replace(old, data=config.data, data_root=config.data_root)  # the same images, moved
        changed = differences(old, config)
        if changed:
            raise RunError(f"cannot resume {path} with other settings ({'; '.join(changed)}): choose another --out")
        if own is not None and own.differ(data):
            raise RunError(f"cannot resume {path}: the images in {data.root} are not those the run began with")
    elif path.is_dir() and any(not is_temporary(entry) for entry in path.iterdir()):
        raise RunError(f"{path} is not empty and no run directory: choose another --out")


def claim_directory(prepared: Prepared) -> None:
    """Make the run directory, once all that can fail early has not failed."""
    accelerator = prepared.accelerator
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        directory = prepared.directory
        directory.path.mkdir(parents=True, exist_ok=True)
        for entry in filter(is_temporary, directory.path.rglob("*")):
            entry.unlink()  # half a file of a process that was killed
        values = prepared.config.to_dict()
        values.pop("resume")
        recipe = values.pop("recipe")  # its values stand in the file, its name on top
        directory.write_settings(values, f"recipe: {recipe}" if recipe else "")
        directory.write_splits(prepared.data, prepared.contents)
    accelerator.wait_for_everyone()


def prepare(
    config: TrainConfig, data: ImageData, directory: RunDirectory, accelerator: Accelerator, display: Display
) -> Prepared:
    """Check every image, then build the model and all that trains it.

    Args:
        config: What ``resolve`` gave.
        data: What ``open_images_of`` gave.
        directory: Where the run will lie.
        accelerator: Devices and processes.
        display: Told of progress.

    Raises:
        DataError: Too many images cannot be read.
        WeightsError: The backbone's weights cannot be loaded.
        RunError: There are fewer training images than processes.
    """
    checked = _check_images(config, data, accelerator, display)
    unreadable = checked.unreadable
    readable = {
        name: drop_unreadable(split, unreadable)
        for name, split in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    origin = Origin(
        config.model, config.weights, {"img_size": config.img_size}, config.seed if config.weights == "random" else None
    )
    model = origin.build(len(data.class_names), config.drop_path)
    model.set_grad_checkpointing(config.grad_checkpointing)
    seed_everything(config.seed)
    model.reset_classifier(len(data.class_names))  # a head that came with the weights knows other classes
    tuner: Tuner = tune(model, config.method, **config.options)
    inputs = _with_value_range(config.inputs.applied(InputConfig.of_model(model)), config, checked, directory, display)

    batch_size = _fitting_batch_size(config, len(readable["train"]), accelerator)
    if batch_size < config.batch_size:
        display.say(f"batch size {batch_size} instead of {config.batch_size}")
    eval_batch_size = max(batch_size, config.batch_size // accelerator.num_processes * accelerator.num_processes)
    peak_lr = scaled_lr(config, batch_size)
    if uneven := warn_of_uneven_classes(readable["train"], data.class_names, config.balance, config.choose_by):
        display.say(uneven)
    selection = selection_part(config.protocol)
    # where nothing chooses the epoch, a batch of training images shows whether it ended well
    scored = readable[selection] if selection else first(readable["train"], batch_size)
    reader = ImageReader(inputs.value_range, config.max_pixels)
    keep = _Keeper(config, accelerator, display, reader)
    train_set = keep.open("training", readable["train"], train_transform(inputs, config.augment))
    scored_set = keep.open(selection or "some training", scored, eval_transform(inputs))
    pin = accelerator.device.type == "cuda"
    share = (max(batch_size, eval_batch_size) // accelerator.num_processes, inputs.img_size)
    workers = choose_num_workers(config.num_workers, accelerator.device, share, display.say)
    loader = make_loader(
        train_set,
        batch_size,
        train=True,
        balanced=config.balance == "sampler",
        seed=config.seed,
        num_workers=workers,
        pin_memory=pin,
        drop_last=True,
    )
    scored_loader = make_loader(scored_set, eval_batch_size, train=False, num_workers=workers, pin_memory=pin)
    stand_in = config.check != "all"
    test_set = ImageListDataset(readable["test"], eval_transform(inputs), reader=reader, stand_in=stand_in)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=peak_lr, weight_decay=config.weight_decay, fused=True)
    wrapped, prepared_optimizer, loader, scored_loader = accelerator.prepare(model, optimizer, loader, scored_loader)
    display.say(
        f"{config.method} on {origin.name} ({config.weights} weights): "
        f"{tuner.num_trainable:,} of {sum(p.numel() for p in model.parameters()):,} parameters train, "
        f"on {accelerator.device.type}, {accelerator.mixed_precision.replace('no', 'fp32')}"
    )
    if config.lr_base_size:
        display.say(f"peak learning rate {peak_lr:g} = {config.lr:g} * {batch_size} / {config.lr_base_size}")
    return Prepared(
        config=config,
        directory=directory,
        accelerator=accelerator,
        display=display,
        data=data,
        unreadable=unreadable,
        late=LateUnreadable(reader, accelerator, display),
        contents=checked.contents,
        inputs=inputs,
        model=model,
        tuner=tuner,
        wrapped=wrapped,
        optimizer=prepared_optimizer,
        schedule=Schedule(optimizer, config, len(loader)),
        criterion=make_criterion(
            config.balance, readable["train"], len(data.class_names), config.label_smoothing, accelerator.device
        ),
        mixup=_make_mixup(config, len(data.class_names)),
        train_images=train_set.split,
        train_loader=loader,
        scored_loader=scored_loader,
        test_loader=accelerator.prepare(make_loader(test_set, eval_batch_size, train=False, num_workers=workers)),
        batch_size=batch_size,
        peak_lr=peak_lr,
    )


def scaled_lr(config: TrainConfig, batch_size: int) -> float:
    """Peak learning rate for the batch size that is really used: lr * batch_size / lr_base_size, or lr without a base."""
    lr = config.lr or 0.0  # TrainConfig has set it
    return lr * batch_size / config.lr_base_size if config.lr_base_size else lr


def _check_images(config: TrainConfig, data: ImageData, accelerator: Accelerator, display: Display) -> CheckedFiles:
    """Decode every file once, before any work: what cannot be read is named, counted and kept out of training."""
    display.say(data.summary())
    paths = [*data.train.paths, *data.val.paths, *data.test.paths]
    if config.cache == "none" and config.check != "all":  # what is kept is decoded anyway
        paths = sample(paths, config.seed) if config.check == "sample" else []
        display.say(
            f"{len(paths):,} of {sum(map(len, data.splits.values())):,} files are checked, as --check {config.check} says"
        )
    with accelerator.main_process_first(), display.progress("checking images", len(paths)) as (bar, task):
        checked = check_files(paths, lambda done: bar.update(task, completed=done), config.max_pixels)
    for image in checked.unreadable:
        display.say(f"warning: cannot read {image.path}: {image.reason}")
    for note, number in Counter(checked.notes.values()).most_common():
        first_one = next(path for path, text in checked.notes.items() if text == note)
        display.say(f"note: {first_one}{f' and {number - 1} more' if number > 1 else ''}: {note}")
    check_unreadable(data, checked.unreadable)
    if accelerator.is_main_process:
        _warn_of_near_copies(data, checked, display)
    return checked


def _warn_of_near_copies(data: ImageData, checked: CheckedFiles, display: Display) -> None:
    pairs = find_near_copies(checked.looks, data.train.paths, [*data.val.paths, *data.test.paths])
    if pairs:
        held_out = len({path for _, path in pairs})
        one, other = pairs[0]
        display.say(
            f"warning: {held_out} validation and test images look the same as training images, such as {other} and {one}: "
            "scores may be too good; svp data check lists copies, --group keeps images that belong together in one part"
        )


def _with_value_range(
    inputs: InputConfig, config: TrainConfig, checked: CheckedFiles, directory: RunDirectory, display: Display
) -> InputConfig:
    """The preparation of images with one range of values for all of them; a run that goes on keeps the one it began with."""
    if config.resume and (directory.path / "adapter.json").is_file():
        return replace(inputs, value_range=read_adapter_info(directory.path).inputs.value_range)
    if not checked.samples:
        return inputs
    found = describe_samples(checked.samples)
    display.say(f"{'warning: ' if found.mixed else ''}{found.text}")
    if config.inputs.value_range is not None:
        display.say(f"black is {inputs.value_range[0]}, white {inputs.value_range[1]}, as --value-range says")
        return inputs
    display.say(
        f"black is {found.value_range[0]:g}, white {found.value_range[1]:g}; --value-range LOW HIGH sets another range"
    )
    return replace(inputs, value_range=found.value_range)


@dataclass(frozen=True)
class _Keeper:
    """Opens images that are read every epoch: decoded anew, or kept as the settings say."""

    config: TrainConfig
    accelerator: Accelerator
    display: Display
    reader: ImageReader

    def open(self, what: str, split: Split, transform: Transform) -> ImageDataset:
        if self.config.cache == "none":
            stand_in = self.config.check != "all"
            return open_images(split, transform, self.config.seed, reader=self.reader, stand_in=stand_in)
        # every process keeps its own in memory; on disk the first one writes for all
        with self.accelerator.main_process_first(), self.display.progress(f"keeping {what} images", len(split)) as (bar, task):
            processes = int(os.environ.get("LOCAL_WORLD_SIZE", self.accelerator.num_processes))
            place = Place(self.config.cache, processes, self.display.say, lambda done: bar.update(task, completed=done))
            return open_images(split, transform, self.config.seed, place, self.reader)


def _fitting_batch_size(config: TrainConfig, images: int, accelerator: Accelerator) -> int:
    """The batch size, or the largest that the images and processes allow (even in every process, for mixup)."""
    unit = accelerator.num_processes * (2 if config.mixup or config.cutmix else 1)
    fitting = min(config.batch_size, images) // unit * unit
    if fitting == 0:
        raise RunError(f"{images} training images are too few for {accelerator.num_processes} processes")
    return fitting


def _make_mixup(config: TrainConfig, num_classes: int) -> Mixup | None:
    if not (config.mixup or config.cutmix):
        return None
    return Mixup(
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        label_smoothing=config.label_smoothing,
        num_classes=num_classes,
    )


def sample(paths: Sequence[Path], seed: int) -> list[Path]:
    """`SAMPLE` of the files, or all if they are fewer, in their order."""
    return [paths[index] for index in sorted(shuffled(len(paths), f"check/{seed}")[:SAMPLE])]


def first(split: Split, n: int) -> Split:
    """Its first images, `n` or all."""
    return split.take(range(min(n, len(split))))


def seed_everything(*numbers: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators from one or several numbers, alike in every Python."""
    seed = numbers[0] if len(numbers) == 1 else int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def weights_file(weights: str) -> Path:
    """The file behind ``--weights``: the file itself, or the adapter of a run directory."""
    path = Path(weights).expanduser()
    return path / "adapter.safetensors" if path.is_dir() else path
