"""The tasks of the studies: drawn anew they are the same, and their answers are in the picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from benchmarks import drawn_tasks
from benchmarks.drawn_tasks import CONTRAST, SIDE, TASKS, picture, write_task
from benchmarks.held_out_classes import write_tasks
from PIL import Image


def test_drawn_tasks_are_the_same_for_a_seed(tmp_path: Path) -> None:
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_task("count", tmp_path / folder, number=12, seed=seed)
    one, two, three = (sorted((tmp_path / folder).rglob("*.png")) for folder in ("one", "two", "three"))
    assert [path.relative_to(tmp_path / "one") for path in one] == [path.relative_to(tmp_path / "two") for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))
    assert not any(a.read_bytes() == b.read_bytes() for a, b in zip(one, three, strict=True))
    assert len({path.read_bytes() for path in one}) == 24  # no test image is a training image
    assert [path.relative_to(tmp_path / "one").parts[:2] for path in one[:3]] == [("test", "1"), ("test", "1"), ("test", "2")]


@pytest.mark.parametrize("name", TASKS)
def test_the_answer_of_a_drawn_task_is_in_its_shapes(name: str) -> None:
    classes, draw = TASKS[name]
    for label in range(classes):
        for seed in range(20):
            text, shapes = draw(label, np.random.default_rng(seed))
            centers = {kind.split()[0]: center for kind, center, _ in shapes}
            assert all(0 <= value <= SIDE for _, center, _ in shapes for value in center)
            if name == "count":
                assert text == str(len(shapes)) == str(label + 1)
            elif name == "location":
                assert [kind for kind, _, _ in shapes].count("disc") == 1
                column, row = (int(value // (SIDE / 3)) for value in centers["disc"])
                assert text == f"row{row}-column{column}"
            elif name == "orientation":
                turn = float(shapes[0][0].split()[1])
                assert abs(turn - 45 * label) <= 9
            else:
                low, high = (float(value) for value in text.split("-to-"))
                assert low < math.dist(centers["disc"], centers["square"]) < high


def test_an_arrow_points_where_its_class_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn_tasks, "NOISE", (0.0, 0.0))
    for label, (x, y) in enumerate([(1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1)]):
        _, shapes = TASKS["orientation"][1](label, np.random.default_rng(3))
        (kind, (center_x, center_y), radius) = shapes[0]
        with_arrow, without = (np.asarray(picture(some, np.random.default_rng(0)), float) for some in (shapes, []))
        rows, columns = np.nonzero(np.abs(with_arrow - without).max(-1) > CONTRAST / 2)
        along = ((columns + 0.5 - center_x) * x + (rows + 0.5 - center_y) * y) / math.hypot(x, y)
        across = ((rows + 0.5 - center_y) * x - (columns + 0.5 - center_x) * y) / math.hypot(x, y)
        # its head is broader than its tail
        assert np.abs(across[along > 0]).max() > 1.5 * np.abs(across[along < -0.3 * radius]).max(), kind


def test_held_out_classes_are_in_one_task_and_in_no_pre_training(tmp_path: Path) -> None:
    source = tmp_path / "tiny"
    for name in (f"n{number:03d}" for number in range(45)):
        for part in ("train", "val"):
            (source / part / name).mkdir(parents=True)
            for image in range(2):
                Image.new("RGB", (1, 1)).save(source / part / name / f"{image}.png")
    write_tasks(source, tmp_path / "out")
    names = {
        folder.name: [{path.name for path in (folder / part).iterdir()} for part in ("train", "test")]
        for folder in (tmp_path / "out").iterdir()
    }
    assert sorted(names) == ["pretraining", "task1", "task2", "task3", "task4", "task5"]
    assert all(train == test for train, test in names.values())
    assert {name: len(train) for name, (train, _) in names.items()} == dict.fromkeys(names, 8) | {"pretraining": 5}
    assert len(set.union(*(train for train, _ in names.values()))) == 45
    assert len(list((tmp_path / "out").rglob("*.png"))) == 45 * 4
