"""The training loop, one for every method."""

from __future__ import annotations

import os
import random
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from torch import Tensor

from svp.data import (
    ImageData,
    ImageListDataset,
    Place,
    Split,
    Unreadable,
    check_unreadable,
    choose_num_workers,
    drop_unreadable,
    eval_transform,
    find_unreadable,
    make_loader,
    normalised,
    open_data,
    open_fraction,
    open_images,
    train_transform,
)
from svp.data.pipeline.loading import ImageDataset
from svp.errors import Interrupted
from svp.inputs import InputConfig, Transform
from svp.models import Backbone, Origin, create_model, model_info
from svp.models.factory import full_name
from svp.training.config import TrainConfig, differences, make_config
from svp.training.devices import make_accelerator
from svp.training.display import Display, duration, plot_curves
from svp.training.evaluation import Scores, describe_unreadable, score
from svp.training.faults import check_outcome, explain_nonfinite
from svp.training.protocol import how_chosen, images_used, selection_part
from svp.training.records import RunDirectory, RunError, environment, is_temporary, peak_memory_mb, reset_peak_memory
from svp.training.schedule import Schedule
from svp.tuners import Tuner, save_adapter, tune
from svp.tuners.adapter_files import load_trained, save_trained


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        directory: Holds the adapter, the configuration, the metrics and the curves.
        result: Contents of ``result.json``.
    """

    directory: Path
    result: dict[str, Any]


def train(
    data: str | Path | None = None,
    *,
    config: TrainConfig | None = None,
    progress: bool = True,
    after_epoch: Callable[[dict[str, Any]], None] | None = None,
    **settings: Any,
) -> Run:
    """Train an adapter on a folder of images: what ``svp train`` does.

    The epoch is chosen on validation images and the test images are read once, at the end; another protocol is labelled
    in every result (see ``svp.training.protocol``). Killed at any moment, the run goes on with ``resume=True`` and ends
    with the same weights.

    Args:
        data: Folder of images, or a data set's name.
        config: All settings at once, instead of `data` and `settings`.
        progress: Show progress.
        after_epoch: Called after every epoch, once it is saved, with its line of metrics.jsonl; may raise to end the run.
        **settings: Fields of ``TrainConfig``; options of the method under ``options``.

    Returns:
        The run: its directory and its result.

    Raises:
        ConfigError, DataError, WeightsError: Bad settings, images or weights, before any work.
        RunError: The run directory holds another run.
        NonFiniteLossError: The loss became NaN or infinite.
        Interrupted: Ctrl-C was pressed; names the run directory, from which the run can go on.
    """
    if config is None:
        explicit = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        config = make_config(explicit if data is None else {"data": str(data), **explicit})
    trainer = _Trainer(config, progress, after_epoch)
    try:
        return trainer.run()
    except KeyboardInterrupt as interrupt:
        raise Interrupted(trainer.directory.path) from interrupt


class _Trainer:
    """One run from a checked configuration to its result."""

    def __init__(
        self, config: TrainConfig, progress: bool, after_epoch: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.started = time.time()
        self.after_epoch = after_epoch
        self.accelerator = make_accelerator(config.device, config.precision)
        reset_peak_memory(self.accelerator.device)
        self.display = Display(progress and self.accelerator.is_main_process)
        self.data = self._open_data(config)
        self.config = self._resolve(config)
        self.directory = RunDirectory(Path(self.config.out or ""))
        self._check_directory()

    def run(self) -> Run:
        if self.directory.result_file.is_file():
            self.display.say(f"{self.directory.path} is finished already")
            return Run(self.directory.path, self.directory.read_result())
        self._check_images()
        self._build()
        self._claim_directory()
        rows, best = self._restore()
        self.seconds_before = sum(row["seconds"] for row in rows)
        for epoch in range(len(rows), self.config.epochs):
            best = self._epoch(epoch, rows, best)
            if self.after_epoch is not None:
                self.after_epoch(rows[-1])
        return self._finish(rows, best)

    # before training ---------------------------------------------------------------------------------------------------

    def _open_data(self, config: TrainConfig) -> ImageData:
        with self.accelerator.main_process_first():  # a named data set is made once
            data = open_data(
                config.data,
                config.data_root,
                seed=config.seed,
                val_fraction=config.val_fraction,
                test_fraction=config.test_fraction,
            )
        share = config.train_fraction
        return images_used(
            data,
            config.protocol,
            shots=config.shots,
            train_fraction=share,
            published=open_fraction(config.data, share, config.data_root) if share is not None else None,
            seed=config.seed,
        )

    def _resolve(self, config: TrainConfig) -> TrainConfig:
        """Nothing left to the place, the machine or the name: what ``config.yaml`` holds can be run again anywhere."""
        out = config.out
        if not out:
            out = f"runs/{self.data.name}-{config.model}-{config.method}-{config.seed}"
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
            precision="bf16" if self.accelerator.mixed_precision == "bf16" else "fp32",
        )

    def _check_directory(self) -> None:
        """Refuse a directory that holds something else, before any work."""
        path = self.directory.path
        root = self.data.root.resolve()
        if path.resolve().is_relative_to(root):
            raise RunError(f"the run directory {path} would lie among the images of {root}: choose another --out")
        if self.directory.config_file.is_file():
            if not self.config.resume:
                raise RunError(f"{path} holds a run already: go on with it by --resume, or choose another --out")
            changed = differences(self.directory.read_config(), self.config)
            if changed:
                raise RunError(f"cannot resume {path} with other settings ({'; '.join(changed)}): choose another --out")
            if self.directory.differs(self.data):
                raise RunError(f"cannot resume {path}: the images in {self.data.root} are not those the run began with")
        elif path.is_dir() and any(not is_temporary(entry) for entry in path.iterdir()):
            raise RunError(f"{path} is not empty and no run directory: choose another --out")

    def _claim_directory(self) -> None:
        """Make the run directory, once all that can fail early has not failed."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            path = self.directory.path
            path.mkdir(parents=True, exist_ok=True)
            for entry in filter(is_temporary, path.rglob("*")):
                entry.unlink()  # half a file of a process that was killed
            self.directory.write_config(self.config)
            self.directory.write_splits(self.data)
        self.accelerator.wait_for_everyone()

    def _check_images(self) -> None:
        """Decode every file once, before any work: what cannot be read is named, counted and kept out of training."""
        self.display.say(self.data.summary())
        paths = [*self.data.train.paths, *self.data.val.paths, *self.data.test.paths]
        with self.accelerator.main_process_first(), self.display.progress("checking images", len(paths)) as (bar, task):
            self.unreadable = find_unreadable(paths, lambda done: bar.update(task, completed=done))
        for image in self.unreadable:
            self.display.say(f"warning: cannot read {image.path}: {image.reason}")
        check_unreadable(self.data, self.unreadable)

    def _build(self) -> None:
        config, accelerator = self.config, self.accelerator
        seed = config.seed if config.weights == "random" else None
        origin = Origin(config.model, config.weights, {"img_size": config.img_size}, seed)
        model = origin.build(len(self.data.class_names), config.drop_path)
        model.set_grad_checkpointing(config.grad_checkpointing)
        seed_everything(config.seed)
        model.reset_classifier(len(self.data.class_names))  # a head that came with the weights knows other classes
        self.tuner: Tuner = tune(model, config.method, **config.options)
        self.model: Backbone = model
        self.inputs = config.inputs.applied(InputConfig.of_model(model))
        self.device = accelerator.device

        readable = self._readable()
        augment = train_transform(self.inputs, config.augment)
        self.train_set = self._open_images("training", readable["train"], augment)
        self.workers = choose_num_workers(config.num_workers, self.device)
        batch_size = self._fitting_batch_size(len(readable["train"]))
        loader = make_loader(
            self.train_set,
            batch_size,
            train=True,
            seed=config.seed,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            drop_last=True,
        )
        # where nothing chooses the epoch, a batch of training images shows whether it ended well
        scored = readable[self.selection_split] if self.selection_split else first(readable["train"], batch_size)
        evaluate = self._open_images(self.selection_split or "some training", scored, eval_transform(self.inputs))
        processes = accelerator.num_processes
        self.eval_batch_size = max(batch_size, config.batch_size // processes * processes)  # few shots, many test images
        eval_loader = make_loader(
            evaluate,
            self.eval_batch_size,
            train=False,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )
        optimizer = create_optimizer_v2(model, opt="adamw", lr=config.peak_lr, weight_decay=config.weight_decay)
        self.wrapped, self.optimizer, self.loader, self.scored_loader = accelerator.prepare(
            model, optimizer, loader, eval_loader
        )
        self.schedule = Schedule(optimizer, config, len(self.loader))
        self.mixup = None
        if config.mixup or config.cutmix:
            self.mixup = Mixup(
                mixup_alpha=config.mixup,
                cutmix_alpha=config.cutmix,
                label_smoothing=config.label_smoothing,
                num_classes=len(self.data.class_names),
            )
        self.display.say(
            f"{config.method} on {origin.name} ({config.weights} weights): "
            f"{self.tuner.num_trainable:,} of {sum(p.numel() for p in model.parameters()):,} parameters train, "
            f"on {self.device.type}, {accelerator.mixed_precision.replace('no', 'fp32')}"
        )
        if config.lr_base_size:
            scaled = f"{config.lr:g} * {config.batch_size} / {config.lr_base_size}"
            self.display.say(f"peak learning rate {config.peak_lr:g} = {scaled}")

    def _open_images(self, what: str, split: Split, transform: Transform) -> ImageDataset:
        """Images that are read every epoch, decoded anew or kept."""
        if self.config.cache == "none":
            return open_images(split, transform, self.config.seed)
        # every process keeps its own in memory; on disk the first one writes for all
        with self.accelerator.main_process_first(), self.display.progress(f"keeping {what} images", len(split)) as (bar, task):
            processes = int(os.environ.get("LOCAL_WORLD_SIZE", self.accelerator.num_processes))
            place = Place(self.config.cache, processes, self.display.say, lambda done: bar.update(task, completed=done))
            return open_images(split, transform, self.config.seed, place)

    def _readable(self) -> dict[str, Split]:
        parts = {"train": self.data.train, "val": self.data.val, "test": self.data.test}
        return {name: drop_unreadable(split, self.unreadable) for name, split in parts.items()}

    @property
    def selection_split(self) -> str | None:
        """The split that chooses the epoch; None if nothing does and the last is kept."""
        return selection_part(self.config.protocol)

    def _fitting_batch_size(self, images: int) -> int:
        """The batch size, or the largest that the images and processes allow (even in every process, for mixup)."""
        unit = self.accelerator.num_processes * (2 if self.config.mixup or self.config.cutmix else 1)
        fitting = min(self.config.batch_size, images) // unit * unit
        if fitting == 0:
            raise RunError(f"{images} training images are too few for {self.accelerator.num_processes} processes")
        if fitting < self.config.batch_size:
            self.display.say(f"batch size {fitting} instead of {self.config.batch_size}")
        return fitting

    # training ----------------------------------------------------------------------------------------------------------

    def _restore(self) -> tuple[list[dict[str, Any]], int]:
        """Metrics of the finished epochs and the best one; loads the state a resumed run goes on from."""
        state = self.directory.read_state()
        if state is None:
            if self.accelerator.is_main_process:
                save_adapter(self.model, self.directory.path, self.data.class_names, self.inputs.to_dict())
            return [], -1
        self.tuner.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.display.say(f"resuming after epoch {len(state['metrics'])}")
        if self.accelerator.is_main_process:
            self.directory.write_metrics(state["metrics"])
        return list(state["metrics"]), int(state["best"])

    def _epoch(self, epoch: int, rows: list[dict[str, Any]], best: int) -> int:
        """Train and evaluate one epoch, write everything down, return the epoch to keep so far."""
        started = time.time()
        # all randomness follows from (seed, epoch, process): a resumed run draws what an uninterrupted one would have
        seed_everything(hash((self.config.seed, epoch, self.accelerator.process_index)) % 2**32)
        train_loss = self._train_epoch(epoch)
        batches = normalised(self.scored_loader, self.inputs)
        scores = score(self.wrapped, batches, self.accelerator, len(self.data.class_names))
        check_outcome(self.tuner, scores.loss, epoch)  # before anything good is overwritten
        chooses = self.selection_split is not None
        rows.append(
            {
                "epoch": epoch,
                "lr": self.optimizer.param_groups[0]["lr"],
                "train_loss": train_loss,
                "selection_split": self.selection_split,
                "selection_loss": scores.loss if chooses else None,
                "selection_top1": scores.top1 if chooses else None,
                "seconds": time.time() - started,
            }
        )
        better = not chooses or best < 0 or _merit(rows[-1]) > _merit(rows[best])
        best = epoch if better else best
        if self.accelerator.is_main_process:
            if better:
                save_trained(self.model, self.directory.path)
            # last, so that what a resumed run finds beside it is never behind it
            self.directory.write_state(
                {
                    "trained": self.tuner.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "metrics": rows,
                    "best": best,
                }
            )
            self.directory.write_metrics(rows)
        left = np.mean([row["seconds"] for row in rows]) * (self.config.epochs - epoch - 1)
        self.display.epoch(rows[-1], self.config.epochs, float(left), better and chooses)
        return best

    def _train_epoch(self, epoch: int) -> float:
        """One pass over the training images; returns the mean loss."""
        self.wrapped.train()
        self.loader.set_epoch(epoch)
        total = torch.zeros((), device=self.device)
        with self.display.progress(f"epoch {epoch + 1}/{self.config.epochs}", len(self.loader)) as (bar, task):
            for step, (images, labels, index) in enumerate(normalised(self.loader, self.inputs)):
                self.schedule.set(epoch, step)
                loss = self._loss(images, labels)
                value = loss.item()
                if not np.isfinite(value):
                    paths = [self.train_set.split.paths[i] for i in index.tolist()]
                    raise explain_nonfinite(self.model, images, value, epoch, step, paths)
                self.accelerator.backward(loss)
                if self.config.clip_grad:
                    self.accelerator.clip_grad_norm_(self.tuner.trainable_parameters(), self.config.clip_grad)
                self.optimizer.step()
                self.optimizer.zero_grad()
                total += loss.detach()
                bar.update(task, advance=1, note=f"loss {value:.3f}")
        mean: Tensor = self.accelerator.reduce(total / len(self.loader), reduction="mean")
        return mean.item()

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        if self.mixup is not None:
            images, targets = self.mixup(images, labels)
            return -(targets * F.log_softmax(self.wrapped(images).float(), dim=-1)).sum(-1).mean()
        return F.cross_entropy(self.wrapped(images).float(), labels, label_smoothing=self.config.label_smoothing)

    # after training ----------------------------------------------------------------------------------------------------

    def _finish(self, rows: list[dict[str, Any]], best: int) -> Run:
        self.accelerator.wait_for_everyone()
        load_trained(self.model, self.directory.path)
        readable = self._readable()["test"]
        lost = [image for image in self.unreadable if image.path in set(self.data.test.paths)]
        labels = dict(zip(self.data.test.paths, self.data.test.labels, strict=True))
        dataset = ImageListDataset(readable, eval_transform(self.inputs))
        loader = self.accelerator.prepare(make_loader(dataset, self.eval_batch_size, train=False, num_workers=self.workers))
        scores = score(
            self.wrapped, loader, self.accelerator, len(self.data.class_names), [labels[image.path] for image in lost]
        )
        result = self._result(rows, best, scores, lost)
        if self.accelerator.is_main_process:
            plot_curves(rows, best, self.directory.path / "curves", result["how_chosen"], result["method"])
            self.directory.write_result(result)
        self.accelerator.wait_for_everyone()
        self._print(result)
        return Run(self.directory.path, result)

    def _result(self, rows: list[dict[str, Any]], best: int, scores: Scores, lost: list[Unreadable]) -> dict[str, Any]:
        config = self.config
        return {
            "top1": scores.top1,
            "top5": scores.top5,
            "loss": scores.loss,
            "n_test": scores.n,
            "unreadable_test_images": describe_unreadable(lost),
            "unreadable_images": describe_unreadable(self.unreadable),
            "protocol": config.protocol,
            "epoch_chosen": best + 1,
            "epochs": config.epochs,
            "how_chosen": how_chosen(config.protocol, self.data),
            "selection_top1": rows[best]["selection_top1"],
            "peak_lr": config.peak_lr,
            "trainable_parameters": self.tuner.num_trainable,
            "trainable_parameters_without_head": self.tuner.num_trainable_without_head,
            "total_parameters": sum(p.numel() for p in self.model.parameters()),
            "training_seconds": sum(row["seconds"] for row in rows),
            "seconds": time.time() - self.started + self.seconds_before,
            "peak_memory_mb": peak_memory_mb(self.device),
            "method": config.method,
            "options": config.options,
            "model": config.model,
            "weights": config.weights,
            "data": {
                "name": self.data.name,
                "root": str(self.data.root),
                "classes": len(self.data.class_names),
                "train": len(self.data.train),
                "val": len(self.data.val),
                "test": len(self.data.test),
                "splits": {"train": self.data.train.origin, "val": self.data.val.origin, "test": self.data.test.origin},
            },
            "per_class": scores.per_class(self.data.class_names),
            "seed": config.seed,
            "device": str(self.device),
            "processes": self.accelerator.num_processes,
            "threads": torch.get_num_threads(),
            "precision": self.accelerator.mixed_precision.replace("no", "fp32"),
            "command": shlex.join(sys.argv),
            "versions": environment(),
        }

    def _print(self, result: dict[str, Any]) -> None:
        rows = [
            ("test top-1", f"{result['top1']:.2%} of {result['n_test']} images"),
            ("test top-5", f"{result['top5']:.2%}"),
            ("epoch chosen", f"{result['epoch_chosen']} of {result['epochs']}: {result['how_chosen']}"),
            ("trained parameters", f"{result['trainable_parameters']:,} of {result['total_parameters']:,}"),
            ("time", duration(result["seconds"])),
            ("peak memory", f"{result['peak_memory_mb']:,.0f} MB"),
        ]
        if result["unreadable_images"]:
            rows.append(("unreadable images", f"{len(result['unreadable_images'])}; those of test count as wrong"))
        self.display.table(str(self.directory.path), rows)
        self.display.say(f"next: svp predict {shlex.quote(str(self.directory.path))} IMAGE_OR_FOLDER")


def _merit(row: Mapping[str, Any]) -> tuple[float, float]:
    return row["selection_top1"], -row["selection_loss"]


def first(split: Split, n: int) -> Split:
    """Its first images, `n` or all."""
    return replace(split, paths=split.paths[:n], labels=split.labels[:n])


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and PyTorch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def weights_file(weights: str) -> Path:
    """The file behind ``--weights``: the file itself, or the adapter of a run directory."""
    path = Path(weights).expanduser()
    return path / "adapter.safetensors" if path.is_dir() else path
