"""One table of how good a generator is: every number with its error, real-vs-real and limits.

The tests and their limits (`crab.metrics.limits`) were fixed before any result. "Continuum" is the
TOD with its amplitudes limited to a few core widths: direct hits are rare and far larger than the
wafer's signal, so in sigma, spectrum and correlation they would hide whether the rest is right.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from crab.metrics import (
    correlation,
    diversity,
    independence,
    memorisation,
    rows,
    spectral,
    twosample,
    windows,
)
from crab.metrics.limits import LIMITS, SHARPNESS, Limit
from crab.metrics.rows import UNKNOWN
from crab.metrics.windows import Estimate

__all__ = [
    "COLUMNS",
    "LIMITS",
    "SHARPNESS",
    "Comparison",
    "Limit",
    "compare",
    "score",
    "table",
    "tabulate",
]


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
    "real_vs_real_error",
    "sense",
)


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
    classifiers : dict of str to twosample.TwoSample
        By classifier and the window's number of samples: ``boosting_256``.
    features : tuple of two ndarray, shape (n_times, n_detector, n_features)
        Standardised physics features of windows of both cubes.
    memorisation : memorisation.Memorisation or None
        None if the training cube was not given.
    """

    rows: dict[str, Estimate]
    spectrum: spectral.SpectrumRatio
    spectrum_continuum: spectral.SpectrumRatio
    rho: Estimate | None
    rho_reference: Estimate | None
    samples: independence.SampleCorrelation
    classifiers: dict[str, twosample.TwoSample]
    features: tuple[np.ndarray, np.ndarray]
    memorisation: memorisation.Memorisation | None


