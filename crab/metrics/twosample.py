"""Classifier two-sample test: can a machine tell generated windows from simulated ones?

Three machines try: gradient boosting on physics features of each detector's windows, and two
networks (`crab.metrics.networks`) that see all detectors together. Whoever does best counts.
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import signal, stats
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from crab import seeds
from crab.errors import CrabError
from crab.metrics.windows import N_BLOCKS, Estimate, jackknife_error

CLASSIFIERS = ("boosting", "resnet", "stft")
DEFAULT_EPOCHS = 12
# Every time block, the jackknife's unit, needs a window.
MIN_TIMES = N_BLOCKS

_QUANTILES = (0.0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)
_LAGS = (1, 2, 3, 5, 8, 16, 32)
_PEAK_HEIGHTS = (3.0, 5.0, 10.0, 30.0)
_N_BANDS = 10
# Networks are dear: two trainings instead of four.
_N_FOLDS = {"boosting": 4, "resnet": 2, "stft": 2}
# Time blocks of each training on which a network is not trained but stopped.
_STOP_BLOCKS = 2


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
    blocks : ndarray, shape (n_all,)
        Time of every window, in sixteenths of its cube.
    n_folds : int
        Contiguous stretches of blocks, each held out once.
    """

    auc: Estimate
    scores: np.ndarray
    labels: np.ndarray
    blocks: np.ndarray
    n_folds: int


