"""Seams: a generator that glues windows is found, one without is not, and errors are honest."""

import itertools

import numpy as np
import pytest
from scipy import signal, stats

from crab import CrabError, seeds
from crab.metrics import seams, twosample
from crab.metrics.limits import LIMITS

BLOCK = 512
COEFFICIENT = 0.98
SETTINGS = {"seed": 5, "window_samples": 64}


def white(label, n_detector=2):
    """Generator of independent samples in W; its draws belong to places, not to requests."""

    def sample(start, n):
        first, last = start // BLOCK, -(-(start + n) // BLOCK)
        draws = [
            seeds.rng(3, label, block=b).standard_normal((n_detector, BLOCK))
            for b in range(first, last)
        ]
        skip = start - first * BLOCK
        return np.float32(1e-16 * np.concatenate(draws, axis=1)[:, skip : skip + n])

    return sample


def red(label, glued):
    """Red noise (correlation time of 50 samples); glued, each block knows nothing of others."""

    def sample(start, n):
        first, last = start // BLOCK, -(-(start + n) // BLOCK)
        x = white(label)(first * BLOCK, (last - first) * BLOCK) / 1e-16
        if glued:
            x = x.reshape(2, -1, BLOCK)
            # From its stationary law, so that only the step tells a seam.
            x[:, :, 0] /= np.sqrt(1 - COEFFICIENT**2)
            x = signal.lfilter([1], [1, -COEFFICIENT], x, axis=2)
        else:
            x = signal.lfilter([1], [1, -COEFFICIENT], x, axis=1)
        x = x.reshape(2, -1)
        skip = start - first * BLOCK
        return 1e-16 * x[:, skip : skip + n]

    return sample


def test_a_generator_of_glued_windows_is_found():
    """Blocks of an AR(1) process with coefficient a that are drawn apart.

    A step between two blocks is 1 / sqrt(1 - a) times as wide as one inside. Of two normal numbers
    of widths s and 1 the first is larger in size with probability 2 / pi arctan(s): that is the
    AUC of the step alone.
    """
    cut = seams.cut(red("glued", glued=True), BLOCK, n_boundaries=400, **SETTINGS)
    result = seams.seams(cut, 1, ("boosting",))
    values, beside, goals = seams.rows(result)
    step = 2 / np.pi * np.arctan(1 / np.sqrt(1 - COEFFICIENT))
    assert step - 0.02 < values["seam_auc"].value < 1
    assert not LIMITS["seam_auc"].met(values["seam_auc"].value)
    # Places that are none of its seams cannot be told from others.
    assert abs(beside["seam_auc"].value - 0.5) < 3 * beside["seam_auc"].error
    assert goals["seam_auc"] == values["seam_auc_null_95"].value < 0.6


def test_a_network_finds_them_too():
    cut = seams.cut(red("glued", glued=True), BLOCK, n_boundaries=200, n_interior=1, **SETTINGS)
    result = seams.seams(cut, 1, ("stft",))
    assert result.tests["stft"].auc.value > 0.8
    null = result.null["stft"].auc
    assert abs(null.value - 0.5) < 3 * null.error


def test_one_filter_over_all_blocks_has_no_seam():
    sample = red("whole", glued=False)
    whole = sample(0, 402 * BLOCK)
    cut = seams.cut(
        lambda start, n: whole[:, start : start + n], BLOCK, n_boundaries=400, **SETTINGS
    )
    auc = seams.seams(cut, 1, ("boosting",)).tests["boosting"].auc
    assert abs(auc.value - 0.5) < 3 * auc.error


