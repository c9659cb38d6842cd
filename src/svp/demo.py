"""``svp demo``: the main job in about a minute, on weights and images that come with the installation."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from svp.models.factory import model_info
from svp.paths import write_atomically
from svp.training import ConfigError, Run, train

METHODS = ("linear", "svp")
SETTINGS: dict[str, Any] = dict(
    data="digits",
    model="vim_nano",
    epochs=6,
    batch_size=64,
    augment=dict(scale_min=0.7, hflip=0.0, auto_augment=None, color_jitter=0.0, random_erasing=0.0),
)
_MARK = ".svp-demo"


def demo(out: str | Path = "runs/demo") -> list[Run]:
    """Adapt the embedded nano Vim to scikit-learn's handwritten digits by a linear probe and by SVP, side by side.

    Args:
        out: Folder of the two runs; a folder of an earlier demo is replaced, anything else is left alone.

    Raises:
        ConfigError: `out` holds something else.
    """
    out = Path(out)
    console = Console(highlight=False)
    _clear(out)
    info = model_info(SETTINGS["model"])
    console.print(f"[bold]svp demo[/bold]: {info.name} ({info.parameters / 1e6:.1f} M parameters) learns handwritten digits\n")
    started = time.time()
    runs = []
    for method in METHODS:
        console.print(f"[bold]{method}[/bold]")
        runs.append(train(method=method, out=out / method, **SETTINGS))
        console.print()
    table = Table(title="test images, backbone frozen", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("method", "top-1", "trained parameters", "training"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for run in runs:
        result = run.result
        table.add_row(
            result["method"],
            f"{result['top1']:.1%}",
            f"{result['trainable_parameters']:,}",
            f"{result['training_seconds']:.0f} s",
        )
    console.print(table)
    plot_comparison(runs, out / "demo.png")
    best = runs[-1].directory
    image = first_test_image(best)
    console.print(f"{time.time() - started:.0f} s in all; figure: {out / 'demo.png'}", markup=False)
    console.print(f"adapter: {best / 'adapter.safetensors'}, result: {best / 'result.json'}\n", markup=False)
    console.print(f"next:  svp predict {shlex.quote(str(best))} {shlex.quote(str(image))}", markup=False, soft_wrap=True)
    console.print("       svp train --data my_photos       your own: one folder of images per class", markup=False)
    return runs


def plot_comparison(runs: list[Run], path: Path) -> None:
    """Accuracy on validation images over the epochs, one line per method, as a PNG."""
    import json

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for run, colour in zip(runs, ("#777777", "#0072B2"), strict=True):
        rows = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
        values = [row["selection_top1"] for row in rows]
        label = f"{run.result['method']}: {run.result['trainable_parameters']:,} parameters, test {run.result['top1']:.1%}"
        axis.plot(range(1, len(values) + 1), values, marker="o", color=colour, label=label)
    axis.set(xlabel="epoch", ylabel="top-1 on validation images", title="Handwritten digits, frozen vim_nano", ylim=(0, 1.02))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25, linewidth=0.6)
    axis.legend(frameon=False, loc="lower right")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=144, format="png"))


def first_test_image(directory: Path) -> Path:
    """An image of the run's test split."""
    from svp.training import RunDirectory

    return RunDirectory(directory).read_split("test").paths[0]


def _clear(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / _MARK).is_file():
            raise ConfigError(f"{out} holds something else than an earlier demo: choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()
