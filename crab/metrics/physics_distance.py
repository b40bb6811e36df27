"""Fréchet and kernel distances between physics features (Kansal et al. 2023, arXiv:2211.10295).

A row of features is one window of one detector: its physics features and how it is correlated with
the other detectors. Rows of one time are correlated, so what needs independent samples counts by
times, all detectors together (extrapolation, jackknife), or takes one detector of each time (pairs
and neighbours: `one_of_each_time`).
"""

import numpy as np
import pandas as pd
from scipy import stats

from crab.metrics.windows import N_BLOCKS, Estimate, jackknife

# Pairs and neighbours: at most so many times, and so many choices of detectors.
_MAX_TIMES = 3000
_MAX_CHOICES = 12
# Numbers of parts for the extrapolation: equal steps in 1 / sample size.
_PARTS = (1, 2, 3, 4)
_DEGREE = 4


def feature_rows(table: pd.DataFrame, windows: np.ndarray) -> np.ndarray:
    """Physics features and correlations of every window.

    Parameters
    ----------
    table : pandas.DataFrame
        `twosample.features` of the windows.
    windows : ndarray, shape (n_detector, n_windows, window_samples)
        Continuum: samples with limited amplitudes, or one hit would decide every correlation.

    Returns
    -------
    ndarray, shape (n_windows, n_detector, n_features)
        Without the detector's index; last come the correlations of the window, and of its
        first differences, with the mean of all other detectors (absent for a single detector).
        What a constant window does not have (skewness, correlations) is 0.
    """
    n_detector, n_windows, _ = windows.shape
    values = table.drop(columns="detector").to_numpy(dtype=float)
    columns = [values.reshape(n_detector, n_windows, -1)]
    if n_detector > 1:
        for x in (windows, np.diff(windows, axis=2)):
            others = (x.sum(axis=0) - x) / (n_detector - 1)
            columns.append(_correlation(x, others)[..., np.newaxis])
    return np.nan_to_num(np.concatenate(columns, axis=2).swapaxes(0, 1), posinf=0.0, neginf=0.0)


def standardise(*rows: np.ndarray, reference: np.ndarray) -> list[np.ndarray]:
    """Features on one scale.

    Parameters
    ----------
    *rows : ndarray, shape (n_times, n_detector, n_features)
    reference : ndarray, shape (n_times, n_detector, n_features)
        Gives the scale.

    Returns
    -------
    list of ndarray, shape (n_times, n_detector, n_features)
        ``asinh((x - median) / width)``, then mean 0 and standard deviation 1 in the reference.
        Energies of hits have power-law tails: without asinh a few windows would be the distance.
        A feature that is constant in the reference is divided by 1.
    """
    flat = reference.reshape(-1, reference.shape[-1])
    median = np.median(flat, axis=0)
    width = stats.median_abs_deviation(flat, axis=0, scale="normal")
    # Counts that are mostly zero have no core width.
    width = np.where(width > 0, width, flat.std(axis=0))
    width = np.where(width > 0, width, 1)
    compressed = [np.arcsinh((x - median) / width) for x in (flat, *rows)]
    mean, std = compressed[0].mean(axis=0), compressed[0].std(axis=0)
    std = np.where(std > 0, std, 1)
    return [(x - mean) / std for x in compressed[1:]]


def one_of_each_time(rows: np.ndarray, n_times: int | None = None) -> np.ndarray:
    """Samples of independent rows: one detector at each time, another one at the next.

    Parameters
    ----------
    rows : ndarray, shape (n_times, n_detector, n_features)
    n_times : int, optional
        Take so many evenly spaced times; all, or 3000, if there are fewer.

    Returns
    -------
    ndarray, shape (n_samples, n_times, n_features)
        Sample s has detector ``(s + i) % n_detector`` at the i-th time. As many samples as there
        are detectors, at most 12: together they use every row.
    """
    n = min(len(rows), n_times or _MAX_TIMES, _MAX_TIMES)
    times = np.linspace(0, len(rows) - 1, n).astype(int)
    n_detector = rows.shape[1]
    first = np.linspace(0, n_detector, min(n_detector, _MAX_CHOICES), endpoint=False).astype(int)
    return rows[times, (first[:, np.newaxis] + np.arange(n)) % n_detector]


