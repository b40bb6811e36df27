"""Statistics of a mission by day and by month, and what people ask of them.

Chunks belong to the day in which they begin, days to months of 30.44 days; all are merged in the
order of time by `crab.metrics.running.merge`.
"""

from collections.abc import Iterable
from itertools import groupby

import numpy as np
import xarray as xr

from crab.metrics import running
from crab.metrics.running import Measures

DAY_S = 86400.0
MONTH_DAYS = 30.44
_DIMS = {
    "mean_w": ("detector",),
    "comoment_w2": ("detector", "other"),
    "m3_w3": ("detector",),
    "m4_w4": ("detector",),
    "minimum_w": ("detector",),
    "maximum_w": ("detector",),
    "minimum_sample": ("detector",),
    "maximum_sample": ("detector",),
    "hits": ("threshold", "detector"),
    "level_mean": ("detector",),
    "level_m2": ("detector",),
    "start_sample": (),
    "n_samples": (),
    "n_segments": (),
    "live_s": (),
}
_MONTHLY = {"psd_sum_w2_per_hz": ("detector", "frequency"), "n_segments": ()}


def day_of(start_sample, sampling_rate_hz: float):
    """Day, from 0, in which a chunk begins."""
    return (np.asarray(start_sample) / sampling_rate_hz // DAY_S).astype(int)


def month_of(day):
    """Month of 30.44 days, from 0, in which a day begins."""
    return (np.asarray(day) // MONTH_DAYS).astype(int)


def assemble(parts: Iterable[dict], names: list[str], measures: Measures) -> xr.Dataset:
    """Merge statistics of chunks by day, and their spectra by month.

    Parameters
    ----------
    parts : iterable of dict
        From `crab.metrics.running.chunk`, in any order.
    names : list of str
        Of the detectors.
    measures : Measures

    Returns
    -------
    xarray.Dataset
    """
    parts = sorted(parts, key=lambda part: int(part["start_sample"]))

    def by_day(part):
        return int(day_of(part["start_sample"], measures.sampling_rate_hz))

    days = {day: _merge(group) for day, group in groupby(parts, key=by_day)}
    months = {
        month: _merge([days[d] for d in group])
        for month, group in groupby(days, key=lambda d: int(month_of(d)))
    }
    variables = {
        name: (("day", *dims), np.stack([day[name] for day in days.values()]))
        for name, dims in _DIMS.items()
    }
    for name, dims in _MONTHLY.items():
        values = np.stack([month[name] for month in months.values()])
        variables[name if dims else "month_segments"] = (("month", *dims), values)
    return xr.Dataset(
        variables,
        coords={
            "day": list(days),
            "month": list(months),
            "detector": names,
            "other": names,
            "frequency": ("frequency", running.frequencies_hz(measures), {"units": "Hz"}),
            "threshold_w": (("threshold", "detector"), np.array(measures.thresholds_w)),
        },
    )


def by_month(survey: xr.Dataset) -> xr.Dataset:
    """Merge days into months.

    Parameters
    ----------
    survey : xarray.Dataset
        From `crab.survey.run`, `crab.survey.of_cube` or `assemble`.

    Returns
    -------
    xarray.Dataset
        What was there by day, by ``month``; without the spectra.
    """
    return _regroup(survey, month_of(survey["day"].values), "month")


def whole(survey: xr.Dataset) -> xr.Dataset:
    """Merge all days into one.

    Parameters
    ----------
    survey : xarray.Dataset

    Returns
    -------
    xarray.Dataset
        Without the dimension ``day`` and without the spectra.
    """
    return _regroup(survey, np.zeros(survey.sizes["day"], dtype=int), "all").isel(all=0, drop=True)


def describe(merged: xr.Dataset) -> xr.Dataset:
    """What people ask for, from the sums.

    Parameters
    ----------
    merged : xarray.Dataset
        From `assemble`, `by_month` or `whole`; any dimension in front.

    Returns
    -------
    xarray.Dataset
        ``rms_w``, ``skewness``, ``kurtosis`` (3 for a Gaussian), ``correlation``,
        ``hit_rate_hz`` and its Poisson error ``hit_rate_error_hz`` (threshold, detector),
        ``level_w2_per_hz`` (geometric mean over segments of the density in the band) and
        ``level_relative_error``.
    """
    n, k = merged["n_samples"], merged["n_segments"]
    own = xr.DataArray(np.arange(merged.sizes["detector"]), dims="detector")
    # One variance and one scale: fourth powers of watts are small, but float64 holds them.
    m2 = merged["comoment_w2"].isel(other=own).drop_vars("other")
    other = m2.rename(detector="other")
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = merged["hits"] / merged["live_s"]
        return xr.Dataset(
            {
                "rms_w": np.sqrt(m2 / n),
                "skewness": np.sqrt(n) * merged["m3_w3"] / m2**1.5,
                "kurtosis": n * merged["m4_w4"] / m2**2,
                "correlation": merged["comoment_w2"] / np.sqrt(m2 * other),
                "hit_rate_hz": rate,
                "hit_rate_error_hz": np.sqrt(merged["hits"]) / merged["live_s"],
                "level_w2_per_hz": np.exp(merged["level_mean"]),
                "level_relative_error": np.sqrt(merged["level_m2"] / (k - 1) / k),
            }
        )


def spectra(survey: xr.Dataset) -> xr.DataArray:
    """Power spectral density by month, W2/Hz, with dimensions (month, detector, frequency)."""
    return survey["psd_sum_w2_per_hz"] / survey["month_segments"]


def _merge(parts: Iterable[dict]) -> dict:
    parts = list(parts)
    return running.merge({key: np.stack([p[key] for p in parts]) for key in parts[0]})


def _regroup(survey: xr.Dataset, group: np.ndarray, name: str) -> xr.Dataset:
    merged = {}
    for value in np.unique(group):
        chosen = survey.isel(day=group == value)
        merged[int(value)] = running.merge({key: chosen[key].values for key in _DIMS})
    variables = {
        key: ((name, *dims), np.stack([part[key] for part in merged.values()]))
        for key, dims in _DIMS.items()
    }
    coords = {key: survey[key] for key in ("detector", "other", "threshold_w")}
    return xr.Dataset(variables, coords={name: list(merged), **coords})


def join(months: list[xr.Dataset]) -> xr.Dataset:
    """Put months together that were assembled each by itself.

    Parameters
    ----------
    months : list of xarray.Dataset
        Ascending, from `assemble`; no day is in two of them.

    Returns
    -------
    xarray.Dataset
        The same as from `assemble` of all their chunks.
    """
    daily = xr.concat([m[list(_DIMS)] for m in months], "day", coords="minimal", compat="override")
    monthly = xr.concat(
        [m[["psd_sum_w2_per_hz", "month_segments"]] for m in months],
        "month",
        coords="minimal",
        compat="override",
    )
    return xr.merge([daily, monthly], compat="override", join="exact")
