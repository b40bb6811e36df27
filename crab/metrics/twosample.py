"""Classifier two-sample test: can a machine tell generated windows from simulated ones?"""

import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import signal, stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from crab import seeds
from crab.errors import CrabError
from crab.metrics.windows import N_BLOCKS, Estimate, jackknife_error

_QUANTILES = (0.0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)
_LAGS = (1, 2, 3, 5, 8, 16, 32)
_PEAK_HEIGHTS = (3.0, 5.0, 10.0, 30.0)
_N_BANDS = 10
_N_FOLDS = 4
# Every time block, the jackknife's unit, needs a window.
MIN_TIMES = N_BLOCKS


class TwoSample(NamedTuple):
    """Result of the test.

    Attributes
    ----------
    auc : Estimate
    scores : ndarray, shape (n_all,)
        Rank of every window among those of its fold, in (0, 1]: high where the classifier says
        "generated".
    labels : ndarray, shape (n_all,)
        1 for generated, 0 for simulated.
    """

    auc: Estimate
    scores: np.ndarray
    labels: np.ndarray


def features(windows: np.ndarray) -> pd.DataFrame:
    """Physics features of windows, one row each.

    Parameters
    ----------
    windows : ndarray, shape (n_detector, n_windows, window_samples)
        Standardised samples (`windows.standardise`), hits negative.

    Returns
    -------
    pandas.DataFrame
        Moments, quantiles, log band powers, autocorrelations, numbers of peaks downwards and
        upwards, the largest step, and the detector's index; rows run through the windows of
        detector 0 first. NaN where a constant window has no skewness or autocorrelation.
    """
    n_detector, n_windows, n = windows.shape
    x = windows.reshape(-1, n)
    table = {"detector": np.repeat(np.arange(n_detector), n_windows)}
    mean, std = x.mean(axis=1), x.std(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (x - mean[:, np.newaxis]) / std[:, np.newaxis]
    table |= {"mean": mean, "std": std}
    table |= {"skewness": (z**3).mean(axis=1), "kurtosis": (z**4).mean(axis=1)}
    for p, q in zip(_QUANTILES, np.quantile(x, _QUANTILES, axis=1), strict=True):
        table[f"quantile_{p}"] = q
    frequency, power = signal.periodogram(x, window="hann", axis=1)
    edges = np.geomspace(frequency[1], 0.5, _N_BANDS + 1)
    for k, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (frequency >= low * (1 - 1e-9)) & (frequency <= high)
        if inside.any():
            table[f"band_{k}"] = np.log(power[:, inside].mean(axis=1) + np.finfo(float).tiny)
    for lag in _LAGS:
        table[f"autocorrelation_{lag}"] = (z[:, lag:] * z[:, :-lag]).mean(axis=1)
    for sign, name in ((-1, "down"), (1, "up")):
        heights = [signal.find_peaks(sign * row, height=_PEAK_HEIGHTS[0])[1] for row in x]
        for height in _PEAK_HEIGHTS:
            counts = [(h["peak_heights"] >= height).sum() for h in heights]
            table[f"peaks_{name}_{height:g}"] = counts
    table["largest_step"] = np.abs(np.diff(x, axis=1)).max(axis=1)
    return pd.DataFrame(table)


def classifier_auc(generated: np.ndarray, reference: np.ndarray, seed: int) -> TwoSample:
    """Area under the ROC curve of gradient boosting on held-out windows.

    Cross-fitting over four contiguous stretches of time: each is held out once, so no window and
    none that was measured at the same time by a correlated detector is both learnt and judged.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_detector, n_windows, window_samples)
        Standardised windows; the numbers of windows may differ.
    seed : int

    Returns
    -------
    TwoSample
        ``auc`` is the mean over the folds, 0.5 where the two cannot be told apart; its error is a
        jackknife over held-out times and leaves out the classifier's own training noise.

    Raises
    ------
    CrabError
        If one has fewer than `MIN_TIMES` windows for each detector, or their lengths differ.
    """
    for name, w in (("generated", generated), ("reference", reference)):
        if w.shape[1] < MIN_TIMES:
            raise CrabError(
                f"{name}: {w.shape[1]} windows of {w.shape[2]} samples for each detector: a "
                f"classifier test needs at least {MIN_TIMES}"
            )
    if generated.shape[2] != reference.shape[2]:
        raise CrabError(
            f"window_samples = {generated.shape[2]} in generated, {reference.shape[2]} in "
            "reference: must be equal"
        )
    table = pd.concat([features(generated), features(reference)], ignore_index=True)
    labels = np.repeat([1, 0], [generated[..., 0].size, reference[..., 0].size])
    # Time of every window in units of its whole cube.
    block = np.concatenate(
        [
            np.tile(np.arange(w.shape[1]) * N_BLOCKS // w.shape[1], w.shape[0])
            for w in (generated, reference)
        ]
    )
    fold = block * _N_FOLDS // N_BLOCKS
    scores = np.empty(labels.size)
    for k in range(_N_FOLDS):
        classifier = HistGradientBoostingClassifier(
            max_iter=100,
            max_leaf_nodes=8,
            early_stopping=False,
            random_state=seeds.integer(seed, "classifier two-sample test", k),
        )
        held_out = fold == k
        # One thread: no slower on such small tables, and never worse on a busy machine.
        with threadpool_limits(1):
            classifier.fit(table[~held_out], labels[~held_out])
            decision = classifier.decision_function(table[held_out])
        # Ranks: the scales of the folds' classifiers differ.
        ranks = stats.rankdata(decision)
        scores[held_out] = ranks / ranks.size

    def fold_auc(k, without=-1):
        use = (fold == k) & (block != without)
        return roc_auc_score(labels[use], scores[use])

    folds = np.array([fold_auc(k) for k in range(_N_FOLDS)])
    # Leaving out a block changes the one fold that it lies in.
    home = np.arange(N_BLOCKS) * _N_FOLDS // N_BLOCKS
    change = [(fold_auc(k, b) - folds[k]) / _N_FOLDS for b, k in enumerate(home)]
    auc = Estimate(folds.mean(), jackknife_error(folds.mean() + np.array(change)))
    return TwoSample(auc, scores, labels)
