"""Correlation between bolometers: at all times, by frequency, and of hits."""

import numpy as np
from scipy import fft, signal

from crab.errors import CrabError
from crab.metrics.windows import N_BLOCKS, Estimate, blocks, jackknife

_COHERENCE_BANDS = 6
# Frequencies in the lowest band: a coherence from few modes is mostly error.
_LOWEST_BAND = 8
_MIN_SEGMENT = 64


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
    ours, theirs = _pair_of_moments(generated, reference)

    def differences(keep):
        return _max_and_rms(_pairs(ours, keep) - _pairs(theirs, keep))

    value, error = jackknife(differences)
    return {"max": Estimate(value[0], error[0]), "rms": Estimate(value[1], error[1])}


def recovered(generated: np.ndarray, reference: np.ndarray) -> Estimate:
    """How much of the reference's correlation is there.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_detector, n_time)
        The same detectors in the same order.

    Returns
    -------
    Estimate
        ``sum rho_generated rho_reference / sum rho_reference^2`` over the pairs: 1 if all is
        right, 0 if detectors are independent or correlated at random.

    Raises
    ------
    CrabError
        If there are fewer than two detectors, or their numbers differ.
    """
    ours, theirs = _pair_of_moments(generated, reference)

    def share(keep):
        a, b = _pairs(ours, keep), _pairs(theirs, keep)
        return (a @ b) / (b @ b)

    value, error = jackknife(share)
    return Estimate(float(value), float(error))


def coherence_error(
    generated: np.ndarray, reference: np.ndarray, segment_samples: int
) -> dict[str, Estimate]:
    """Difference of the coherence of every pair of detectors, by frequency.

    ``P_ij / sqrt(P_ii P_jj)``, complex, with cross-spectra averaged in six bands (Welch: Hann, half
    overlap): the lowest eight frequencies, and five logarithmic bands from there to Nyquist.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_detector, n_time)
        The same detectors in the same order.
    segment_samples : int
        Length of a segment; at least 64, at most a sixteenth of the samples.

    Returns
    -------
    dict of str to Estimate
        ``max`` and ``rms`` of the difference's modulus over pairs and bands. Never negative, so
        read them beside real-vs-real.

    Raises
    ------
    CrabError
        If there are fewer than two detectors, their numbers differ, or the samples are too short.
    """
    _check_detectors(generated, reference)
    ours, theirs = (_cross_spectra(x, segment_samples) for x in (generated, reference))
    pairs = np.triu_indices(len(generated), k=1)

    def differences(keep):
        a, b = (_coherence(x[keep].sum(axis=0))[:, *pairs] for x in (ours, theirs))
        return _max_and_rms(a - b)

    value, error = jackknife(differences)
    return {"max": Estimate(value[0], error[0]), "rms": Estimate(value[1], error[1])}


def multiplicity(hit: np.ndarray) -> np.ndarray:
    """Number of detectors that are hit in each sample or in one of its two neighbours.

    Parameters
    ----------
    hit : ndarray of bool, shape (n_detector, n_time)

    Returns
    -------
    ndarray of int, shape (n_time,)
    """
    near = hit.copy()
    near[:, 1:] |= hit[:, :-1]
    near[:, :-1] |= hit[:, 1:]
    return near.sum(axis=0)


def multiplicity_error(generated: np.ndarray, reference: np.ndarray) -> dict[str, Estimate]:
    """Difference in how many detectors are hit together.

    Parameters
    ----------
    generated, reference : ndarray of bool, shape (n_detector, n_time)
        Where a detector is beyond the threshold.

    Returns
    -------
    dict of str to Estimate
        ``distance``: total variation distance, ``sum |p - q| / 2``, of the `multiplicity` of
        samples with at least one hit: 1 if one cube has none, NaN if neither has. ``rate``: share
        of such samples, generated over reference, minus 1.

    Raises
    ------
    CrabError
        If there are fewer than two detectors, or their numbers differ.
    """
    _check_detectors(generated, reference)
    size = len(generated) + 1
    counts = []
    for hit in (generated, reference):
        by_block = blocks(multiplicity(hit)[np.newaxis])[0]
        counts.append(np.array([np.bincount(m, minlength=size) for m in by_block]))

    def differences(keep):
        ours, theirs = (c[keep].sum(axis=0) for c in counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            rate = (ours[1:].sum() / ours.sum()) / (theirs[1:].sum() / theirs.sum()) - 1
            if (ours[1:].sum() == 0) != (theirs[1:].sum() == 0):
                return 1.0, rate
            p, q = (c[1:] / c[1:].sum() for c in (ours, theirs))
        return np.abs(p - q).sum() / 2, rate

    value, error = jackknife(differences)
    return {"distance": Estimate(value[0], error[0]), "rate": Estimate(value[1], error[1])}


def _check_detectors(generated: np.ndarray, reference: np.ndarray) -> None:
    if len(generated) != len(reference):
        raise CrabError(f"detector: {len(generated)} in generated, {len(reference)} in reference")
    if len(reference) < 2:
        raise CrabError(f"detector: {len(reference)} detectors: a correlation needs at least 2")


def _max_and_rms(difference: np.ndarray) -> tuple[float, float]:
    modulus = np.abs(difference)
    return modulus.max(), np.sqrt(np.mean(modulus**2))


def _pair_of_moments(generated: np.ndarray, reference: np.ndarray) -> list:
    _check_detectors(generated, reference)
    return [_block_moments(x) for x in (generated, reference)]


def _pairs(moments, keep) -> np.ndarray:
    """Correlation of every pair of detectors; shape (n_pairs,)."""
    rho = _pearson(*(m[keep].mean(axis=0) for m in moments))
    return rho[np.triu_indices(len(rho), k=1)]


def _cross_spectra(samples: np.ndarray, n: int) -> np.ndarray:
    """Cross-spectra in every block and band; shape (n_blocks, n_bands, n_detector, n_detector)."""
    x = blocks(samples)
    if n < _MIN_SEGMENT:
        raise CrabError(f"segment_samples = {n}: coherence needs at least {_MIN_SEGMENT}")
    if x.shape[2] < n:
        raise CrabError(
            f"segment_samples = {n}: {samples.shape[1]} samples in {N_BLOCKS} blocks allow at "
            f"most {x.shape[2]}"
        )
    edges = np.geomspace(_LOWEST_BAND + 1, n // 2 + 1, _COHERENCE_BANDS)
    # Zero frequency is left out; it was taken off.
    band = np.digitize(np.arange(n // 2 + 1), edges)
    band[0] = -1
    total = np.zeros((N_BLOCKS, _COHERENCE_BANDS, len(samples), len(samples)), dtype=complex)
    for start in range(0, x.shape[2] - n + 1, n - n // 2):
        segment = x[:, :, start : start + n]
        segment = segment - segment.mean(axis=2, keepdims=True)
        spectrum = np.moveaxis(fft.rfft(segment * signal.get_window("hann", n), axis=2), 0, 2)
        for b in range(_COHERENCE_BANDS):
            part = spectrum[:, band == b]
            total[:, b] += np.swapaxes(part, 1, 2).conj() @ part
    return total


def _coherence(spectra: np.ndarray) -> np.ndarray:
    power = np.sqrt(np.einsum("bii->bi", spectra).real)
    with np.errstate(invalid="ignore", divide="ignore"):
        return spectra / (power[:, :, np.newaxis] * power[:, np.newaxis, :])


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
