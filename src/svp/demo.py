"""``svp demo``: the main job in half a minute, on weights and images that come with the installation."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from svp.models.factory import model_info
from svp.plotting import looks, new_figure, percent, save, style
from svp.runs import Result, RunDirectory
from svp.terminal import make_console, make_table
from svp.training import make_config, train
from svp.training.display import style_epochs
from svp.tuners import method_title

RIVALS = {"linear": 5e-2, "vpt_deep": 3e-2}
"""Methods beside SVP and their learning rates; like the recipe's own, the best on validation images of a grid by factors of
two, wide enough that both ends are no better.
"""


def demo(folder: Path, recipe: str, second: subprocess.Popen[bytes] | None) -> None:
    """Adapt a small Vim by a linear probe, VPT-deep and SVP, and set them side by side.

    Args:
        folder: Where the runs lie.
        recipe: What is trained, by SVP.
        second: The process that trains SVP in ``folder/svp``, and prints into ``folder/svp.log``; if None, or if it fails,
            this one does.
    """
    console = make_console()
    started = time.time()
    info = model_info(make_config({"recipe": recipe}).model)
    console.print(f"{info.name}, {info.parameters / 1e6:.1f} M parameters, frozen but for what a method trains\n")
    threads = torch.get_num_threads()
    if second is not None:
        torch.set_num_threads(max(1, threads // 2))
    for method, lr in RIVALS.items():
        console.print(method, style="bold")
        train(recipe=recipe, method=method, lr=lr, out=folder / method)
        console.print()
    torch.set_num_threads(threads)
    console.print("svp", style="bold")
    if second is None or not _follow(second, folder / "svp.log", console.print):
        train(recipe=recipe, out=folder / "svp", resume=True)
    console.print()
    runs = {folder / method: RunDirectory(folder / method).read_result() for method in (*RIVALS, "svp")}
    numbers = ("top-1", "trained parameters", "training")
    table = make_table("method", *numbers, title="test images, backbone frozen", right=numbers)
    for result in runs.values():
        table.add_row(
            result.method,
            f"{result.top1:.1%}",
            f"{result.trainable_parameters:,}",
            f"{result.training_seconds:.0f} s",
        )
    console.print(table)
    plot_comparison(runs, folder / "demo")
    best = folder / "svp"
    image = RunDirectory(best).read_split("test").paths[0]
    console.print(
        f"{time.time() - started:.0f} s in all\n"
        f"figure   {folder / 'demo.png'}\n"
        f"adapter  {best / 'adapter.safetensors'}\n"
        f"result   {best / 'result.json'}\n\n"
        f"next: svp predict {shlex.quote(str(best))} {shlex.quote(str(image))}\n"
        "or with your own images, one folder per class: svp train --data my_photos"
    )


def _follow(process: subprocess.Popen[bytes], log: Path, show: Callable[[str], None]) -> bool:
    """Show what a process has printed, then what it prints, until it ends; returns whether it did its work."""
    ended = False
    with log.open(encoding="utf-8", errors="replace") as lines:
        while not ended:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
                ended = True
            for line in lines:
                show(line.rstrip("\n"))
    return process.returncode == 0


def plot_comparison(runs: Mapping[Path, Result], path: Path) -> None:
    """Accuracy on validation images over the epochs, one line per method, as PNG and PDF beside `path`."""
    with style():
        figure = new_figure(4.6, 2.8)
        axis = figure.subplots()
        for (directory, result), look in zip(runs.items(), looks([result.method for result in runs.values()]), strict=True):
            values = [row.merit[0] for row in RunDirectory(directory).read_metrics()]
            name = method_title(result.method)
            label = f"{name}: {result.trainable_parameters:,} parameters, test {result.top1:.1%}"
            curve = dict(color=look.color, linestyle=look.line, marker=look.marker)
            axis.plot(range(1, len(values) + 1), values, label=label, **curve)
        axis.set(ylabel="top-1 on validation images", title="Handwritten digits, frozen vim_nano", ylim=(0, 1.02))
        axis.yaxis.set_major_formatter(percent())
        style_epochs(axis)
        save(figure, path)
