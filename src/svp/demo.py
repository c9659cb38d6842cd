"""``svp demo``: the main job in about a minute, on weights and images that come with the installation."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path
from typing import Any

from svp.models.factory import model_info
from svp.plotting import looks, new_figure, percent, save, style
from svp.runs import RunDirectory
from svp.terminal import make_console, make_table
from svp.training import ConfigError, Run, train
from svp.training.display import style_epochs
from svp.tuners import method_title

METHODS = {"linear": 1e-1, "vpt_deep": 6e-2, "svp": 2e-2}
"""Methods and their learning rates: the best on validation images of a grid by factors of two, wide enough that both ends
are no better.
"""

SETTINGS: dict[str, Any] = dict(
    data="digits",
    model="vim_nano",
    shots=40,
    val_fraction=0.1,
    epochs=2,
    warmup_epochs=0.25,
    batch_size=8,
    cache="memory",
    augment=dict(scale_min=0.7, hflip=0.0, auto_augment=None, color_jitter=0.0, random_erasing=0.0),
)
_MARK = ".svp-demo"


def demo(out: str | Path = "runs/demo") -> list[Run]:
    """Adapt the embedded nano Vim to scikit-learn's handwritten digits by a linear probe, VPT-deep and SVP, side by side.

    Args:
        out: Folder of the runs; a folder of an earlier demo is replaced, anything else is left alone.

    Raises:
        ConfigError: `out` holds something else.
    """
    out = Path(out)
    console = make_console()
    _clear(out)
    info = model_info(SETTINGS["model"])
    console.print(f"{info.name}, {info.parameters / 1e6:.1f} M parameters, frozen but for what a method trains\n")
    started = time.time()
    runs = []
    for method, lr in METHODS.items():
        console.print(method, style="bold")
        runs.append(train(method=method, lr=lr, out=out / method, **SETTINGS))
        console.print()
    numbers = ("top-1", "trained parameters", "training")
    table = make_table("method", *numbers, title="test images, backbone frozen", right=numbers)
    for run in runs:
        result = run.result
        table.add_row(
            result.method,
            f"{result.top1:.1%}",
            f"{result.trainable_parameters:,}",
            f"{result.training_seconds:.0f} s",
        )
    console.print(table)
    plot_comparison(runs, out / "demo")
    best = runs[-1].directory
    image = first_test_image(best)
    console.print(
        f"{time.time() - started:.0f} s in all\n"
        f"figure   {out / 'demo.png'}\n"
        f"adapter  {best / 'adapter.safetensors'}\n"
        f"result   {best / 'result.json'}\n\n"
        f"next: svp predict {shlex.quote(str(best))} {shlex.quote(str(image))}\n"
        "or with your own images, one folder per class: svp train --data my_photos"
    )
    return runs


def plot_comparison(runs: list[Run], path: Path) -> None:
    """Accuracy on validation images over the epochs, one line per method, as PNG and PDF beside `path`."""
    with style():
        figure = new_figure(4.6, 2.8)
        axis = figure.subplots()
        for run, look in zip(runs, looks([run.result.method for run in runs]), strict=True):
            values = [row.merit[0] for row in RunDirectory(run.directory).read_metrics()]
            name = method_title(run.result.method)
            label = f"{name}: {run.result.trainable_parameters:,} parameters, test {run.result.top1:.1%}"
            curve = dict(color=look.color, linestyle=look.line, marker=look.marker)
            axis.plot(range(1, len(values) + 1), values, label=label, **curve)
        axis.set(ylabel="top-1 on validation images", title="Handwritten digits, frozen vim_nano", ylim=(0, 1.02))
        axis.yaxis.set_major_formatter(percent())
        style_epochs(axis)
        save(figure, path)


def first_test_image(directory: Path) -> Path:
    """An image of the run's test split."""
    return RunDirectory(directory).read_split("test").paths[0]


def _clear(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / _MARK).is_file():
            raise ConfigError(f"{out} holds something else than an earlier demo: choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()
