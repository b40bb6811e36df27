"""The network of an event's marks: splines, scales, likelihood."""

import numpy as np
import pytest
from scipy.stats import norm, skewnorm

from crab.generators import marks, splines
from crab.generators.backend import keras
from crab.streaming_settings import TrainEventsNotebook

SETTINGS = TrainEventsNotebook(
    environments=["solar_min_2009"],
    potential_min_mv=300,
    potential_max_mv=900,
    n_potentials=3,
    threshold_events_hz=10,
    hidden_units=16,
    hidden_layers=1,
    n_bins=8,
    n_draws=20000,
    batch_size=512,
    steps=300,
    learning_rate=1e-2,
)


@pytest.fixture(scope="module")
def parameters() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 2, (40, 3 * 7 - 1))


def test_spline_has_an_inverse(parameters):
    u = np.random.default_rng(2).uniform(-splines.BOUND, splines.BOUND, len(parameters))
    z = splines.inverse_spline(parameters, u)
    back, _ = splines.spline(parameters, z)
    np.testing.assert_allclose(back, u, atol=1e-9)
    edges = np.full(len(parameters), splines.BOUND)
    np.testing.assert_allclose(splines.inverse_spline(parameters, edges), edges, atol=1e-9)
    np.testing.assert_allclose(splines.inverse_spline(parameters, -edges), -edges, atol=1e-9)


def test_density_is_normalised(parameters):
    """The change of variables keeps the probability: the integral of the density is 1."""
    z = np.linspace(-splines.BOUND, splines.BOUND, 400_001)
    for row in parameters[:5]:
        u, log_slope = splines.spline(np.broadcast_to(row, (len(z), len(row))), z)
        density = norm.pdf(u) * np.exp(log_slope)
        assert np.trapezoid(density, z) == pytest.approx(1, abs=1e-5)


def test_slope_is_the_derivative(parameters):
    z = np.random.default_rng(3).uniform(-4, 4, len(parameters))
    (low, _), (high, _) = (splines.spline(parameters, z + d) for d in (-1e-6, 1e-6))
    _, log_slope = splines.spline(parameters, z)
    np.testing.assert_allclose(np.exp(log_slope), (high - low) / 2e-6, rtol=1e-3)


def test_keras_and_numpy_agree(parameters):
    z = np.random.default_rng(3).uniform(-4, 4, len(parameters)).astype(np.float32)
    single = parameters.astype(np.float32)
    ours, theirs = splines.spline(single, z), splines.spline(single, z, keras.ops)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, np.asarray(other), atol=2e-4)


def test_raw_zeros_are_the_identity():
    z = np.linspace(-5, 5, 11)
    u, log_slope = splines.spline(np.zeros((11, 23)), z)
    np.testing.assert_allclose(u, z, atol=1e-12)
    np.testing.assert_allclose(log_slope, 0, atol=1e-12)


def test_power_law_beyond_the_last_draw():
    """ln of a Pareto number is exponential: the quantile at 1 - 1e-6 is ln(1e6)/alpha."""
    rng = np.random.default_rng(4)
    alpha = 1.7
    values = rng.exponential(1 / alpha, 50_000)
    scale = splines.Scale.fit(values, 0.0, 30.0, power_law=True)
    for tail in (1e-2, 1e-4, 1e-6):
        quantile = scale.inverse(np.array([norm.isf(tail)]))[0]
        # The exponent of 200 values is known to 7 %, the 30th largest of them to 2 % of its ln.
        assert quantile == pytest.approx(np.log(1 / tail) / alpha, rel=0.12)
    assert scale.inverse(np.array([9.0]))[0] == pytest.approx(30.0, rel=1e-3)


def test_scale_is_monotone_and_invertible():
    values = np.random.default_rng(5).uniform(-50, 50, 5000).round(0)  # many equal ones
    scale = splines.Scale.fit(values, -50.0, 50.0, power_law=False)
    assert (np.diff(scale.knots) > 0).all()
    z = np.linspace(-5, 5, 101)
    np.testing.assert_allclose(scale.forward(scale.inverse(z).astype(float)), z, atol=0.02)
    at = np.array([-20.3, 0.4, 33.1])
    slope = (scale.forward(at + 1e-5) - scale.forward(at - 1e-5)) / 2e-5
    np.testing.assert_allclose(np.exp(scale.log_slope(at)), slope, rtol=1e-6)


@pytest.fixture(scope="module")
def learned():
    """One mark, skew-normal with a mean that follows the context, and one that is rare."""
    rng = np.random.default_rng(6)
    n = 20_000
    context = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
    present = np.column_stack([np.ones(n, bool), rng.random(n) < 0.2])
    first = (skewnorm.rvs(4, size=n, random_state=rng) + context[:, 0]).astype(np.float32)
    second = (0.5 * rng.standard_normal(n) - first).astype(np.float32) * present[:, 1]
    model = marks.build(1, 2, 16, 1, 8, seed=1)
    inputs = np.column_stack([context, first, second])
    losses = marks.train(model, inputs, present, SETTINGS, seed=1)
    return model, losses, inputs, present


class _Identity:
    @staticmethod
    def inverse(z):
        return z


def test_training_finds_the_distribution(learned):
    """Likelihood within 0.03 of the entropy; mean and width of draws at one context."""
    model, losses, *_ = learned
    entropy = skewnorm(4).entropy() + 0.2 * norm(scale=0.5).entropy()
    assert losses[-50:].mean() == pytest.approx(entropy, abs=0.05)
    sampler = marks.Sampler(model, [_Identity, _Identity])
    n = 40_000
    normal = np.random.default_rng(7).standard_normal((n, 2)).astype(np.float32)
    drawn = sampler.draw(np.full((n, 1), 0.5, np.float32), np.ones((n, 2), bool), normal)
    assert drawn[:, 0].mean() == pytest.approx(skewnorm(4).mean() + 0.5, abs=0.05)
    assert drawn[:, 0].std() == pytest.approx(skewnorm(4).std(), rel=0.06)
    assert np.corrcoef(drawn.T)[0, 1] < -0.7  # -0.79 for a width of 0.5


def test_absent_marks_are_not_drawn(learned):
    sampler = marks.Sampler(learned[0], [_Identity, _Identity])
    normal = np.ones((3, 2), np.float32)
    present = np.array([[True, False], [True, True], [False, False]])
    drawn = sampler.draw(np.zeros((3, 1), np.float32), present, normal)
    np.testing.assert_array_equal(drawn != 0, present)


def test_plain_arrays_are_the_network(learned):
    model, _, inputs, _ = learned
    sampler = marks.Sampler(model, [_Identity, _Identity])
    output = np.asarray(model.predict_on_batch(inputs[:64]))
    for mark in range(2):
        ours = sampler.parameters(mark, inputs[:64, : 1 + mark])
        np.testing.assert_allclose(ours, output[:, mark], atol=1e-5)


def test_training_is_deterministic(learned):
    _, losses, inputs, present = learned
    again = marks.train(marks.build(1, 2, 16, 1, 8, seed=1), inputs, present, SETTINGS, seed=1)
    np.testing.assert_array_equal(again, losses)