def compare(
    generated: xr.Dataset,
    reference: xr.Dataset,
    *,
    seed: int,
    window_samples: int = 1060,
    classifier_windows: Sequence[int] = (256, 1060),
    segment_samples: int = 1060,
    n_bins: int = 30,
    hwp_rpm: float | None = None,
    clip_sigma: float = 5.0,
    classifiers: Sequence[str] = ("boosting",),
    classifier_epochs: int = twosample.DEFAULT_EPOCHS,
    hit_sigma: float = 5.0,
    training: xr.Dataset | None = None,
) -> Comparison:
    """Put two cubes through every test.

    Parameters
    ----------
    generated, reference : xarray.Dataset
        TOD cubes of one mission and environment with the same detectors and sampling rate.
    seed : int
        For the classifiers and the pools; nothing else is random.
    window_samples : int
        Windows of the sample correlation: the generator's own.
    classifier_windows : sequence of int
        Window lengths of the classifier tests; one that is too long for the cubes is left out, but
        at least one must fit. The shortest is that of physics distances, memorisation, diversity.
    segment_samples, n_bins, hwp_rpm
        As in `spectral.ratio`. Coherence has the same segments, and the longest lag of the
        autocorrelation is half of one.
    clip_sigma : float
        The continuum is limited to this many of the reference's core widths.
    classifiers : sequence of str
        Of `twosample.CLASSIFIERS`.
    classifier_epochs : int
        Of the networks among them.
    hit_sigma : float
        A detector is hit where it is so many core widths on the side of hits.
    training : xarray.Dataset, optional
        What the generator was trained on. Neither of the two cubes may be it: the reference is
        the held-out part.

    Returns
    -------
    Comparison

    Raises
    ------
    CrabError
        If the cubes may not be compared (`windows.comparable`) or are too short, or a classifier
        is not known.
    """
    cubes = {"reference": reference, "generated": generated}
    windows.comparable(**cubes, **({} if training is None else {"training": training}))
    # Before everything else: a wrong name shall not cost a minute.
    for name in classifiers:
        twosample.check_classifier(name)
    ours, theirs = (rows.samples(cube, reference, clip_sigma) for cube in (generated, reference))
    lengths = rows.fitting(classifier_windows, ours, theirs)
    shortest = min(lengths)
    tables = {
        n: tuple(twosample.features(x.windows(n)) for x in (ours, theirs))
        for n in (lengths if "boosting" in classifiers else [shortest])
    }
    tests = {
        f"{name}_{n}": twosample.classifier_auc(
            ours.windows(n), theirs.windows(n), seed, name, classifier_epochs, tables.get(n)
        )
        for name in classifiers
        for n in lengths
    }
    features = rows.features(ours, theirs, shortest, tables[shortest])
    rate = reference.attrs["sampling_rate_hz"]
    spectrum, spectrum_continuum = (
        spectral.ratio(*pair, rate, segment_samples, n_bins, hwp_rpm)
        for pair in ((ours.whole, theirs.whole), (ours.continuum, theirs.continuum))
    )
    # Clipping sample by sample leaves independent windows independent, and r far less noisy.
    samples = independence.sample_correlation(ours.windows(window_samples, continuum=True), seed)
    memory = None
    if training is not None:
        memory = memorisation.memorisation(
            ours.windows(shortest, continuum=True),
            theirs.windows(shortest, continuum=True),
            rows.samples(training, reference, clip_sigma).continuum,
        )
    hit_threshold = {"joule": -1, "optical_equivalent": 1}[
        reference.attrs["power_convention"]
    ] * hit_sigma
    several = len(ours.whole) > 1
    return Comparison(
        rows=rows.classifiers(tests, seed)
        | rows.physics_distances(*features)
        | rows.marginal(ours, theirs)
        | rows.power(spectrum, spectrum_continuum)
        | rows.beyond_power(ours, theirs, segment_samples // 2)
        | rows.between_detectors(ours, theirs, segment_samples, hit_threshold)
        | rows.sample_correlation(samples)
        | rows.memory(memory)
        | diversity.neighbours(*features),
        spectrum=spectrum,
        spectrum_continuum=spectrum_continuum,
        rho=correlation.matrix(ours.continuum) if several else None,
        rho_reference=correlation.matrix(theirs.continuum) if several else None,
        samples=samples,
        classifiers=tests,
        features=features,
        memorisation=memory,
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
    gaussian: Comparison | None = None,
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
    gaussian : Comparison, optional
        Gaussian noise with matched spectra against the same Monte Carlo: the physics distances
        are also given as parts of its own.

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`. ``pass`` says whether the value is on the right side of ``must``; empty
        where there is no limit. A goal that is not fixed is real-vs-real and two of its errors.
        ``c2st_auc_null_95`` is real-vs-real's alone: what the largest AUC stays below in 95 % of
        all cases if a generator is right.
    """
    # Coverage depends on the numbers of windows: as many here as there.
    n_times = min(len(x) for c in (ours, real) for x in c.features)
    coverage = [diversity.neighbours(*c.features, n_times)["coverage"] for c in (ours, real)]
    last = {
        "coverage_ratio": _ratio(*coverage),
        "generation_time": Estimate(*generation_time),
        "generation_time_per_detector": Estimate(*generation_time_per_detector),
    }
    values = _with_gaussian(ours.rows, gaussian) | last
    own = Estimate(1.0, coverage[1].error / coverage[1].value)
    beside = _with_gaussian(real.rows, gaussian) | {"coverage_ratio": own}
    if "c2st_auc_null_95" in beside:
        values["c2st_auc_null_95"] = beside["c2st_auc_null_95"]
    return table(
        values,
        beside,
        profile=profile,
        mission=mission,
        environment=environment,
        generator=generator,
    )


def table(
    values: rows.Rows,
    beside: rows.Rows,
    *,
    profile: str,
    mission: str,
    environment: str,
    generator: str,
    goals: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Rows with their limits: of `tabulate`, or of tests that need more than two cubes.

    Parameters
    ----------
    values, beside : dict of str to Estimate
        By metric, and the same for real-vs-real where it is known: `crab.metrics.seams.rows`,
        `crab.metrics.conditioning.conditioning_rows`, `crab.metrics.speed.rows`.
    profile, mission, environment, generator : str
        What the rows say they are about.
    goals : mapping of str to float, optional
        Goals that only the test itself knows.

    Returns
    -------
    pandas.DataFrame
        As `tabulate`.
    """
    goals = goals or {}
    records = []
    for metric, (value, error) in values.items():
        limit = LIMITS.get(metric, Limit(np.nan, np.nan, ""))
        null, null_error = (float(x) for x in beside.get(metric, UNKNOWN))
        goal = null + 2 * null_error if limit.goal is None else limit.goal
        records.append(
            (
                *(profile, mission, environment, generator, metric, float(value), float(error)),
                *(null, limit.must, goals.get(metric, goal), limit.met(value), null_error),
                limit.sense if metric in LIMITS else "",
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
    gaussian: Comparison | None = None,
    **settings,
) -> pd.DataFrame:
    """Judge a generated cube: `compare` twice, then `tabulate`.

    Parameters
    ----------
    generated, reference : xarray.Dataset
        The generator's cube and the Monte Carlo that it must look like.
    real_a, real_b : xarray.Dataset
        Two Monte Carlo cubes with different seeds, for the real-vs-real column.
    profile, generator, generation_time, generation_time_per_detector, gaussian
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
        gaussian=gaussian,
    )


def _with_gaussian(known: rows.Rows, gaussian: Comparison | None) -> rows.Rows:
    """Rows with the physics distances over the Gaussian's put behind each of them."""
    result = {}
    for name, value in known.items():
        result[name] = value
        if gaussian is not None and name in ("fpd", "kpd"):
            baseline = gaussian.rows[name]
            # Of a Gaussian that cannot be told from the Monte Carlo nothing is a part.
            resolved = baseline.value > 2 * baseline.error
            result[f"{name}_over_gaussian"] = _ratio(value, baseline) if resolved else UNKNOWN
    return result


def _ratio(a: Estimate, b: Estimate) -> Estimate:
    if not b.value > 0:
        return UNKNOWN
    ratio = a.value / b.value
    return Estimate(ratio, np.hypot(a.error, ratio * b.error) / b.value)
