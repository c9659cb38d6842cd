"""A threshold for "none of these": what it promises holds, and what it does is counted."""

from __future__ import annotations

import numpy as np
import pytest

from svp.runs.rejection import acceptance, choose_threshold, lower_bound, most_promised, risk_coverage

TARGET = 0.8


def draw(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidence from 0.3 to 1 and guesses that are right as often as it says."""
    confidence = generator.uniform(0.3, 1.0, n)
    return confidence, generator.uniform(size=n) < confidence


def test_the_promise_holds_for_other_images_19_times_in_20() -> None:
    generator = np.random.default_rng(0)
    kept, coverages = [], []
    for _ in range(120):
        chosen = choose_threshold(*draw(generator, 800), TARGET)
        if chosen.promised >= TARGET:
            kept.append((chosen.confidence + 1) / 2 >= chosen.promised)  # the true accuracy from this confidence on
            coverages.append(chosen.coverage)
    assert len(kept) > 100
    assert np.mean(kept) > 0.95
    assert 0.3 < np.mean(coverages) < 4 / 7  # what the one who knows the truth accepts


def test_all_are_accepted_where_that_is_good_enough_and_nothing_less_sure_than_them() -> None:
    chosen = choose_threshold(np.linspace(0.61234, 1, 300), np.ones(300, bool), 0.95)
    assert (chosen.confidence, chosen.coverage, chosen.accuracy) == (0.6123, 1.0, 1.0)
    assert chosen.promised == pytest.approx(most_promised(300)) == pytest.approx(0.005 ** (1 / 300))


def test_where_nothing_can_be_promised_the_threshold_promises_most() -> None:
    right = np.arange(40) % 4 > 0
    chosen = choose_threshold(np.linspace(0.4, 1, 40), right, 0.99)
    assert chosen.promised == lower_bound(30, 40, 0.005) < 0.6
    assert chosen.coverage == 1
    assert lower_bound(0, 5, 0.005) == most_promised(0) == 0


def test_equally_sure_images_are_accepted_together() -> None:
    chosen = choose_threshold(np.full(200, 0.7), np.arange(200) % 50 > 0, TARGET)
    assert (chosen.coverage, chosen.accuracy) == (1, 0.98)


def test_what_a_threshold_does_and_the_curve() -> None:
    confidence, right = np.array([0.9, 0.5, 0.8, 0.6]), np.array([True, False, False, True])
    found = acceptance(confidence, right, 0.6, unreadable=1)
    assert (found.threshold, found.coverage, found.accuracy) == (0.6, 3 / 5, 2 / 3)
    curve = risk_coverage(confidence, right)
    np.testing.assert_allclose(curve.risk, [0, 1 / 2, 1 / 3, 1 / 2])
    np.testing.assert_allclose(curve.coverage, [1 / 4, 1 / 2, 3 / 4, 1])
    assert found.area == curve.area == pytest.approx(1 / 3)
    assert acceptance(confidence, right, 0.95).accuracy is None
