"""Row 12 of the scorecard: what maps, spectra and r say of a generated background."""

import numpy as np
import xarray as xr

from crab.errors import CrabError
from crab.impact import spectra, tensor
from crab.metrics.windows import Estimate

MUST, GOAL = 0.10, 0.02
_ELL_MIN = 4


def map_rows(
    generated: xr.Dataset,
    monte_carlo: xr.Dataset,
    real_vs_real: tuple[xr.Dataset, xr.Dataset] | None,
    telescope: str,
    *,
    nside: int = 16,
    n_sigma: float = 5.0,
) -> dict[str, tuple[Estimate, Estimate]]:
    """How far a generated background is from the Monte Carlo, in maps.

    Parameters
    ----------
    generated, monte_carlo : xarray.Dataset
        TOD cubes of the same detectors and sampling rate; they need not be of one length.
    real_vs_real : tuple of two xarray.Dataset, or None
        Two independent Monte Carlo cubes, to be treated alike.
    telescope : {"LFT", "MFT", "HFT"}
    nside : int
        Of the maps.
    n_sigma : float
        Of the deglitching, which each cube undergoes by itself.

    Returns
    -------
    dict of str to tuple of two Estimate
        For each metric ``|ratio - 1|`` (of the worst channel) and the same real-vs-real (NaN if
        None): ``map_noise_tt`` (mean spectrum of the maps' intensity), ``map_noise_bb`` (N_ell of
        polarisation of the cube's detectors, from pair differences), ``delta_r`` (bias of r from
        an auto-spectrum, all channels, whole focal plane); each also
        ``_deglitched``. Limits: `MUST` and `GOAL`.

    Raises
    ------
    CrabError
        If the cubes differ in detectors or sampling rate.
    """
    found = _compared(generated, monte_carlo, telescope, nside, n_sigma)
    unknown = dict.fromkeys(found, Estimate(np.nan, np.nan))
    if real_vs_real is not None:
        unknown = _compared(*real_vs_real, telescope, nside, n_sigma)
    return {name: (found[name], unknown[name]) for name in found}


def _compared(ours, theirs, telescope, nside, n_sigma) -> dict[str, Estimate]:
    for what, one, two in (
        ("detectors", list(ours["detector"].values), list(theirs["detector"].values)),
        ("sampling_rate_hz", ours.attrs["sampling_rate_hz"], theirs.attrs["sampling_rate_hz"]),
    ):
        if one != two:
            raise CrabError(f"{what} = {one}: the cube to compare with has {two}")
    rows = {}
    for suffix, sigma in (("", 0.0), ("_deglitched", n_sigma)):
        a, b = (_levels(cube, telescope, nside, sigma) for cube in (ours, theirs))
        for name in a:
            rows[name + suffix] = _worst(a[name], b[name])
    return rows


def _levels(cube, telescope, nside, n_sigma) -> dict[str, Estimate]:
    deglitching = tensor.Deglitching(n_sigma)
    table = tensor.analyse(cube, telescope, deglitching).set_index("channel")
    names = list(dict.fromkeys(cube["channel"].values))
    intensity = [intensity_level(cube, telescope, name, nside, n_sigma) for name in names]
    alone = table.loc[tensor.UNCORRELATED]
    return {
        "map_noise_tt": Estimate(*np.array(intensity).T),
        "map_noise_bb": Estimate(
            table.loc[names, "cube_n_ell"].to_numpy(),
            table.loc[names, "cube_n_ell_error"].to_numpy(),
        ),
        "delta_r": Estimate(np.array([alone["auto_bias"]]), np.array([alone["auto_bias_error"]])),
    }


def intensity_level(
    cube: xr.Dataset, telescope: str, channel: str, nside: int, n_sigma: float
) -> spectra.Level:
    """Mean spectrum of the intensity map of one channel, up to twice nside.

    Returns
    -------
    spectra.Level
        In uK^2. The error is that of a Gaussian map.
    """
    index = np.flatnonzero(cube["channel"].values == channel)
    mine = cube.isel(detector=index)
    found = tensor.channel_map(mine, telescope, nside, tensor.Deglitching(n_sigma))
    spectrum = spectra.pseudo_spectra(found["sky"].values, found["hits"].values, 2 * nside)["tt"]
    fraction = spectra.effective_sky_fraction(found["hits"].values)
    return spectra.level(spectrum, _ELL_MIN, fraction)


def _worst(ours: Estimate, theirs: Estimate) -> Estimate:
    ratio = ours.value / theirs.value
    error = np.abs(ratio) * np.hypot(ours.error / ours.value, theirs.error / theirs.value)
    i = int(np.argmax(np.abs(ratio - 1)))
    return Estimate(float(abs(ratio[i] - 1)), float(error[i]))
