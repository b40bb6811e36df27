"""Memorisation: copies are found however they are cut, and independent data are not accused."""

import numpy as np
import pytest
from scipy import signal, stats

from crab import CrabError, seeds
from crab.metrics import memorisation
from crab.metrics.windows import windows

N = 128


def red(label, n_time, n_detector=3):
    rng = seeds.rng(23, label)
    common, own = rng.normal(size=(1, n_time)), rng.normal(size=(n_detector, n_time))
    return signal.lfilter([1], [1, -0.7], common + own)


@pytest.fixture(scope="module")
def training():
    return red("train", 20_000)


def test_distance_to_the_nearest_of_all_stretches(training):
    """Against numpy's correlation coefficient, stretch by stretch."""
    x = red("few", 2 * N)[:, :N]
    found = memorisation.memorisation(x[:, np.newaxis], x[:, np.newaxis], training[:, :9000])
    stretches = np.lib.stride_tricks.sliding_window_view(training[0, :9000], N)
    r = [np.corrcoef(x[0], stretch)[0, 1] for stretch in stretches]
    assert found.generated[0] == pytest.approx(np.sqrt(2 - 2 * max(r)), abs=1e-3)


@pytest.mark.parametrize("shift", [0, 1, 7, 63])
def test_copies_are_found_wherever_they_begin(training, shift):
    copies = windows(3.0 * training[:, shift:] + 1.0, N)
    found = memorisation.memorisation(copies, windows(red("held out", 20_000), N), training)
    assert found.p_value < 1e-10
    assert found.generated.max() < 0.01
    assert found.nearness.value < 0.01


def test_copies_with_noise_are_nearer_than_chance(training):
    noisy = training + 0.5 * red("noise", 20_000)
    held_out = windows(red("held out", 20_000), N)
    found = memorisation.memorisation(windows(noisy, N), held_out, training)
    assert found.p_value < 1e-10


def test_a_fifth_of_copies_is_enough(training):
    mixed = windows(red("fresh", 40_000), N)
    mixed[:, ::5] = windows(training, N)[:, : mixed[:, ::5].shape[1]]
    held_out = windows(red("held out", 40_000), N)
    assert memorisation.memorisation(mixed, held_out, training).p_value < 1e-3


def test_p_is_uniform_for_independent_data():
    """Kolmogorov-Smirnov test of the p values of 60 independent triples."""
    p = [
        memorisation.memorisation(
            windows(red(f"a{i}", 8000), N),
            windows(red(f"b{i}", 8000), N),
            red(f"train{i}", 2000),
        ).p_value
        for i in range(60)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) < 0.1) < 0.25


def test_what_is_further_than_held_out_data_passes(training):
    """White noise looks like no red training data: wrong, but not memorised."""
    white = seeds.rng(23, "white").normal(size=(3, 150, N))
    found = memorisation.memorisation(white, windows(red("held out", 20_000), N), training)
    assert found.p_value > 0.9
    assert found.nearness.value > 1.05


def test_constant_windows_have_no_distance(training):
    found = memorisation.memorisation(np.zeros((3, 20, N)), np.ones((3, 20, N)), training)
    assert np.isnan(found.p_value)


def test_what_does_not_fit_is_refused(training):
    held_out = windows(red("held out", 2000), N)
    with pytest.raises(CrabError, match="training: 2 detectors"):
        memorisation.memorisation(held_out, held_out, training[:2])
    with pytest.raises(CrabError, match="held_out: 3 detectors, windows of 64"):
        memorisation.memorisation(held_out, held_out[..., :64], training)
    with pytest.raises(CrabError, match="training: 100 samples"):
        memorisation.memorisation(held_out, held_out, training[:, :100])
