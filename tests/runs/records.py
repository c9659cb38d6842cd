"""Whole records of runs that nobody trained, for tests of what reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from svp.runs import ClassScore, DataUsed, EpochRow, Result


def make_result(**known: Any) -> Result:
    """A result in which only the named fields matter."""
    return replace(
        Result(
            top1=0.5,
            top5=1.0,
            loss=0.7,
            n_test=2,
            unreadable_test_images=(),
            unreadable_images=(),
            protocol="validation",
            epoch_chosen=1,
            epochs=2,
            how_chosen="best of 2 epochs",
            selection_top1=0.5,
            peak_lr=0.01,
            trainable_parameters=1000,
            trainable_parameters_without_head=900,
            total_parameters=5000,
            training_seconds=3.0,
            seconds=4.0,
            peak_memory_mb=700.0,
            method="linear",
            options={},
            model="vim_nano_patch4_32",
            weights="random",
            data=DataUsed("photos", "photos", 2, 8, 2, 2, {"train": "", "val": "", "test": ""}),
            per_class={"cat": ClassScore(0.5, 2), "dog": ClassScore(None, 0)},
            seed=0,
            device="cpu",
            processes=1,
            precision="fp32",
            command="svp train",
            versions={"svp": "0.1"},
            threads=1,
        ),
        **known,
    )


def make_row(**known: Any) -> EpochRow:
    """A row of an epoch in which only the named fields matter."""
    row = EpochRow(0, 0.01, 1.0, selection_split="val", selection_loss=1.0, selection_top1=0.5, seconds=1.0)
    return replace(row, **known)
