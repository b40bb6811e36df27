"""What every metric shares: checked cubes, standardised samples, windows, jackknife errors."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from crab import schema
from crab.errors import CrabError

N_BLOCKS = 16
_SAME_ATTRS = ("mission", "environment", "sampling_rate_hz", "power_convention")


class Estimate(NamedTuple):
    """A value and its standard error (arrays of one shape, or numbers)."""

    value: float | np.ndarray
    error: float | np.ndarray


def comparable(**cubes: xr.Dataset) -> None:
    """Check that cubes are valid and may be compared with each other.

    Parameters
    ----------
    **cubes : xarray.Dataset
        TOD cubes by the name that an error shall call them.

    Raises
    ------
    CrabError
        If one is no valid cube or has realisations, or two differ in mission, environment,
        sampling rate, power convention or detectors (names and order).
    """
    (first, reference), *_ = cubes.items()
    for name, cube in cubes.items():
        schema.validate(cube, name)
        if cube["tod"].dims != ("detector", "time"):
            raise CrabError(
                f"{name}: tod has dimensions {cube['tod'].dims}: allowed are ('detector', 'time'); "
                "select one realisation"
            )
        for key in _SAME_ATTRS:
            if cube.attrs[key] != reference.attrs[key]:
                raise CrabError(
                    f"{name}: {key} = {cube.attrs[key]!r}: must be that of {first}, "
                    f"{reference.attrs[key]!r}"
                )
        given = cube["detector"].values.astype(str).tolist()
        wanted = reference["detector"].values.astype(str).tolist()
        if given != wanted:
            odd = next((d for d in given if d not in wanted), None)
            what = f"{odd!r} is not in {first}" if odd else "their number or order differs"
            raise CrabError(f"{name}: detector = {given}: must be those of {first} ({what})")


def standardise(*cubes: xr.Dataset, reference: xr.Dataset) -> list[np.ndarray]:
    """Samples in units of the reference's core width, detector by detector.

    Parameters
    ----------
    *cubes : xarray.Dataset
    reference : xarray.Dataset
        Gives the median and the width, 1.4826 times the median absolute deviation: the width of
        the bulk, which rare direct hits do not move.

    Returns
    -------
    list of ndarray, shape (n_detector, n_time)
        ``(tod - median) / width``, float64, one for each cube.

    Raises
    ------
    CrabError
        If a detector of the reference has no width (more than half of its samples are equal).
    """
    tod = reference["tod"].values.astype(np.float64)
    median = np.median(tod, axis=1, keepdims=True)
    # Watts are near 1e-16; squares of differences are safe in float64 only.
    width = stats.median_abs_deviation(tod, axis=1, scale="normal")[:, np.newaxis]
    if not (width > 0).all():
        name = str(reference["detector"].values[np.argmin(width)])
        raise CrabError(f"reference: tod of detector {name!r} has width 0 W: needs a width > 0")
    return [(cube["tod"].values.astype(np.float64) - median) / width for cube in cubes]


def blocks(samples: np.ndarray, n_blocks: int = N_BLOCKS) -> np.ndarray:
    """Cut samples into contiguous blocks of equal length.

    Parameters
    ----------
    samples : ndarray, shape (n_detector, n_time)
    n_blocks : int

    Returns
    -------
    ndarray, shape (n_detector, n_blocks, n_time // n_blocks)
        A remainder at the end is left out.

    Raises
    ------
    CrabError
        If there are fewer samples than blocks.
    """
    length = samples.shape[1] // n_blocks
    if length == 0:
        raise CrabError(f"time: {samples.shape[1]} samples: needs at least {n_blocks}")
    return samples[:, : n_blocks * length].reshape(samples.shape[0], n_blocks, length)


def windows(samples: np.ndarray, window_samples: int, start_sample: int = 0) -> np.ndarray:
    """Cut samples into windows that begin at absolute multiples of the window's length.

    Parameters
    ----------
    samples : ndarray, shape (n_detector, n_time)
    window_samples : int
    start_sample : int
        Absolute index of the first sample; see `start_sample`.

    Returns
    -------
    ndarray, shape (n_detector, n_windows, window_samples)
        May hold no window.
    """
    skip = -start_sample % window_samples
    rest = samples[:, skip:]
    n = rest.shape[1] // window_samples
    return rest[:, : n * window_samples].reshape(samples.shape[0], n, window_samples)


def start_sample(cube: xr.Dataset) -> int:
    """Absolute index of a cube's first sample, from its time axis."""
    return round(float(cube["time"].values[0]) * cube.attrs["sampling_rate_hz"])


def jackknife(statistic: Callable[[np.ndarray], np.ndarray], n_blocks: int = N_BLOCKS) -> Estimate:
    """Value and standard error by leaving out one time block after another.

    Parameters
    ----------
    statistic : callable
        Takes the indices of the blocks to use; returns a number or an array.
    n_blocks : int
        Number of blocks. They must be long against the correlation time.

    Returns
    -------
    Estimate
        The value from all blocks and ``sqrt((n-1)/n sum (theta_i - mean theta)^2)`` (Efron & Stein
        1981, doi:10.1214/aos/1176345462). Where one call leaves out block i of two independent
        samples, this is their joint error.
    """
    everything = np.arange(n_blocks)
    value = np.asarray(statistic(everything), dtype=float)
    left = [statistic(np.delete(everything, i)) for i in everything]
    return Estimate(value[()], jackknife_error(np.array(left, dtype=float)))


def jackknife_error(left_out: np.ndarray) -> np.ndarray:
    """Standard error from the values with one block left out, along the first axis."""
    return np.sqrt((len(left_out) - 1) * left_out.var(axis=0))
