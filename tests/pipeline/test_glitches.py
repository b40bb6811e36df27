"""Flags of glitches: what Gaussian noise loses, what is found, and that cuts do not matter."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import erf, erfc

from crab import CrabError
from crab.impact import flagging

RNG_SEED = 7


def noise(n_det: int = 8, n_samples: int = 2**17) -> np.ndarray:
    rng = np.random.default_rng(RNG_SEED)
    return 3e-17 * rng.standard_normal((n_det, n_samples), dtype=np.float32)


def clipped_share(threshold: float) -> float:
    """Fixed point of clipping a normal law at ``threshold`` robust deviations s of what is left.

    The median of |x| of those with |x| < k s is m = s * 0.6745, so
    erf(m/sqrt 2) = erf(k s/sqrt 2)/2; the share outside is erfc(k s/sqrt 2).
    """
    unit = brentq(lambda m: erf(m / np.sqrt(2)) - 0.5, 0.1, 2)
    s = brentq(lambda s: erf(s * unit / np.sqrt(2)) - erf(threshold * s / np.sqrt(2)) / 2, 0.5, 1.1)
    return erfc(threshold * s / np.sqrt(2))


@pytest.mark.parametrize("threshold", [3.0, 3.5, 4.0])
def test_gaussian_noise_loses_what_the_normal_law_says(threshold):
    """Clipping to the fixed point; without iterations it would be erfc(k/sqrt 2)."""
    tod = noise()
    # One block: that of a short one scatters with its median.
    options = {"before_samples": 0, "after_samples": 0, "block_samples": tod.shape[1]}
    _, loss = flagging.flag(tod, threshold, **options)
    expected = clipped_share(threshold)
    assert expected == pytest.approx(erfc(threshold / np.sqrt(2)), rel=0.1)
    # Binomial scatter, and that of the deviation: 1.17/sqrt(n) of a median absolute deviation.
    density = threshold * np.sqrt(2 / np.pi) * np.exp(-(threshold**2) / 2)
    error = np.hypot(np.sqrt(expected / tod.size), 1.17 * density / np.sqrt(tod.size))
    assert loss.mean() == pytest.approx(expected, abs=4 * error)


def test_margins_of_single_glitches():
    tod = noise(2, 20_000)
    places = np.array([0, 1000, 8191, 8192, 12_345, 19_999])
    tod[1, places] += 1e-14
    mask, loss = flagging.flag(tod, 7.0, before_samples=2, after_samples=3)
    wanted = np.zeros(20_000, dtype=bool)
    for place in places:
        wanted[max(place - 2, 0) : place + 4] = True
    assert not mask[0].any()
    assert np.array_equal(mask[1], wanted)
    assert loss.tolist() == [0, wanted.mean()]
    assert flagging.count(mask).tolist() == [0, 5]  # the two at the blocks' edge are one stretch


def test_faint_glitches_appear_once_bright_ones_are_clipped():
    """A third of the samples are bright: only the second round sees the faint ones."""
    tod = noise(1, 8192)
    tod[0, ::3] += 1e-12
    tod[0, 1::300] += 8 * 3e-17
    options = {"before_samples": 0, "after_samples": 0}
    once, _ = flagging.flag(tod, 5.0, max_iterations=1, **options)
    mask, _ = flagging.flag(tod, 5.0, **options)
    assert not once[0, 1::300].any()
    assert mask[0, ::3].all()
    assert mask[0, 1::300].mean() > 0.95


def test_noise_that_is_not_there_yet_hides_glitches():
    tod = np.zeros((2, 8192), dtype=np.float32)
    tod[:, 100], tod[:, 200] = 4.0, 6.0
    mask, _ = flagging.flag(tod, 5.0, noise=1.0, before_samples=0, after_samples=0)
    assert np.argwhere(mask).tolist() == [[0, 200], [1, 200]]


def test_running_median_takes_a_drift_off():
    """A dipole of 3.4 mK over 20 min on noise of 0.1 mK: a glitch of 1.5 mK hides in it."""
    rng = np.random.default_rng(RNG_SEED)
    t = np.arange(3 * 8192)
    tod = 3.4e-3 * np.sin(2 * np.pi * t / (19.1 * 1200)) + 1e-4 * rng.standard_normal(t.size)
    tod[5000] += 1.5e-3
    plain, _ = flagging.flag(tod[None], 5.0)
    mask, loss = flagging.flag(tod[None], 5.0, highpass_samples=51)
    assert not plain[0, 5000]
    assert mask[0, 5000]
    assert loss[0] < 0.001


@pytest.mark.parametrize("highpass", [None, 21])
def test_flags_do_not_depend_on_the_cut(highpass):
    tod = noise(3, 40_000)
    rng = np.random.default_rng(1)
    tod[:, rng.integers(0, 40_000, 300)] += 3e-16
    options = {"highpass_samples": highpass, "before_samples": 3, "after_samples": 9}
    options["block_samples"] = 1000
    whole, _ = flagging.flag(tod, 4.0, **options)
    edges = [0, 1, 999, 1000, 1007, 17_003, 30_000, 39_000]
    for low, high in pairwise(edges):
        begin, end = flagging.reach(low, high, **options)
        end = min(end, 40_000)
        part, _ = flagging.flag(tod[:, begin:end], 4.0, start_sample=begin, **options)
        assert np.array_equal(part[:, low - begin : high - begin], whole[:, low:high]), (low, high)


def test_few_samples_at_an_end_do_not_judge_themselves():
    """Of three normal numbers the farthest is 5 robust deviations off in one case of five.

    Samples of Gaussian noise beyond 5 sigma are 6e-7.
    """
    tod = noise(2000, 1024 + 3)
    options = {"before_samples": 0, "after_samples": 0, "block_samples": 1024}
    mask, _ = flagging.flag(tod, 5.0, **options)
    alone, _ = flagging.flag(tod[:, 1024:], 5.0, **options)
    assert alone.any(axis=1).mean() > 0.1
    assert not mask[:, 1024:].any()
    first, _ = flagging.flag(tod[:, ::-1], 5.0, start_sample=1021, **options)
    assert not first[:, :3].any()


def test_pairs_find_what_both_feel_in_their_difference():
    """A drift of both hides a glitch of one; flags of one are those of the other too."""
    tod = noise(4, 3 * 8192)
    common = 3e-16 * np.random.default_rng(5).standard_normal(tod.shape[1])
    tod[:2] += common
    tod[0, 9000] += 20 * 3e-17
    tod[2, 700] += 1e-14
    pairs = np.array([[0, 1], [2, 3]])
    options = {"before_samples": 0, "after_samples": 0}
    alone, _ = flagging.flag(tod, 7.0, **options)
    assert np.argwhere(alone).tolist() == [[2, 700]]
    both, _ = flagging.flag(tod, 7.0, pairs=pairs, **options)
    assert np.argwhere(both).tolist() == [[0, 9000], [1, 9000], [2, 700], [3, 700]]
    # In both of a pair, it cancels.
    tod[3, 700] += 1e-14
    differences, _ = flagging.flag(tod, 7.0, pairs=pairs, singles=False, **options)
    assert np.argwhere(differences).tolist() == [[0, 9000], [1, 9000]]
    spread = flagging.sigma_flags(tod, 7.0, pairs, singles=False, spread=2)
    assert np.flatnonzero(spread[0]).tolist() == list(range(8998, 9003))
    hidden, _ = flagging.flag(tod, 7.0, pairs=pairs, singles=False, noise=3e-16, **options)
    assert not hidden.any()


def test_counts_of_pieces_add_up():
    mask = np.random.default_rng(2).random((3, 500)) < 0.3
    total = flagging.count(mask[:, :200]) + flagging.count(mask[:, 200:], mask[:, 199])
    assert total.tolist() == flagging.count(mask).tolist()
    assert flagging.count(np.array([[1, 1, 0, 1]], dtype=bool)).tolist() == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold_sigma": 0}, "threshold_sigma = 0"),
        ({"before_samples": -1}, "before_samples = -1"),
        ({"after_samples": -2}, "after_samples = -2"),
        ({"block_samples": 1}, "block_samples = 1"),
        ({"highpass_samples": 10}, "highpass_samples = 10"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(CrabError, match=message):
        flagging.flag(np.zeros((1, 10)), **options)


@pytest.mark.parametrize("tod", [np.zeros(5), np.array([[0.0, np.nan]])])
def test_bad_samples_are_refused(tod):
    with pytest.raises(CrabError, match="allowed are finite numbers"):
        flagging.flag(tod)
