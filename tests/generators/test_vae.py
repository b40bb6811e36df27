"""Likelihoods of the variational auto-encoders against their analytic laws."""

import numpy as np
import pytest
from scipy import integrate, stats

from crab import params
from crab.generators import vae
from crab.generators.backend import keras
from crab.generators.normalise import Normalisation
from crab.generators.training import Training

LOW, HIGH = -3.0, 17.0
TO_UNITS = Normalisation(("a",), np.zeros(1), np.ones(1), 1, 3.0, LOW, HIGH)
SEED = 3


def tensor(values):
    return keras.ops.convert_to_tensor(np.asarray(values, dtype=np.float32))


def log_likelihood(x, decoded, **record):
    found = vae.log_likelihood(tensor(np.reshape(x, (1, -1, 1))), tensor(decoded), record, TO_UNITS)
    return np.asarray(found)[0, :, 0]


def test_gaussian_likelihood():
    x, mean, log_width = (np.linspace(a, b, 7) for a, b in ((-2, 3), (1, -1), (-1.5, 1)))
    output = np.stack([mean, log_width], axis=1)[None]
    found = log_likelihood(x, output, output="gaussian")
    np.testing.assert_allclose(found, stats.norm.logpdf(x, mean, np.exp(log_width)), rtol=1e-4)


def test_bernoulli_likelihood_is_that_of_trials():
    """n times the cross-entropy is the binomial law but for a term that knows only the datum."""
    n, k = 64, np.arange(65)
    x = LOW + (HIGH - LOW) * k / n
    logits = np.array([-2.0, 0.5])
    found, expected = [], []
    for logit in logits:
        output = np.full((1, k.size, 1), logit)
        found.append(log_likelihood(x, output, output="bernoulli", bernoulli_trials=n))
        expected.append(stats.binom.logpmf(k, n, 1 / (1 + np.exp(-logit))))
    np.testing.assert_allclose(found[1] - found[0], expected[1] - expected[0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("logit", [-30.0, -3.0, -0.05, 0.0, 1e-3, 0.2, 8.0])
def test_continuous_bernoulli_is_normalised(logit):
    """Its density on [0, 1] integrates to 1 (arXiv:1907.06845, Eq. 6)."""
    share = np.linspace(0, 1, 4001)
    output = np.full((1, share.size, 1), logit)
    density = np.exp(
        log_likelihood(LOW + (HIGH - LOW) * share, output, output="continuous_bernoulli")
    )
    assert integrate.simpson(density, x=share) == pytest.approx(1, rel=2e-3)


@pytest.mark.parametrize("logit", [-30.0, -3.0, 0.0, 0.5, 8.0])
def test_continuous_bernoulli_draws_follow_the_density(logit):
    """Mean p/(2p - 1) + 1/(2 artanh(1 - 2p)), 1/2 at p = 1/2 (arXiv:1907.06845, Eq. 8)."""
    rng = np.random.default_rng(1)
    output = np.full((1, 200_000, 1), logit, dtype=np.float32)
    x = vae.draw(output, {"output": "continuous_bernoulli"}, TO_UNITS, rng)
    share = (x.astype(float) - LOW) / (HIGH - LOW)
    assert share.min() >= -1e-6 and share.max() <= 1 + 1e-6
    p = 1 / (1 + np.exp(-logit))
    mean = 0.5 if logit == 0 else p / (2 * p - 1) - 1 / logit
    assert share.mean() == pytest.approx(mean, abs=5 * share.std() / np.sqrt(share.size))


def test_bernoulli_and_gaussian_draws_have_the_decoders_law():
    """Binomial share: mean p, variance p (1 - p) / n. Gaussian: mean and width."""
    rng = np.random.default_rng(1)
    n, p = 100, 0.2
    output = np.full((1, 100_000, 1), np.log(p / (1 - p)), dtype=np.float32)
    record = {"output": "bernoulli", "bernoulli_trials": n}
    share = (vae.draw(output, record, TO_UNITS, rng).astype(float) - LOW) / (HIGH - LOW)
    assert share.mean() == pytest.approx(p, abs=5 * share.std() / np.sqrt(share.size))
    assert share.var() == pytest.approx(p * (1 - p) / n, rel=0.03)
    output = np.concatenate([np.full((1, 100_000, 1), v, np.float32) for v in (2.0, -1.0)], axis=2)
    x = vae.draw(output, {"output": "gaussian"}, TO_UNITS, rng)
    assert x.mean() == pytest.approx(2, abs=0.01) and x.std() == pytest.approx(np.exp(-1), rel=0.02)


def test_bound_falls_and_held_out_follows(train_cube, validation_cube, tmp_path):
    """Maximising the bound lowers the loss on windows that training never sees."""
    section = params.load().profiles["smoke"].train_vae["vae_gaussian"]
    changes = {"batch_size": 8, "steps_per_epoch": 30, "epochs": 3, "window_samples": 128}
    training = Training(
        section.model_copy(update=changes), train_cube, validation_cube, SEED, tmp_path / "v.keras"
    )
    history = training.run()
    assert (history["kl"] >= 0).all()
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["validation_loss"].iloc[-1] < history["validation_loss"].iloc[0]
    total = history["reconstruction"] + section.kl_weight * history["kl"]
    np.testing.assert_allclose(total.iloc[-1], history["loss"].iloc[-1], rtol=1e-4)
