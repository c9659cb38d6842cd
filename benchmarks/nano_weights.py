"""How good are weights of the nano Vim? The figures of its model card, several weights beside each other in one table.

    python -m benchmarks.nano_weights pretrained/tasks cifar10-jpeg.zip tiny_in200 pretrained/vim_nano_patch4_32.safetensors

TASKS is what `benchmarks.pretrain` or `benchmarks.held_out_classes` wrote: pretraining/test/ has images of the classes that
are not held out, task1 to task5 are the others. Weights are tags (`svp models info vim_nano`) or files, with a head of either
all 200 classes of Tiny ImageNet or those of pretraining/. Of 200 classes both are scored: the guess among all, and among the
classes of pretraining/ alone, which compares with weights that know no others. Weights that have seen all classes have seen
those of the tasks too. Runs are kept below --out and not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from svp.process import prepare

prepare()  # before PyTorch is imported

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import svp  # noqa: E402
from svp.data import ImageListDataset, ImageReader, Split, eval_transform, make_loader, open_data  # noqa: E402
from svp.inputs import InputConfig  # noqa: E402
from svp.models import model_info  # noqa: E402
from svp.models.checkpoints import file_sha256  # noqa: E402

PROBE: dict[str, Any] = dict(
    method="linear", epochs=10, batch_size=64, lr=0.01, precision="bf16", cache="memory", resume=True, progress=False,
    augment=dict(scale_min=0.7, auto_augment=None, color_jitter=0.0, random_erasing=0.0),
)  # fmt: skip
"""The linear probe on CIFAR-10: 8,500 images train, 1,500 choose the epoch."""
SMALL_PROBE = PROBE | dict(
    epochs=30, augment=dict(crop="none", hflip=0.0, auto_augment=None, color_jitter=0.0, random_erasing=0.0)
)
"""On a task of 1,000 images: kept features, so that 30 epochs take no longer than one."""


def settings_of(weights: str) -> dict[str, str]:
    """Settings of `svp train`: the model of a tag, or the file."""
    if weights in model_info("vim_nano").tags:
        return {"model": f"vim_nano.{weights}"}
    return {"model": "vim_nano", "weights": weights}


def create(weights: str) -> Any:
    """The model with its own head."""
    settings = settings_of(weights)
    return svp.create_model(settings["model"], pretrained=settings.get("weights", True)).eval()


def known_classes(tasks: Path) -> tuple[list[str], list[str]]:
    """All classes, in the order of their folders, and those of pretraining/."""
    own = sorted(folder.name for folder in (tasks / "pretraining" / "test").iterdir())
    held_out = {folder.name for task in tasks.glob("task*") for folder in (task / "test").iterdir()}
    return sorted(held_out.union(own)), own


@torch.inference_mode()
def logits_of(model: Any, split: Split) -> tuple[Tensor, Tensor]:
    """Logits and classes of all images of a split."""
    inputs = InputConfig.of_model(model)
    dataset = ImageListDataset(split, eval_transform(inputs), reader=ImageReader.of(inputs, None))
    batches = [(model(batch[0]), batch[1]) for batch in make_loader(dataset, 250, train=False, num_workers=0)]
    logits, labels = zip(*batches, strict=True)
    return torch.cat(logits), torch.cat(labels)


def share_right(logits: Tensor, labels: Tensor, guesses: int) -> float:
    """Share of images whose first guesses hold the right class."""
    return float((logits.topk(min(guesses, logits.shape[1])).indices == labels[:, None]).any(1).double().mean())


def recognition(weights: str, tasks: Path, limit: int | None = None) -> dict[str, float]:
    """Top-1 and top-5 of the classes of pretraining/, and of all classes for a head that knows them."""
    model = create(weights)
    every, own = known_classes(tasks)
    indices = torch.tensor([every.index(name) for name in own])
    split = open_data(tasks / "pretraining").splits["test"]
    logits, labels = logits_of(model, split.take(range(0, len(split), max(len(split) // limit, 1) if limit else 1)))
    scores = {}
    if logits.shape[1] == len(every):
        among = f"{len(every)} classes"
        scores |= {f"of {among}, {name}": share_right(logits, indices[labels], k) for name, k in GUESSES.items()}
        logits = logits[:, indices]
    return {f"of {len(own)} classes, {name}": share_right(logits, labels, k) for name, k in GUESSES.items()} | scores


GUESSES = {"top-1": 1, "top-5": 5}


def probe(weights: str, data: Path, out: Path, settings: dict[str, Any]) -> float:
    """Test top-1 of a linear probe."""
    run = svp.train(data, out=str(out), **settings_of(weights), **settings)
    return run.result.top1


def table(columns: dict[str, dict[str, float]]) -> str:
    """A row per figure, a column per weights, in %."""
    rows = list(dict.fromkeys(name for scores in columns.values() for name in scores))
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for row in rows:
        shown = (f"{100 * scores[row]:.1f}" if row in scores else "" for scores in columns.values())
        lines.append(f"| {row} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tasks", type=Path, help="folder of pretraining/ and the tasks")
    parser.add_argument("cifar10", type=Path, help="CIFAR-10 as JPEG, with train/ and test/")
    parser.add_argument("weights", nargs="+", help="tags or files")
    parser.add_argument("--out", type=Path, default=Path("runs/nano_weights"), help="folder of the runs")
    parser.add_argument("--limit", type=int, help="score about so many images of pretraining/, one epoch a probe: a rehearsal")
    arguments = parser.parse_args()
    short = dict(epochs=1, train_fraction=0.1) if arguments.limit else {}
    folder = arguments.out / "rehearsal" if arguments.limit else arguments.out
    columns: dict[str, dict[str, float]] = {}
    for weights in arguments.weights:
        tag = weights in model_info("vim_nano").tags
        name = weights if tag else f"{Path(weights).name} ({file_sha256(Path(weights))[:8]})"
        out = folder / (weights if tag else file_sha256(Path(weights))[:8])
        scores = columns.setdefault(name, {})
        scores |= recognition(weights, arguments.tasks, arguments.limit)
        for task in sorted(arguments.tasks.glob("task*")):
            scores[f"linear probe, {task.name}"] = probe(weights, task, out / task.name, SMALL_PROBE | short)
        held_out = [value for row, value in scores.items() if "task" in row]
        scores["linear probe, mean of the held-out tasks"] = sum(held_out) / len(held_out)
        scores["linear probe, CIFAR-10"] = probe(weights, arguments.cifar10, out / "cifar10", PROBE | short)
        print(table(columns), flush=True)


if __name__ == "__main__":
    main()
