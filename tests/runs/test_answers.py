"""What a model answered, read off by hand, and the file that keeps it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from svp.runs import RunError
from svp.runs.answers import Answers, read_answers, write_answers
from svp.runs.result import ClassScore

NAMES = ("cat", "dog", "a, b")
ANSWERS = Answers(
    labels=np.array([0, 1, 1, 0, 2]),
    guesses=np.array([0, 0, 1, 2, 2]),
    confidence=np.array([0.9, 0.7, 0.8, 0.4, 1.0]),
    class_names=NAMES,
    paths=tuple(Path(f"photos/{n}.jpg") for n in range(5)),
    unreadable=(1,),
)


def test_confusion_and_mistakes() -> None:
    assert ANSWERS.confusion().tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 1]]
    assert (ANSWERS.total, ANSWERS.top1) == (6, pytest.approx(3 / 6))
    assert ANSWERS.worst(5).tolist() == [1, 3]
    assert ANSWERS.worst(1).tolist() == [1]
    assert ANSWERS.confused(5) == [(0, 2, 1), (1, 0, 1)]


def test_scores_of_classes_count_unreadable_images_as_wrong() -> None:
    assert ANSWERS.per_class() == [
        ClassScore(accuracy=1 / 2, n=2, precision=1 / 2, f1=1 / 2),
        ClassScore(accuracy=1 / 3, n=3, precision=1.0, f1=1 / 2),
        ClassScore(accuracy=1.0, n=1, precision=1 / 2, f1=2 / 3),
    ]
    nothing = Answers(np.array([0]), np.array([0]), np.array([1.0]), NAMES).per_class()[1]
    assert nothing == ClassScore(accuracy=None, n=0, precision=None, f1=None)


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "test_predictions.csv"
    write_answers(file, ANSWERS, [(Path("photos/caf\udce9.jpg"), 1)])
    assert file.read_text(errors="surrogateescape").splitlines()[1] == "photos/0.jpg,cat,cat,0.900000"
    found = read_answers(file, NAMES)
    for name in ("labels", "guesses", "confidence"):
        np.testing.assert_allclose(getattr(found, name), getattr(ANSWERS, name))
    assert (found.paths, found.unreadable) == (ANSWERS.paths, ANSWERS.unreadable)
    with pytest.raises(RunError, match=r"test_predictions.csv is damaged: 'a, b'"):
        read_answers(file, NAMES[:2])
