"""Spectra of the CMB sky: lensed scalars, and tensors for r = 1, computed once with CAMB."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from crab.errors import CrabError

_FILE = Path(__file__).with_name("cmb_spectra.csv")
FIELDS = ("tt", "ee", "bb", "te")


@lru_cache(maxsize=1)
def _table() -> pd.DataFrame:
    return pd.read_csv(_FILE, comment="#", index_col="ell")


def spectra(ell_max: int) -> xr.Dataset:
    """Theory spectra from multipole 0 on; the monopole and the dipole are 0.

    Parameters
    ----------
    ell_max : int

    Returns
    -------
    xarray.Dataset
        On dimension ``ell`` (0 to ``ell_max``): ``scalar_tt``, ``scalar_ee``, ``scalar_bb`` (of
        lensing), ``scalar_te`` and ``tensor_*`` (r = 1, n_t = 0, pivot 0.05/Mpc), C_ell in uK^2.
        Planck 2018 cosmology; ``crab/impact/cmb_spectra.yaml`` has the input.

    Raises
    ------
    CrabError
        If the table ends before ``ell_max``.
    """
    table = _table()
    if not 2 <= ell_max <= table.index[-1]:
        raise CrabError(
            f"ell_max = {ell_max}: {_FILE.name} has multipoles from 2 to {table.index[-1]}"
        )
    ell = np.arange(ell_max + 1)
    whole = table.reindex(ell, fill_value=0.0)
    return xr.Dataset(
        {name: ("ell", whole[name].to_numpy(float), {"units": "uK2"}) for name in whole},
        coords={"ell": ell},
    )


def beam(ell: np.ndarray, fwhm_arcmin: float) -> np.ndarray:
    """Gaussian beam's window on a spectrum, ``exp(-l(l+1) sigma^2)``.

    Parameters
    ----------
    ell : array-like
    fwhm_arcmin : float

    Returns
    -------
    ndarray
    """
    sigma_rad = np.deg2rad(fwhm_arcmin / 60) / np.sqrt(8 * np.log(2))
    ell = np.asarray(ell, float)
    return np.exp(-ell * (ell + 1) * sigma_rad**2)
