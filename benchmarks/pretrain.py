"""The nano Vim from random weights on Tiny ImageNet without 40 classes, on growing images; the same command goes on.

    python -m benchmarks.pretrain tiny-imagenet-32 pretrained [--epochs 40] [--classes FILE]
    python -m benchmarks.pretrain tiny-imagenet-32 pretrained --time 5       # how long it would take, by five steps per size
    torchrun --nproc-per-node 2 -m benchmarks.pretrain tiny-imagenet-32 pretrained    # on two cores 19 to 25 % faster

OUT/tasks gets the tasks of the classes that are held out, OUT/stage1 to OUT/stage3 are run directories of `svp train`, and
OUT/vim_nano_patch4_32.safetensors has the weights in half precision. A run directory holds the optimizer, the average of the
weights and the rows of all epochs, so what is killed loses the epoch that was begun.

Half of the epochs see 20 x 20 pixels, a quarter 24 x 24 and the last quarter 32 x 32, varied the more the larger they are
(progressive learning: Tan and Le, "EfficientNetV2", ICML 2021, arXiv:2104.00298). One cosine goes over all of them; a stage is
half a cosine between its values at the ends of the stage. A stage starts from the averaged weights of the one before, with a
new optimizer.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svp.process import prepare

prepare()  # before PyTorch is imported

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from accelerate import PartialState  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import svp  # noqa: E402
from benchmarks.held_out_classes import LIST, TASKS, listed, write_tasks  # noqa: E402
from svp.runs import EpochRow, RunDirectory  # noqa: E402
from svp.runs.devices import make_accelerator  # noqa: E402
from svp.training import TrainConfig, make_config, train  # noqa: E402
from svp.training.display import duration  # noqa: E402

PEAK, LAST = 0.002, 1e-6
"""Learning rates between which the cosine runs."""


@dataclass(frozen=True)
class Stage:
    """Epochs on images of one size.

    Args:
        pixels: Side of the images.
        share: Share of all epochs.
        augment: How the images are varied.
    """

    pixels: int
    share: float
    augment: dict[str, Any]


STAGES = (
    Stage(20, 0.5, dict(scale_min=0.35, auto_augment=None, random_erasing=0.0)),
    Stage(24, 0.25, dict(scale_min=0.3, auto_augment="rand-m4-mstd0.5-inc1", random_erasing=0.0)),
    Stage(32, 0.25, dict(scale_min=0.25, auto_augment="rand-m6-mstd0.5-inc1", random_erasing=0.1)),
)


def configs(data: Path, out: Path, epochs: int, **settings: Any) -> Iterator[TrainConfig]:
    """The run of every stage.

    Args:
        data: Folder with train/ and test/ of class folders.
        out: Folder of the run directories.
        epochs: Of all stages together.
        **settings: In the place of the recipe's.
    """
    done, before = 0, "random"
    for number, stage in enumerate(STAGES, start=1):
        behind = len(STAGES) - number
        until = min(done + max(1, round(stage.share * epochs)), epochs - behind) if behind else epochs
        explicit = dict(
            recipe="nano", data=str(data), weights=before, img_size=stage.pixels, epochs=until - done, ema=0.9998,
            lr=rate(done / epochs), min_lr=rate(until / epochs), augment=stage.augment | {"color_jitter": 0.0},
            out=str(out / f"stage{number}"), resume=True,
        )  # fmt: skip
        yield make_config(explicit | settings)
        done, before = until, str(out / f"stage{number}")


def rate(progress: float) -> float:
    """The learning rate at a share of all epochs."""
    return LAST + (PEAK - LAST) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def pretrain(
    data: Path, out: Path, epochs: int, after_epoch: Callable[[EpochRow], None] = lambda row: None, **settings: Any
) -> Path:
    """Train what is missing of all stages and write the weights; returns their file. The first of joined processes writes."""
    stages = list(configs(data, out, epochs, **settings))
    for config in stages:

        def report(row: EpochRow) -> None:
            if PartialState().is_main_process:
                print(left(stages), flush=True)
            after_epoch(row)

        run = train(config=config, after_epoch=report)
    classes = sum(path.is_dir() for path in (data / "train").iterdir())
    trained = str(run.directory / "adapter.safetensors")
    model = svp.create_model(config.model, trained, num_classes=classes, img_size=config.img_size)
    file = out / f"{model.origin.name}.safetensors"
    if PartialState().is_main_process:
        save_file({name: value.contiguous() for name, value in model.half().state_dict().items()}, file)
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB; test top-1 {run.result.top1:.1%}")
    return file


def left(stages: list[TrainConfig]) -> str:
    """Images per second of the last epoch, and the time left if a token of a later stage takes as long as one of this."""
    seconds, last = 0.0, ""
    for config in stages:
        rows = RunDirectory(Path(config.out or "")).read_metrics()
        if rows:
            each = rows[-1].seconds / tokens(config)
            images = sum(1 for line in (Path(config.data) / "train").rglob("*") if line.is_file()) * (1 - config.val_fraction)
            last = f"{images / (rows[-1].training_seconds or rows[-1].seconds):.0f} images per second"
        seconds += (config.epochs - len(rows)) * each * tokens(config)
    return f"{last}; {duration(seconds)} left of all stages"


def tokens(config: TrainConfig) -> int:
    """Tokens of an image, the class token among them."""
    return ((config.img_size or 0) // 4) ** 2 + 1


def estimate(data: Path, stages: list[TrainConfig], steps: int) -> None:
    """Print images per second at every size, and the hours of all stages."""
    images, total = sum(path.is_file() for path in (data / "train").rglob("*")), 0.0
    for config in stages:
        model: Any = svp.create_model(config.model, num_classes=160, img_size=config.img_size)
        tuner = svp.tune(model, "full")
        optimizer = torch.optim.AdamW(tuner.trainable_parameters(), fused=True)
        batch = torch.randn(config.batch_size, 3, model.patch_embed.img_size[0], model.patch_embed.img_size[1])
        labels = torch.randint(0, 160, (config.batch_size,))
        for step in range(steps + 2):
            if step == 2:  # the first ones compile
                started = time.monotonic()
            with torch.autocast("cpu", torch.bfloat16):
                F.cross_entropy(model.train()(batch), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        speed = steps * config.batch_size / (time.monotonic() - started)
        total += config.epochs * images / speed
        print(f"{config.img_size} pixels: {speed:.0f} images per second, {config.epochs} epochs of {images:,} images")
    print(f"{total / 3600:.1f} h in all, without reading images")


def make_tasks(tiny_imagenet: Path, tasks: Path, classes: Path) -> None:
    """Write the tasks of the classes that a file lists, unless they are there.

    Raises:
        ValueError: Those that are there are of other classes.
    """
    wanted = listed(classes)
    if not tasks.is_dir():
        unfinished = tasks.with_name("tasks.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        write_tasks(tiny_imagenet, unfinished, tasks=wanted)
        unfinished.rename(tasks)
    found = [{path.name for path in (tasks / f"task{number}" / "train").iterdir()} for number in range(1, TASKS + 1)]
    if found != [set(own) for own in wanted]:
        raise ValueError(
            f"{tasks} holds out other classes than {classes} lists: name the file that it was made from, or another OUT"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tiny_imagenet", type=Path, help="folder with train/ and val/ of class folders")
    parser.add_argument("out", type=Path, help="folder of all that is made; the same one goes on")
    parser.add_argument("--epochs", type=int, default=40, help="of all stages together")
    parser.add_argument("--classes", type=Path, default=LIST, help="file of the classes that are held out, a line each")
    parser.add_argument("--time", type=int, metavar="STEPS", help="only time so many steps at every size")
    arguments = parser.parse_args()
    if arguments.epochs < len(STAGES):
        parser.error(f"--epochs is {arguments.epochs}, expected at least one for each of {len(STAGES)} stages")
    tasks = arguments.out / "tasks"
    stages = list(configs(tasks / "pretraining", arguments.out, arguments.epochs))
    processes = make_accelerator(stages[0].device, stages[0].precision)
    try:
        with processes.main_process_first():
            make_tasks(arguments.tiny_imagenet, tasks, arguments.classes)
    except ValueError as error:
        parser.error(str(error))
    if not arguments.time:
        pretrain(tasks / "pretraining", arguments.out, arguments.epochs)
    elif processes.is_main_process:
        estimate(tasks / "pretraining", stages, arguments.time)


if __name__ == "__main__":
    main()
