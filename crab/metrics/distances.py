"""Distance between the amplitude distributions of two cubes."""

import numpy as np
from scipy import stats

from crab.metrics.windows import Estimate, blocks, jackknife, jackknife_error

# A quantile is given where the smaller sample has this many values beyond it.
_MIN_BEYOND = 20
TAILS = (1e-3, 1e-4, 1e-5, 1e-6)


def wasserstein(generated: np.ndarray, reference: np.ndarray) -> Estimate:
    """1-Wasserstein distance in units of the reference's standard deviation.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_detector, n_time)
        Samples in one unit; the lengths may differ.

    Returns
    -------
    Estimate
        Mean over detectors of W1 / sigma. Never negative: two samples of one law give a small
        positive number, so read it beside real-vs-real.
    """
    ours, theirs = blocks(generated), blocks(reference)
    sigma = theirs.std(axis=(1, 2))
    value = np.mean(
        [
            stats.wasserstein_distance(a.ravel(), b.ravel()) / s
            for a, b, s in zip(ours, theirs, sigma, strict=True)
        ]
    )
    left_out = np.mean(
        [_w1_without(a, b) / s for a, b, s in zip(ours, theirs, sigma, strict=True)], axis=0
    )
    return Estimate(value, jackknife_error(left_out))


def _w1_without(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """W1 = integral of |F - G| with each block left out; shape (n_blocks,).

    Sorting once serves all blocks: those left out only lose their steps in F and G.
    """
    n_blocks = len(ours)
    values = np.concatenate([ours.ravel(), theirs.ravel()])
    order = np.argsort(values)
    block = np.concatenate([np.repeat(np.arange(n_blocks), x.shape[1]) for x in (ours, theirs)])
    steps = np.repeat([1 / ours[1:].size, -1 / theirs[1:].size], [ours.size, theirs.size])
    block, steps = block[order], steps[order]
    distance = np.diff(values[order])
    left = (np.where(block == k, 0.0, steps) for k in range(n_blocks))
    return np.array([np.abs(np.cumsum(s)[:-1]) @ distance for s in left])


def tail_quantiles(generated: np.ndarray, reference: np.ndarray) -> dict[str, Estimate]:
    """Relative error of the far quantiles, detectors pooled.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_detector, n_time)
        Standardised samples (`windows.standardise`): median 0, core width 1.

    Returns
    -------
    dict of str to Estimate
        ``q_generated / q_reference - 1`` for ``p`` and ``1 - p`` of each `TAILS` that has at least
        20 samples beyond it. Keys ``quantile_1e-03``, ``quantile_1-1e-03``, ...
    """
    ours, theirs = blocks(generated), blocks(reference)
    smaller = min(ours.size, theirs.size)
    tails = [p for p in TAILS if p * smaller >= _MIN_BEYOND]
    probabilities = [*tails, *(1 - p for p in tails)]
    names = [f"quantile_{p:.0e}" for p in tails] + [f"quantile_1-{p:.0e}" for p in tails]

    def errors(keep):
        a, b = (np.quantile(x[:, keep], probabilities) for x in (ours, theirs))
        return a / b - 1

    value, error = jackknife(errors)
    return {n: Estimate(v, e) for n, v, e in zip(names, value, error, strict=True)}


def moments(generated: np.ndarray, reference: np.ndarray) -> dict[str, Estimate]:
    """Difference of skewness and of excess kurtosis, mean over detectors.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_detector, n_time)

    Returns
    -------
    dict of str to Estimate
        ``skewness`` and ``kurtosis``: generated minus reference.
    """
    ours, theirs = blocks(generated), blocks(reference)

    def differences(keep):
        a, b = (x[:, keep].reshape(len(x), -1) for x in (ours, theirs))
        skewness = stats.skew(a, axis=1) - stats.skew(b, axis=1)
        kurtosis = stats.kurtosis(a, axis=1) - stats.kurtosis(b, axis=1)
        return skewness.mean(), kurtosis.mean()

    value, error = jackknife(differences)
    return {
        "skewness": Estimate(value[0], error[0]),
        "kurtosis": Estimate(value[1], error[1]),
    }
