"""Angular power spectra of maps of a part of the sky, and what they would be for a whole mission.

Spectra are healpy's, of the map times its weight, divided by the mean of the squared weight (the
f_sky correction of a pseudo-spectrum). It is exact for white noise and for spectra that change
little over the width of the mask's own spectrum; E and B of a sky signal mix through the mask,
those of noise, where both are equal, do not notice.
"""

from typing import NamedTuple

import healpy as hp
import numpy as np
import xarray as xr

from crab.errors import CrabError

_SIX = ("tt", "ee", "bb", "te", "eb", "tb")  # order of healpy.anafast


class Level(NamedTuple):
    """A flat noise spectrum and its standard error, uK^2."""

    value: float
    error: float


def white_level_uk2(net_ukrts: float, n: float, duration_s: float) -> float:
    """White noise of a polarisation map of the full sky.

    Parameters
    ----------
    net_ukrts : float
        Of one detector (or of the half-difference of one pair), uK sqrt(s).
    n : float
        Number of detectors (or pairs).
    duration_s : float

    Returns
    -------
    float
        N_ell of EE and BB in uK^2: ``4 pi 2 NET^2/(n t)`` (Tominaga et al. 2021,
        arXiv:2101.08410); that of TT is half of it.
    """
    return 4 * np.pi * 2 * net_ukrts**2 / (n * duration_s)


def effective_sky_fraction(hits: np.ndarray) -> float:
    """``<w>^2/<w^2>`` of hits as weights: 1 for an even coverage of the full sky.

    Parameters
    ----------
    hits : array-like, shape (n_pix,)

    Returns
    -------
    float
    """
    hits = np.asarray(hits, float)
    return float(hits.mean() ** 2 / np.mean(hits**2))


def pseudo_spectra(
    maps: np.ndarray,
    weight: np.ndarray,
    ell_max: int,
    other: np.ndarray | None = None,
    other_weight: np.ndarray | None = None,
) -> xr.Dataset:
    """Spectra of a map with the correction for its coverage.

    Parameters
    ----------
    maps : ndarray, shape (3, n_pix) or (2, n_pix)
        I, Q, U, or Q, U, in uK; pixels without weight are ignored, whatever they hold, and the
        mean intensity is taken out.
    weight : ndarray, shape (n_pix,)
        Hits, for noise: then each pixel counts by its inverse variance. 0 for unseen pixels.
    ell_max : int
    other, other_weight : ndarray, optional
        Second map, for cross-spectra (a split of the data).

    Returns
    -------
    xarray.Dataset
        On dimension ``ell``: ``tt``, ``ee``, ``bb``, ``te``, ``eb``, ``tb`` in uK^2; for Q, U alone
        those with T are left out.

    Raises
    ------
    CrabError
        If no pixel has a weight.
    """
    ours = _weighted(maps, weight)
    theirs, second = None, weight
    if other is not None:
        second = weight if other_weight is None else other_weight
        theirs = _weighted(other, second)
    norm = np.mean(np.asarray(weight, float) * np.asarray(second, float))
    if not norm > 0:
        raise CrabError("weight: no pixel has one: the maps (or both of them) are empty")
    values = hp.anafast(ours, theirs, lmax=ell_max, iter=0, pol=True)
    names = _SIX if len(maps) == 3 else _SIX[1:3] + _SIX[4:5]
    found = dict(zip(_SIX, values, strict=True))
    return xr.Dataset(
        {n: ("ell", found[n] / norm, {"units": "uK2"}) for n in names},
        coords={"ell": np.arange(ell_max + 1)},
    )


def _weighted(maps: np.ndarray, weight: np.ndarray) -> np.ndarray:
    weight = np.asarray(weight, float)
    seen = weight > 0
    out = np.zeros((3, weight.size))
    for row, values in zip(out[3 - len(maps) :], maps, strict=True):
        row[seen] = values[seen] * weight[seen]
    if len(maps) == 3 and seen.any():
        # The mean intensity is no signal, and a mask would spread it over the multipoles.
        out[0] -= weight * out[0].sum() / weight.sum()
    return out


