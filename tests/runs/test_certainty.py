"""Temperatures and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from svp.runs.certainty import fit_temperature, wilson


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_of_overconfident_logits_is_found(temperature: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 5)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([generator.choice(5, p=row) for row in true])
    said = np.exp(logits * temperature)
    said /= said.sum(axis=1, keepdims=True)
    assert fit_temperature(said.astype(np.float32), labels) == pytest.approx(temperature, rel=0.06)


def test_a_perfect_and_a_hopeless_model_get_the_ends_of_the_range() -> None:
    said = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert fit_temperature(said, np.array([0, 1])) == pytest.approx(1 / 20, rel=1e-3)
    assert fit_temperature(said, np.array([1, 0])) == pytest.approx(20, rel=1e-3)


@pytest.mark.parametrize(("right", "n"), [(0, 3), (7, 9), (40, 40)])
def test_the_interval_is_wilsons(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert tuple(map(float, wilson(right / n, n))) == pytest.approx((expected.low, expected.high), abs=1e-4)
