"""Each illness from scores or windows in which it is built in."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from crab.generators import health

RNG_SEED = 11


def windows(n=128, samples=256, channels=1, seed=0):
    """White Gaussian windows."""
    rng = np.random.default_rng([RNG_SEED, seed])
    return rng.normal(size=(n, samples, channels)).astype(np.float32)


def scores(mean, n=4000, seed=0):
    rng = np.random.default_rng([RNG_SEED, 7, seed])
    return rng.normal(mean, 1.0, (n, 1))


def history(n_epochs=3, **columns):
    healthy = {
        "coverage_ratio": 1.0,
        "score_gap": 0.0,
        "fooled": 0.0,
        "auc_real_error": 0.0,
        "score_drift": 0.0,
        "amplitude_error": 0.0,
    }
    table = pd.DataFrame({"epoch": np.arange(1, n_epochs + 1)})
    return table.assign(**{**healthy, **columns})


def ill(table):
    found = health.diagnose(table)
    return found.loc[found["ill"], "illness"].tolist()


def test_gap_and_drift_of_shifted_scores():
    """Scores N(m, 1) and N(m - g, 1): medians g apart; mean m - g/2 over sqrt(1 + g^2/4)."""
    mean, gap = 30.0, 10.0
    found = health.of_scores(scores(mean, seed=0), scores(mean - gap, seed=1), scores(mean, seed=2))
    assert found["score_gap"] == pytest.approx(gap, abs=0.1)
    drift = (mean - gap / 2) / np.sqrt(1 + gap**2 / 4)
    assert found["score_drift"] == pytest.approx(drift, rel=0.02)
    assert found["called_real"] == 0.0


@pytest.mark.parametrize("shift", [0.0, 1.0, -1.0])
def test_training_windows_learned_by_heart(shift):
    """Area under the ROC curve of N(d, 1) against N(0, 1) is Phi(d / sqrt 2); either sign counts.

    Standard binormal result: Hanley & McNeil 1982, Radiology 143, 29.
    """
    found = health.of_scores(scores(0, seed=0), scores(0, seed=1), scores(shift, seed=2))
    expected = abs(stats.norm.cdf(shift / np.sqrt(2)) - 0.5)
    assert found["auc_real_error"] == pytest.approx(expected, abs=0.015)
    assert found["called_real"] == pytest.approx(0.5, abs=0.02)


def test_equal_windows_are_healthy():
    """Three independent draws of the same noise: no feature tells them apart, all are covered."""
    found = health.of_windows(windows(seed=1), windows(seed=2), windows(seed=3))
    assert found["separability"] < 0.62
    assert found["amplitude_error"] < 0.02
    assert found["coverage_ratio"] == pytest.approx(1.0, abs=0.1)
    # 2 x 128 periodograms, exponential each: the log of a ratio of means is N(0, 2/128), and its
    # median modulus 0.6745 of its sigma.
    assert found["psd_error"] == pytest.approx(0.6745 * np.sqrt(2 / 128), rel=0.2)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_lost_amplitude_is_the_logarithm_of_the_factor(factor):
    """Windows times a: core width a, power a^2."""
    found = health.of_windows(factor * windows(seed=1), windows(seed=2), windows(seed=3))
    assert found["amplitude_error"] == pytest.approx(abs(np.log(factor)), abs=0.02)
    assert found["psd_error"] == pytest.approx(2 * abs(np.log(factor)), rel=0.05)
    assert found["separability"] > 0.99
    assert found["coverage"] < 0.05
    assert ill(history(amplitude_error=found["amplitude_error"], coverage_ratio=1.0)) == [
        "amplitude lost"
    ]


def test_spectrum_of_a_pair_difference():
    """x[t] - x[t-1] of white noise has the power 4 sin^2(pi f): the error is its |ln|'s median."""
    fake = windows(seed=1, samples=257)
    fake = fake[:, 1:] - fake[:, :-1]
    found = health.of_windows(fake, windows(seed=2), windows(seed=3))
    f = np.fft.rfftfreq(256)[1:]
    expected = np.median(np.abs(np.log(4 * np.sin(np.pi * f) ** 2)))
    assert found["psd_error"] == pytest.approx(expected, rel=0.1)


def test_a_collapsed_set_of_windows_trips_mode_collapse():
    """All windows one and the same, and each single one is as good as measured."""
    one = np.repeat(windows(1, seed=1), 128, axis=0)
    real, seen = windows(seed=2), windows(seed=3)
    found = health.of_windows(one, real, seen)
    assert found["generated_pair_correlation"] == pytest.approx(1.0, abs=1e-6)
    # White windows: mean |r| = sqrt(2 / (pi n)) for a normal r with variance 1/(n - 1).
    expected = np.sqrt(2 / (np.pi * 255))
    assert found["held_out_pair_correlation"] == pytest.approx(expected, rel=0.05)
    # A point covers about the six windows of 128 among whose five neighbours it is.
    assert found["coverage_ratio"] < 0.3
    assert found["amplitude_error"] < 0.2
    assert ill(history(coverage_ratio=found["coverage_ratio"])) == ["mode collapse"]


def test_half_the_modes_cover_half():
    """Measured: two levels, equally often; generated: the first alone."""
    level = np.repeat([0.0, 50.0], 64)[:, None, None].astype(np.float32)
    real, seen = (windows(seed=s) + level for s in (2, 3))
    found = health.of_windows(windows(seed=1), real, seen)
    assert found["coverage"] == pytest.approx(0.5, abs=0.05)
    assert found["coverage_ratio"] == pytest.approx(0.5, abs=0.06)


def test_fooled_only_by_what_a_feature_gives_away():
    """Called measured is no illness of windows that nothing tells apart."""
    assert health.fooled(called_real=0.8, separability=0.6, other=1) == 0.0
    assert health.fooled(called_real=0.8, separability=0.99) == 0.8
    assert ill(history(fooled=0.8)) == ["generator dominates"]


def test_correlated_channels_are_a_feature():
    """Channels of one common signal against independent ones of the same spectrum and width."""
    apart = windows(channels=4, seed=1)
    together = np.repeat(windows(seed=2), 4, axis=2)
    table = health.fingerprint(together)
    assert table.shape == (128, 8)
    assert table[:, -1] == pytest.approx(1.0, abs=1e-4)
    assert health.fingerprint(apart)[:, -1].mean() == pytest.approx(0.0, abs=0.01)
    assert health.of_windows(together, apart, apart)["separability"] > 0.99


@pytest.mark.parametrize("name", list(health.RULES))
def test_every_rule_has_its_limit_and_its_side(name):
    """Just on the ill side in the last two epochs is ill; on the other side, or once, is not."""
    column, limit, side, _ = health.RULES[name]
    sign = -1 if side == "<" else 1
    bad, good = limit + 0.01 * sign * limit, limit - 0.01 * sign * limit
    assert ill(history(**{column: [good, bad, bad]})) == [name]
    assert ill(history(**{column: [bad, bad, good]})) == []
    assert ill(history(**{column: [good, bad, good]})) == []
    found = health.diagnose(history(4, **{column: [good, bad, bad, good]})).set_index("illness")
    assert found.loc[name, "first_epoch"] == 2
    assert found.loc[name, "value"] == good


def test_one_epoch_or_a_missing_column_is_no_illness():
    """The history of an auto-encoder has no scores."""
    assert ill(history(1, score_gap=100.0)) == []
    table = history().drop(columns=["score_gap", "fooled", "auc_real_error", "score_drift"])
    found = health.diagnose(table)
    assert found["illness"].tolist() == ["mode collapse", "amplitude lost"]
    assert found["first_epoch"].isna().all()
