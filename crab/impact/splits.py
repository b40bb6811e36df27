"""Maps of stretches of time: spectra with errors from their scatter, and cross-spectra."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from crab import seeds
from crab.errors import CrabError
from crab.impact import maps, spectra, tensor
from crab.impact.spectra import Level
from crab.impact.tensor import Deglitching

ELL_MIN = 4


def block_spectra(
    cube: xr.Dataset,
    telescope: str,
    nside: int,
    deglitching: Deglitching,
    parts: tuple[str, ...] = ("tod",),
    n_blocks: int = 10,
) -> xr.Dataset:
    """Spectra of maps of equal stretches of time.

    Parameters
    ----------
    cube : xarray.Dataset
        TOD cube of one channel of the database.
    telescope : {"LFT", "MFT", "HFT"}
    nside : int
    deglitching : Deglitching
        Found stretch by stretch.
    parts : tuple of str
    n_blocks : int

    Returns
    -------
    xarray.Dataset
        On dimensions ``block`` and ``ell`` (0 to twice nside): ``tt`` of maps of single detectors,
        ``ee`` and ``bb`` of pair differences, in uK^2: what the same noise is in an even map of
        the full sky after the whole mission.

    Raises
    ------
    CrabError
        If a block has fewer than 2 samples.
    """
    rate_hz = float(cube.attrs["sampling_rate_hz"])
    n = cube.sizes["time"] // n_blocks
    if n < 2:
        raise CrabError(f"n_blocks = {n_blocks}: {cube.sizes['time']} samples are too few for them")
    # In memory once, not once for flags and once for maps.
    cube = cube[list(dict.fromkeys(("tod", *parts)))].load()
    chunks = tensor.observations(
        cube, telescope, deglitching, parts, n_samples=n * n_blocks, chunk_s=n / rate_hz
    )
    found = []
    for chunk in chunks:
        one = {}
        for make, names in ((maps.binned_map, ("tt",)), (maps.pair_map, ("ee", "bb"))):
            value = make(nside, [chunk])
            hits = value["hits"].values
            spectrum = spectra.pseudo_spectra(value["sky"].values, hits, 2 * nside)
            scale = n / rate_hz / maps.mission_time_s() / spectra.effective_sky_fraction(hits)
            one |= {name: scale * spectrum[name] for name in names}
        found.append(xr.Dataset(one))
    return xr.concat(found, "block")


def levels(spectra_of_blocks: xr.DataArray, ell_min: int = ELL_MIN) -> np.ndarray:
    """Mean over the modes, for each block: shape (..., n_block) for (..., n_block, n_ell)."""
    kept = spectra_of_blocks.sel(ell=slice(ell_min, None))
    return np.average(kept.values, axis=-1, weights=2 * kept["ell"].values + 1)


def mean(blocks: np.ndarray) -> Level:
    """Mean and standard error of independent blocks, last axis."""
    blocks = np.asarray(blocks, float)
    return Level(blocks.mean(axis=-1), blocks.std(axis=-1, ddof=1) / np.sqrt(blocks.shape[-1]))


def halves(
    cube: xr.Dataset,
    telescope: str,
    nside: int,
    deglitching: Deglitching,
    parts: tuple[str, ...] = ("tod",),
    piece_s: float = 1200.0,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Maps of pair differences of two halves of the time, in turns.

    Parameters
    ----------
    cube, telescope, nside, deglitching, parts
        As in `block_spectra`.
    piece_s : float
        Length of a turn: one spin of the satellite by default.

    Returns
    -------
    tuple of two xarray.Dataset
        As `maps.pair_map`.
    """
    chunks = tensor.observations(cube, telescope, deglitching, parts, chunk_s=piece_s)
    if len(chunks) < 2:
        raise CrabError(f"piece_s = {piece_s:g}: the cube is shorter than two of them")
    return maps.pair_map(nside, chunks[::2]), maps.pair_map(nside, chunks[1::2])


class Agreement(NamedTuple):
    """Whether two sets of blocks look like one.

    Attributes
    ----------
    chi2 : float
        Sum over numbers of (difference/error)^2, errors from the scatter of the blocks.
    n : int
        How many numbers.
    p : float
        Share of exchanges of the two, block by block, whose chi2 is as large: exact whatever the
        distribution, and whatever the correlation between the numbers.
    """

    chi2: float
    n: int
    p: float


def agreement(
    ours: np.ndarray, theirs: np.ndarray, seed: int, n_exchanges: int = 2000
) -> Agreement:
    """Compare numbers of two cubes that were scanned alike.

    Parameters
    ----------
    ours, theirs : ndarray, shape (n_block, n)
        Block b of both looks at the same sky.
    seed : int
    n_exchanges : int

    Returns
    -------
    Agreement
    """
    ours, theirs = (np.asarray(x, float) for x in (ours, theirs))
    rng = seeds.rng(seed, "impact", "exchanges")
    swap = rng.random((n_exchanges, len(ours), 1)) < 0.5
    swap = np.concatenate([np.zeros_like(swap[:1]), swap])  # the first is as it is
    one, two = np.where(swap, theirs, ours), np.where(swap, ours, theirs)
    variance = (one.var(axis=1, ddof=1) + two.var(axis=1, ddof=1)) / len(ours)
    chi2 = np.sum((one.mean(axis=1) - two.mean(axis=1)) ** 2 / variance, axis=1)
    # Counted with itself, so never 0.
    return Agreement(float(chi2[0]), ours.shape[1], float(np.mean(chi2 >= chi2[0] * (1 - 1e-9))))
