"""Monotone maps of a mark: its scale, and rational-quadratic splines.

`Scale` makes a mark a nearly normal number by the quantiles of all draws, continued by a power law
beyond the last of them, up to a hard bound. The splines are those of Durkan et al. 2019
(arXiv:1906.04032), on an interval outside of which 4e-8 of a normal distribution lies.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

BOUND = 5.5  # beyond, 4e-8 of a normal distribution
_KNOTS = 111
_RARE = 30  # distinct values beyond which a quantile is a guess
_SLOPE = 200  # distinct values that the slope of a power law is taken from
_LEAST = 1e-3  # of a bin's width and height (share of the whole) and of a slope
_UNIT_SLOPE = float(np.log(np.expm1(1 - _LEAST)))  # where softplus gives a slope of 1


@dataclass(frozen=True)
class Scale:
    """Monotone map between a mark and a nearly normal number, linear between knots.

    Attributes
    ----------
    knots : ndarray, shape (n_knots,)
        Values of the mark at equal steps of the number from -`BOUND` to `BOUND`.
    """

    knots: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, lower: float, upper: float, power_law: bool):
        """Quantiles of draws.

        Parameters
        ----------
        values : ndarray, shape (n,)
            Draws, repeated ones included.
        lower, upper : float
            Hard bounds of the mark.
        power_law : bool
            The mark is the logarithm of a number whose distribution falls as a power beyond the
            last `_RARE` distinct draws (exponent of the last `_SLOPE`, after Hill 1975), else as
            if uniform.
        """
        values = np.sort(np.asarray(values, dtype=float))
        z = np.linspace(-BOUND, BOUND, _KNOTS)
        distinct = np.unique(values)
        few = min(_RARE, max(1, len(distinct) // 10))
        low, high = distinct[few - 1], distinct[-few]
        # Middle of the steps of the empirical distribution.
        knots = np.interp(
            ndtr(z) * len(values), np.arange(len(values)) + 0.5, values, left=low, right=high
        )
        below, above = (
            max(np.mean(values < low), 0.5 / len(values)),
            max(np.mean(values > high), 0.5 / len(values)),
        )
        tail = ndtr(-z) < above
        if power_law:
            over = distinct[-min(_SLOPE, max(1, len(distinct) // 10))]
            exceeding = values[values > over] - over
            mean_excess = exceeding.mean() if len(exceeding) else 0.1
            knots[tail] = high + mean_excess * (np.log(above) - np.log(ndtr(-z[tail])))
        else:
            knots[tail] = upper - (upper - high) * ndtr(-z[tail]) / above
        start = ndtr(z) < below
        knots[start] = lower + (low - lower) * ndtr(z[start]) / below
        knots = np.clip(knots, lower, upper)
        knots[0], knots[-1] = lower, upper
        # Repeated draws must not make a step of no height.
        least = 1e-6 * (upper - lower)
        knots = np.maximum.accumulate(knots + least * np.arange(_KNOTS))
        return cls(lower + (knots - lower) * (upper - lower) / (knots[-1] - lower))

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Mark to a nearly normal number."""
        place = np.interp(values, self.knots, np.arange(_KNOTS))
        return place * (2 * BOUND / (_KNOTS - 1)) - BOUND

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """Nearly normal number to mark, float32."""
        place = np.clip((z + BOUND) * ((_KNOTS - 1) / (2 * BOUND)), 0, _KNOTS - 1.001)
        left = place.astype(np.int32)
        part = (place - left).astype(np.float32)
        knots = self.knots.astype(np.float32)
        return knots[left] * (1 - part) + knots[left + 1] * part

    def log_slope(self, values: np.ndarray) -> np.ndarray:
        """Logarithm of d(number)/d(mark)."""
        left = np.clip(np.searchsorted(self.knots, values, "right") - 1, 0, _KNOTS - 2)
        return np.log(2 * BOUND / (_KNOTS - 1)) - np.log(np.diff(self.knots)[left])


