"""Power spectra and their ratio, with the error of every bin."""

import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import signal

from crab.errors import CrabError
from crab.metrics.windows import N_BLOCKS, Estimate, blocks, jackknife

# Bins around the frequency at which the half-wave plate modulates polarisation.
_HWP_OFFSETS_HZ = (-0.25, 0.0, 0.25)
_HWP_BIN_WIDTH_HZ = 0.25


class SpectrumRatio(NamedTuple):
    """Ratio of two power spectra.

    Attributes
    ----------
    bins : pandas.DataFrame
        ``low_hz, high_hz, ratio, error``; ``error`` is one standard error of ``ratio``.
    percentile_95 : Estimate
        95th percentile of ``|ratio - 1|`` over the bins.
    worst_bin_error : float
        Largest ``error``: the test cannot see less than this.
    """

    bins: pd.DataFrame
    percentile_95: Estimate
    worst_bin_error: float


def power_spectrum(
    samples: np.ndarray, sampling_rate_hz: float, segment_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """One-sided power spectral density (Welch 1967; Hann, half overlap, mean removed).

    Parameters
    ----------
    samples : ndarray, shape (..., n_time)
    sampling_rate_hz : float
    segment_samples : int

    Returns
    -------
    frequency_hz : ndarray, shape (n_frequency,)
    density : ndarray, shape (..., n_frequency)
        In samples' unit squared per Hz.

    Raises
    ------
    CrabError
        If a segment is longer than the samples.
    """
    if segment_samples > samples.shape[-1]:
        raise CrabError(
            f"segment_samples = {segment_samples}: allowed are at most {samples.shape[-1]}, the "
            "samples that there are"
        )
    return signal.welch(samples, fs=sampling_rate_hz, nperseg=segment_samples, axis=-1)


def log_bins(frequency_hz: np.ndarray, n_bins: int) -> np.ndarray:
    """Edges of logarithmic bins up to the Nyquist frequency, each with a frequency in it.

    Parameters
    ----------
    frequency_hz : ndarray, shape (n_frequency,)
        Equally spaced from 0.
    n_bins : int

    Returns
    -------
    ndarray, shape (n_bins + 1,)
        They begin at the lowest frequency for which no bin is empty.

    Raises
    ------
    CrabError
        If there are too few frequencies for so many bins.
    """
    for lowest in frequency_hz[1:-1]:
        edges = np.geomspace(lowest, frequency_hz[-1] * (1 + 1e-9), n_bins + 1)
        edges[0] = lowest * (1 - 1e-9)
        if np.histogram(frequency_hz, edges)[0].all():
            return edges
    raise CrabError(
        f"n_bins = {n_bins}: {frequency_hz.size} frequencies cannot fill so many logarithmic bins; "
        "take fewer bins or longer segments"
    )


def hwp_bins(hwp_rpm: float, nyquist_hz: float) -> list[tuple[float, float]]:
    """Bins around four times the rotation frequency of the half-wave plate.

    Parameters
    ----------
    hwp_rpm : float
        Turns per minute: LiteBIRD 46, 39, 61 for LFT, MFT, HFT.
    nyquist_hz : float

    Returns
    -------
    list of (float, float)
        Edges in Hz of three bins, 0.25 Hz wide; only those below the Nyquist frequency.
    """
    centre = 4 * hwp_rpm / 60
    half = _HWP_BIN_WIDTH_HZ / 2
    pairs = [(centre + o - half, centre + o + half) for o in _HWP_OFFSETS_HZ]
    return [pair for pair in pairs if pair[0] > 0 and pair[1] <= nyquist_hz]


def ratio(
    generated: np.ndarray,
    reference: np.ndarray,
    sampling_rate_hz: float,
    segment_samples: int,
    n_bins: int = 30,
    hwp_rpm: float | None = None,
) -> SpectrumRatio:
    """Ratio of the power in logarithmic bins and in bins around 4 f_HWP.

    Parameters
    ----------
    generated, reference : ndarray, shape (n_detector, n_time)
        Samples in one unit; the spectra are summed over detectors.
    sampling_rate_hz : float
    segment_samples : int
        Length of a Welch segment; at most a sixteenth of the samples.
    n_bins : int
        Logarithmic bins.
    hwp_rpm : float, optional
        Rotation of the half-wave plate; None for no bins around it.

    Returns
    -------
    SpectrumRatio

    Raises
    ------
    CrabError
        If the samples are too short for the segments, or the segments for the bins.
    """
    shortest = min(generated.shape[1], reference.shape[1])
    if shortest // N_BLOCKS < segment_samples:
        raise CrabError(
            f"segment_samples = {segment_samples}: {shortest} samples in {N_BLOCKS} blocks allow "
            f"at most {shortest // N_BLOCKS}"
        )
    densities = []
    for samples in (generated, reference):
        frequency_hz, density = power_spectrum(blocks(samples), sampling_rate_hz, segment_samples)
        densities.append(density.sum(axis=0))
    edges = log_bins(frequency_hz, n_bins)
    pairs = list(itertools.pairwise(edges))
    if hwp_rpm is not None:
        pairs += hwp_bins(hwp_rpm, frequency_hz[-1])
    member = np.array([(frequency_hz >= low) & (frequency_hz < high) for low, high in pairs])
    if not member.any(axis=1).all():
        low, high = pairs[int(np.argmin(member.any(axis=1)))]
        raise CrabError(
            f"segment_samples = {segment_samples}: no frequency lies in the bin {low:.3f}-"
            f"{high:.3f} Hz; take longer segments"
        )
    ours, theirs = (density @ member.T for density in densities)

    def both(keep):
        bins = ours[keep].mean(axis=0) / theirs[keep].mean(axis=0)
        return np.append(bins, np.percentile(np.abs(bins - 1), 95))

    value, error = jackknife(both)
    table = pd.DataFrame(pairs, columns=["low_hz", "high_hz"])
    table["ratio"], table["error"] = value[:-1], error[:-1]
    return SpectrumRatio(table, Estimate(value[-1], error[-1]), float(error[:-1].max()))