def frechet_gaussian(mean_a, covariance_a, mean_b, covariance_b) -> float:
    """Fréchet distance of two Gaussians (Dowson & Landau 1982, doi:10.1016/0047-259X(82)90077-X).

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``.

    Parameters
    ----------
    mean_a, mean_b : ndarray, shape (n_features,)
    covariance_a, covariance_b : ndarray, shape (n_features, n_features)

    Returns
    -------
    float
    """
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    # The trace of the root of C_a C_b is that of the root of the symmetric product.
    product = np.linalg.eigvalsh(root @ covariance_b @ root)
    cross = np.sqrt(np.clip(product, 0, None)).sum()
    shift = np.sum((mean_a - mean_b) ** 2)
    return float(shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross)


def fpd(generated: np.ndarray, reference: np.ndarray) -> Estimate:
    """Fréchet physics distance, extrapolated to infinite sample size.

    The distance of finite samples is too large by a term in 1 / sample size. Here the samples are
    cut into 1, 2, 3 and 4 parts of neighbouring times, each with its own distance, and a straight
    line through the means is followed to 1 / size = 0: as in the paper, but with parts that share
    no window instead of random draws, whose repeats leave a bias.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_times, n_detector, n_features)
        Standardised features; at least `windows.N_BLOCKS` times.

    Returns
    -------
    Estimate
        Unbiased, so it may be negative. Jackknife error over times.
    """
    ours, theirs = _block_moments(generated), _block_moments(reference)

    def extrapolated(keep):
        inverse_sizes, values = [], []
        for n_parts in _PARTS:
            # By fixed places: leaving a block out must not move the others.
            parts = [keep[keep * n_parts // N_BLOCKS == part] for part in range(n_parts)]
            inverse_sizes.append(np.mean([1 / len(part) for part in parts]))
            distances = [frechet_gaussian(*_law(ours, p), *_law(theirs, p)) for p in parts]
            values.append(np.mean(distances))
        return np.polyfit(inverse_sizes, values, 1)[1]

    value, error = jackknife(extrapolated)
    return Estimate(float(value), float(error))


def kpd(generated: np.ndarray, reference: np.ndarray) -> Estimate:
    """Kernel physics distance: unbiased squared maximum mean discrepancy.

    ``<k(x, x')> + <k(y, y')> - 2 <k(x, y)>`` with ``k(x, y) = (x . y / n_features + 1)^4`` (Gretton
    et al. 2012, eq. 3; kernel of Kansal et al.), where x and x' are of different times; mean over
    the samples of `one_of_each_time`.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_times, n_detector, n_features)
        Standardised features; at least `windows.N_BLOCKS` times.

    Returns
    -------
    Estimate
        Unbiased, so it may be negative. Jackknife error over times.
    """
    x, y = one_of_each_time(generated), one_of_each_time(reference)
    sums = [_kernel_sums(a, b) for a, b in ((x, x), (y, y), (x, y))]

    def discrepancy(keep):
        grid = np.ix_(keep, keep)
        xx, yy, xy = (total[grid].sum() / number[grid].sum() for total, number in sums)
        return xx + yy - 2 * xy

    value, error = jackknife(discrepancy)
    return Estimate(float(value), float(error))


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x - x.mean(axis=-1, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=-1) / np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))


def _block_moments(rows: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Number of rows, their sum and the sum of their products, in each time block."""
    parts = [part.reshape(-1, rows.shape[2]) for part in np.array_split(rows, N_BLOCKS)]
    return [(len(x), x.sum(axis=0), x.T @ x) for x in parts]


def _law(moments, keep) -> tuple[np.ndarray, np.ndarray]:
    number, first, second = (sum(moments[i][m] for i in keep) for m in range(3))
    mean = first / number
    return mean, (second - number * np.outer(mean, mean)) / (number - 1)


def _kernel_sums(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the kernel over all pairs of rows in two time blocks, and the number of pairs."""
    starts = [np.arange(N_BLOCKS) * x.shape[1] // N_BLOCKS for x in (a, b)]
    total = np.zeros((N_BLOCKS, N_BLOCKS))
    for p, q in zip(a, b, strict=True):
        values = (p @ q.T / p.shape[1] + 1) ** _DEGREE
        if a is b:
            np.fill_diagonal(values, 0)
        total += np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    sizes = [np.diff(s, append=x.shape[1]) for s, x in zip(starts, (a, b), strict=True)]
    pairs = np.outer(*sizes) - (np.diag(sizes[0]) if a is b else 0)
    return total, len(a) * pairs
