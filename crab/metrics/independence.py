"""Sample correlation: are windows generated at different times independent of each other?

Two windows x and y of N samples, each with mean 0 and norm 1, have r = x . y. If they are
independent and stationary, r has mean 0 and (Bartlett 1946, doi:10.2307/2983611)

    <r^2>_null = sum_l c_x(l) c_y(l) / (N - |l|),   c_x(l) = sum_t x(t) x(t+l),

whose inverse is the effective number of samples, N for white noise. One window of 1060 white
samples has sigma_r = 3.1 %, so a limit of 1 % needs many pairs taken together, in two ways that
see different faults:

* pooled r: the mean of r over so many pairs that they hold 2.5e6 effective samples, a detector
  with itself. It sees a pattern that all windows share (sign kept).
* rms excess: sqrt(<r^2> - <r^2>_null) over all pairs. It sees correlation of either sign: few
  latents, repeated windows, amplitudes that are locked to the window.

Windows of the same time are never paired: there detectors are correlated by physics.
"""

from typing import NamedTuple

import numpy as np

from crab import seeds
from crab.errors import CrabError
from crab.metrics.windows import Estimate, jackknife_error

EFFECTIVE_SAMPLES = 2.5e6
_MAX_WINDOWS = 4000
_N_NULL = 8
# A window with less than this standard deviation, in core widths, is constant but for rounding.
_CONSTANT = 1e-6


class SampleCorrelation(NamedTuple):
    """Correlation between generated samples.

    Attributes
    ----------
    pooled : Estimate
        Mean ``|r|`` over pools of at least `EFFECTIVE_SAMPLES` effective samples each (or over the
        one pool that there is, if there are fewer).
    pooled_null : float
        What ``pooled`` would be for independent windows: ``sqrt(2 / (pi N))``.
    effective_samples : float
        Effective samples in one pool.
    excess : Estimate
        ``sqrt(<r^2> - <r^2>_null)``, negative where the difference is.
    largest : Estimate
        Largest ``|r|`` of all pairs over the largest of as many pairs under the null.
    r, r_null : ndarray, shape (n_pairs,)
        Correlation of every pair of windows, and the same with every window shifted along itself
        by a random step: a draw under the null.
    """

    pooled: Estimate
    pooled_null: float
    effective_samples: float
    excess: Estimate
    largest: Estimate
    r: np.ndarray
    r_null: np.ndarray


def sample_correlation(windows: np.ndarray, seed: int) -> SampleCorrelation:
    """Correlation between windows of different times, against its null.

    Parameters
    ----------
    windows : ndarray, shape (n_detector, n_windows, window_samples)
        Standardised samples. Above 4000 windows in all, evenly spaced times are used.
    seed : int
        For the split into pools and the draws under the null.

    Returns
    -------
    SampleCorrelation
        NaN where a window is constant.

    Raises
    ------
    CrabError
        If there are fewer than four windows per detector.
    """
    n_detector, n_windows, n = windows.shape
    if n_windows < 4:
        raise CrabError(
            f"windows: {n_windows} of {n} samples for each detector: needs at least 4; take "
            "shorter windows or a longer cube"
        )
    n_times = min(n_windows, max(4, _MAX_WINDOWS // n_detector))
    times = np.linspace(0, n_windows - 1, n_times).astype(int)
    x = np.swapaxes(windows[:, times], 0, 1).astype(np.float64)
    x = x - x.mean(axis=2, keepdims=True)
    norm = np.linalg.norm(x, axis=2, keepdims=True)
    x /= np.where(norm > _CONSTANT * np.sqrt(n), norm, np.nan)

    upper = np.triu_indices(n_times, k=1)
    rng = seeds.rng(seed, "sample correlation")
    r = _by_time(x, x)
    shifted = [_by_time(x, _shift(x, rng)) for _ in range(_N_NULL)]

    # Pooled: each detector with itself at another time; the null keeps the detectors together.
    same = _same_detector(r)
    variance = np.mean([_same_detector(s)[upper] ** 2 for s in shifted])
    pooled, size = _pools(same[upper], variance, rng)

    # Excess: all pairs of detectors.
    difference, error = _pair_jackknife((r**2).mean(axis=(2, 3)) - _null_square(x))
    root = np.sqrt(abs(difference))
    # Up to the root of (square + its error): right for large and for vanishing squares.
    root_error = np.sqrt(root**2 + error) - root

    largest = np.abs(r[upper]).max()
    largest_null = np.array([np.abs(s[upper]).max() for s in shifted])
    return SampleCorrelation(
        pooled=Estimate(pooled, _pair_jackknife(same).error),
        pooled_null=float(np.sqrt(2 / np.pi * variance / size)),
        effective_samples=float(size / variance),
        excess=Estimate(np.sign(difference) * root, root_error),
        largest=Estimate(
            largest / largest_null.mean(),
            largest / largest_null.mean() ** 2 * largest_null.std(ddof=1),
        ),
        r=r[upper].ravel(),
        r_null=shifted[0][upper].ravel(),
    )


def _by_time(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlations, shape (time, time, detector, detector)."""
    n_times, n_detector, n = a.shape
    flat = a.reshape(-1, n).astype(np.float32) @ b.reshape(-1, n).astype(np.float32).T
    return flat.reshape(n_times, n_detector, n_times, n_detector).swapaxes(1, 2)


def _same_detector(r: np.ndarray) -> np.ndarray:
    return np.trace(r, axis1=2, axis2=3) / r.shape[2]


def _null_square(x: np.ndarray) -> np.ndarray:
    """<r^2> of independent windows, mean over detectors; shape (time, time)."""
    n = x.shape[2]
    power = (np.abs(np.fft.rfft(x, 2 * n, axis=2)) ** 2).mean(axis=1)
    covariance = np.fft.irfft(power, 2 * n, axis=1)[:, :n]
    # Lags of both signs; zero counts once.
    weight = np.append(1.0, np.full(n - 1, 2.0)) / (n - np.arange(n))
    return (covariance * weight) @ covariance.T


def _shift(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every time shifted along itself by its own random step, its detectors together."""
    steps = rng.integers(0, x.shape[2], size=len(x))
    index = (np.arange(x.shape[2]) + steps[:, np.newaxis]) % x.shape[2]
    return np.take_along_axis(x, index[:, np.newaxis, :], axis=2)


def _pools(r: np.ndarray, variance: float, rng: np.random.Generator) -> tuple[float, float]:
    """Mean |r| over pools of enough pairs, and the pairs in one pool."""
    total = r.size / variance
    n_pools = min(int(total // EFFECTIVE_SAMPLES), r.size) if total >= EFFECTIVE_SAMPLES else 1
    pools = np.array_split(rng.permutation(r), n_pools)
    return float(np.mean([abs(pool.mean()) for pool in pools])), r.size / n_pools


def _pair_jackknife(values: np.ndarray) -> Estimate:
    """Mean over the pairs of a symmetric matrix; jackknife over its rows, in closed form."""
    n = len(values)
    rows = values.sum(axis=1) - np.diag(values)
    total = rows.sum() / 2
    left = (total - rows) / ((n - 1) * (n - 2) / 2)
    return Estimate(total / (n * (n - 1) / 2), jackknife_error(left))
