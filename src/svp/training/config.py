"""What a training run is made of: one frozen dataclass, filled from defaults, a recipe, a file and explicit values."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from svp.data import AugmentConfig, CacheMode
from svp.inputs import InputOverrides
from svp.models.factory import full_name
from svp.runs.devices import check_device
from svp.settings import Device, Precision, TaskChoice, check_fields
from svp.tasks import Loss, Metric
from svp.training.balance import Balance
from svp.training.protocol import Protocol
from svp.training.recipes import ConfigError
from svp.training.trackers import names_of_trackers
from svp.tuners import get_methods, methods_to_dict, parse_methods

Schedule = Literal["cosine", "released"]
Check = Literal["all", "sample", "none"]
Decode = Literal["full", "scaled"]

AUTO = "auto"
"""Stands for a method or a learning rate that a run chooses itself, see `svp.training.halving`."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run. `lr`, `weight_decay` and `out` are resolved from the method and the data when left out.

    Args:
        data: Folder of images (class folders, or train/ [val/] [test/] of class folders), table (.csv, .tsv: path, label and,
            optionally, split), archive (.tar, .zip), hfds/OWNER/NAME for a data set of the Hugging Face Hub, or a named data
            set of `svp data list`.
        data_root: Folder where named data sets lie and archives are unpacked; $SVP_HOME/data if left out.
        model: Backbone, see `svp models list`. A tag behind a dot chooses among its published weights, see `svp models info`.
        weights: "published", "random", or a file (.pth, .safetensors, or the run directory of a `full` training).
        img_size: Side of the input in pixels; the model's own if left out.
        channels: Channels of an image: 3 is RGB, 1 gray, 2 gray and opacity, 4 RGB and opacity; others are the bands of NumPy
            arrays (.npy) or TIFFs. The patch embedding is adapted: for 1, its weights are summed over RGB; for others, they
            are repeated and scaled by 3 / channels.
        method: Tuning method, or several joined by "+". "auto" tries svp, lora and linear, and goes on with the one that is
            best on validation images.
        options: Options of the method; of several methods, a mapping for each by its name.
        epochs: Passes over the training images.
        minutes: Time for the whole run, test included, instead of `epochs`: the first epoch shows how many fit.
        patience: Stop after so many epochs without a better one on the validation images; never if left out.
        batch_size: Images per optimizer step, over all processes.
        lr: Peak learning rate of AdamW; the method's own (of several, the lowest) if left out. "auto" tries three, and goes on
            with the one that is best on validation images.
        head_lr: Peak learning rate of the head, where it is to differ from that of the method's other parameters; `lr` if
            left out.
        lr_base_size: Batch size that the learning rates are meant for: the peak is lr * batch size / this. Not scaled if left
            out.
        weight_decay: Weight decay of AdamW, on matrices only; the method's own (of several, the highest) if left out.
        schedule: Course of the learning rate. "cosine" changes it per step: linear warm-up, then half a cosine. "released"
            changes it per epoch, one epoch late, as the code released with the paper does.
        warmup_epochs: Epochs of linear warm-up, at most half of the run.
        warmup_lr: Learning rate that the warm-up starts from.
        min_lr: Learning rate that the cosine ends at.
        balance: What is done about classes with very different numbers of images: loss gives each class the same weight,
            sampler draws each class as often, logits learns free of the classes' shares.
        choose_by: Metric on the validation images that the best epoch is the best by; auto is top1 for classes,
            mean_average_precision for several labels and mae for numbers.
        task: What the labels of a table are: one class, several labels or a number (regression); auto tells it by the labels
            and says what it took.
        label: Columns of a table that hold the labels, with commas between them: several hold 1 or 0 each. The column "label"
            if left out.
        loss: What is minimized; auto is cross entropy for classes, binary cross entropy (bce) for several labels and the
            squared error for numbers.
        calibrate: Divide the logits by a temperature that is fitted on the validation images at the end, so that what is
            said with 90 % is right nine times in ten. The classes that are guessed stay the same.
        reject: Accuracy that accepted guesses shall have, such as 0.95. The least confidence that promises it is chosen on the
            validation images at the end; a guess with less is shown as "none of these".
        label_smoothing: Share of the target that is spread over all classes; of one class per image alone.
        mixup: Alpha of mixup; 0 turns it off.
        cutmix: Alpha of CutMix; 0 turns it off. With both, each batch takes one of them at random.
        drop_path: Stochastic depth rate of the last block.
        clip_grad: Largest norm of the gradient; not clipped if left out.
        ema: Decay of a moving average of what trains, such as 0.999, which is scored and kept in its place; the decay grows up
            to this over the first steps. No average if left out.
        grad_checkpointing: Recompute blocks in the backward pass, which takes less memory and about a third more time.
        augment: How training images are varied.
        inputs: What replaces the model's own preparation of images.
        protocol: What is trained on and what chooses the epoch. "validation": train on the training part, choose the epoch
            on validation images, read test once at the end. "trainval": train on both parts, keep the last epoch, read test
            once, as tables of VTAB-1K do. "paper": train on both parts and choose the best epoch on test, as the paper's
            code does, which is optimistic. Every result says which it was.
        shots: Images per class to train on, drawn by the seed; all if left out. Validation and test stay whole.
        train_fraction: Share of each class to train on, drawn by the seed, at least one image; instead of `shots`. The list
            of that share that a named data set brings is taken instead of a draw, except with the protocol "trainval".
        val_fraction: Share of the training images that is split off for validation if the data has no validation part.
        test_fraction: Share of the images that is split off for test if the data has no test part.
        folds: Number of folds of a cross-validation, which tells how good the adapter is from all images but the test images:
            each is judged by a model that was not trained on it. The adapter is then trained on all of them, as protocol
            "trainval" does.
        group: Column of a table whose values, such as patients, tracks or sites, are kept in one part each: a column called
            "group" if left out, none with "none".
        group_regex: Regular expression that finds such a group in the names of the files (in paths below the data folder if it
            holds a slash); its first bracket is the group.
        archive_encoding: Encoding of the names in an archive that are not UTF-8, such as gbk, cp932 or cp866; guessed, with a
            note, if left out.
        check: Which files are decoded before the first step, to find those that cannot be read: "all", the first time a file
            is seen; a "sample" of 1,000; or "none". What is found later is named, counted and kept out of training, too.
        seed: Seeds the initial weights, the splits, the order of images and their augmentation.
        precision: Number format; auto is bf16 on a GPU that has it and fp32 elsewhere.
        device: Where the model is trained: auto, cpu, cuda, cuda:1, xpu or mps; auto takes a GPU if there is one.
        num_workers: Processes that read images; chosen for the machine if left out.
        cache: Where decoded training and validation images are kept, shrunk: in memory, or on disk below
            $SVP_HOME/cache/images. Evaluation stays the same to the bit; augmented images may be coarser.
        decode: How JPEGs are decoded for training: "full"; or "scaled", those that are at least twice as large as the smallest
            random crop needs at a half, quarter or eighth of their sides, which is faster. Evaluation always decodes in full.
        max_pixels: Largest image that is read, in pixels; above about 179 million it has to be allowed here.
        tracker: Where the numbers of every epoch are sent besides: csv, tensorboard, wandb, mlflow, or several joined by "+".
        out: Run directory; runs/DATA-MODEL-METHOD-SEED if left out.
        resume: Go on with the run in `out` after its last finished epoch.
        recipe: Named recipe or YAML file, whose values apply where nothing else is given. For the recipe "paper", the variant
            of the named data set is taken.
    """

    data: str = ""
    data_root: str | None = None
    model: str = "vim_tiny"
    weights: str = "published"
    img_size: int | None = None
    channels: int = 3
    method: str = "svp"
    options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 20
    minutes: float | None = None
    patience: int | None = None
    batch_size: int = 32
    lr: float | Literal["auto"] | None = None
    head_lr: float | None = None
    lr_base_size: int | None = None
    weight_decay: float | None = None
    schedule: Schedule = "cosine"
    warmup_epochs: float = 1.0
    warmup_lr: float = 1e-6
    min_lr: float = 1e-6
    balance: Balance = "none"
    choose_by: Metric | Literal["auto"] = "auto"
    task: TaskChoice = "auto"
    label: str | None = None
    loss: Loss = "auto"
    calibrate: bool = False
    reject: float | None = None
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    clip_grad: float | None = None
    ema: float | None = None
    grad_checkpointing: bool = False
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    inputs: InputOverrides = field(default_factory=InputOverrides)
    protocol: Protocol = "validation"
    shots: int | None = None
    train_fraction: float | None = None
    val_fraction: float = 0.15
    test_fraction: float = 0.15
    folds: int | None = None
    group: str | None = None
    group_regex: str | None = None
    archive_encoding: str | None = None
    check: Check = "all"
    seed: int = 0
    precision: Precision = "auto"
    device: Device = "auto"
    num_workers: int | None = None
    cache: CacheMode = "none"
    decode: Decode = "full"
    max_pixels: int | None = None
    tracker: str | None = None
    out: str | None = None
    resume: bool = False
    recipe: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.data:
            raise ConfigError("data is missing: a folder with one folder of images per class, or a data set's name")
        full_name(self.model)
        names_of_trackers(self.tracker)
        check_device(self.device)
        methods = () if self.method == AUTO else get_methods(self.method)
        lowest = {
            "epochs": 1,
            "patience": 1,
            "folds": 2,
            "batch_size": 2,
            "lr_base_size": 1,
            "shots": 1,
            "num_workers": 0,
            "img_size": 1,
            "channels": 1,
            "seed": 0,
            "max_pixels": 1,
        }
        for name, low in lowest.items():
            _check_at_least(name, getattr(self, name), low)
        for name in ("lr", "head_lr", "clip_grad", "minutes"):
            value = getattr(self, name)
            if value not in (None, "auto") and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{name} is {value}, expected a number above 0")
        for name in ("weight_decay", "warmup_epochs", "warmup_lr", "min_lr", "mixup", "cutmix"):
            _check_at_least(name, getattr(self, name), 0)
        for name in ("label_smoothing", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 <= {name} < 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"ema is {self.ema}, expected 0 < ema < 1")
        if self.reject is not None and not 0 < self.reject < 1:
            raise ConfigError(f"reject is {self.reject}, expected 0 < reject < 1")
        for name in ("val_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 0.9:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 < {name} < 0.9")
        if self.train_fraction is not None and not 0 < self.train_fraction <= 1:
            raise ConfigError(f"train_fraction is {self.train_fraction}, expected 0 < train_fraction <= 1")
        if self.train_fraction is not None and self.shots is not None:
            raise ConfigError(f"shots is {self.shots} and train_fraction is {self.train_fraction}, expected only one of them")
        if self.folds is not None:
            if self.protocol == "paper" or self.minutes is not None:
                other = "protocol paper" if self.protocol == "paper" else f"minutes {self.minutes}"
                raise ConfigError(f"folds is {self.folds}, which does not go with {other}: leave one of the two out")
            object.__setattr__(self, "protocol", "trainval")
        for name in ("lr", "method"):
            if getattr(self, name) == AUTO and self.protocol != "validation" and self.folds is None:
                raise ConfigError(
                    f"{name} auto needs validation images, protocol {self.protocol} has none: name one, or leave the protocol "
                    "out"
                )
        for name in ("calibrate", "reject"):
            if getattr(self, name) and self.protocol != "validation" and self.folds is None:
                raise ConfigError(
                    f"{name} needs validation images, protocol {self.protocol} has none: leave one of the two settings out"
                )
        if self.patience is not None and self.protocol == "trainval":
            other = "protocol trainval has none" if self.folds is None else f"folds {self.folds} leaves none"
            raise ConfigError(f"patience needs validation images, {other}: leave one of the two settings out")
        if self.channels != 3 and self.cache != "none":
            raise ConfigError(
                f"cache is {self.cache!r}, which keeps RGB images, and channels is {self.channels}: leave cache out"
            )
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ConfigError(f"batch_size is {self.batch_size}, mixup and CutMix need an even one")
        if self.method == AUTO:
            if self.options:
                raise ConfigError(f"method auto takes no options, got {', '.join(self.options)}: name a method")
            return
        # the method's own checks; every option is written out, so that a run says what it did
        written = methods_to_dict(parse_methods(self.method, **self.options))
        object.__setattr__(self, "options", written if len(written) > 1 else written[self.method])
        if self.lr is None:
            object.__setattr__(self, "lr", default_rate(self.method))
        if self.weight_decay is None:
            object.__setattr__(self, "weight_decay", max(method.default_weight_decay for method in methods))

    @property
    def is_open(self) -> bool:
        """Whether the run itself has to find its learning rate or its method."""
        return AUTO in (self.lr, self.method)

    @property
    def rate(self) -> float:
        """`lr` as a number.

        Raises:
            ConfigError: It is "auto", which a run alone finds out.
        """
        if not isinstance(self.lr, float | int):
            raise ConfigError(
                f"lr is {self.lr or AUTO}, which only svp train finds out: give a number, or several to a study's tune"
            )
        return self.lr

    @property
    def peak_lr(self) -> float:
        """The peak learning rate after scaling with the batch size."""
        lr = self.rate
        return lr * self.batch_size / self.lr_base_size if self.lr_base_size else lr

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as ``config.yaml`` and recipes hold them: ``method`` maps each name to its options."""
        values = asdict(self)
        options = values.pop("options")
        if self.inputs.value_range is not None:
            values["inputs"]["value_range"] = list(self.inputs.value_range)  # YAML has no tuples
        return values | {"method": options if "+" in self.method else {self.method: options}}


SETTINGS = frozenset(field.name for field in fields(TrainConfig))
"""Names of the settings of a run."""


def default_rate(method: str) -> float:
    """The learning rate of a method, of several the lowest."""
    return min(part.default_lr for part in get_methods(method))


def _check_at_least(name: str, value: float | None, low: int) -> None:
    if value is not None and not value >= low:
        raise ConfigError(f"{name} is {value}, expected {low} or more")


WITHOUT_EFFECT = frozenset({"resume", "check", "out", "num_workers", "device", "recipe", "tracker"})
"""Settings that cannot change what is trained."""


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Settings that differ, as "name: old -> new", but for those that cannot change what is trained."""
    return [
        f"{f.name}: {getattr(old, f.name)} -> {getattr(new, f.name)}"
        for f in fields(TrainConfig)
        if f.name not in WITHOUT_EFFECT and getattr(old, f.name) != getattr(new, f.name)
    ]
