"""Everything that a run needs before its first step, in one frozen value."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.data import Mixup
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from svp.data import (
    ImageData,
    ImageListDataset,
    ImageReader,
    Split,
    Unreadable,
    choose_num_workers,
    drop_unreadable,
    eval_transform,
    make_loader,
    train_transform,
)
from svp.data.fingerprints import content_fingerprints
from svp.data.pipeline.cache import CacheError, SharedPixels
from svp.data.pipeline.loading import AnyDataset
from svp.data.pipeline.transforms import least_side
from svp.inputs import InputConfig
from svp.models import Backbone, Origin, create_model, model_info
from svp.models.factory import full_name, name_with_weights, recorded_name
from svp.paths import is_temporary
from svp.runs.directory import RunDirectory
from svp.runs.result import RunError
from svp.tasks import Task
from svp.training.average import Average
from svp.training.balance import make_criterion, warn_of_uneven_classes
from svp.training.config import TrainConfig, differences
from svp.training.config_sources import make_config
from svp.training.display import Display
from svp.training.images import Keeper, check_images, with_value_range
from svp.training.late import LateUnreadable
from svp.training.optimizer import make_optimizer
from svp.training.protocol import selection_part
from svp.training.schedule import Schedule
from svp.training.shown import fit_methods
from svp.tuners import Tuner


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
        task: What the outputs of the model mean, with the constants of the training images.
        criterion: The loss.
        mixup: Mixes a batch; None if no images are mixed.
        average: Moving average of what trains; None if none is asked for.
        train_images: The images trained on.
        train_loader: Batches of the images trained on, augmented.
        scored_loader: Batches of the images that are scored after every epoch.
        test_loader: Batches of the test images.
        batch_size: Images per step over all processes, fitted to the number of images.
        peak_lr: Peak learning rate, scaled with the fitted batch size if the settings say so.
        seconds_per_image: What scoring an image takes, where the images scored after an epoch do not show it.
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
    task: Task
    criterion: Callable[[Tensor, Tensor], Tensor]
    mixup: Mixup | None
    average: Average | None
    train_images: Split
    train_loader: DataLoader[Any]
    scored_loader: DataLoader[Any]
    test_loader: DataLoader[Any]
    batch_size: int
    peak_lr: float
    seconds_per_image: float | None = None

    @property
    def selection_split(self) -> str | None:
        """The part that chooses the epoch; None if nothing does and the last is kept."""
        return selection_part(self.config.protocol)


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
    own = InputConfig.of_model(create_model(config.model, img_size=img_size, in_chans=config.channels, device="meta"))
    return replace(
        config,
        out=out,
        data=str(folder.resolve()) if folder.exists() else config.data,
        data_root=str(Path(config.data_root).expanduser().resolve()) if config.data_root else None,
        model=_model_of(config, RunDirectory(Path(out))),
        weights=weights if weights in ("published", "random") else str(weights_file(weights).resolve()),
        img_size=img_size,
        inputs=config.inputs.resolved(own),
        precision="bf16" if accelerator.mixed_precision == "bf16" else "fp32",
        **data.task.resolve(config),
    )


def _model_of(config: TrainConfig, directory: RunDirectory) -> str:
    """The model with its weights; a run that goes on keeps those that its name meant when it began."""
    if config.weights != "published":
        return full_name(config.model).partition(".")[0]
    if config.resume and directory.config_file.is_file():
        own = own_settings(directory)
        if own.weights == "published" and own.model.partition(".")[0] == full_name(config.model):
            return own.model
    return name_with_weights(config.model)


def own_settings(directory: RunDirectory) -> TrainConfig:
    """The settings that a run directory holds."""
    own = make_config({}, directory.config_file)
    return replace(own, model=recorded_name(own.model)) if own.weights == "published" else own


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
        old, own = own_settings(directory), directory.read_images()
        old = replace(old, **data.task.resolve(old))  # what version 0.1.0 had no name for
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
        write_settings(prepared.config, directory)
        directory.write_splits(prepared.data, prepared.contents)
    accelerator.wait_for_everyone()


def write_settings(config: TrainConfig, directory: RunDirectory) -> None:
    """Write ``config.yaml``."""
    values = config.to_dict()
    values.pop("resume")
    recipe = values.pop("recipe")  # its values stand in the file, its name on top
    directory.write_settings(values, f"recipe: {recipe}" if recipe else "")


def prepare(
    config: TrainConfig,
    data: ImageData,
    directory: RunDirectory,
    accelerator: Accelerator,
    display: Display,
    shared: SharedPixels | None = None,
) -> Prepared:
    """Check every image, then build the model and all that trains it.

    Args:
        config: What ``resolve`` gave.
        data: What ``open_images_of`` gave.
        directory: Where the run will lie.
        accelerator: Devices and processes.
        display: Told of progress.
        shared: Decoded images of other runs of this process; test images are kept too then, if there is room.

    Raises:
        DataError: Too many images cannot be read.
        WeightsError: The backbone's weights cannot be loaded.
        RunError: There are fewer training images than processes.
    """
    checked = check_images(config, data, accelerator, display)
    unreadable = checked.unreadable
    readable = {
        name: drop_unreadable(split, unreadable)
        for name, split in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    shape = {"img_size": config.img_size} | ({"in_chans": config.channels} if config.channels != 3 else {})
    origin = Origin(config.model, config.weights, shape, config.seed if config.weights == "random" else None)
    task = data.task.fitted(readable["train"].targets)
    model = origin.build(len(data.output_names), config.drop_path)
    model.set_grad_checkpointing(config.grad_checkpointing)
    inputs = with_value_range(config.inputs.applied(InputConfig.of_model(model)), config, checked, directory, display)
    reader = ImageReader.of(inputs, config.max_pixels)
    methods, values = fit_methods(config, readable["train"], model, inputs, reader, directory, accelerator, display)
    seed_everything(config.seed)
    model.reset_classifier(len(data.output_names))  # a head that came with the weights knows other classes
    tuner = Tuner(model, methods)
    tuner.start_at(values)

    batch_size = _fitting_batch_size(config, len(readable["train"]), accelerator)
    if batch_size < config.batch_size:
        display.say(f"batch size {batch_size} instead of {config.batch_size}")
    eval_batch_size = max(batch_size, config.batch_size // accelerator.num_processes * accelerator.num_processes)
    peak_lr = scaled_lr(config, batch_size)
    if not data.outputs and (
        uneven := warn_of_uneven_classes(readable["train"], data.class_names, config.balance, config.choose_by)
    ):
        display.say(uneven)
    selection = selection_part(config.protocol)
    # where nothing chooses the epoch, a batch of training images shows whether it ended well
    scored = readable[selection] if selection else first(readable["train"], batch_size)
    if config.channels != 3 and (config.augment.auto_augment or config.augment.color_jitter):
        display.say(f"auto_augment and color_jitter are for RGB images: left out for {config.channels} channels")
    keep = Keeper(config, accelerator, display, reader, shared)
    scaled = least_side(inputs, config.augment) if config.decode == "scaled" else None
    keep_scaled = replace(keep, reader=replace(reader, least_side=scaled))
    train_set = keep_scaled.open("training", readable["train"], train_transform(inputs, config.augment))
    scored_set = keep.open(selection or "some training", scored, eval_transform(inputs))
    pin = accelerator.device.type == "cuda"
    share = (max(batch_size, eval_batch_size) // accelerator.num_processes, inputs.img_size, inputs.channels)
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
    test_set: AnyDataset = ImageListDataset(readable["test"], eval_transform(inputs), reader=reader, stand_in=stand_in)
    if shared is not None and config.cache == "memory" and not stand_in:
        try:
            test_set = keep.open("test", readable["test"], eval_transform(inputs))
        except CacheError as error:
            display.say(f"test images are decoded as they are scored: {error}")
    optimizer = make_optimizer(model, config, peak_lr)
    wrapped, prepared_optimizer, loader, scored_loader = accelerator.prepare(model, optimizer, loader, scored_loader)
    display.say(
        f"{config.method} on {origin.name} ({config.weights} weights): "
        f"{tuner.num_trainable:,} of {sum(p.numel() for p in model.parameters()):,} parameters train, "
        f"on {accelerator.device.type}, {accelerator.mixed_precision.replace('no', 'fp32')}"
    )
    if config.lr_base_size:
        display.say(f"peak learning rate {peak_lr:g} = {config.rate:g} * {batch_size} / {config.lr_base_size}")
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
        task=task,
        criterion=task.criterion(config.loss)
        or make_criterion(
            config.balance, readable["train"], len(data.class_names), config.label_smoothing, accelerator.device
        ),
        mixup=_make_mixup(config, len(data.class_names)),
        average=Average(tuner, config.ema) if config.ema is not None else None,
        train_images=train_set.split,
        train_loader=loader,
        scored_loader=scored_loader,
        test_loader=accelerator.prepare(make_loader(test_set, eval_batch_size, train=False, num_workers=workers)),
        batch_size=batch_size,
        peak_lr=peak_lr,
    )


def scaled_lr(config: TrainConfig, batch_size: int) -> float:
    """Peak learning rate for the batch size that is really used: lr * batch_size / lr_base_size, or lr without a base."""
    lr = config.rate
    return lr * batch_size / config.lr_base_size if config.lr_base_size else lr


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
