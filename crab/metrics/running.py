"""Statistics of TODs that add up: computed chunk by chunk, merged without error.

All are sums over segments at fixed absolute places (segment s holds the samples from
``s * segment_samples`` on), so a mission need not be stored to be described. Central moments are
merged as in Pébay 2008 (Sandia report SAND2008-6212), which does not lose digits where the mean
drifts; everything else is a sum, a minimum or a maximum.
"""

from typing import NamedTuple

import numpy as np
from scipy import fft, signal

from crab.errors import CrabError

_FW = 1e15  # W in fW: spectra in float32 then stay far from its smallest numbers
_LEAST = 1e-30  # fW2/Hz: a segment without any power still has a logarithm
_PIECE_BYTES = 2**19  # of samples that are worked on together: fits a core's cache
# What is added; the rest are moments and extremes.
SUMS = ("n_samples", "n_segments", "live_s", "hits", "psd_sum_w2_per_hz")


class Measures(NamedTuple):
    """What is measured of a TOD.

    Attributes
    ----------
    sampling_rate_hz : float
    segment_samples : int
        Length of a segment; even.
    thresholds_w : tuple of tuples of float, shape (n_thresholds, n_detectors)
        A hit lies above a positive threshold, below a negative one; one sign a row.
    dead_samples : int
        A hit is counted where the threshold is crossed and was not in so many samples before.
        Those of a segment cannot be known for its first ones, which are no live time.
    band_hz : tuple of (float, float)
        Where the noise level is measured.
    """

    sampling_rate_hz: float
    segment_samples: int
    thresholds_w: tuple[tuple[float, ...], ...]
    dead_samples: int
    band_hz: tuple[float, float]


def check(measures: Measures) -> None:
    """Refuse settings that cannot be measured.

    Raises
    ------
    CrabError
        If a segment is odd or short, the dead time is longer than a segment, a threshold is 0 or
        not finite, or no frequency is in the band.
    """
    n = measures.segment_samples
    if n < 16 or n % 2:
        raise CrabError(f"segment_samples = {n}: allowed are even integers >= 16")
    if not 0 <= measures.dead_samples < n:
        raise CrabError(
            f"dead_samples = {measures.dead_samples}: allowed are 0 to {n - 1}, less than a segment"
        )
    thresholds = np.asarray(measures.thresholds_w)
    signs = np.sign(thresholds)
    if thresholds.ndim != 2 or not (signs == signs[:, :1]).all() or not signs.all():
        raise CrabError(
            f"thresholds_w = {measures.thresholds_w}: allowed are rows of one value per detector, "
            "all positive or all negative"
        )
    if not _in_band(measures).any():
        raise CrabError(
            f"band_hz = {measures.band_hz}: no frequency of segments of {n} samples is in it"
        )


def frequencies_hz(measures: Measures) -> np.ndarray:
    """Frequencies of the spectra, shape (segment_samples // 2 + 1,)."""
    return fft.rfftfreq(measures.segment_samples, 1 / measures.sampling_rate_hz)


