"""Averages along the sequence, confusion and calibration, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import svp
from svp.inspection import gates, quarters, record_activation, record_predictions, relative_change
from svp.inspection.predictions import Predictions
from svp.runs.certainty import reliability
from tests.models.small import images, perturb, small_vim


def test_activation_is_the_mean_over_layers_of_image_tokens() -> None:
    model = small_vim().eval()
    svp.tune(model, "vpt_deep", num_tokens=3, position="both")
    x = images(model, batch=5)
    found = record_activation(model, [x[:2], x[2:]])
    record = gates(model, x)
    place = [int(p) for n, p in enumerate(record.own) if n != 8]
    expected = torch.stack([record.forward.update.mean(0)[:, place], record.backward.update.mean(0)[:, place]])
    np.testing.assert_allclose(found.gates["update"], expected.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.of("update"), expected.mean(0).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.of("update", "backward"), expected[1].numpy(), rtol=1e-5)
    assert found.prompts == {}


def test_prompts_are_averaged_by_layer() -> None:
    model = small_vim().eval()
    svp.tune(model, "svp", shared_layers=2)
    perturb(model.svp)
    x = images(model, batch=4)
    prompts = record_activation(model, [x[:3], x[3:]]).prompts
    record = gates(model, x)
    assert record.prompts is not None
    expected = record.prompts.relative_norm[..., torch.arange(17) != 8].mean((1, 2))
    np.testing.assert_allclose(prompts["relative_norm"], expected.numpy(), rtol=1e-5)
    np.testing.assert_allclose(prompts["inner_share"] + prompts["cross_share"], 1, rtol=1e-5)
    np.testing.assert_allclose(prompts["alpha"], model.svp.inner_scale.detach().numpy())
    np.testing.assert_allclose(prompts["beta"], model.svp.cross_scale.detach().numpy()[[0, 0, 1]])


def test_change_by_quarter() -> None:
    base = np.ones((3, 8))
    tuned = np.repeat([[1.0, 1.1, 0.5, 2.0]], 2, axis=0).T.ravel() * np.ones((3, 1))
    change = relative_change(base, tuned, [*quarters(8), slice(None)])
    np.testing.assert_allclose(change.mean, [0, 0.1, -0.5, 1.0, 0.15], atol=1e-12)
    np.testing.assert_allclose(change.half_width, 0, atol=1e-12)


def test_interval_of_a_change_covers_the_truth() -> None:
    """Of 400 experiments with a change of 20 % and noise that images share, 95 % find it."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        base = generator.gamma(4, size=(60, 1)) * (1 + 0.1 * generator.normal(size=(60, 4)))
        change = relative_change(base, 1.2 * base * (1 + 0.1 * generator.normal(size=(60, 4))), [slice(None)])
        hits += abs(change.mean[0] - 0.2) < change.half_width[0]
    assert 0.91 <= hits / 400 <= 0.98


def test_quarters_cover_the_sequence() -> None:
    assert [list(part) for part in quarters(9)] == [[0, 1, 2], [3, 4], [5, 6], [7, 8]]


PREDICTED = Predictions(
    features=np.zeros((5, 2)),
    probabilities=np.array([[0.9, 0.1, 0], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0, 0, 1.0]]),
    labels=np.array([0, 1, 1, 0, 2]),
)


def test_expected_calibration_error() -> None:
    """Bins 0.2..0.4: empty; 0.4..0.6: one at 0.4, wrong; 0.6..0.8: one at 0.7, wrong; 0.8..1: 0.9, 0.8, 1.0, all right."""
    answers = PREDICTED.answers("abc")
    found = reliability(answers.confidence, answers.guesses == answers.labels, bins=5)
    assert found.counts.tolist() == [0, 0, 1, 1, 3]
    np.testing.assert_allclose(found.accuracy, [0, 0, 0, 0, 1])
    np.testing.assert_allclose(found.confidence, [0, 0, 0.4, 0.7, 0.9])
    assert found.expected_calibration_error == pytest.approx((0.4 + 0.7 + 3 * 0.1) / 5)


def test_predictions_are_those_of_the_model() -> None:
    model = small_vim().eval()
    x = images(model, batch=5)
    labels = torch.tensor([0, 1, 2, 3, 4])
    found = record_predictions(model, [(x[:2], labels[:2]), (x[2:], labels[2:])])
    with torch.no_grad():
        np.testing.assert_allclose(found.probabilities, model(x).softmax(-1).numpy(), rtol=1e-4, atol=1e-6)
        features = model.forward_head(model.forward_features(x), pre_logits=True)
    np.testing.assert_allclose(found.features, features.numpy(), rtol=1e-4, atol=1e-5)
    assert found.labels.tolist() == [0, 1, 2, 3, 4]
