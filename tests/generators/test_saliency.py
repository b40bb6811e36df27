"""Attributions against the axioms and closed forms of arXiv:1703.01365."""

import numpy as np
import pytest

from crab.generators import gan, saliency, shot_noise
from crab.generators.backend import keras


def layered(function, n=6, channels=2):
    x = keras.Input((n, channels))
    return keras.Model(x, function(x))


def windows(n, *shape, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (n, *shape)).astype(np.float32)


def test_linear_score():
    """D = w.x: the attribution is w x (Sundararajan et al. 2017, arXiv:1703.01365, section 3)."""
    w = windows(1, 6, 2, seed=1)[0]
    model = layered(lambda x: keras.ops.sum(x * w, axis=(1, 2))[:, None])
    x = windows(3, 6, 2)
    found = saliency.saliency(model, x, n_steps=2)
    np.testing.assert_allclose(found, x * w, rtol=1e-6)


def test_quadratic_score_with_a_baseline():
    """D = sum x^2: a = (x - b)(x + b), and two nodes are exact."""
    model = layered(lambda x: keras.ops.sum(x * x, axis=(1, 2))[:, None])
    x, b = windows(3, 6, 2), 0.7
    found = saliency.saliency(model, x, baseline=b, n_steps=2)
    np.testing.assert_allclose(found, (x - b) * (x + b), rtol=1e-5, atol=1e-5)


def test_product_is_shared_in_halves():
    """D = x_1 x_2 from zero: each half of the product (symmetry, arXiv:1703.01365, section 4)."""
    model = layered(lambda x: x[:, 0] * x[:, 1], n=2, channels=1)
    x = windows(4, 2, 1)
    expected = np.repeat((x[:, :1] * x[:, 1:]) / 2, 2, axis=1)
    np.testing.assert_allclose(saliency.saliency(model, x, n_steps=2), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["reference", "shot_noise"])
def test_completeness(kind):
    """Attributions add up to D(x) - D(b), in time and by frequency (Eq. 1 and Proposition 1)."""
    if kind == "reference":
        model, shape = gan.discriminator(seed=4), (1060, 1)
    else:
        model, shape = shot_noise.critic(3, 65, 5, 0, False, seed=4), (65, 3)
    x = windows(2, *shape)
    expected = np.ravel(model(x) - model(np.zeros_like(x)))
    gradient = saliency.mean_gradient(model, x, n_steps=64)
    scale = np.abs(x * gradient).sum(axis=(1, 2))
    for parts in (x * gradient, saliency.by_frequency(x, gradient)):
        assert np.all(np.abs(parts.sum(axis=(1, 2)) - expected) < 2e-3 * scale)


@pytest.mark.parametrize("n", [6, 7])
def test_by_frequency_finds_the_line(n):
    """A score that sees one line of the spectrum is attributed to that line alone (Parseval)."""
    t = np.arange(n)
    line = np.cos(2 * np.pi * 2 * t / n)[None, :, None]
    x = windows(2, n, 1)
    found = saliency.by_frequency(x, np.repeat(line, 2, axis=0))
    expected = np.zeros_like(found)
    expected[:, 2] = (x * line).sum(axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_each_alone_keeps_the_scores_and_forgets_the_batch():
    """With the deviation of its own batch a window has the same score whoever is beside it."""
    model = shot_noise.critic(3, 64, 5, 0, True, seed=4)
    x = windows(6, 64, 3)
    alone = saliency.each_alone(model, x)
    scores = np.asarray(model(x))
    np.testing.assert_allclose(np.asarray(alone(x)), scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(alone(x[:2])), scores[:2], rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(model(x[:2])) - scores[:2]).max() > 1e-4
    plain = gan.discriminator()
    assert saliency.each_alone(plain, x) is plain


def test_groups():
    """By hand: four measured and four generated windows about a threshold of zero."""
    measured = np.array([[3.0], [-0.5], [1.0], [-2.0]])
    generated = np.array([[-1.0], [-3.0], [0.2], [-2.0]])
    found = saliency.groups(measured, generated, 0.0, 2)
    expected = {
        "measured": ("measured", [0, 2]),
        "generated": ("generated", [3, 0]),
        "measured called generated": ("measured", [3, 1]),
        "generated called measured": ("generated", [2]),
    }
    assert {k: (kind, i.tolist()) for k, (kind, i) in found.items()} == expected
    assert saliency.groups([1.0], [-1.0], 0.0, 2)["generated called measured"][1].size == 0
