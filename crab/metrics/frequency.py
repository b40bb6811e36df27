"""Frequency content beyond the power spectrum: autocorrelation and spectral kurtosis.

Two TODs of one spectrum may differ in both: a Gaussian surrogate spreads evenly what hits bring in
bursts.
"""

import numpy as np
from scipy import fft, signal

from crab.errors import CrabError
from crab.metrics.spectral import log_bins
from crab.metrics.windows import N_BLOCKS, Estimate, blocks, jackknife

_N_LAGS = 40
# Short against the time between hits, long enough to resolve a response's spectrum.
_KURTOSIS_SAMPLES = 128
_N_BANDS = 8


def autocorrelation_error(
    generated: np.ndarray, reference: np.ndarray, longest_lag: int
) -> dict[str, Estimate]:
    """Difference of the autocorrelation functions.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_detector, n_time)
        The lengths may differ.
    longest_lag : int
        Samples. Up to 40 lags from 1 to this, in nearly equal ratios, are looked at.

    Returns
    -------
    dict of str to Estimate
        ``max`` and ``rms`` over the lags of the difference, mean over detectors. Never negative,
        so read them beside real-vs-real.

    Raises
    ------
    CrabError
        If a sixteenth of the samples is not longer than the longest lag.
    """
    lags = np.unique(np.geomspace(1, max(1, longest_lag), _N_LAGS).astype(int))
    products = []
    for samples in (generated, reference):
        x = blocks(samples - samples.mean(axis=1, keepdims=True))
        if x.shape[2] <= lags[-1]:
            raise CrabError(
                f"longest_lag = {longest_lag}: {samples.shape[1]} samples in {N_BLOCKS} blocks "
                f"allow at most {x.shape[2] - 1}"
            )
        size = fft.next_fast_len(x.shape[2] + lags[-1], real=True)
        covariance = fft.irfft(np.abs(fft.rfft(x, size, axis=2)) ** 2, size, axis=2)
        count = x.shape[2] - np.append(0, lags)
        products.append(covariance[:, :, np.append(0, lags)] / count)

    def differences(keep):
        ours, theirs = (p[:, keep].mean(axis=1) for p in products)
        with np.errstate(invalid="ignore", divide="ignore"):
            correlations = [c[:, 1:] / c[:, :1] for c in (ours, theirs)]
        difference = np.mean(correlations[0] - correlations[1], axis=0)
        return np.abs(difference).max(), np.sqrt(np.mean(difference**2))

    value, error = jackknife(differences)
    return {"max": Estimate(value[0], error[0]), "rms": Estimate(value[1], error[1])}


def spectral_kurtosis(samples: np.ndarray, segment_samples: int) -> np.ndarray:
    """Kurtosis of the Fourier coefficients of short segments, frequency by frequency.

    With M segments (Hann, one after another) and the sums S1 of their powers and S2 of the squares
    of these, ``M / (M - 1) ((M + 1) S2 / S1^2 - 2)``: unbiased, and 0 for stationary Gaussian noise
    whatever its spectrum (Dwyer 1983, doi:10.1109/ICASSP.1983.1172264; Antoni 2006,
    doi:10.1016/j.ymssp.2004.09.001; Vrabie et al. 2003).

    Parameters
    ----------
    samples : ndarray, shape (..., n_time)
    segment_samples : int

    Returns
    -------
    ndarray, shape (..., segment_samples // 2 - 3)
        At the frequencies ``k / segment_samples``, k from 2 to ``segment_samples // 2 - 2``: next
        to 0 and to Nyquist coefficients are real, and not Gaussian in the plane. Large where the
        power comes in bursts, -1 where it never changes.
    """
    return _kurtosis(*_power_sums(samples, segment_samples))


def spectral_kurtosis_error(generated: np.ndarray, reference: np.ndarray) -> Estimate:
    """Difference of the spectral kurtosis.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_detector, n_time)
        The longer is cut to the shorter: if one burst outshines all, the kurtosis is the number of
        segments.

    Returns
    -------
    Estimate
        Root mean square, over eight logarithmic bands, of the difference of ``log(2 + kurtosis)``,
        mean over detectors: small differences are relative ones of ``<|X|^4> / <|X|^2>^2``. Never
        negative, so read it beside real-vs-real.

    Raises
    ------
    CrabError
        If a sixteenth of the samples holds no segment of 128 samples.
    """
    length = min(generated.shape[1], reference.shape[1])
    if length // N_BLOCKS < _KURTOSIS_SAMPLES:
        raise CrabError(
            f"time: {length} samples: spectral kurtosis needs at least "
            f"{N_BLOCKS * _KURTOSIS_SAMPLES}"
        )
    sums = [_power_sums(blocks(x[:, :length]), _KURTOSIS_SAMPLES) for x in (generated, reference)]
    frequency = np.arange(2, _KURTOSIS_SAMPLES // 2 - 1) / _KURTOSIS_SAMPLES
    grid = np.fft.rfftfreq(_KURTOSIS_SAMPLES)
    edges = log_bins(grid, _N_BANDS)
    band = np.digitize(frequency, edges)
    bands = [band == b for b in np.unique(band)]

    def difference(keep):
        logs = [
            np.log(2 + _kurtosis(len(keep) * n, *(s[:, keep].sum(axis=1) for s in powers)))
            for n, *powers in sums
        ]
        gap = np.mean(logs[0] - logs[1], axis=0)
        return np.sqrt(np.mean([gap[b].mean() ** 2 for b in bands]))

    value, error = jackknife(difference)
    return Estimate(float(value), float(error))


def _power_sums(samples: np.ndarray, n: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of segments, sum of their powers, and sum of the squares of these."""
    n_segments = samples.shape[-1] // n
    segments = samples[..., : n_segments * n].reshape(*samples.shape[:-1], n_segments, n)
    segments = segments - segments.mean(axis=-1, keepdims=True)
    power = np.abs(fft.rfft(segments * signal.get_window("hann", n), axis=-1)) ** 2
    power = power[..., 2 : n // 2 - 1]
    return n_segments, power.sum(axis=-2), (power**2).sum(axis=-2)


def _kurtosis(m: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return m / (m - 1) * ((m + 1) * second / first**2 - 2)
