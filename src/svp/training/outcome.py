"""The end of a run: the epoch that is kept is scored on the test images, and the result is written and shown."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from svp.data import Split, normalized
from svp.plotting import save, style
from svp.runs.answers import Answers, write_answers
from svp.runs.directory import HELD_OUT
from svp.runs.evaluate import truths_of_unreadable
from svp.runs.out_of_fold import read_out_of_fold, write_fold
from svp.runs.rejection import Threshold
from svp.runs.result import DataUsed, EpochRow, Rejection, Result, describe_unreadable
from svp.runs.scores import Scores, run_model, score
from svp.runs.task_scores import TaskScores
from svp.tasks import Task
from svp.training.advice import advice
from svp.training.confidence import fit_confidence
from svp.training.display import Display, duration, plot_curves
from svp.training.machine import environment, peak_memory_mb
from svp.training.protocol import how_chosen
from svp.training.setup import Prepared
from svp.tuners import save_adapter
from svp.tuners.adapter_files import load_trained


def finish(prepared: Prepared, rows: Sequence[EpochRow], best: int, started: float) -> Result:
    """Score the test images with the epoch that is kept, write the result and show it.

    Args:
        prepared: The run.
        rows: A row for every epoch.
        best: Epoch that is kept, counted from 0.
        started: Time at which an uninterrupted run would have begun, in seconds since 1970.
    """
    accelerator = prepared.accelerator
    accelerator.wait_for_everyone()
    path = prepared.directory.path
    load_trained(prepared.model, path)
    out_of_fold = read_out_of_fold(path) if prepared.config.folds else None
    temperature, threshold = fit_confidence(prepared, out_of_fold.scores() if out_of_fold else None)
    task = _tuned_task(prepared)
    scores = score_test(prepared, task)
    config, data = prepared.config, prepared.data
    unreadable = [*prepared.unreadable, *prepared.late.found.values()]
    test_paths = set(data.test.paths)
    validation = [row.validation_seconds for row in rows if row.validation_seconds is not None]
    result = Result(
        top1=scores.top1,
        top5=scores.top5,
        loss=scores.loss,
        n_test=scores.n,
        unreadable_test_images=describe_unreadable([image for image in unreadable if image.path in test_paths]),
        unreadable_images=describe_unreadable(unreadable),
        protocol=config.protocol,
        epoch_chosen=best + 1,
        epochs=len(rows),
        how_chosen=how_chosen(config.protocol, data, config.choose_by),
        selection_top1=rows[best].selection_top1,
        peak_lr=prepared.peak_lr,
        trainable_parameters=prepared.tuner.num_trainable,
        trainable_parameters_without_head=prepared.tuner.num_trainable_without_head,
        total_parameters=sum(p.numel() for p in prepared.model.parameters()),
        training_seconds=sum(row.seconds if row.training_seconds is None else row.training_seconds for row in rows),
        validation_seconds=sum(validation) if len(validation) == len(rows) else None,
        seconds=time.time() - started,
        peak_memory_mb=peak_memory_mb(accelerator.device),
        method=config.method,
        options=config.options,
        model=config.model,
        weights=config.weights,
        batch_size=prepared.batch_size,
        data=DataUsed(
            name=data.name,
            root=str(data.root),
            classes=len(data.output_names),
            train=len(data.train),
            val=len(data.val),
            test=len(data.test),
            splits={"train": data.train.origin, "val": data.val.origin, "test": data.test.origin},
        ),
        per_class=scores.per_class(data.output_names),
        metrics=scores.metrics(),
        temperature=temperature,
        rejection=_rejection(config.reject, threshold, scores),
        cross_validation=out_of_fold.summary() if out_of_fold else None,
        task=task.kind,
        seed=config.seed,
        device=str(accelerator.device),
        processes=accelerator.num_processes,
        threads=torch.get_num_threads(),
        precision=accelerator.mixed_precision.replace("no", "fp32"),
        command=shlex.join(sys.argv),
        versions=environment(),
    )
    told = advice(result, scores, data, rows) if isinstance(scores, Scores) else scores.sentences(data.output_names)
    result = replace(result, advice=tuple(told))
    if accelerator.is_main_process:
        if isinstance(scores, Scores):
            _keep_answers(prepared, scores)
        plot_curves(rows, best, path / "curves", result.how_chosen, result.method)
        with style():
            for name, figure in scores.figures(data.output_names).items():
                save(figure, path / name)
        prepared.directory.write_result(result)
    accelerator.wait_for_everyone()
    _show(result, scores, path, prepared.display)
    for sentence in result.advice:
        prepared.display.say(sentence)
    prepared.display.say(f"next: svp predict {shlex.quote(str(path))} IMAGE_OR_FOLDER")
    return result


def _rejection(target: float | None, threshold: Threshold | None, scores: TaskScores) -> Rejection | None:
    if target is None or threshold is None or not isinstance(scores, Scores):
        return None
    return Rejection(target, threshold.promised, **asdict(scores.accepted(threshold.confidence)))


def _keep_answers(prepared: Prepared, scores: Scores) -> None:
    """Write ``test_predictions.csv``."""
    read, late, test = prepared.test_loader.dataset.split, set(scores.late), prepared.data.test  # type: ignore[attr-defined]
    paths = tuple(path for index, path in enumerate(read.paths) if index not in late)
    names, seen = prepared.data.class_names, set(paths)
    answers = Answers(scores.labels, scores.guesses[:, 0], scores.probabilities.max(axis=1), names, paths)
    lost = [image for image in zip(test.paths, test.labels, strict=True) if image[0] not in seen]
    write_answers(prepared.directory.answers_file, answers, lost)


def score_test(prepared: Prepared, task: Task) -> TaskScores:
    """Score the test images with the model as it is."""
    lost = truths_of_unreadable(prepared.data.test, prepared.unreadable)
    scores = score(prepared.wrapped, normalized(prepared.test_loader, prepared.inputs), prepared.accelerator, task, lost)
    prepared.late.add(prepared.test_loader.dataset.split, scores.late, gathered=True)  # type: ignore[attr-defined]
    return scores


def write_held_out(prepared: Prepared, fold: int) -> None:
    """Write what the epoch that is kept says of the test images, which are those of a fold."""
    accelerator, directory = prepared.accelerator, prepared.directory
    accelerator.wait_for_everyone()
    load_trained(prepared.model, directory.path)
    scores = score_test(prepared, prepared.task)
    assert isinstance(scores, Scores)  # folds are for classes
    split: Split = prepared.test_loader.dataset.split  # type: ignore[attr-defined]
    late = set(scores.late)
    paths = [path for index, path in enumerate(split.paths) if index not in late]
    if accelerator.is_main_process:
        write_fold(directory.path / HELD_OUT, prepared.data, fold, paths, scores.probabilities)
    accelerator.wait_for_everyone()


def _tuned_task(prepared: Prepared) -> Task:
    """The task with what is chosen on the validation images after training, as the adapter then has it."""
    if prepared.config.protocol != "validation" or not prepared.task.tunes:
        return prepared.task
    batches = normalized(prepared.scored_loader, prepared.inputs)
    outcome = run_model(prepared.wrapped, batches, prepared.accelerator, prepared.task)
    task = prepared.task.tuned(outcome.values, outcome.targets)
    if prepared.accelerator.is_main_process:
        save_adapter(prepared.model, prepared.directory.path, prepared.data.output_names, prepared.inputs, task=task)
    return task


def _show(result: Result, scores: TaskScores, path: Path, display: Display) -> None:
    rows = [
        *scores.rows(),
        ("epoch chosen", f"{result.epoch_chosen} of {result.epochs}: {result.how_chosen}"),
        ("trained parameters", f"{result.trainable_parameters:,} of {result.total_parameters:,}"),
        ("time", duration(result.seconds)),
        ("peak memory", f"{result.peak_memory_mb:,.0f} MB"),
    ]
    if crossed := result.cross_validation:
        (low, high), folds = crossed.interval, crossed.fold_top1
        said = f"{crossed.top1:.2%} of {crossed.n} images [{low:.1%}, {high:.1%}], folds {min(folds):.1%} to {max(folds):.1%}"
        rows.insert(0, ("out of fold top-1", said))
    if result.temperature is not None and isinstance(scores, Scores):
        rows.append(("temperature", f"{result.temperature:.2f}, calibration error {scores.calibration_error:.1%}"))
    if result.rejection is not None:
        right = "-" if result.rejection.accuracy is None else f"{result.rejection.accuracy:.1%}"
        accepted = f"{result.rejection.coverage:.1%} accepted, {right} of them right"
        rows.append((f"from confidence {result.rejection.threshold:.1%}", accepted))
    if result.unreadable_images:
        counted = "are left out" if result.task == "regression" else "count as wrong"
        rows.append(("unreadable images", f"{len(result.unreadable_images)}; those of test {counted}"))
    display.table(str(path), rows)
