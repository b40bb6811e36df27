"""Does a generator make all kinds of windows, and only such windows? (Nearest neighbours.)

Around each real window lies a ball that reaches to its k-th nearest other real window.

* precision: share of generated windows in the ball of any real one; recall: the reverse
  (Kynkäänniemi et al. 2019, arXiv:1904.06991);
* density: number of real balls that a generated window lies in, over k; coverage: share of real
  balls with a generated window in them (Naeem et al. 2020, arXiv:2002.09797).

Density and coverage are hard to fool with outliers; coverage falls when modes are dropped.
"""

import numpy as np
from sklearn.metrics import pairwise_distances

from crab.errors import CrabError
from crab.metrics.physics_distance import one_of_each_time
from crab.metrics.windows import N_BLOCKS, Estimate, jackknife_error

K_NEAREST = 5


def expected_coverage(n_real: int, n_generated: int, k: int = K_NEAREST) -> float:
    """Coverage of two independent samples of one law (Naeem et al. 2020, Lemma 2).

    Parameters
    ----------
    n_real, n_generated : int
    k : int

    Returns
    -------
    float
        ``1 - (N - 1) ... (N - k) / ((M + N - 1) ... (M + N - k))``, N real and M generated;
        ``1 - 2**-k`` for many of both.
    """
    i = np.arange(1, k + 1)
    return float(1 - np.prod((n_real - i) / (n_generated + n_real - i)))


def neighbours(
    generated: np.ndarray, reference: np.ndarray, n_times: int | None = None, k: int = K_NEAREST
) -> dict[str, Estimate]:
    """Precision, recall, density and coverage.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_times, n_detector, n_features)
        Standardised features (`physics_distance.standardise`).
    n_times : int, optional
        Use so many evenly spaced times of both. All four depend on the sizes of the samples, so
        that only equal sizes may be compared. Default: as many as both have, at most 3000.
    k : int

    Returns
    -------
    dict of str to Estimate
        ``precision``, ``recall``, ``density``, ``coverage``: means over the samples of
        `physics_distance.one_of_each_time`; jackknife errors over times.

    Raises
    ------
    CrabError
        If no more than k times remain when a sixteenth is left out.
    """
    n = min(len(generated), len(reference), n_times or len(generated))
    if n - -(-n // N_BLOCKS) <= k:
        raise CrabError(f"windows: {n} times: {k} nearest neighbours need more")
    samples = [one_of_each_time(rows, n) for rows in (generated, reference)]
    # Everything, and without each block.
    block = np.arange(samples[0].shape[1]) * N_BLOCKS // samples[0].shape[1]
    keeps = [block != b for b in (-1, *range(N_BLOCKS))]
    shares = np.zeros((len(keeps), 4))
    for x, y in zip(*samples, strict=True):
        radii = [_radii(pairwise_distances(rows), block, k) for rows in (x, y)]
        between = pairwise_distances(x, y)
        for i, keep in enumerate(keeps):
            ours, theirs = (radius[i - 1][keep] for radius in radii)
            shares[i] += _shares(between[np.ix_(keep, keep)], ours, theirs, k)
    shares /= len(samples[0])
    error = jackknife_error(shares[1:])
    names = ("precision", "recall", "density", "coverage")
    return {
        m: Estimate(float(v), float(e)) for m, v, e in zip(names, shares[0], error, strict=True)
    }


def _radii(distance: np.ndarray, block: np.ndarray, k: int) -> np.ndarray:
    """Distance to the k-th neighbour without each block, last with all; (n_blocks + 1, n)."""
    np.fill_diagonal(distance, np.inf)
    nearest = np.full((N_BLOCKS, k, len(block)), np.inf)
    for b in range(N_BLOCKS):
        part = distance[:, block == b]
        last = min(k, part.shape[1]) - 1
        part = np.partition(part, last, axis=1)[:, : last + 1]
        nearest[b, : last + 1] = part.T
    without = [np.delete(nearest, b, axis=0) for b in range(N_BLOCKS)]
    flat = [m.reshape(-1, len(block)) for m in (*without, nearest)]
    return np.array([np.partition(m, k - 1, axis=0)[k - 1] for m in flat])


def _shares(between, radius_generated, radius_real, k) -> tuple[float, float, float, float]:
    in_real = between < radius_real
    in_generated = between < radius_generated[:, np.newaxis]
    return (
        in_real.any(axis=1).mean(),
        in_generated.any(axis=0).mean(),
        in_real.sum(axis=1).mean() / k,
        in_real.any(axis=0).mean(),
    )