def test_errors_are_the_spread_of_white_noise():
    """AUCs of independent white noise scatter about 0.5 by their errors.

    They are also as large as for independent windows (Hanley & McNeil 1982): detectors are
    independent here and count as windows of their own.
    """
    n, n_draws = 48, 8
    aucs = []
    for i in range(n_draws):
        cut = seams.cut(white(f"white {i}"), BLOCK, n_boundaries=n, n_interior=2, **SETTINGS)
        tables = seams.features(cut.seam), seams.features(cut.interior)
        aucs.append(twosample.classifier_auc(cut.seam, cut.interior, 1, tables=tables).auc)
    values, errors = np.transpose(aucs)
    expected = np.sqrt((1 + 1 / 2) / (12 * 2 * n))
    # Two sides of 0.1 % of the chi-squared law.
    chi_squared = np.sum(((values - 0.5) / errors) ** 2)
    assert stats.chi2.ppf(1e-3, n_draws) < chi_squared < stats.chi2.isf(1e-3, n_draws)
    assert errors.mean() == pytest.approx(expected, rel=0.25)


def test_windows_lie_where_they_should():
    """The TOD is its own time: the middle of a seam's window is a multiple of the block."""
    n = 40
    cut = seams.cut(
        lambda start, n: np.arange(start, start + n, dtype=float)[np.newaxis],
        BLOCK,
        n_boundaries=n,
        n_interior=3,
        first_boundary=5,
        **SETTINGS,
    )
    assert cut.seam.shape == cut.fake.shape == (1, n, 64)
    assert cut.interior.shape == (1, 3 * n, 64)
    # Units are those of the median and width; boundaries tell them.
    middle = cut.seam[0, :, 32]
    step = (middle[-1] - middle[0]) / (n - 1) / BLOCK
    first = 5 * BLOCK - middle[0] / step
    for windows in (cut.fake, cut.interior):
        place = windows[0, :, 32] / step + first
        distance = np.abs((place + BLOCK / 2) % BLOCK - BLOCK / 2)
        # Neither the seam's window nor a window's length around it.
        assert distance.min() >= 64 - 1e-6
        assert distance.max() <= BLOCK / 2 - 32 + 1e-6
    assert len(np.unique(np.round(cut.interior[0, :, 32], 9))) > 2.5 * n


def test_what_was_asked_of_the_generator():
    """Each boundary costs about one block, whatever the window's length."""
    asked = []

    def sample(start, n):
        asked.append((start, n))
        return white("w")(start, n)

    seams.cut(sample, BLOCK, n_boundaries=300, **SETTINGS)
    assert asked[0][0] == BLOCK // 2
    assert sum(n for _, n in asked) == 300 * BLOCK
    assert all(a + n == b for (a, n), (b, _) in itertools.pairwise(asked))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"window_samples": 63}, "window_samples = 63: allowed are even numbers"),
        ({"window_samples": 8}, "window_samples = 8: allowed are integers >= 16"),
        ({"n_boundaries": 3}, "n_boundaries = 3"),
        ({"first_boundary": 0}, "first_boundary = 0"),
        ({"window_samples": 256}, "block_samples = 512: allowed are integers >= 1024"),
    ],
)
def test_settings_out_of_range(changed, message):
    with pytest.raises(CrabError, match=message):
        seams.cut(white("w"), BLOCK, **{**SETTINGS, "n_boundaries": 20, **changed})


def test_a_dead_detector_and_an_unknown_classifier():
    with pytest.raises(CrabError, match="detector 0 has width 0 W"):
        seams.cut(lambda s, n: np.zeros((2, n)), BLOCK, n_boundaries=20, **SETTINGS)
    cut = seams.cut(white("w"), BLOCK, n_boundaries=20, **SETTINGS)
    with pytest.raises(CrabError, match="classifier = 'svm'"):
        seams.seams(cut, 1, ("svm",))


def test_the_limit_and_what_can_judge_it():
    """0.52 is two errors above chance where the error's own limit is kept."""
    limit, error = LIMITS["seam_auc"], LIMITS["seam_auc_error"]
    assert limit.must - 0.5 == pytest.approx(2 * error.must)
    assert np.sqrt((1 + 1 / 4) / (12 * 2000)) < error.must
    assert twosample.MIN_TIMES <= 2000
