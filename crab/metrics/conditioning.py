"""Conditioning: does what is generated follow the environment as the Monte Carlo does?

Numbers that an environment moves - rate of hits, level of the power spectrum, skewness, depth of
the tail - of a generated cube and of the Monte Carlo of the same environment, for environments
that a generator was trained on and for those that it was not. All are in units of one fixed width,
so that environments can be compared with each other.
"""

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from crab import schema
from crab.errors import CrabError
from crab.metrics import spectral
from crab.metrics.limits import CONDITIONED
from crab.metrics.windows import Estimate, blocks, jackknife

Summary = dict[str, Estimate]
_TAIL = 1e-3
_SIDE = {"joule": -1, "optical_equivalent": 1}
_LONGEST_SEGMENT = 1024
HELD_OUT = "held_out_of_training"


def widths_w(cube: xr.Dataset) -> np.ndarray:
    """Core width of every detector: the unit in which environments are compared.

    Parameters
    ----------
    cube : xarray.Dataset
        Monte Carlo of one environment, the same for all that are compared.

    Returns
    -------
    ndarray, shape (n_detector,)
        1.4826 times the median absolute deviation, W.
    """
    tod = cube["tod"].values.astype(np.float64)
    return stats.median_abs_deviation(tod, axis=1, scale="normal")


def summaries(
    cube: xr.Dataset,
    width_w: np.ndarray,
    hit_sigma: float = 5.0,
    clip_sigma: float = 5.0,
    band_hz: tuple[float, float] | None = None,
) -> Summary:
    """Numbers that follow the environment, with their errors.

    Parameters
    ----------
    cube : xarray.Dataset
        TOD cube of one environment, or of one stretch of a mission.
    width_w : ndarray, shape (n_detector,)
        One unit for all environments: `widths_w` of any of them.
    hit_sigma : float
        A detector is hit where it is so many widths from its median on the side of hits.
    clip_sigma : float
        The continuum is limited to this many widths.
    band_hz : (float, float), optional
        Of the power spectrum's level; by default everything above zero.

    Returns
    -------
    dict of str to Estimate
        Mean over detectors, with jackknife errors over sixteen contiguous blocks:
        ``hit_rate`` [1/s] of samples that begin a hit, for one detector; ``psd_level`` and
        ``psd_level_continuum``, mean power spectral density in the band [width^2/Hz];
        ``skewness_continuum``; ``tail_quantile``, depth in widths that 0.1 % of all samples
        exceed; ``core_width``, the cube's own over the given one.

    Raises
    ------
    CrabError
        If the cube is not valid or too short, a width is not positive, or no frequency lies in
        the band.
    """
    schema.validate(cube, "cube")
    width = np.asarray(width_w, dtype=float)
    if width.shape != (cube.sizes["detector"],) or not (width > 0).all():
        raise CrabError(
            f"width_w = {width.tolist()}: allowed are {cube.sizes['detector']} positive widths, "
            "one for each detector"
        )
    rate_hz, side = cube.attrs["sampling_rate_hz"], _SIDE[cube.attrs["power_convention"]]
    tod = cube["tod"].values.astype(np.float64)
    depth = side * (tod - np.median(tod, axis=1, keepdims=True)) / width[:, np.newaxis]
    clipped = np.clip(depth, -clip_sigma, clip_sigma)
    hit = depth > hit_sigma
    begins = hit.copy()
    begins[:, 1:] &= ~hit[:, :-1]

    by_block = blocks(depth)
    levels = [_levels(blocks(x), rate_hz, band_hz) for x in (depth, clipped)]
    powers = [blocks(clipped**k).mean(axis=2) for k in (1, 2, 3)]
    statistics = {
        "hit_rate": _mean_of(rate_hz * blocks(begins.astype(float)).mean(axis=2)),
        "psd_level": _mean_of(levels[0]),
        "psd_level_continuum": _mean_of(levels[1]),
        "skewness_continuum": lambda keep: side * _skewness(powers, keep),
        "tail_quantile": lambda keep: np.quantile(
            by_block[:, keep].reshape(len(depth), -1), 1 - _TAIL, axis=1
        ).mean(),
        "core_width": lambda keep: stats.median_abs_deviation(
            by_block[:, keep].reshape(len(depth), -1), axis=1, scale="normal"
        ).mean(),
    }
    return {name: Estimate(*map(float, jackknife(s))) for name, s in statistics.items()}


