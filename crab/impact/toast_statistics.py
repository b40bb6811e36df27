"""What TOAST's operator for cosmic rays draws from, gathered piece by piece of a TOD."""

import numpy as np

# A pulse ends where it is this small a part of the largest.
PULSE_END = 1e-4


class Moments:
    """Means, deviations and correlations of rows, of what is valid in them.

    Parameters
    ----------
    n_rows : int
    """

    def __init__(self, n_rows: int):
        self._offset = None
        # [i, j]: over the samples that are valid in both rows, of row i (or of both).
        self._n, self._sums, self._squares, self._products = np.zeros((4, n_rows, n_rows))

    def add(self, values: np.ndarray, valid: np.ndarray) -> None:
        """Count in a piece.

        Parameters
        ----------
        values : ndarray, shape (n_rows, n_samples)
        valid : ndarray of bool, same shape
        """
        weight = valid.astype(float)
        if self._offset is None:
            # Near the mean, so that squares do not cancel.
            total, n = (values * weight).sum(axis=1), weight.sum(axis=1)
            self._offset = total / np.maximum(n, 1)
        x = np.where(valid, values - self._offset[:, None], 0.0)
        self._n += weight @ weight.T
        self._sums += x @ weight.T
        self._squares += x**2 @ weight.T
        self._products += x @ x.T

    def mean(self) -> np.ndarray:
        """Of each row, shape (n_rows,)."""
        return self._offset + np.diag(self._sums) / np.maximum(np.diag(self._n), 1)

    def deviation(self) -> np.ndarray:
        """Standard deviation of each row, shape (n_rows,)."""
        return np.sqrt(np.diag(self._variance()))

    def correlation(self) -> np.ndarray:
        """Pearson's coefficients, shape (n_rows, n_rows); 0 for a row without variance."""
        n, variance = np.maximum(self._n, 1), self._variance()
        covariance = self._products / n - self._sums * self._sums.T / n**2
        scale = np.sqrt(variance * variance.T)
        return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)

    def _variance(self) -> np.ndarray:
        n = np.maximum(self._n, 1)
        return np.maximum(self._squares / n - (self._sums / n) ** 2, 0.0)


class Pulses:
    """Integrals of the pulses of some detectors; a pulse may go on in the next piece.

    Parameters
    ----------
    n_detectors : int
    sampling_rate_hz : float
    """

    def __init__(self, n_detectors: int, sampling_rate_hz: float):
        self._rate_hz = sampling_rate_hz
        self._open = [np.empty(0)] * n_detectors
        self._found: list[list] = [[] for _ in range(n_detectors)]

    def add(self, tod: np.ndarray, inside: np.ndarray) -> None:
        """Count in a piece.

        Parameters
        ----------
        tod : ndarray, shape (n_det, n_samples)
            Zero between pulses.
        inside : ndarray of bool, same shape
            Where the pulses are.
        """
        for row, (values, own) in enumerate(zip(tod, inside, strict=True)):
            quiet = np.flatnonzero(~own)
            # Of a pulse that is not over yet, all is kept for later.
            end = quiet[-1] + 1 if len(quiet) else 0
            if end:
                begun = self._open[row]
                flags = np.concatenate([np.ones(len(begun), bool), own[:end]])
                whole = np.concatenate([begun, values[:end]])
                self._found[row].append(pulse_integrals(whole, self._rate_hz, flags))
                self._open[row] = np.empty(0)
            self._open[row] = np.concatenate([self._open[row], values[end:]])

    def integrals(self) -> list[np.ndarray]:
        """Of each detector's pulses, in the order of time; see `pulse_integrals`."""
        last = [pulse_integrals(x, self._rate_hz, np.ones(len(x), bool)) for x in self._open]
        return [np.concatenate([*one, end]) for one, end in zip(self._found, last, strict=True)]


def pulse_integrals(
    tod: np.ndarray, sampling_rate_hz: float, inside: np.ndarray | None = None
) -> np.ndarray:
    """Integral over time of each pulse.

    Parameters
    ----------
    tod : ndarray, shape (n_samples,)
        Zero between pulses.
    sampling_rate_hz : float
    inside : ndarray of bool, shape (n_samples,), optional
        Where the pulses are; default: where ``tod`` is not negligible.

    Returns
    -------
    ndarray, shape (n_pulses,)
        In the unit of ``tod`` times s; positive pulses only, as filters ring.
    """
    tod = np.asarray(tod, dtype=float)
    if inside is None:
        inside = np.abs(tod) > PULSE_END * np.abs(tod).max(initial=0.0)
    edges = np.diff(np.concatenate([[0], inside.view(np.int8), [0]]))
    total = np.concatenate([[0.0], np.cumsum(np.where(inside, tod, 0.0))])
    sums = total[np.flatnonzero(edges == -1)] - total[np.flatnonzero(edges == 1)]
    return sums[sums > 0] / sampling_rate_hz


def without_gaps(values: np.ndarray, per_gap: int = 100, at_most: int = 100_000) -> np.ndarray:
    """Sorted values and, between each and the next, evenly spaced ones.

    TOAST draws from a histogram of 30 bins, and gets NaN where one is empty.

    Parameters
    ----------
    values : ndarray, shape (n,)
    per_gap, at_most : int
        Values from one to the next, and in all.

    Returns
    -------
    ndarray
    """
    if len(values) < 2:
        return values
    n_rows = min(per_gap * (len(values) - 1) + 1, at_most)
    at = np.linspace(0, len(values) - 1, n_rows)
    return np.interp(at, np.arange(len(values)), np.sort(values))
