"""The images of a run: opened, checked, with one range of values for all of them, and kept where the settings say so."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator

from svp.data import (
    DataError,
    ImageData,
    ImageReader,
    Place,
    Split,
    check_files,
    check_unreadable,
    open_data,
    open_fraction,
    open_images,
)
from svp.data.near_copies import find_near_copies
from svp.data.pipeline.cache import SharedPixels
from svp.data.pipeline.loading import ImageDataset
from svp.data.pipeline.value_ranges import describe_samples
from svp.data.splits import shuffled
from svp.data.unreadable import CheckedFiles
from svp.inputs import InputConfig, Transform
from svp.runs.directory import RunDirectory
from svp.training.config import TrainConfig
from svp.training.display import Display
from svp.training.protocol import images_used
from svp.tuners import read_adapter_info

SAMPLE = 1000
"""Files that are decoded before the first step of a run that checks a sample."""


FEW_NEAR_COPIES = 0.005
"""Share of the validation and test images that may look like training images without a warning: some do by chance."""


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
                task=config.task,
                label=config.label,
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


_MOST_TOLD = 10
"""Unreadable files that are named for each reason."""


def check_images(config: TrainConfig, data: ImageData, accelerator: Accelerator, display: Display) -> CheckedFiles:
    """Decode every file once, before any work: what cannot be read is named, counted and kept out of training."""
    display.say(data.summary())
    paths = [*data.train.paths, *data.val.paths, *data.test.paths]
    if config.cache == "none" and config.check != "all":  # what is kept is decoded anyway
        paths = sample(paths, config.seed) if config.check == "sample" else []
        display.say(
            f"{len(paths):,} of {sum(map(len, data.splits.values())):,} files are checked, as --check {config.check} says"
        )
    with accelerator.main_process_first(), display.progress("checking images", len(paths)) as (bar, task):
        checked = check_files(paths, lambda done: bar.update(task, completed=done), config.max_pixels, config.channels)
    told: Counter[str] = Counter()
    for image in checked.unreadable:
        told[image.reason] += 1
        if told[image.reason] <= _MOST_TOLD:
            display.say(f"warning: cannot read {image.path}: {image.reason}")
    for reason, number in told.items():
        if number > _MOST_TOLD:
            display.say(f"warning: nor {number - _MOST_TOLD:,} more: {reason}; svp data check lists all")
    for note, number in Counter(checked.notes.values()).most_common():
        first_one = next(path for path, text in checked.notes.items() if text == note)
        display.say(f"note: {first_one}{f' and {number - 1} more' if number > 1 else ''}: {note}")
    check_unreadable(data, checked.unreadable)
    if accelerator.is_main_process:
        _warn_of_near_copies(data, checked, display)
    return checked


def _warn_of_near_copies(data: ImageData, checked: CheckedFiles, display: Display) -> None:
    held_out = [*data.val.paths, *data.test.paths]
    pairs = find_near_copies(checked.looks, data.train.paths, held_out)
    number = len({path for _, path in pairs})
    if number > FEW_NEAR_COPIES * len(held_out):
        one, other = pairs[0]
        display.say(
            f"warning: {number} of {len(held_out)} validation and test images look the same as training images, such as "
            f"{other} and {one}: scores may be too good; svp data check lists copies, --group keeps images that belong "
            "together in one part"
        )


def with_value_range(
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
class Keeper:
    """Opens images that are read every epoch: decoded anew, or kept as the settings say."""

    config: TrainConfig
    accelerator: Accelerator
    display: Display
    reader: ImageReader
    shared: SharedPixels | None = None

    def open(self, what: str, split: Split, transform: Transform) -> ImageDataset:
        if self.config.cache == "none":
            stand_in = self.config.check != "all"
            return open_images(split, transform, self.config.seed, reader=self.reader, stand_in=stand_in)
        # every process keeps its own in memory; on disk the first one writes for all
        with self.accelerator.main_process_first(), self.display.progress(f"keeping {what} images", len(split)) as (bar, task):
            processes = int(os.environ.get("LOCAL_WORLD_SIZE", self.accelerator.num_processes))
            place = Place(
                self.config.cache, processes, self.display.say, lambda done: bar.update(task, completed=done), self.shared
            )
            return open_images(split, transform, self.config.seed, place, self.reader)


def sample(paths: Sequence[Path], seed: int) -> list[Path]:
    """`SAMPLE` of the files, or all if they are fewer, in their order."""
    return [paths[index] for index in sorted(shuffled(len(paths), f"check/{seed}")[:SAMPLE])]
