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
# What may follow the environment, for `crab.metrics.conditioning`.
CONDITIONED = {
    "hit_rate": "the rate of hits",
    "psd_level": "the power spectrum's level",
    "psd_level_continuum": "that of the continuum",
    "skewness_continuum": "the continuum's skewness",
    "tail_quantile": "the depth that 0.1 % of all samples exceed",
}
# What follows `downstream_`, for `crab.impact.rows`: as it is, and `_deglitched`.
DOWNSTREAM = {
    "noise_tt": "mean spectrum of intensity maps",
    "noise_ee": "mean E-mode spectrum of maps",
    "noise_bb": "mean B-mode spectrum of maps",
    "spectrum_tt": "intensity spectrum of maps, worst band",
    "spectrum_ee": "E-mode spectrum of maps, worst band",
    "spectrum_bb": "B-mode spectrum of maps, worst band",
    "delta_r": "bias of r from an auto-spectrum",
}
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
    "seam_auc": Limit(0.52, None, "windows on seams told from interior ones: largest AUC"),
    "seam_auc_error": Limit(0.02 / 2, _REPORTED, "its error: are there enough seams?"),
    **{
        f"conditioning_{name}": Limit(0.10, 0.03, f"|generated / Monte Carlo - 1| of {what}")
        for name, what in CONDITIONED.items()
    },
    **{
        f"downstream_{name}{suffix}": Limit(
            0.10, 0.02, f"|generated / Monte Carlo - 1| of the {what}{text}"
        )
        for suffix, text in (("", ""), ("_deglitched", ", deglitched"))
        for name, what in DOWNSTREAM.items()
    },
    "generation_time": Limit(0.01, 1e-4, "time to generate / length of the TOD, whole cube"),
    "generation_time_per_detector": Limit(0.01, 1e-6, "the same for one detector"),
    "generation_time_focal_plane": Limit(0.01, 1e-4, "the same for the whole focal plane"),
    "generation_and_writing_time": Limit(0.01, 1e-4, "to generate and write, whole cube"),
    "generation_and_writing_time_per_detector": Limit(0.01, 1e-6, "the same for one detector"),
    "generation_and_writing_time_focal_plane": Limit(0.01, 1e-4, "the same for the focal plane"),
}
# Rows of the table of tests, by the beginning of a metric's name; the longest one counts.
ROWS = {
    1: ("classifiers", ("c2st_",)),
    2: ("physics distances", ("fpd", "kpd")),
    3: ("marginal", ("w1", "quantile_", "skewness", "kurtosis")),
    4: ("power spectrum", ("psd_",)),
    5: ("beyond the power spectrum", ("acf_", "spectral_kurtosis_")),
    6: ("bolometer correlation", ("rho_", "coherence_", "multiplicity_", "hit_rate_")),
    7: ("sample correlation", ("sample_correlation",)),
    8: ("memorisation", ("memorisation_",)),
    9: ("diversity", ("precision", "recall", "density", "coverage")),
    10: ("seams", ("seam_",)),
    11: ("conditioning", ("conditioning_", "held_out_")),
    12: ("downstream", ("downstream_",)),
    13: ("speed", ("generation_",)),
}
# These say whether the data suffice for a test, not how good the generator is.
SHARPNESS = ("psd_bin_error", "psd_bin_error_continuum", "seam_auc_error")
# What generation may take in production: stricter than must.
PRODUCTION_TIME = 1e-4
