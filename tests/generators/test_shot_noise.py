"""The improved GAN's networks, and the statistics that its generator is fitted to first."""

import numpy as np
import pytest

from crab.generators import pretraining, shot_noise
from crab.generators.backend import keras
from crab.generators.latents import Latents
from crab.generators.normalise import Normalisation

N_DET, STRETCH, CEILING = 3, 3.0, 20.0


@pytest.fixture(scope="module")
def made():
    return shot_noise.generator(N_DET, 8, 9, 0, STRETCH, CEILING, seed=1)


def test_latents_become_as_many_samples(made):
    model, latents = made
    for n_samples in (1, 50, 333):
        z = latents.draw(np.random.default_rng(0), 2, n_samples + latents.extra_samples)
        assert np.asarray(model(z)).shape == (2, n_samples, N_DET)
    assert latents.n_gaussian == 8
    # Fewer numbers than detectors could not make them differ.
    assert shot_noise.generator(N_DET, 2, 9, 0, STRETCH, CEILING)[1].n_gaussian == N_DET + 1


def test_same_function_wherever_it_begins(made):
    """Fully convolutional: later latents give the later part of the same TOD."""
    model, latents = made
    z = latents.draw(np.random.default_rng(0), 1, 200 + latents.extra_samples)
    whole, part = np.asarray(model(z)), np.asarray(model(z[:, 60:]))
    np.testing.assert_allclose(part, whole[:, 60:], rtol=1e-4, atol=1e-5)


def test_exponential_latents_make_a_power_law():
    """Size g e in stretched units, y = s sinh(g e / s): P(Y > y) ~ (2 y / s)^(-s / g)."""
    layer = shot_noise.Size(STRETCH, 1e6, first=0.0)
    layer.build((None, None, 1))
    slope = 1.5
    layer.set_weights([np.zeros((6, 1)), np.r_[slope, np.zeros(5)][:, None], np.zeros(1)])
    e = np.random.default_rng(0).exponential(size=(1, 2_000_000, 1)).astype(np.float32)
    y = np.asarray(layer(e)).ravel()
    levels = np.array([30.0, 100.0, 300.0, 1000.0])
    found = np.array([(y > level).mean() for level in levels])
    expected = (2 * levels / STRETCH) ** (-STRETCH / slope)
    error = np.sqrt(expected / y.size)
    assert (np.abs(found - expected) < 5 * error + 1e-3 * expected).all()


def test_no_hits_below_the_first_and_a_soft_end():
    """At the start hits have exponential numbers above ``first``; none exceeds the ceiling."""
    layer = shot_noise.Size(STRETCH, CEILING, first=4.0)
    e = np.float32([0.0, 3.9, 4.5, 1e3])[None, :, None]
    size = np.arcsinh(np.asarray(layer(e)).ravel() / STRETCH) * STRETCH
    assert size[:2] == pytest.approx(0, abs=1e-4)
    assert size[2] == pytest.approx(0.5, abs=0.01)
    assert CEILING - 1e-3 <= size[3] <= CEILING


def test_saved_network_is_the_same_function(made, tmp_path):
    model, latents = made
    model.save(tmp_path / "g.keras")
    again = keras.saving.load_model(tmp_path / "g.keras", compile=False)
    z = latents.draw(np.random.default_rng(0), 1, 99)
    np.testing.assert_array_equal(np.asarray(again(z)), np.asarray(model(z)))


def test_critic_scores_windows():
    critic = shot_noise.critic(N_DET, 128, 9, 0, True, seed=1)
    x = np.random.default_rng(0).normal(size=(6, 128, N_DET)).astype(np.float32)
    assert np.asarray(critic(x)).shape == (6, 1)


def test_latents_are_the_laws_they_are_called_by():
    """Gaussian: mean 0, variance 1. Exponential: mean 1, variance 1. Inside a step too."""
    latents = Latents(2, 2, 0)
    drawn = latents.draw(np.random.default_rng(0), 50_000)
    inside = np.asarray(latents.draw_inside(np.int32([5, 0]), 5, 10_000)).reshape(-1, 4)
    for z in (drawn, inside):
        assert z.mean(axis=0) == pytest.approx([0, 0, 1, 1], abs=0.03)
        assert z.var(axis=0) == pytest.approx(1, abs=0.06)
        assert z[:, 2:].min() >= 0
    again = np.asarray(latents.draw_inside(np.int32([5, 0]), 5, 10_000)).reshape(-1, 4)
    np.testing.assert_array_equal(inside, again)
    other = np.asarray(latents.draw_inside(np.int32([6, 0]), 5, 10_000)).reshape(-1, 4)
    assert not np.allclose(inside, other)


# --- what the generator is fitted to ------------------------------------------------------------


def correlated(rng, n):
    """Coloured noise with a part that all detectors share, in network units."""
    white = rng.normal(size=(n + 4, N_DET)) + rng.normal(size=(n + 4, 1))
    return ((white[4:] + 0.6 * white[3:-1] + 0.3 * white[2:-2]) / 1.8).astype(np.float32)


@pytest.fixture(scope="module")
def targets():
    to_units = Normalisation(tuple("abc"), np.zeros(3), np.ones(3), 1, STRETCH, -3.0, CEILING)
    return pretraining.Targets(correlated(np.random.default_rng(0), 256 * 300), to_units, 256)


def windows(rng, n=64):
    return correlated(rng, 256 * n).reshape(n, 256, N_DET)


def test_another_draw_of_the_same_law_has_almost_no_loss(targets):
    """The spectral loss is a product of independent halves: its expectation is 0, not positive."""
    rng = np.random.default_rng(1)
    losses = [float(targets.spectral_loss(windows(rng))) for _ in range(12)]
    assert abs(np.mean(losses)) < 4 * np.std(losses) / np.sqrt(12)
    assert float(targets.quantile_loss(windows(rng))) < 0.5


@pytest.mark.parametrize("fault", ["level", "independent", "white", "reversed tail"])
def test_faults_have_a_loss(targets, fault):
    rng = np.random.default_rng(2)
    good = windows(rng)
    bad = {
        "level": 1.3 * good,
        "independent": np.stack([windows(rng)[..., k] for k in range(N_DET)], axis=-1),
        "white": rng.normal(0, good.std(), good.shape).astype(np.float32),
        "reversed tail": np.where(good > 2.5, 10.0, good).astype(np.float32),
    }[fault]
    fine, wrong = float(targets.loss(good)), float(targets.loss(bad))
    assert wrong > fine + 0.5
