"""A first look at many missions and environments: a scorecard in seconds on one core."""

import numpy as np
import xarray as xr

from crab.errors import CrabError
from crab.metrics.windows import N_BLOCKS

# Shortest and longest segments and windows, and the classifier's window.
_WINDOWS = (128, 1024)
_CLASSIFIER = 256


def light(*cubes: xr.Dataset) -> dict:
    """Settings of `scorecard.compare` for many missions and environments, on one core.

    One classifier on short windows, and segments that even the shortest cube has enough of. What
    is published has that function's own settings.

    Parameters
    ----------
    *cubes : xarray.Dataset
        All that will be compared, with real-vs-real.

    Returns
    -------
    dict
        Keyword arguments of `scorecard.compare`; ``seed`` and ``hwp_rpm`` are the caller's.

    Raises
    ------
    CrabError
        If a cube is too short for any test.
    """
    shortest = min(cube.sizes["time"] for cube in cubes)
    # A power of two that leaves a segment, and a window, in each time block.
    segment = 2 ** int(np.log2(max(1, shortest // N_BLOCKS)))
    if segment < _WINDOWS[0]:
        raise CrabError(
            f"time: {shortest} samples: the light settings need at least {N_BLOCKS * _WINDOWS[0]}"
        )
    segment = min(segment, _WINDOWS[1])
    return {
        "window_samples": segment,
        "classifier_windows": (min(segment, _CLASSIFIER),),
        "classifiers": ("boosting",),
        "segment_samples": segment,
        "n_bins": 12,
    }


def thinned(*cubes: xr.Dataset, max_values: int = 1_000_000) -> list[xr.Dataset]:
    """The same first part of cubes that begin together, for a first look.

    Environments change with time: a solar event in one cube and not in the other is no fault of a
    generator.

    Parameters
    ----------
    *cubes : xarray.Dataset
    max_values : int
        Samples times detectors in each, at most: what the time of `scorecard.compare` goes
        with.

    Returns
    -------
    list of xarray.Dataset
        All as long as the shortest, or shorter.
    """
    n = min(*(c.sizes["time"] for c in cubes), max_values // cubes[0].sizes["detector"])
    return [cube.isel(time=slice(0, max(1, n))) for cube in cubes]
