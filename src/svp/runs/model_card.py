"""The page of an adapter on the Hugging Face Hub: what it is, how to use it, how good it is, how it was made, its terms."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from svp.models import ModelInfo, model_info
from svp.runs.certainty import wilson
from svp.runs.result import Result
from svp.runs.trained import class_names
from svp.tasks import METRICS, show_metric
from svp.tuners import AdapterInfo, method_title

_MOST_CLASSES = 100
"""Classes up to which all are listed with their scores."""

_HUB_METRICS = {"top1": "accuracy", "top5": "top_5_accuracy", "macro_f1": "f1", "auroc": "roc_auc"}
"""Metrics whose type has another name on the Hub."""

_NAMES: dict[str, str] = {str(metric): name for metric, name in METRICS.items()}

_SAYS = {
    "single": ("tells {count} classes of images apart", "Classes", "image.classes[0], image.probabilities[0]"),
    "multi": ("says which of {count} labels an image has", "Labels", "image.labels"),
    "regression": ("says a number of an image", "Number", "image.value"),
}
"""What a model does, what its outputs are, and how to print an answer, by its task."""


def make_card(info: AdapterInfo, result: Result | None, repo: str, with_peft: bool = False) -> str:
    """Text of ``README.md``, with its metadata on top.

    Paths on this machine are not told: what lies in a folder is named by its last part.

    Args:
        info: Contents of ``adapter.json``.
        result: Contents of ``result.json``; None for an adapter without a run.
        repo: OWNER/NAME on the Hub.
        with_peft: Whether the files of PEFT are beside it.
    """
    backbone = model_info(info.backbone.name)
    method, classes = method_title(info.method), class_names(info)
    does, outputs, _ = _SAYS[info.task.kind]
    own = {"published": "published", "random": "random"}.get(info.backbone.weights, Path(info.backbone.weights).name)
    lines = [
        f"# {repo.partition('/')[2]}",
        f"{method} on {backbone.name} ({own} weights), which {does.format(count=len(classes))}. "
        f"It was trained by svp, and is used with it (`pip install vim-svp`).",
        "## Use",
        _use(info, repo, with_peft),
        "## Results",
        *(_results(result) if result else ["None are recorded."]),
        f"## {outputs}",
        ", ".join(classes) if len(classes) <= _MOST_CLASSES or not result else f"{len(classes)}, listed in `adapter.json`.",
        "## Training",
        *(_training(result) if result else ["Not recorded."]),
        f"Images are prepared as `adapter.json` says: {info.inputs.img_size} x {info.inputs.img_size} pixels.",
        "## Terms",
        f"The backbone, {backbone.name}, is of {backbone.source}; its license: {backbone.license}. It applies to the "
        "backbone's weights, which are "
        + ("in these files." if _brings_weights(info) else "not in these files, and to what was derived from them."),
    ]
    return str(ModelCard(f"---\n{_metadata(info, backbone, result, repo).to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n"))


def _brings_weights(info: AdapterInfo) -> bool:
    return info.backbone.weights == "random" or "full" in info.methods


def _metadata(info: AdapterInfo, backbone: ModelInfo, result: Result | None, repo: str) -> ModelCardData:
    plain = backbone.license == "apache-2.0"
    architecture = backbone.name.partition(".")[0]
    on_hub = ": " in backbone.weights and info.backbone.weights == "published"
    values: dict[str, Any] = dict(
        base_model=backbone.weights.partition(": ")[0] if on_hub else None,
        library_name="svp",
        license="apache-2.0" if plain else "other",
        license_name=None if plain else "license-of-the-backbone",
        license_link=None if plain else backbone.source,
        model_name=repo.partition("/")[2],
        pipeline_tag="image-classification",
        tags=sorted({"svp", "image-classification", "parameter-efficient-fine-tuning", architecture, *info.methods}),
    )
    if on_hub:
        values["base_model_relation"] = "adapter"
    if result and (scores := _scores(result)):
        values["eval_results"] = [
            EvalResult(
                task_type="image-classification",
                dataset_type=result.data.name,
                dataset_name=result.data.name,
                dataset_split="test",
                metric_type=_HUB_METRICS.get(metric, metric),
                metric_name=_NAMES.get(metric, metric),
                metric_value=value,
            )
            for metric, value in scores.items()
        ]
    return ModelCardData(**{name: value for name, value in values.items() if value is not None})


def _scores(result: Result) -> dict[str, float]:
    """All metrics of the test images that exist."""
    found = result.metrics or {"top1": result.top1, "top5": result.top5, "loss": result.loss}
    return {str(metric): float(value) for metric, value in found.items() if value is not None}


def _use(info: AdapterInfo, repo: str, with_peft: bool) -> str:
    head = "standardized numbers" if info.task.kind == "regression" else "logits"
    lines = [
        "```\n"
        f"svp predict hf-hub:{repo} image.jpg\n"
        "```\n\n"
        "```python\n"
        "import svp\n\n"
        f'for image in svp.predict("hf-hub:{repo}", ["image.jpg"]):\n'
        f"    print({_SAYS[info.task.kind][2]})\n\n"
        f'model = svp.load_adapter("hf-hub:{repo}")  # normalized images to {head}\n'
        "```"
    ]
    if with_peft:
        options = f'"{info.backbone.name}", pretrained=True, num_classes={info.num_classes}'
        options += "".join(f", {name}={value!r}" for name, value in info.backbone.overrides.items())
        lines.append(
            "With PEFT (the same logits):\n\n"
            "```python\n"
            "import peft, svp\n\n"
            f"backbone = svp.create_model({options})\n"
            f'model = peft.PeftModel.from_pretrained(backbone, "{repo}")\n'
            "```"
        )
    return "\n\n".join(lines)


def _results(result: Result) -> list[str]:
    rows = ["| test images | " + str(result.n_test) + " |", "| --- | ---: |"]
    for metric, value in _scores(result).items():
        shown = show_metric(metric, value)
        if metric == "top1":
            low, high = wilson(value, result.n_test)
            shown += f" (95 % interval {low:.1%} to {high:.1%})"
        rows.append(f"| {_NAMES.get(metric, metric)} | {shown} |")
    parts = ["\n".join(rows), f"Epoch chosen: {result.epoch_chosen} of {result.epochs}, {result.how_chosen}."]
    if crossed := result.cross_validation:
        least, most = crossed.interval
        parts.append(
            f"Out of fold ({crossed.folds} folds, each judged by a model that was not trained on it), "
            f"{crossed.top1:.1%} of {crossed.n} images are right (95 % interval {least:.1%} to {most:.1%})."
        )
    if kept := result.rejection:
        right = "" if kept.accuracy is None else f", of which {kept.accuracy:.1%} are right"
        parts.append(
            f'A guess with less than {kept.threshold:.1%} confidence is "none of these" (`image.rejected`); '
            f"{kept.coverage:.1%} of the test images are accepted{right}."
        )
    if result.per_class and len(result.per_class) <= _MOST_CLASSES:
        one, share = ("label", "recall") if result.task == "multi" else ("class", "accuracy")
        table = [f"| {one} | test images | {share} | precision | F1 |", "| --- | ---: | ---: | ---: | ---: |"]
        for name, score in result.per_class.items():
            shares = ["-" if share is None else f"{share:.1%}" for share in (score.accuracy, score.precision, score.f1)]
            table.append(f"| {_cell(name)} | {score.n} | {' | '.join(shares)} |")
        parts.append("\n".join(table))
    return parts


def _training(result: Result) -> list[str]:
    data = result.data
    facts = {
        "data": f"{data.name}: {data.train} images trained on, {data.val} for validation, {data.test} for test",
        "method": f"{result.method} {json.dumps(result.options)}" if result.options else result.method,
        "trained parameters": f"{result.trainable_parameters:,} of {result.total_parameters:,}",
        "epochs": f"{result.epochs}, {result.training_seconds:.0f} s",
        "peak learning rate": f"{result.peak_lr:g}",
        "batch size": "not known" if result.batch_size is None else str(result.batch_size),
        "protocol": result.protocol,
        "seed": str(result.seed),
        "device": f"{result.device}, {result.precision}",
        "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
    }
    table = ["| | |", "| --- | --- |", *(f"| {name} | {_cell(value)} |" for name, value in facts.items())]
    command = _command(result.command)
    return [*([f"```\n{command}\n```"] if command else []), "\n".join(table)]


def _command(line: str) -> str | None:
    """The command as one would type it, folders by their last part; None if no `svp` command trained the run."""
    words = typed_words(line)
    return shlex.join(["svp", *_without_folders(words[1:])]) if words else None


def typed_words(line: str) -> list[str]:
    """The words of a command of `svp` as one would type them, however Python was started; none of another program."""
    try:
        program, *words = shlex.split(line)
    except ValueError:
        return []
    return ["svp", *words] if words and Path(program).name in ("svp", "svp.exe", "__main__.py") else []


def _without_folders(words: Sequence[str]) -> list[str]:
    def shortened(word: str) -> str:
        option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
        path = Path(value).expanduser()
        return option + sign + (path.name if path.is_absolute() else value)

    return [shortened(word) for word in words]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
