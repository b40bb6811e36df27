"""Distance between the amplitude distributions of two cubes."""

import numpy as np

from crab.metrics.windows import Estimate, blocks, jackknife, jackknife_error

# A quantile is given where the smaller sample has this many values beyond it: then it is known to
# about a third if the tail falls as the inverse amplitude, and the jackknife has something to leave
# out.
_MIN_BEYOND = 8
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
    by_detector = [_w1(a, b) / s for a, b, s in zip(ours, theirs, sigma, strict=True)]
    value, *left_out = np.mean(by_detector, axis=0)
    return Estimate(value, jackknife_error(np.array(left_out)))


def _w1(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """W1 = integral of |F - G|, then the same with each block left out; shape (1 + n_blocks,).

    Sorting once serves all: blocks that are left out only lose their steps in F and G.
    """
    n_blocks = len(ours)
    values = np.concatenate([ours.ravel(), theirs.ravel()])
    order = np.argsort(values)
    block = np.concatenate([np.repeat(np.arange(n_blocks), x.shape[1]) for x in (ours, theirs)])
    steps = np.repeat([1 / ours[1:].size, -1 / theirs[1:].size], [ours.size, theirs.size])
    block, steps = block[order], steps[order]
    distance = np.diff(values[order])
    everything = steps * (n_blocks - 1) / n_blocks
    kept = (everything, *(np.where(block == k, 0.0, steps) for k in range(n_blocks)))
    return np.array([np.abs(np.cumsum(s)[:-1]) @ distance for s in kept])


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
        8 samples beyond it. Keys ``quantile_1e-03``, ``quantile_1-1e-03``, ...
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
    powers = [_block_powers(x) for x in (generated, reference)]

    def differences(keep):
        (skew_a, kurt_a), (skew_b, kurt_b) = (_shape(p[:, :, keep].mean(axis=2)) for p in powers)
        return (skew_a - skew_b).mean(), (kurt_a - kurt_b).mean()

    value, error = jackknife(differences)
    return {
        "skewness": Estimate(value[0], error[0]),
        "kurtosis": Estimate(value[1], error[1]),
    }


def _block_powers(samples: np.ndarray) -> np.ndarray:
    """Means of the first four powers about the detector's mean; shape (4, n_detector, n_blocks)."""
    x = blocks(samples - samples.mean(axis=1, keepdims=True))
    square = x**2
    return np.array([y.mean(axis=2) for y in (x, square, square * x, square**2)])


def _shape(powers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Skewness and excess kurtosis from the first four moments about any point."""
    m, second, third, fourth = powers
    variance = second - m**2
    with np.errstate(invalid="ignore", divide="ignore"):
        skewness = (third - 3 * m * second + 2 * m**3) / variance**1.5
        kurtosis = (fourth - 4 * m * third + 6 * m**2 * second - 3 * m**4) / variance**2 - 3
    return skewness, kurtosis
