"""TOD cubes of a generator, with the background apart from the detectors' noise."""

import numpy as np
import xarray as xr

from crab import schema
from crab.generators.marked import MarkedEvents

BACKGROUND = "tod_background"


class _Noiseless(MarkedEvents):
    """The same events without the detectors' noise."""

    def _noise(self, flux, block: int, seed: int) -> np.ndarray:
        return np.zeros((self.detectors.sizes["detector"], self.block_samples), np.float32)


def with_background(cube: xr.Dataset) -> xr.Dataset:
    """Monte Carlo cube with `BACKGROUND`, the sum of the parts that cosmic rays make.

    Parameters
    ----------
    cube : xarray.Dataset

    Returns
    -------
    xarray.Dataset
        Unchanged if the cube does not have the parts.
    """
    if not {"tod_wafer", "tod_direct"} <= set(cube):
        return cube
    total = (cube["tod_wafer"] + cube["tod_direct"]).assign_attrs(cube["tod"].attrs)
    return cube.assign({BACKGROUND: total})


def cube(
    generator, environment: str, like: xr.Dataset, seed: int, n_samples: int | None = None
) -> xr.Dataset:
    """TOD of a generator for the times of another cube.

    Parameters
    ----------
    generator : crab.generators.base.Generator
        Of the same detectors.
    environment : str
    like : xarray.Dataset
        Gives start, length, sampling rate and attributes.
    seed : int
    n_samples : int, optional
        Shorter than ``like``.

    Returns
    -------
    xarray.Dataset
        With ``tod``, and `BACKGROUND` if the generator makes events and noise apart: the same
        events.
    """
    rate_hz = float(like.attrs["sampling_rate_hz"])
    start = round(float(like["time"][0]) * rate_hz)
    stretch = start, like.sizes["time"] if n_samples is None else n_samples
    tod = generator.sample(environment, *stretch, seed)
    attrs = {**like.attrs, "environment": environment, "seed": seed}
    found = schema.make_cube({"tod": tod}, generator.detectors, rate_hz, attrs, start)
    if isinstance(generator, MarkedEvents):
        silent = _Noiseless(
            generator.model, generator.record, generator.environments, generator.detectors
        )
        found[BACKGROUND] = found["tod"].copy(data=silent.sample(environment, *stretch, seed))
    return found
