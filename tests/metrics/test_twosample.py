"""Classifier two-sample test against analytic AUCs."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from crab import CrabError, seeds
from crab.metrics import twosample

N = 128


def white(label, n_windows=600, n_detector=2):
    return seeds.rng(15, label).normal(size=(n_detector, n_windows, N))


def test_one_law_cannot_be_told_apart():
    """AUC 1/2; error sqrt((n + m + 1) / (12 n m)) (Mann & Whitney 1947)."""
    auc = twosample.classifier_auc(white("a"), white("b"), 1).auc
    assert auc.value == pytest.approx(0.5, abs=4 * auc.error)
    assert auc.error == pytest.approx(np.sqrt(2401 / (12 * 1200 * 1200)), rel=0.5)


def test_a_shift_gives_nearly_the_best_possible_auc():
    """Windows of white noise shifted by delta: no test beats Phi(delta sqrt(N) / sqrt(2)).

    Neyman & Pearson: the window's mean is sufficient, with d' = delta sqrt(N).
    """
    delta = 1.2 / np.sqrt(N)
    auc = twosample.classifier_auc(white("a") + delta, white("b"), 1).auc
    best = stats.norm.cdf(1.2 / np.sqrt(2))
    assert best - 0.06 < auc.value < best + 3 * auc.error


def test_five_percent_too_wide_is_seen():
    auc = twosample.classifier_auc(1.05 * white("a"), white("b"), 1).auc
    # d' of a window's sample deviation is 0.05 sqrt(2 N) = 0.8, so the best AUC is 0.714.
    assert 0.64 < auc.value < 0.74


def test_a_wrong_tail_of_the_same_variance_is_seen():
    """Student's t with 5 degrees of freedom, scaled to variance 1."""
    heavy = seeds.rng(15, "t").standard_t(5, size=(2, 600, N)) / np.sqrt(5 / 3)
    assert twosample.classifier_auc(heavy, white("b"), 1).auc.value > 0.75


def test_a_gain_that_depends_on_the_detector_is_seen():
    gain = np.array([1.2, 1 / 1.2])[:, np.newaxis, np.newaxis]
    swapped = twosample.classifier_auc(gain * white("a"), white("b") / gain, 1).auc
    assert swapped.value > 0.9


def test_held_out_windows_share_no_time_with_those_that_were_learnt():
    """Detectors that see the same noise: learning one and judging another would give AUC > 1/2."""
    ours, theirs = (np.repeat(white(k, 300, 1), 4, axis=0) for k in "ab")
    auc = twosample.classifier_auc(ours, theirs, 1).auc
    assert auc.value == pytest.approx(0.5, abs=4 * auc.error)
    assert auc.error > 0.02


def test_features_of_known_windows():
    """A sine of period 16 and amplitude 4: its moments, peaks and autocorrelation are known."""
    t = np.arange(N)
    sine = 4 * np.sin(2 * np.pi * (t + 0.5) / 16)
    row = twosample.features(sine[np.newaxis, np.newaxis]).iloc[0]
    assert row["std"] == pytest.approx(4 / np.sqrt(2))
    assert row["kurtosis"] == pytest.approx(1.5)
    assert row["autocorrelation_8"] == pytest.approx(-1)
    assert row["peaks_down_3"] == 8
    assert row["peaks_up_5"] == 0


def test_too_few_windows_and_different_lengths():
    with pytest.raises(CrabError, match="generated: 15 windows"):
        twosample.classifier_auc(white("a", 15), white("b"), 1)
    with pytest.raises(CrabError, match="window_samples = 128 in generated, 64"):
        twosample.classifier_auc(white("a"), white("b")[..., :64], 1)
    with pytest.raises(CrabError, match="detectors = 2 in generated, 1"):
        twosample.classifier_auc(white("a"), white("b")[:1], 1)


def scored(label, n_times=160):
    """A test whose classifier guesses: ranks of white noise."""
    scores = seeds.rng(15, "scores", label).random(2 * n_times)
    blocks = np.tile(np.arange(n_times) * 16 // n_times, 2)
    return twosample._judged(scores, np.repeat([1, 0], n_times), blocks, 1)


def test_auc_from_pairs_of_blocks_is_that_of_scikit_learn():
    test = scored("auc")
    scores = np.round(test.scores, 2)
    ties = twosample._judged(scores, test.labels, test.blocks, 1)
    assert ties.auc.value == pytest.approx(roc_auc_score(test.labels, scores), abs=1e-12)
    two = twosample._judged(scores, test.labels, test.blocks, 2)
    folds = [roc_auc_score(test.labels[h], scores[h]) for h in (test.blocks < 8, test.blocks >= 8)]
    assert two.auc.value == pytest.approx(np.mean(folds), abs=1e-12)


def test_percentile_of_one_auc_under_its_null():
    """0.5 + 1.645 sigma with Mann and Whitney's sigma, mean over twenty pairs of cubes."""
    sigma = np.sqrt(321 / (12 * 160 * 160))
    found = [twosample.null_percentile([scored(i)], seed=1) for i in range(20)]
    assert np.mean(found) == pytest.approx(0.5 + 1.645 * sigma, abs=0.3 * sigma)


def test_percentile_of_the_largest_of_several():
    """Independent tests: the quantile of 0.95^(1/4). Four times the same test: that of one."""
    sigma = np.sqrt(321 / (12 * 160 * 160))
    found = [
        twosample.null_percentile([scored(4 * i + j) for j in range(4)], seed=1) for i in range(20)
    ]
    expected = 0.5 + stats.norm.ppf(0.95**0.25) * sigma
    assert np.mean(found) == pytest.approx(expected, abs=0.3 * sigma)
    same = scored("same")
    one = twosample.null_percentile([same], seed=1)
    assert twosample.null_percentile([same] * 4, seed=1) == one
    assert np.isnan(twosample.null_percentile([], seed=1))


def test_tables_that_are_known_are_not_made_again():
    ours, theirs = white("a", 64), white("b", 64)
    tables = twosample.features(ours), twosample.features(theirs)
    known = twosample.classifier_auc(ours, theirs, 1, tables=tables)
    assert known.auc == twosample.classifier_auc(ours, theirs, 1).auc


def test_unknown_classifier():
    with pytest.raises(CrabError, match="classifier = 'svm': allowed are boosting, resnet, stft"):
        twosample.classifier_auc(white("a"), white("b"), 1, "svm")
