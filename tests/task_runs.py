"""Tables of several labels and of numbers, and a run on each."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import svp
from tests.training.conftest import FAST, write_photos

LABELS = {"amber": "warm;bright", "blue": "", "green": "bright"}
NUMBERS = {"amber": 150.0, "blue": 90.5, "green": 120.0}

SETTINGS: dict[str, Any] = FAST | {"method": "linear", "epochs": 1, "augment": "none"}


def write_tables(folder: Path, per_class: int = 10) -> Path:
    """Photos with the tables ``labels.csv``, ``columns.csv`` and ``numbers.csv``."""
    write_photos(folder / "photos", per_class)
    photos = sorted((folder / "photos").rglob("*.jpg"))
    names = [(photo.relative_to(folder).as_posix(), photo.parent.name, int(photo.stem)) for photo in photos]
    write(folder / "labels.csv", [("path", "label"), *((path, LABELS[name]) for path, name, _ in names)])
    flags = [(path, *("01"[flag in LABELS[name]] for flag in ("warm", "bright"))) for path, name, _ in names]
    write(folder / "columns.csv", [("path", "warm", "bright"), *flags])
    write(folder / "numbers.csv", [("path", "weight"), *((path, str(NUMBERS[name] + k)) for path, name, k in names)])
    return folder


def write(file: Path, rows: list[tuple[str, ...]]) -> Path:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return file


def train(folder: Path, kind: str, **settings: Any) -> Path:
    """A run of a kind on the tables of a folder."""
    table = {"multi": {"data": "labels.csv"}, "regression": {"data": "numbers.csv", "label": "weight", "task": "regression"}}
    chosen = SETTINGS | table[kind] | settings
    out = chosen.pop("out", str(folder / kind))
    return svp.train(folder / chosen.pop("data"), out=out, **chosen).directory
