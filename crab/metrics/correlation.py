"""Correlation between bolometers."""

import numpy as np

from crab.errors import CrabError
from crab.metrics.windows import Estimate, blocks, jackknife


def matrix(samples: np.ndarray) -> Estimate:
    """Pearson correlation of every pair of detectors.

    Parameters
    ----------
    samples : ndarray, shape (n_detector, n_time)

    Returns
    -------
    Estimate
        Two arrays of shape (n_detector, n_detector). NaN for a detector that is constant.

    Raises
    ------
    CrabError
        If there are fewer than two detectors.
    """
    moments = _block_moments(samples)
    return jackknife(lambda keep: _pearson(*(m[keep].mean(axis=0) for m in moments)))


def matrix_error(generated: np.ndarray, reference: np.ndarray) -> dict[str, Estimate]:
    """Difference of two correlation matrices.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_detector, n_time)
        The same detectors in the same order.

    Returns
    -------
    dict of str to Estimate
        ``max``: the largest ``|rho_generated - rho_reference|`` over the pairs; ``rms`` over the
        pairs. Never negative, so read them beside real-vs-real.

    Raises
    ------
    CrabError
        If there are fewer than two detectors, or their numbers differ.
    """
    if len(generated) != len(reference):
        raise CrabError(f"detector: {len(generated)} in generated, {len(reference)} in reference")
    ours, theirs = _block_moments(generated), _block_moments(reference)
    pairs = np.triu_indices(len(generated), k=1)

    def differences(keep):
        a, b = (_pearson(*(m[keep].mean(axis=0) for m in x))[pairs] for x in (ours, theirs))
        return np.abs(a - b).max(), np.sqrt(np.mean((a - b) ** 2))

    value, error = jackknife(differences)
    return {"max": Estimate(value[0], error[0]), "rms": Estimate(value[1], error[1])}


def _block_moments(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and second moments of every block: they add up, so blocks can be left out."""
    if len(samples) < 2:
        raise CrabError(f"detector: {len(samples)} detectors: a correlation needs at least 2")
    # Centred first: else the difference of two large numbers.
    x = np.moveaxis(blocks(samples - samples.mean(axis=1, keepdims=True)), 0, 1)
    return x.mean(axis=2), x @ np.swapaxes(x, 1, 2) / x.shape[2]


def _pearson(mean: np.ndarray, second: np.ndarray) -> np.ndarray:
    covariance = second - np.outer(mean, mean)
    sigma = np.sqrt(np.diag(covariance))
    with np.errstate(invalid="ignore", divide="ignore"):
        return covariance / np.outer(sigma, sigma)
