"""``svp train``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from svp.commands import UsageError
from svp.commands.parsing import Parser, add_parameters, is_first_process
from svp.errors import InputError, Interrupted, SvpError

_GROUPS = {
    "data": (
        *("data", "data_root", "protocol", "shots", "train_fraction", "val_fraction", "test_fraction", "folds"),
        *("group", "group_regex", "archive_encoding", "check"),
    ),
    "model": ("model", "weights", "img_size", "channels", "drop_path", "grad_checkpointing"),
    "method": (),
    "optimization": (
        *("epochs", "minutes", "patience", "batch_size", "lr", "head_lr", "lr_base_size", "weight_decay", "schedule"),
        *("warmup_epochs", "warmup_lr", "min_lr", "clip_grad", "ema"),
    ),
    "task, classes and scores": ("task", "label", "loss", "choose_by", "balance", "calibrate", "reject"),
    "augmentation": ("label_smoothing", "mixup", "cutmix"),
    "preparation of images": (),
    "run": (),  # and all that stand nowhere else
}


def run(argv: list[str]) -> int:
    from svp.data import AugmentConfig
    from svp.training.config_sources import make_config
    from svp.training.runner import train
    from svp.tuners import list_methods

    values = make_parser(list_methods()).parse_args(argv, defaults=False).as_dict()
    if values.pop("no_augment", False):
        values["augment"] = asdict(AugmentConfig.none()) | values.get("augment", {})
    config_file = values.pop("config", None)
    if config_file is None and values.get("out") and values.get("resume"):
        saved = Path(values["out"]) / "config.yaml"  # `svp train --out RUN --resume` needs nothing more
        config_file = str(saved) if saved.is_file() else None
        if config_file is None and not {"data", "recipe"} & values.keys():
            raise InputError(f"--resume: {values['out']} holds no run, as it has no config.yaml; a new run needs --data")
    if "method" in values:
        _check_method(values["method"])
    config = make_config(values, config_file)
    try:
        trained = train(config=config)
    except Interrupted as interrupt:
        where = shlex.quote(str(interrupt.directory))
        print(f"\nsvp train: interrupted; go on with svp train --out {where} --resume", file=sys.stderr)
        return 130
    if is_first_process():
        _write_page(trained.directory)
    return 0


def _write_page(run: Path) -> None:
    """The run's page; what goes wrong here takes nothing from the run, which is finished."""
    from svp.inspection.report import write_report

    try:
        page = write_report(run)
    except (SvpError, OSError) as error:
        print(f"svp train: the page of the run cannot be written: {error}", file=sys.stderr)
    else:
        if page is not None:
            print(f"page: {page}")


def make_parser(methods: Sequence[str]) -> Parser:
    """Parser of all settings, and of the options of some methods as ``--method.NAME.OPTION``."""
    from svp.data import AugmentConfig
    from svp.inputs import InputOverrides
    from svp.training.config import TrainConfig
    from svp.tuners import get_methods, list_methods

    text = (
        "Train an adapter on a folder of images, or on a named data set. --data is enough to begin with; what matters most "
        "after it are --model, --method, --epochs, --lr and --minutes. All of these options have defaults."
    )
    parser = Parser("svp train", text, "svp train --data DATA [OPTION]...", add_help=False)
    groups = {name: parser.add_argument_group(name) for name in _GROUPS}
    elsewhere = {setting for settings in _GROUPS.values() for setting in settings} | {"method", "options", "augment", "inputs"}
    rest = [field.name for field in fields(TrainConfig) if field.name not in elsewhere]
    for name, settings in _GROUPS.items():
        add_parameters(groups[name], TrainConfig, rest if name == "run" else settings)
    text = "Vary training images in no way but those that the options below name."
    groups["augmentation"].add_argument("--no-augment", action="store_true", help=text)
    add_parameters(groups["augmentation"], AugmentConfig, prefix="augment.")
    names = [field.name for field in fields(InputOverrides) if field.name != "value_range"]
    add_parameters(groups["preparation of images"], InputOverrides, names, prefix="inputs.")
    text = (
        "The two values that become black and white in images with more than 8 bits per sample; taken from the images of the "
        "run if left out."
    )
    groups["preparation of images"].add_argument(
        "--value-range", nargs=2, type=float, dest="inputs.value_range", metavar=("LOW", "HIGH"), help=text
    )
    text = (
        "Tuning method, or several joined by +; `--method NAME --help` shows its options. auto tries svp, lora and linear on "
        f"validation images. Known: {', '.join(list_methods())}."
    )
    groups["method"].add_argument("--method", type=str, default="svp", metavar="NAME", help=text)
    options: set[str] = set()
    for name in methods:
        (method,) = get_methods(name)
        add_parameters(groups["method"], method, prefix=f"method.{name}.", destination=f"options.{name}.")
        options |= {field.name for field in fields(method)}
    for option in sorted(options):  # of a single method its name may be left out, as in 0.1.0
        spelled = f"--method.{option}".replace("_", "-")
        parser.add_argument(spelled, dest=f"options.{option}", type=Any, help=argparse.SUPPRESS)
    text = "YAML file of settings, such as a run's config.yaml; options given here win over it."
    groups["run"].add_argument("--config", type=str, metavar="FILE", help=text)
    groups["run"].add_argument("-h", "--help", action=_Help, help="Show this page, with the options of --method, and exit.")
    parser.allow_underscores()
    return parser


class _Help(argparse._HelpAction):
    """Shows the options of the method that was named before, and of no other."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        make_parser(_check_method(namespace.get("method") or "svp")).print_help()
        parser.exit()


def _check_method(name: str) -> list[str]:
    """The methods that a joined name names; none for "auto"."""
    from svp.training.config import AUTO
    from svp.tuners import get_methods

    if name == AUTO:
        return []
    try:
        return [method.name for method in get_methods(name)]
    except InputError as error:
        raise UsageError(str(error)) from error