def level(spectrum: xr.DataArray, ell_min: int, sky_fraction: float) -> Level:
    """Flat level of a noise spectrum: the mean over its modes.

    Parameters
    ----------
    spectrum : xarray.DataArray
        On dimension ``ell``.
    ell_min : int
    sky_fraction : float
        Share of the modes that is independent: `effective_sky_fraction` of the hits (the variance
        of a map times its hits goes as the hits).

    Returns
    -------
    Level
        The error is that of Gaussian noise, ``N sqrt(2/(f_sky sum(2l+1)))``.
    """
    kept = spectrum.sel(ell=slice(ell_min, None))
    modes = 2 * kept["ell"].values + 1
    value = float(np.average(kept.values, weights=modes))
    return Level(value, abs(value) * float(np.sqrt(2 / (sky_fraction * modes.sum()))))


def mission_level(found: Level, hits: np.ndarray, observed_s: float, mission_s: float) -> Level:
    """Level that an even map of the full sky reaches after a whole mission.

    Parameters
    ----------
    found : Level
        Of a map weighted by its hits.
    hits : ndarray, shape (n_pix,)
    observed_s : float
        Time in the map.
    mission_s : float
        Time of observation of the mission.

    Returns
    -------
    Level
        Times ``observed_s/mission_s`` and divided by the effective sky fraction: the same time on
        more sky is less time on each pixel.
    """
    factor = observed_s / mission_s / effective_sky_fraction(hits)
    return Level(found.value * factor, found.error * factor)


def binned(spectrum: xr.DataArray, edges: np.ndarray) -> xr.DataArray:
    """Mean over the modes of each band.

    Parameters
    ----------
    spectrum : xarray.DataArray
        On dimension ``ell``.
    edges : array-like of int
        Band i holds ``edges[i] <= ell < edges[i+1]``.

    Returns
    -------
    xarray.DataArray
        On dimension ``ell``: the mean multipole of each band.
    """
    ell = spectrum["ell"].values
    band = np.digitize(ell, edges) - 1
    n = len(edges) - 1
    keep = (band >= 0) & (band < n)
    modes = np.bincount(band[keep], 2 * ell[keep] + 1, n)
    mean = np.bincount(band[keep], (2 * ell[keep] + 1) * spectrum.values[keep], n) / modes
    centre = np.bincount(band[keep], (2 * ell[keep] + 1) * ell[keep], n) / modes
    return xr.DataArray(mean, {"ell": centre}, "ell", attrs=spectrum.attrs)


def cross_level(
    first: np.ndarray,
    second: np.ndarray,
    hits: tuple[np.ndarray, np.ndarray],
    ell_max: int,
    ell_min: int = 4,
    name: str = "bb",
) -> tuple[Level, float]:
    """Flat level that two maps of independent stretches of time have in common.

    Parameters
    ----------
    first, second : ndarray, shape (n_stokes, n_pix)
        Maps in uK, NaN where unseen.
    hits : tuple of two ndarray, shape (n_pix,)
        Their weights.
    ell_max, ell_min : int
    name : str
        Which spectrum.

    Returns
    -------
    level : Level
        Mean of the cross-spectrum over its modes. The error is that of Gaussian noise that the
        maps do not share, from their own levels and coverage.
    own : float
        Geometric mean of the two maps' own levels.

    Raises
    ------
    CrabError
        If no pixel is in both maps.
    """
    a, b = (np.asarray(h, float) for h in hits)
    cross = pseudo_spectra(first, a, ell_max, second, b)[name].sel(ell=slice(ell_min, None))
    modes = 2 * cross["ell"].values + 1
    own = np.sqrt(
        np.prod(
            [
                level(pseudo_spectra(sky, h, ell_max)[name], ell_min, 1.0).value
                for sky, h in ((first, a), (second, b))
            ]
        )
    )
    # Noise has variance 1/hits: its cross-spectrum, weighted by hits, sees this share of the sky.
    share = a.mean() * b.mean() * np.mean(a * b) / (np.mean(a**2) * np.mean(b**2))
    error = own / np.sqrt(share * modes.sum())
    return Level(float(np.average(cross.values, weights=modes)), float(error)), float(own)