def spline(parameters, z, ops=np):
    """Rational-quadratic spline on [-`BOUND`, `BOUND`] (Durkan et al. 2019, Eqs. 4 and 5).

    Parameters
    ----------
    parameters : array, shape (n, 3 k - 1)
        Raw widths and heights of k bins and slopes at the inner knots; outer slopes are 1.
    z : array, shape (n,)
    ops : module
        ``numpy`` or ``keras.ops``.

    Returns
    -------
    u : array, shape (n,)
    log_slope : array, shape (n,)
        Logarithm of du/dz.
    """
    n_bins = (parameters.shape[1] + 1) // 3
    widths, heights = (
        _shares(parameters[:, k * n_bins : (k + 1) * n_bins], ops) * (2 * BOUND) for k in range(2)
    )
    inner = _slopes(parameters[:, 2 * n_bins :], ops)
    one = ops.ones_like(inner[:, :1])
    left_slope = ops.concatenate([one, inner], axis=1)
    right_slope = ops.concatenate([inner, one], axis=1)
    z = ops.clip(z, -BOUND, BOUND)[:, None]
    right_x, right_y = ops.cumsum(widths, axis=1) - BOUND, ops.cumsum(heights, axis=1) - BOUND
    # The bin as one of k: a sum instead of a gather, the same on every backend.
    at = right_x[:, :-1]
    passed = ops.where(z >= at, ops.ones_like(at), ops.zeros_like(at))
    chosen = ops.concatenate([one, passed], axis=1)
    chosen = chosen - ops.concatenate([passed, ops.zeros_like(one)], axis=1)

    def pick(values):
        return ops.sum(chosen * values, axis=1)

    width, height = pick(widths), pick(heights)
    x0, y0 = pick(right_x) - width, pick(right_y) - height
    d0, d1 = pick(left_slope), pick(right_slope)
    slope = height / width
    part = ops.clip((z[:, 0] - x0) / width, 0.0, 1.0)
    mixed = part * (1 - part)
    below = slope + (d0 + d1 - 2 * slope) * mixed
    log_slope = (
        2 * ops.log(slope)
        + ops.log(d1 * part * part + 2 * slope * mixed + d0 * (1 - part) * (1 - part))
        - 2 * ops.log(below)
    )
    return y0 + height * (slope * part * part + d0 * mixed) / below, log_slope


def inverse_spline(parameters: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Inverse of `spline` (Durkan et al. 2019, Eqs. 6 to 8).

    Parameters
    ----------
    parameters : ndarray, shape (n, 3 k - 1)
        Fastest in Fortran's order, as of `crab.generators.marks.Sampler.parameters`.
    u : ndarray, shape (n,)

    Returns
    -------
    ndarray, shape (n,)
    """
    n, n_bins = len(u), (parameters.shape[1] + 1) // 3
    u = np.clip(u, -BOUND, BOUND)
    edges = []
    for k in range(2):
        shares = _shares(parameters[:, k * n_bins : (k + 1) * n_bins], np).T
        edge = np.zeros((n_bins + 1, n), dtype=shares.dtype)
        for left, share, right in zip(edge[:-1], shares, edge[1:], strict=True):
            np.add(left, share, out=right)
        edges.append(edge.reshape(-1))
    place = (u + BOUND) * (1 / (2 * BOUND))
    bins = np.zeros(n, dtype=np.int8)
    for edge in edges[1].reshape(-1, n)[1:-1]:
        bins += (edge <= place).view(np.int8)
    at = bins * np.intp(n) + np.arange(n)

    def ends(edge):
        left = edge[at]
        return left * (2 * BOUND) - BOUND, (edge[at + n] - left) * (2 * BOUND)

    (x0, width), (y0, height) = (ends(edge) for edge in edges)
    # Slopes are at the inner edges.
    inner = parameters.T[2 * n_bins :].reshape(-1)
    last = len(inner) - 1
    d0 = np.where(bins > 0, _slopes(inner[np.maximum(at - n, 0)], np), 1)
    d1 = np.where(bins < n_bins - 1, _slopes(inner[np.minimum(at, last)], np), 1)
    slope = height / width
    dy = u - y0
    bend = dy * (d0 + d1 - 2 * slope)
    a, b, c = height * (slope - d0) + bend, height * d0 - bend, -slope * dy
    root = np.sqrt(np.maximum(b * b - 4 * a * c, 0))
    return x0 + np.clip(2 * c / (-b - root), 0, 1) * width


def _shares(raw, ops):
    """Raw numbers to shares of the whole, none too small."""
    # They are moderate: no shift is needed against overflow.
    share = ops.exp(ops.clip(raw, -15.0, 15.0))
    share = share / ops.sum(share, axis=1, keepdims=True)
    return _LEAST + (1 - raw.shape[1] * _LEAST) * share


def _slopes(raw, ops):
    """Raw numbers to slopes; 0 becomes 1."""
    return _LEAST + ops.log1p(ops.exp(ops.clip(raw, -15.0, 15.0) + _UNIT_SLOPE))
