"""The rows of the scorecard, family by family.

The numbers are those of the project's table of tests.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from crab.errors import CrabError
from crab.metrics import (
    correlation,
    distances,
    frequency,
    independence,
    memorisation,
    physics_distance,
    spectral,
    twosample,
    windows,
)
from crab.metrics.windows import Estimate

Rows = dict[str, Estimate]
UNKNOWN = Estimate(np.nan, np.nan)
_CORRELATION_ROWS = (
    "rho_error",
    "rho_error_continuum",
    "rho_error_rms_continuum",
    "rho_recovered",
    "coherence_error_continuum",
    "coherence_error_rms_continuum",
    "multiplicity_error",
    "hit_rate_error",
)


class Samples(NamedTuple):
    """Samples of a cube.

    Attributes
    ----------
    whole, continuum : ndarray, shape (n_detector, n_time)
        In core widths of the reference: all of it, and with limited amplitudes.
    start_sample : int
        Absolute index of the first.
    """

    whole: np.ndarray
    continuum: np.ndarray
    start_sample: int

    def windows(self, window_samples: int, continuum: bool = False) -> np.ndarray:
        """As `windows.windows`, shape (n_detector, n_windows, window_samples)."""
        samples = self.continuum if continuum else self.whole
        return windows.windows(samples, window_samples, self.start_sample)


def samples(cube: xr.Dataset, reference: xr.Dataset, clip_sigma: float) -> Samples:
    """Samples of a cube in units of the reference, the continuum within `clip_sigma` of them."""
    (whole,) = windows.standardise(cube, reference=reference)
    return Samples(whole, np.clip(whole, -clip_sigma, clip_sigma), windows.start_sample(cube))


def fitting(lengths: Sequence[int], ours: Samples, theirs: Samples) -> list[int]:
    """Those window lengths that are short enough for both cubes.

    Raises
    ------
    CrabError
        If there is none.
    """
    fits = [
        n
        for n in lengths
        if min(x.windows(n).shape[1] for x in (ours, theirs)) >= twosample.MIN_TIMES
    ]
    if not fits:
        raise CrabError(
            f"classifier_windows = {list(lengths)}: none fits {twosample.MIN_TIMES} times into "
            f"{min(ours.whole.shape[1], theirs.whole.shape[1])} samples"
        )
    return fits


def classifiers(tests: dict[str, twosample.TwoSample], seed: int) -> Rows:
    """Row 1. Largest AUC, what it is by chance, and each single one."""
    largest = max((t.auc for t in tests.values()), key=lambda auc: auc.value, default=UNKNOWN)
    null = twosample.null_percentile(tests.values(), seed)
    rows = {"c2st_auc": largest, "c2st_auc_null_95": Estimate(null, np.nan)}
    return rows | {f"c2st_auc_{name}": test.auc for name, test in tests.items()}


def features(ours: Samples, theirs: Samples, n: int, tables) -> tuple[np.ndarray, np.ndarray]:
    """Standardised physics features of windows of n samples, from their `twosample.features`.

    Returns
    -------
    tuple of two ndarray, shape (n_times, n_detector, n_features)
    """
    values = [
        physics_distance.feature_rows(table, x.windows(n, continuum=True))
        for x, table in zip((ours, theirs), tables, strict=True)
    ]
    return tuple(physics_distance.standardise(*values, reference=values[1]))


def physics_distances(ours: np.ndarray, theirs: np.ndarray) -> Rows:
    """Row 2, from `features`."""
    return {"fpd": physics_distance.fpd(ours, theirs), "kpd": physics_distance.kpd(ours, theirs)}


def marginal(ours: Samples, theirs: Samples) -> Rows:
    """Row 3."""
    rows = {
        "w1": distances.wasserstein(ours.whole, theirs.whole),
        "w1_continuum": distances.wasserstein(ours.continuum, theirs.continuum),
    }
    rows |= distances.tail_quantiles(ours.whole, theirs.whole)
    return rows | distances.moments(ours.whole, theirs.whole)


def power(spectrum: spectral.SpectrumRatio, continuum: spectral.SpectrumRatio) -> Rows:
    """Row 4."""
    rows = {}
    for name, result in (("", spectrum), ("_continuum", continuum)):
        rows[f"psd_ratio{name}"] = result.percentile_95
        rows[f"psd_bin_error{name}"] = Estimate(result.worst_bin_error, np.nan)
    return rows


def beyond_power(ours: Samples, theirs: Samples, longest_lag: int) -> Rows:
    """Row 5."""
    rows = {}
    parts = [("", ours.whole, theirs.whole), ("_continuum", ours.continuum, theirs.continuum)]
    for name, *pair in parts:
        errors = frequency.autocorrelation_error(*pair, longest_lag)
        rows |= {f"acf_error{name}": errors["max"], f"acf_error_rms{name}": errors["rms"]}
    for name, *pair in parts:
        rows[f"spectral_kurtosis_error{name}"] = frequency.spectral_kurtosis_error(*pair)
    return rows


def between_detectors(
    ours: Samples, theirs: Samples, segment_samples: int, hit_threshold: float
) -> Rows:
    """Row 6. A negative threshold for hits that are negative.

    One detector has no correlation: its rows are there, and do not pass.
    """
    if len(ours.whole) == 1:
        return dict.fromkeys(_CORRELATION_ROWS, UNKNOWN)
    continuum = ours.continuum, theirs.continuum
    rho = correlation.matrix_error(*continuum)
    coherence = correlation.coherence_error(*continuum, segment_samples)
    hits = [np.sign(hit_threshold) * x.whole > abs(hit_threshold) for x in (ours, theirs)]
    together = correlation.multiplicity_error(*hits)
    values = (
        correlation.matrix_error(ours.whole, theirs.whole)["max"],
        rho["max"],
        rho["rms"],
        correlation.recovered(*continuum),
        coherence["max"],
        coherence["rms"],
        together["distance"],
        together["rate"],
    )
    return dict(zip(_CORRELATION_ROWS, values, strict=True))


def sample_correlation(result: independence.SampleCorrelation) -> Rows:
    """Row 7."""
    return {
        "sample_correlation": result.pooled,
        "sample_correlation_null": Estimate(result.pooled_null, np.nan),
        "sample_correlation_effective_samples": Estimate(result.effective_samples, np.nan),
        "sample_correlation_excess": result.excess,
        "sample_correlation_largest": result.largest,
    }


def memory(result: memorisation.Memorisation | None) -> Rows:
    """Row 8; empty if the training cube is not known."""
    if result is None:
        return {}
    return {
        "memorisation_p": Estimate(result.p_value, np.nan),
        "memorisation_nearness": result.nearness,
    }