def rows(generated: Summary, monte_carlo: Summary) -> Summary:
    """Row 11 for one environment.

    Parameters
    ----------
    generated, monte_carlo : dict of str to Estimate
        `summaries` of one environment with one width.

    Returns
    -------
    dict of str to Estimate
        ``conditioning_<name>``: ``|generated / Monte Carlo - 1|`` and its error, from both. Never
        negative, so read it beside real-vs-real.
    """
    return {
        f"conditioning_{name}": _off(generated[name], monte_carlo[name]) for name in CONDITIONED
    }


def conditioning_rows(
    generated: Mapping[str, Summary],
    monte_carlo: Mapping[str, Summary],
    held_out: Collection[str] = (),
    real: Mapping[str, Summary] | None = None,
) -> dict[str, tuple[Summary, Summary]]:
    """Row 11 for every environment.

    Parameters
    ----------
    generated, monte_carlo : mapping of str to dict
        `summaries` by environment, or by stretch of a mission; the same names in both.
    held_out : collection of str
        Those that the generator was not trained on.
    real : mapping of str to dict, optional
        Of a second, independent Monte Carlo, for the real-vs-real column.

    Returns
    -------
    dict of str to (dict, dict)
        For each environment what `scorecard.table` takes: rows and real-vs-real. The row
        ``held_out_of_training`` is 1 for an environment that the generator had not seen, else 0.

    Raises
    ------
    CrabError
        If environments differ, or one that was held out is not among them.
    """
    for key, names in (("monte_carlo", monte_carlo), ("real", real or generated)):
        missing = sorted(set(generated) ^ set(names))
        if missing:
            raise CrabError(
                f"{key}: {missing[0]!r} is in only one of generated ({', '.join(generated)}) and "
                f"{key} ({', '.join(names)})"
            )
    for name in held_out:
        if name not in generated:
            raise CrabError(f"held_out = {name!r}: allowed are {', '.join(generated)}")
    result = {}
    for name, ours in generated.items():
        mark = {HELD_OUT: Estimate(float(name in held_out), np.nan)}
        beside = rows(real[name], monte_carlo[name]) if real else {}
        result[name] = (mark | rows(ours, monte_carlo[name]), beside)
    return result


def response(summaries_of: Mapping[str, Summary]) -> pd.DataFrame:
    """Summaries of all environments as one table.

    Parameters
    ----------
    summaries_of : mapping of str to dict
        `summaries` by environment.

    Returns
    -------
    pandas.DataFrame
        Columns environment, quantity, value, error.
    """
    return pd.DataFrame(
        [
            (environment, name, *estimate)
            for environment, summary in summaries_of.items()
            for name, estimate in summary.items()
        ],
        columns=["environment", "quantity", "value", "error"],
    )


def _mean_of(values: np.ndarray):
    """Statistic for the jackknife: mean over detectors and blocks of (n_detector, n_blocks)."""
    return lambda keep: values[:, keep].mean()


def _levels(by_block: np.ndarray, rate_hz: float, band_hz) -> np.ndarray:
    """Mean power spectral density in a band; shape (n_detector, n_blocks)."""
    segment = min(_LONGEST_SEGMENT, by_block.shape[2])
    frequency_hz, density = spectral.power_spectrum(by_block, rate_hz, segment)
    low, high = band_hz or (frequency_hz[1], frequency_hz[-1])
    inside = (frequency_hz >= low) & (frequency_hz <= high) & (frequency_hz > 0)
    if not inside.any():
        raise CrabError(
            f"band_hz = {band_hz}: allowed are bands that hold one of the frequencies "
            f"{frequency_hz[1]:.3g}, {2 * frequency_hz[1]:.3g}, ... {frequency_hz[-1]:.3g} Hz"
        )
    return density[..., inside].mean(axis=-1)


def _skewness(powers: list[np.ndarray], keep) -> float:
    first, second, third = (p[:, keep].mean(axis=1) for p in powers)
    variance = second - first**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((third - 3 * first * second + 2 * first**3) / variance**1.5).mean()


def _off(ours: Estimate, theirs: Estimate) -> Estimate:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.float64(ours.value) / theirs.value
        error = np.hypot(ours.error, ratio * theirs.error) / abs(theirs.value)
    return Estimate(abs(ratio - 1), error)
