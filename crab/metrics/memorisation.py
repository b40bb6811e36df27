"""Does a generator repeat what it was trained on?

A window and a stretch of the training TOD of the same detector, each brought to mean 0 and norm 1,
have the distance ``sqrt(2 - 2 r)`` with their correlation r. For every generated window the
nearest of *all* stretches is taken, at whatever sample it begins: copies are found as they are,
cut elsewhere, shifted by samples or scaled. Features would not do: a copy that is shifted by a
few samples has other peaks at its ends, and two different windows may have the same features.

Held-out real windows say how near independent data come by chance. A generator that has learnt the
law comes as near as they do, one that repeats comes nearer.
"""

from typing import NamedTuple

import numpy as np
from scipy import fft, stats

from crab.errors import CrabError
from crab.metrics.windows import Estimate

# Above this, evenly spaced times: each window is held against the whole training TOD.
_MAX_WINDOWS = 600
_FFT_SAMPLES = 8192
_BATCH = 8
# A stretch with less than this standard deviation, in core widths, is constant but for rounding.
_CONSTANT = 1e-6


class Memorisation(NamedTuple):
    """Result of the test.

    Attributes
    ----------
    p_value : float
        Probability that real windows come as near: one-sided Kolmogorov-Smirnov test.
    nearness : Estimate
        Median distance of generated windows over that of held-out ones; 0 for copies, 1 is right.
    generated, held_out : ndarray, shape (n_windows,)
        Distance to the nearest stretch of the training TOD.
    """

    p_value: float
    nearness: Estimate
    generated: np.ndarray
    held_out: np.ndarray


def memorisation(generated: np.ndarray, held_out: np.ndarray, training: np.ndarray) -> Memorisation:
    """Distance of generated windows to the training TOD against that of held-out windows.

    Parameters
    ----------
    generated, held_out : ndarray, shape (n_detector, n_windows, window_samples)
        Continuum: with a direct hit in it, any window would be near any other with one. The i-th
        time is looked at in detector i modulo their number: windows of one time are correlated,
        and the test counts on independent ones. Above 600 times, evenly spaced ones are used.
    training : ndarray, shape (n_detector, n_time)
        Continuum of what the generator was trained on.

    Returns
    -------
    Memorisation
        NaN where a generated window is constant.

    Raises
    ------
    CrabError
        If detectors or lengths do not match, or the training TOD is shorter than a window.
    """
    n = generated.shape[2]
    shapes = {"held_out": (held_out.shape[0], held_out.shape[2]), "training": (len(training), n)}
    for name, shape in shapes.items():
        if shape != (len(generated), n):
            raise CrabError(
                f"{name}: {shape[0]} detectors, windows of {shape[1]} samples: must be those of "
                f"generated, {len(generated)} and {n}"
            )
    if training.shape[1] < n:
        raise CrabError(
            f"training: {training.shape[1]} samples for each detector: needs at least one window "
            f"of {n}"
        )
    near = [np.full(min(w.shape[1], _MAX_WINDOWS), np.nan) for w in (generated, held_out)]
    for d in range(len(training)):
        search = _Search(training[d], n)
        for w, distances in zip((generated, held_out), near, strict=True):
            times = np.linspace(0, w.shape[1] - 1, distances.size).astype(int)
            mine = np.arange(d, times.size, len(training))
            distances[mine] = search.distances(w[d, times[mine]])
    ours, theirs = near
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return Memorisation(np.nan, Estimate(np.nan, np.nan), ours, theirs)
    # "greater": the distribution function of ours lies above, so ours is the smaller.
    p_value = stats.ks_2samp(ours, theirs, alternative="greater").pvalue
    return Memorisation(float(p_value), _median_ratio(ours, theirs), ours, theirs)


class _Search:
    """Correlation of windows with all stretches of one detector's samples."""

    def __init__(self, samples: np.ndarray, n: int):
        self.n = n
        self.size = max(_FFT_SAMPLES, fft.next_fast_len(4 * n, real=True))
        step = self.size - n + 1
        n_stretches = samples.size - n + 1
        starts = range(0, n_stretches, step)
        x = samples - samples.mean()
        padded = np.append(x, np.zeros(starts[-1] + self.size - x.size))
        chunks = np.stack([padded[s : s + self.size] for s in starts])
        self.spectrum = fft.rfft(chunks.astype(np.float32), axis=1)
        first, second = (np.concatenate([[0.0], np.cumsum(x**k)]) for k in (1, 2))
        variance = (second[n:] - second[:-n]) - (first[n:] - first[:-n]) ** 2 / n
        # No stretch begins in the padding, and none that is constant is like anything.
        norm = np.full(len(starts) * step, np.inf)
        usable = variance > n * _CONSTANT**2
        norm[:n_stretches][usable] = np.sqrt(variance[usable])
        self.inverse_norm = (1 / norm).reshape(len(starts), step).astype(np.float32)

    def distances(self, windows: np.ndarray) -> np.ndarray:
        """Distance of each window, shape (n_windows, n), to its nearest stretch."""
        x = windows - windows.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        x /= np.where(norm > _CONSTANT * np.sqrt(self.n), norm, np.nan)
        largest = []
        for start in range(0, len(x), _BATCH):
            batch = fft.rfft(x[start : start + _BATCH].astype(np.float32), self.size, axis=1)
            product = batch.conj()[:, np.newaxis] * self.spectrum
            r = fft.irfft(product, self.size, axis=2)[:, :, : self.inverse_norm.shape[1]]
            largest.append((r * self.inverse_norm).max(axis=(1, 2)))
        r = np.concatenate(largest) if largest else np.empty(0)
        # Of an exact copy, single precision leaves 1 - r at 1e-6.
        return np.sqrt(np.clip(2 - 2 * r.astype(np.float64), 0, None))


def _median_ratio(ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """Ratio of medians, with the asymptotic error of each median."""
    medians, relative = [], []
    for x in (ours, theirs):
        low, median, high = np.percentile(x, (25, 50, 75))
        medians.append(median)
        # 1.57 IQR / (1.349 sqrt n): the median's error if the middle is Gaussian.
        relative.append(1.2533 * (high - low) / 1.349 / np.sqrt(x.size))
    ratio = medians[0] / medians[1]
    error = np.hypot(relative[0], ratio * relative[1]) / medians[1]
    return Estimate(float(ratio), float(error))
