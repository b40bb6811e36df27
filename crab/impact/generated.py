"""TOD cubes of a generator, with the background apart from the detectors' noise."""

from collections.abc import Mapping

import xarray as xr

from crab import schema

BACKGROUND = "tod_background"


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


def cubes(generator, like: Mapping[str, xr.Dataset], seed: int) -> dict[str, xr.Dataset]:
    """TODs of a generator for the environments and times of other cubes.

    Parameters
    ----------
    generator : crab.generators.base.Generator
        Of the same detectors.
    like : mapping of str to xarray.Dataset
        By environment: gives start, length, sampling rate and attributes.
    seed : int

    Returns
    -------
    dict of str to xarray.Dataset
        With ``tod``, and `BACKGROUND` if the generator has a ``background``: the same events.
    """
    found = {}
    for environment, cube in like.items():
        rate_hz = float(cube.attrs["sampling_rate_hz"])
        start, n_samples = round(float(cube["time"][0]) * rate_hz), cube.sizes["time"]
        tod = generator.sample(environment, start, n_samples, seed)
        attrs = {**cube.attrs, "environment": environment, "seed": seed}
        made = schema.make_cube({"tod": tod}, generator.detectors, rate_hz, attrs, start)
        if hasattr(generator, "background"):
            alone = generator.background(environment, start, n_samples, seed)
            made[BACKGROUND] = made["tod"].copy(data=alone)
        found[environment] = made
    return found
