"""Time-ordered signals to map, as *sources*: ``source(start_sample, n_samples) -> (n_det, n)``.

In K_CMB. One small function stands between a map-maker and whoever makes the TOD: a cube, a
mission on dask, a generator or noise.
"""

from collections.abc import Callable

import numpy as np
import xarray as xr
from litebird_sim.noise import add_one_over_f_noise

from crab import seeds
from crab.errors import CrabError
from crab.physics import readout

Source = Callable[[int, int], np.ndarray]
_NOISE_BLOCK = 65_536


def cube_source(cube: xr.Dataset, variables: tuple[str, ...] = ("tod",)) -> Source:
    """TOD of a cube in K_CMB, each chunk less its mean.

    Parameters
    ----------
    cube : xarray.Dataset
        Valid TOD cube, in memory or on dask, of either power convention.
    variables : tuple of str
        ``tod``, or the parts to add up.

    Returns
    -------
    callable
        A source; samples count from the start of the cube.

    Raises
    ------
    CrabError
        For a part that the cube does not have.
    """
    missing = [name for name in variables if name not in cube]
    if missing:
        raise CrabError(f"variables: {missing[0]!r} is not in the cube, which has {list(cube)}")
    keep = cube[list(variables)]

    def source(start: int, n: int) -> np.ndarray:
        piece = keep.isel(time=slice(start, start + n)).load()
        if piece.attrs["power_convention"] == "joule":
            piece = readout.to_optical_equivalent(piece)
        total = sum(readout.to_kelvin_cmb(piece, name).values for name in variables)
        # The operating point is no signal; nor is anything slower than a chunk.
        return total - total.mean(axis=1, keepdims=True)

    return source


def white_source(net_ukrts: np.ndarray, sampling_rate_hz: float, seed: int) -> Source:
    """White noise, independent in each detector; any stretch can be asked for alone.

    Parameters
    ----------
    net_ukrts : ndarray, shape (n_det,)
    sampling_rate_hz : float
    seed : int

    Returns
    -------
    callable
        A source.
    """
    sigma_k = np.asarray(net_ukrts, float)[:, None] * 1e-6 * np.sqrt(sampling_rate_hz)

    def block(number: int) -> np.ndarray:
        rng = seeds.rng(seed, "impact", "white", block=number)
        return rng.standard_normal((len(sigma_k), _NOISE_BLOCK), dtype=np.float32)

    def source(start: int, n: int) -> np.ndarray:
        first = start // _NOISE_BLOCK
        last = (start + n - 1) // _NOISE_BLOCK
        whole = np.concatenate([block(k) for k in range(first, last + 1)], axis=1)
        offset = start - first * _NOISE_BLOCK
        return (sigma_k * whole[:, offset : offset + n]).astype(np.float32)

    return source


def one_over_f_source(
    net_ukrts: np.ndarray,
    sampling_rate_hz: float,
    knee_mhz: float,
    n_samples: int,
    seed: int,
) -> Source:
    """White and 1/f noise by litebird_sim, as one stationary stretch in memory.

    Parameters
    ----------
    net_ukrts : ndarray, shape (n_det,)
    sampling_rate_hz : float
    knee_mhz : float
        Where both are equal; the database has 20 mHz and a slope of 1.
    n_samples : int
        Length of the stretch.
    seed : int

    Returns
    -------
    callable
        A source for samples within the stretch.
    """
    tod = np.zeros((len(net_ukrts), n_samples), np.float32)
    for number, (row, net) in enumerate(zip(tod, net_ukrts, strict=True)):
        add_one_over_f_noise(
            row,
            knee_mhz,
            fmin_hz=1e-5,
            alpha=1.0,
            sigma=1e-6 * net * np.sqrt(sampling_rate_hz),
            sampling_rate_hz=sampling_rate_hz,
            random=seeds.rng(seed, "impact", "one_over_f", number),
        )
    return lambda start, n: tod[:, start : start + n].copy()