def features(windows: np.ndarray) -> pd.DataFrame:
    """Physics features of windows, one row each.

    Parameters
    ----------
    windows : ndarray, shape (n_detector, n_windows, window_samples)
        Standardised samples (`windows.standardise`).

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
        y = sign * x
        # The first sample of a plateau stands for all of it.
        top = np.where((y[:, 1:-1] > y[:, :-2]) & (y[:, 1:-1] >= y[:, 2:]), y[:, 1:-1], -np.inf)
        for height in _PEAK_HEIGHTS:
            table[f"peaks_{name}_{height:g}"] = (top >= height).sum(axis=1)
    table["largest_step"] = np.abs(np.diff(x, axis=1)).max(axis=1)
    return pd.DataFrame(table)


def check_classifier(name: str) -> None:
    """Raise a `CrabError` if a classifier is not one of `CLASSIFIERS`."""
    if name not in CLASSIFIERS:
        raise CrabError(f"classifier = {name!r}: allowed are {', '.join(CLASSIFIERS)}")


def classifier_auc(
    generated: np.ndarray,
    reference: np.ndarray,
    seed: int,
    classifier: str = "boosting",
    epochs: int = DEFAULT_EPOCHS,
    tables: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> TwoSample:
    """Area under the ROC curve of a classifier on held-out windows.

    Cross-fitting over contiguous stretches of time (four; two for a network): each is held out
    once, so no window and none that was measured at the same time by a correlated detector is
    both learnt and judged.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_detector, n_windows, window_samples)
        Standardised windows; the numbers of windows may differ.
    seed : int
    classifier : str
        One of `CLASSIFIERS`. Boosting judges the windows of each detector, a network those of all
        detectors together.
    epochs : int
        Of a network, at most.
    tables : (DataFrame, DataFrame), optional
        `features` of both, where they are known already.

    Returns
    -------
    TwoSample
        ``auc`` is the mean over the folds, 0.5 where the two cannot be told apart; its error is a
        jackknife over held-out times and leaves out the classifier's own training noise.

    Raises
    ------
    CrabError
        If the classifier is not known, one cube has fewer than `MIN_TIMES` windows for each
        detector, or the windows' lengths or numbers of detectors differ.
    """
    check_classifier(classifier)
    for name, w in (("generated", generated), ("reference", reference)):
        if w.shape[1] < MIN_TIMES:
            raise CrabError(
                f"{name}: {w.shape[1]} windows of {w.shape[2]} samples for each detector: a "
                f"classifier test needs at least {MIN_TIMES}"
            )
    for axis, what in ((2, "window_samples"), (0, "detectors")):
        if generated.shape[axis] != reference.shape[axis]:
            raise CrabError(
                f"{what} = {generated.shape[axis]} in generated, {reference.shape[axis]} in "
                "reference: must be equal"
            )
    pair = (generated, reference)
    if classifier == "boosting":
        inputs = pd.concat(tables or [features(w) for w in pair], ignore_index=True)
        repeats = len(generated)
    else:
        # Imported only where asked for: it starts the network library.
        from crab.metrics import networks

        inputs = np.concatenate([networks.inputs(classifier, w) for w in pair])
        repeats = 1
    times = [w.shape[1] for w in pair]
    labels = np.repeat([1, 0], [repeats * n for n in times])
    blocks = np.concatenate([np.tile(np.arange(n) * N_BLOCKS // n, repeats) for n in times])
    n_folds = _N_FOLDS[classifier]
    scores = np.empty(labels.size)
    for k in range(n_folds):
        held_out = blocks * n_folds // N_BLOCKS == k
        fold_seed = seeds.integer(seed, "classifier two-sample test", k)
        if classifier == "boosting":
            decision = _boosting(inputs, labels, held_out, fold_seed)
        else:
            # Blocks just before the held-out ones; before the first fold, those at the very end.
            stop = np.isin((k * N_BLOCKS // n_folds - 1 - blocks) % N_BLOCKS, range(_STOP_BLOCKS))
            learn = ~held_out & ~stop
            decision = networks.decisions(
                classifier, inputs, labels, learn, stop, held_out, fold_seed, epochs
            )
        # Ranks: the scales of the folds' classifiers differ.
        ranks = stats.rankdata(decision)
        scores[held_out] = ranks / ranks.size
    return _judged(scores, labels, blocks, n_folds)


def null_percentile(
    tests: Iterable[TwoSample], seed: int, percentile: float = 95.0, n_draws: int = 2000
) -> float:
    """Percentile of the largest AUC of several tests if their two cubes follow one law.

    Each held-out time block of the one cube trades places at random with the same block of the
    other, in all tests at once. The classifiers never saw these blocks, so for two real cubes
    every such exchange is as likely as what was measured; nothing is trained again, and how much
    the tests depend on each other is accounted for.

    Parameters
    ----------
    tests : iterable of TwoSample
        Of one pair of real cubes.
    seed : int
    percentile : float
    n_draws : int
        Random exchanges.

    Returns
    -------
    float
        NaN if there is no test.
    """
    swaps = seeds.rng(seed, "exchanged blocks").random((n_draws, N_BLOCKS)) < 0.5
    aucs = [_exchanged_aucs(test, swaps) for test in tests]
    return float(np.percentile(np.max(aucs, axis=0), percentile)) if aucs else np.nan


def _boosting(table, labels, held_out, seed):
    classifier = HistGradientBoostingClassifier(
        max_iter=100, max_leaf_nodes=8, early_stopping=False, random_state=seed
    )
    # One thread: no slower on such small tables, and never worse on a busy machine.
    with threadpool_limits(1):
        classifier.fit(table[~held_out], labels[~held_out])
        return classifier.decision_function(table[held_out])


def _judged(scores, labels, blocks, n_folds) -> TwoSample:
    """AUC and its jackknife error, from pairs of time blocks."""
    wins, sizes = _block_wins(scores, labels, blocks)
    home = np.arange(N_BLOCKS) * n_folds // N_BLOCKS

    def fold_auc(use):
        return wins[np.ix_(use, N_BLOCKS + use)].sum() / (
            sizes[use].sum() * sizes[N_BLOCKS + use].sum()
        )

    folds = [np.flatnonzero(home == k) for k in range(n_folds)]
    aucs = np.array([fold_auc(use) for use in folds])
    # Leaving out a block changes the one fold that it lies in.
    change = [(fold_auc(folds[k][folds[k] != b]) - aucs[k]) / n_folds for b, k in enumerate(home)]
    auc = Estimate(aucs.mean(), jackknife_error(aucs.mean() + np.array(change)))
    return TwoSample(auc, scores, labels, blocks, n_folds)


def _block_wins(scores, labels, blocks) -> tuple[np.ndarray, np.ndarray]:
    """Pairs won by each block against each other one, ties by half, and windows in the blocks.

    Shapes (2 n_blocks, 2 n_blocks) and (2 n_blocks,): generated blocks first.
    """
    unit = np.where(labels == 1, blocks, N_BLOCKS + blocks)
    members = [np.sort(scores[unit == u]) for u in range(2 * N_BLOCKS)]
    everything = np.concatenate(members)
    starts = np.cumsum([0, *(m.size for m in members)])[:-1]
    below = [
        np.add.reduceat(
            (np.searchsorted(m, everything) + np.searchsorted(m, everything, "right")) / 2, starts
        )
        for m in members
    ]
    return np.transpose(below), np.array([m.size for m in members])


def _exchanged_aucs(test: TwoSample, swaps: np.ndarray) -> np.ndarray:
    """AUC for every draw; shape (n_draws,)."""
    wins, sizes = _block_wins(test.scores, test.labels, test.blocks)
    home = np.arange(N_BLOCKS) * test.n_folds // N_BLOCKS
    aucs = []
    for k in range(test.n_folds):
        use = np.flatnonzero(home == k)
        units = np.concatenate([use, N_BLOCKS + use])
        ours = np.concatenate([~swaps[:, use], swaps[:, use]], axis=1).astype(float)
        theirs = 1 - ours
        won = np.einsum("di,ij,dj->d", ours, wins[np.ix_(units, units)], theirs, optimize=True)
        aucs.append(won / ((ours @ sizes[units]) * (theirs @ sizes[units])))
    return np.mean(aucs, axis=0)
