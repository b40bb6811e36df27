"""What a generator must reach and what is hoped for, fixed before any result was seen."""

from typing import NamedTuple

import numpy as np


class Limit(NamedTuple):
    """Limits of one metric.

    Attributes
    ----------
    must : float
        Where passing ends; NaN for a metric that is only reported.
    goal : float or None
        The value hoped for; None for real-vs-real and two of its errors.
    meaning : str
        What is measured.
    sense : {"<=", ">="}
        On which side of ``must`` and ``goal`` to be.
    """

    must: float
    goal: float | None
    meaning: str
    sense: str = "<="

    def met(self, value: float) -> bool | None:
        """Whether a value passes; NaN never does. None if there is nothing to pass."""
        if np.isnan(self.must):
            return None
        return bool(value >= self.must if self.sense == ">=" else value <= self.must)


_REPORTED = float("nan")
# Rows that are not here are reported without a limit.
LIMITS = {
    "c2st_auc": Limit(0.68, 0.55, "held-out windows told from real ones: largest AUC"),
    "fpd": Limit(_REPORTED, None, "Fréchet physics distance, extrapolated"),
    "fpd_over_gaussian": Limit(0.1, None, "the same over that of the matched Gaussian"),
    "kpd": Limit(_REPORTED, None, "kernel physics distance, unbiased"),
    "kpd_over_gaussian": Limit(0.1, None, "the same over that of the matched Gaussian"),
    "w1": Limit(0.03, 0.01, "1-Wasserstein distance / sigma"),
    "w1_continuum": Limit(0.03, 0.01, "the same for the continuum"),
    "psd_ratio": Limit(0.10, 0.02, "95th percentile of |PSD ratio - 1|"),
    "psd_bin_error": Limit(0.10 / 3, 0.02 / 3, "largest error of a bin: is the test sharp enough?"),
    "psd_ratio_continuum": Limit(0.10, 0.02, "the same for the continuum"),
    "psd_bin_error_continuum": Limit(0.10 / 3, 0.02 / 3, "the same for the continuum"),
    "acf_error": Limit(_REPORTED, None, "largest error of the autocorrelation"),
    "acf_error_continuum": Limit(_REPORTED, None, "the same for the continuum"),
    "spectral_kurtosis_error": Limit(_REPORTED, None, "rms error of log(2 + spectral kurtosis)"),
    "spectral_kurtosis_error_continuum": Limit(_REPORTED, None, "the same for the continuum"),
    "rho_error": Limit(0.05, 0.02, "largest error of the detectors' correlation"),
    "rho_error_continuum": Limit(0.05, 0.02, "the same for the continuum"),
    "coherence_error_continuum": Limit(0.05, 0.02, "largest error of a pair's coherence in a band"),
    "multiplicity_error": Limit(0.05, 0.02, "distance of the number of detectors hit together"),
    "sample_correlation": Limit(0.01, 0.001, "pooled mean |r| between windows"),
    "sample_correlation_excess": Limit(0.01, 0.001, "rms r between windows beyond its null"),
    "memorisation_p": Limit(
        0.01, _REPORTED, "probability that real windows come as near to the training TOD", ">="
    ),
    "coverage_ratio": Limit(0.9, 0.98, "coverage / real-vs-real coverage, equal numbers", ">="),
    "generation_time": Limit(0.01, 1e-4, "time to generate / length of the TOD, whole cube"),
    "generation_time_per_detector": Limit(0.01, 1e-6, "the same for one detector"),
}
# These say whether the data suffice for a test, not how good the generator is.
SHARPNESS = ("psd_bin_error", "psd_bin_error_continuum")