def chunk(tod: np.ndarray, start_sample: int, measures: Measures) -> dict[str, np.ndarray]:
    """Statistics of one chunk.

    Parameters
    ----------
    tod : ndarray of float32, shape (n_det, n)
        In W; whole segments.
    start_sample : int
        Absolute index of the first sample, at the start of a segment.
    measures : Measures

    Returns
    -------
    dict of str to ndarray
        ``n_samples``, ``n_segments`` (per detector), ``live_s``; ``mean_w``, ``m3_w3``, ``m4_w4``
        (n_det,) and ``comoment_w2`` (n_det, n_det): mean and sums of products of deviations from
        it; ``minimum_w``, ``maximum_w``, ``minimum_sample``, ``maximum_sample``; ``hits``
        (n_thresholds, n_det); ``psd_sum_w2_per_hz`` (n_det, n_frequency): one-sided densities
        (Hann, mean removed), summed over segments; ``level_mean``, ``level_m2`` (n_det,): mean
        and squared deviations of ln(density in the band / (W2/Hz)) over segments.

    Raises
    ------
    CrabError
        If the chunk is not made of whole segments, or detectors and thresholds do not match.
    """
    length, n_det = measures.segment_samples, len(tod)
    if start_sample % length or tod.shape[1] % length or tod.shape[1] == 0:
        raise CrabError(
            f"start_sample = {start_sample}, {tod.shape[1]} samples: allowed are multiples of "
            f"segment_samples = {length}"
        )
    if np.shape(measures.thresholds_w)[1] != n_det:
        raise CrabError(
            f"thresholds_w: {np.shape(measures.thresholds_w)[1]} detectors, the TOD has {n_det}"
        )
    step = length * max(1, _PIECE_BYTES // (4 * n_det * length))
    pieces = [
        _piece(np.ascontiguousarray(tod[:, a : a + step]), start_sample + a, measures)
        for a in range(0, tod.shape[1], step)
    ]
    return merge({key: np.stack([piece[key] for piece in pieces]) for key in pieces[0]})


def merge(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Merge statistics of parts into those of the whole.

    Parameters
    ----------
    parts : dict of str to ndarray
        As `chunk` gives them, stacked along a first axis. Sums of floats are taken in the order of
        time, whatever that of the parts, so the result's last bits do not depend on it either.

    Returns
    -------
    dict of str to ndarray
        Without that axis.
    """
    order = np.argsort(parts["start_sample"], kind="stable")
    parts = {key: values[order] for key, values in parts.items()}
    whole = {key: parts[key].sum(axis=0) for key in SUMS if key in parts}
    whole["start_sample"] = parts["start_sample"][0]
    for name, best in (("minimum", np.argmin), ("maximum", np.argmax)):
        at = best(parts[f"{name}_w"], axis=0)[np.newaxis]
        for key in (f"{name}_w", f"{name}_sample"):
            whole[key] = np.take_along_axis(parts[key], at, axis=0)[0]

    n = parts["n_samples"][:, np.newaxis].astype(float)
    whole["mean_w"] = (n * parts["mean_w"]).sum(axis=0) / n.sum()
    d = parts["mean_w"] - whole["mean_w"]
    m2 = np.einsum("kii->ki", parts["comoment_w2"])
    between = n[:, :, np.newaxis] * d[:, :, np.newaxis] * d[:, np.newaxis]
    whole["comoment_w2"] = (parts["comoment_w2"] + between).sum(axis=0)
    whole["m3_w3"] = (parts["m3_w3"] + 3 * d * m2 + n * d**3).sum(axis=0)
    whole["m4_w4"] = (parts["m4_w4"] + 4 * d * parts["m3_w3"] + 6 * d**2 * m2 + n * d**4).sum(
        axis=0
    )

    k = parts["n_segments"][:, np.newaxis].astype(float)
    whole["level_mean"] = (k * parts["level_mean"]).sum(axis=0) / k.sum()
    d = parts["level_mean"] - whole["level_mean"]
    whole["level_m2"] = (parts["level_m2"] + k * d**2).sum(axis=0)
    return whole


def _piece(tod: np.ndarray, start_sample: int, measures: Measures) -> dict[str, np.ndarray]:
    n_det, n = tod.shape
    n_segments = n // measures.segment_samples
    x = tod.astype(np.float64)
    mean = x.mean(axis=1)
    x -= mean[:, np.newaxis]
    squares = x * x
    low, high = tod.argmin(axis=1), tod.argmax(axis=1)
    density = _densities(tod.reshape(n_det, n_segments, -1), measures)
    # The mean over the band in one product; logarithms, so that a rare hit is one segment's only.
    band = _in_band(measures)
    level = density[..., band].mean(axis=2, dtype=np.float64)
    level = np.log(np.maximum(level, _LEAST)) - 2 * np.log(_FW)
    level_mean = level.mean(axis=1)
    live = n_segments * (measures.segment_samples - measures.dead_samples)
    each = np.arange(n_det)
    return {
        "start_sample": np.int64(start_sample),
        "n_samples": np.int64(n),
        "n_segments": np.int64(n_segments),
        "live_s": np.float64(live / measures.sampling_rate_hz),
        "mean_w": mean,
        "comoment_w2": x @ x.T,
        "m3_w3": np.einsum("dt,dt->d", squares, x),
        "m4_w4": np.einsum("dt,dt->d", squares, squares),
        "minimum_w": tod[each, low],
        "maximum_w": tod[each, high],
        "minimum_sample": start_sample + low,
        "maximum_sample": start_sample + high,
        "hits": np.stack([_hits(tod, np.array(t), measures) for t in measures.thresholds_w]),
        "psd_sum_w2_per_hz": density.sum(axis=1, dtype=np.float64) / _FW**2,
        "level_mean": level_mean,
        "level_m2": ((level - level_mean[:, np.newaxis]) ** 2).sum(axis=1),
    }


def _densities(segments: np.ndarray, measures: Measures) -> np.ndarray:
    """One-sided power spectral densities of segments, float32, fW2/Hz."""
    window = signal.get_window("hann", measures.segment_samples)
    scale = _FW / np.sqrt(measures.sampling_rate_hz * (window**2).sum())
    centred = segments - segments.mean(axis=2, keepdims=True)
    centred *= (window * scale).astype(np.float32)
    spectrum = fft.rfft(centred, axis=2, workers=1, overwrite_x=True)
    density = spectrum.real**2
    density += spectrum.imag**2
    density[..., 1:-1] *= 2
    return density


def _in_band(measures: Measures) -> np.ndarray:
    low, high = measures.band_hz
    frequency = frequencies_hz(measures)
    return (frequency >= low) & (frequency <= high) & (frequency > 0)


def _hits(tod: np.ndarray, threshold_w: np.ndarray, measures: Measures) -> np.ndarray:
    """Crossings of a threshold, each after a dead time without one; shape (n_det,)."""
    level = threshold_w.astype(np.float32)[:, np.newaxis]
    at = np.flatnonzero(tod > level if threshold_w[0] > 0 else tod < level)
    dead = measures.dead_samples
    # Rows are whole segments, so neither a row's nor a segment's end needs more care than this.
    after_pause = np.diff(at, prepend=-dead - 1) > dead
    live = at % measures.segment_samples >= dead
    rows = at[after_pause & live] // tod.shape[1]
    return np.bincount(rows, minlength=len(tod))
