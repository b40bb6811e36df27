"""One table of how good a generator is: every number with its error, real-vs-real and limits.

The tests and their limits were fixed before any result. "Continuum" is the TOD with its amplitudes
limited to a few core widths: direct hits are rare and far larger than the wafer's signal, so in
sigma, spectrum and correlation they would hide whether the rest is right.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from crab.errors import CrabError
from crab.metrics import correlation, distances, independence, spectral, twosample, windows
from crab.metrics.windows import Estimate

COLUMNS = (
    "profile",
    "mission",
    "environment",
    "generator",
    "metric",
    "value",
    "error",
    "real_vs_real",
    "must",
    "goal",
    "pass",
)


class Limit(NamedTuple):
    """Largest allowed value (``must``), the value hoped for (``goal``), and what is measured."""

    must: float
    goal: float
    meaning: str


# A row passes when value <= must. Rows that are not here are reported without a limit.
LIMITS = {
    "c2st_auc": Limit(0.68, 0.55, "gradient boosting on held-out windows, largest AUC"),
    "w1": Limit(0.03, 0.01, "1-Wasserstein distance / sigma"),
    "w1_continuum": Limit(0.03, 0.01, "the same for the continuum"),
    "psd_ratio": Limit(0.10, 0.02, "95th percentile of |PSD ratio - 1|"),
    "psd_ratio_continuum": Limit(0.10, 0.02, "the same for the continuum"),
    "psd_bin_error": Limit(0.10 / 3, 0.02 / 3, "largest error of a bin: is the test sharp enough?"),
    "psd_bin_error_continuum": Limit(0.10 / 3, 0.02 / 3, "the same for the continuum"),
    "rho_error": Limit(0.05, 0.02, "largest error of the detectors' correlation"),
    "rho_error_continuum": Limit(0.05, 0.02, "the same for the continuum"),
    "sample_correlation": Limit(0.01, 0.001, "pooled mean |r| between windows"),
    "sample_correlation_excess": Limit(0.01, 0.001, "rms r between windows beyond its null"),
    "generation_time": Limit(0.01, 1e-4, "time to generate / length of the TOD, whole cube"),
    "generation_time_per_detector": Limit(0.01, 1e-6, "the same for one detector"),
}
# These say whether the data suffice for a test, not how good the generator is.
SHARPNESS = ("psd_bin_error", "psd_bin_error_continuum")


class Comparison(NamedTuple):
    """All that `compare` finds between two cubes.

    Attributes
    ----------
    rows : dict of str to Estimate
        Metrics by name, in the order of the scorecard.
    spectrum, spectrum_continuum : spectral.SpectrumRatio
    rho, rho_reference : Estimate or None
        Correlation matrices of the continuum; None for a single detector.
    samples : independence.SampleCorrelation
        Of the first cube's continuum with itself.
    classifiers : dict of int to twosample.TwoSample
        By the window's number of samples.
    """

    rows: dict[str, Estimate]
    spectrum: spectral.SpectrumRatio
    spectrum_continuum: spectral.SpectrumRatio
    rho: Estimate | None
    rho_reference: Estimate | None
    samples: independence.SampleCorrelation
    classifiers: dict[int, twosample.TwoSample]


def compare(
    generated: xr.Dataset,
    reference: xr.Dataset,
    *,
    seed: int,
    window_samples: int = 1060,
    classifier_windows: tuple[int, ...] = (256, 1060),
    segment_samples: int = 1060,
    n_bins: int = 30,
    hwp_rpm: float | None = None,
    clip_sigma: float = 5.0,
) -> Comparison:
    """Put two cubes through every test.

    Parameters
    ----------
    generated, reference : xarray.Dataset
        TOD cubes of one mission and environment with the same detectors and sampling rate.
    seed : int
        For the classifier and the pools; nothing else is random.
    window_samples : int
        Windows of the sample correlation: the generator's own.
    classifier_windows : tuple of int
        Window lengths of the classifier test; one that is too long for the cubes is left out, but
        at least one must fit.
    segment_samples, n_bins, hwp_rpm
        As in `spectral.ratio`.
    clip_sigma : float
        The continuum is limited to this many of the reference's core widths.

    Returns
    -------
    Comparison

    Raises
    ------
    CrabError
        If the cubes may not be compared (`windows.comparable`) or are too short.
    """
    windows.comparable(reference=reference, generated=generated)
    ours, theirs = windows.standardise(generated, reference, reference=reference)
    ours_c, theirs_c = (np.clip(x, -clip_sigma, clip_sigma) for x in (ours, theirs))
    starts = [windows.start_sample(cube) for cube in (generated, reference)]
    rate = reference.attrs["sampling_rate_hz"]

    classifiers = {}
    for n in classifier_windows:
        pair = [windows.windows(x, n, s) for x, s in zip((ours, theirs), starts, strict=True)]
        if min(w.shape[1] for w in pair) >= twosample.MIN_TIMES:
            classifiers[n] = twosample.classifier_auc(*pair, seed)
    if not classifiers:
        raise CrabError(
            f"classifier_windows = {list(classifier_windows)}: none fits {twosample.MIN_TIMES} "
            f"times into {min(ours.shape[1], theirs.shape[1])} samples"
        )
    rows = {"c2st_auc": max((c.auc for c in classifiers.values()), key=lambda auc: auc.value)}
    rows |= {f"c2st_auc_{n}": c.auc for n, c in classifiers.items()}

    rows["w1"] = distances.wasserstein(ours, theirs)
    rows["w1_continuum"] = distances.wasserstein(ours_c, theirs_c)
    rows |= distances.tail_quantiles(ours, theirs)
    rows |= distances.moments(ours, theirs)

    spectra = {}
    for name, pair in (("", (ours, theirs)), ("_continuum", (ours_c, theirs_c))):
        spectra[name] = spectral.ratio(*pair, rate, segment_samples, n_bins, hwp_rpm)
        rows[f"psd_ratio{name}"] = spectra[name].percentile_95
        rows[f"psd_bin_error{name}"] = Estimate(spectra[name].worst_bin_error, np.nan)

    rho = rho_reference = None
    if len(ours) > 1:
        rho, rho_reference = correlation.matrix(ours_c), correlation.matrix(theirs_c)
        rows["rho_error"] = correlation.matrix_error(ours, theirs)["max"]
        errors = correlation.matrix_error(ours_c, theirs_c)
        rows["rho_error_continuum"] = errors["max"]
        rows["rho_error_rms_continuum"] = errors["rms"]
    else:
        # One detector has no correlation: the row is there, and does not pass.
        rows["rho_error"] = rows["rho_error_continuum"] = Estimate(np.nan, np.nan)

    # Clipping sample by sample leaves independent windows independent, and r far less noisy.
    samples = independence.sample_correlation(
        windows.windows(ours_c, window_samples, starts[0]), seed
    )
    rows["sample_correlation"] = samples.pooled
    rows["sample_correlation_null"] = Estimate(samples.pooled_null, np.nan)
    rows["sample_correlation_effective_samples"] = Estimate(samples.effective_samples, np.nan)
    rows["sample_correlation_excess"] = samples.excess
    rows["sample_correlation_largest"] = samples.largest
    return Comparison(
        rows, spectra[""], spectra["_continuum"], rho, rho_reference, samples, classifiers
    )


def tabulate(
    ours: Comparison,
    real: Comparison,
    *,
    profile: str,
    mission: str,
    environment: str,
    generator: str,
    generation_time: Estimate,
    generation_time_per_detector: Estimate,
) -> pd.DataFrame:
    """Scorecard of one generator.

    Parameters
    ----------
    ours, real : Comparison
        Generated against Monte Carlo, and Monte Carlo against independent Monte Carlo.
    profile, mission, environment, generator : str
        What the rows say they are about.
    generation_time, generation_time_per_detector : Estimate
        Time to generate the cube, all its detectors, over the length of its TOD; and divided by
        the number of detectors. Measured elsewhere: a cube does not know them.

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`. ``pass`` is ``value <= must``; empty where there is no limit.
    """
    rows = {
        **ours.rows,
        "generation_time": Estimate(*generation_time),
        "generation_time_per_detector": Estimate(*generation_time_per_detector),
    }
    nothing = Limit(np.nan, np.nan, "")
    records = []
    for metric, (value, error) in rows.items():
        limit = LIMITS.get(metric, nothing)
        records.append(
            (
                profile,
                mission,
                environment,
                generator,
                metric,
                float(value),
                float(error),
                float(real.rows[metric].value) if metric in real.rows else np.nan,
                limit.must,
                limit.goal,
                bool(value <= limit.must) if metric in LIMITS else None,
            )
        )
    return pd.DataFrame(records, columns=list(COLUMNS)).astype({"pass": "boolean"})


def score(
    generated: xr.Dataset,
    reference: xr.Dataset,
    real_a: xr.Dataset,
    real_b: xr.Dataset,
    *,
    profile: str,
    generator: str,
    generation_time: Estimate,
    generation_time_per_detector: Estimate,
    **settings,
) -> pd.DataFrame:
    """Judge a generated cube: `compare` twice, then `tabulate`.

    Parameters
    ----------
    generated, reference : xarray.Dataset
        The generator's cube and the Monte Carlo that it must look like.
    real_a, real_b : xarray.Dataset
        Two Monte Carlo cubes with different seeds, for the real-vs-real column.
    profile, generator, generation_time, generation_time_per_detector
        As in `tabulate`.
    **settings
        As in `compare`.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    CrabError
        As `compare`.
    """
    windows.comparable(reference=reference, generated=generated, real_a=real_a, real_b=real_b)
    return tabulate(
        compare(generated, reference, **settings),
        compare(real_a, real_b, **settings),
        profile=profile,
        mission=reference.attrs["mission"],
        environment=reference.attrs["environment"],
        generator=generator,
        generation_time=generation_time,
        generation_time_per_detector=generation_time_per_detector,
    )
