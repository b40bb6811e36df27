"""Bias and uncertainty of the tensor-to-scalar ratio from a B-mode spectrum.

The likelihood is that of the LiteBIRD papers (Hamimeche & Lewis 2008, arXiv:0801.0554; LiteBIRD
collaboration 2022, arXiv:2202.02773): an isotropic Gaussian sky seen over a share f_sky of its
modes. The model is ``r C_tensor + C_lensing + N``. What is in the data and not in the model moves
r: that is the bias. Foregrounds and their cleaning are not in here.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from crab.errors import CrabError
from crab.impact import theory

ELL_MIN, ELL_MAX = 2, 200
# arXiv:2506.22217 (one systematic effect) and arXiv:2202.02773 (all of the error budget).
REQUIREMENT_BIAS, REQUIREMENT_TOTAL = 6.5e-6, 1e-3
_BRACKET = 0.5


class Tensor(NamedTuple):
    """Bias of r and its uncertainty.

    Attributes
    ----------
    bias : float
        r at the peak of the likelihood where the sky has r = 0.
    sigma : float
        Width of the likelihood from its curvature at r = 0, noise known and no bias.
    """

    bias: float
    sigma: float


class Model(NamedTuple):
    """What the likelihood needs, on ``ELL_MIN`` to ``ELL_MAX``: uK^2, shape (n_ell,)."""

    ell: np.ndarray
    tensor: np.ndarray
    lensing: np.ndarray
    noise: np.ndarray


def model(noise_uk2=0.0, ell_min: int = ELL_MIN, ell_max: int = ELL_MAX) -> Model:
    """Model of the sky with a known noise.

    Parameters
    ----------
    noise_uk2 : float or array-like, shape (n_ell,)
        Of the map with its beam taken out.
    ell_min, ell_max : int

    Returns
    -------
    Model

    Raises
    ------
    CrabError
        For a negative or undefined noise or an empty range.
    """
    if not 2 <= ell_min <= ell_max:
        raise CrabError(f"ell_min, ell_max = {ell_min}, {ell_max}: allowed is 2 <= min <= max")
    sky = theory.spectra(ell_max).sel(ell=slice(ell_min, None))
    noise = np.broadcast_to(np.asarray(noise_uk2, float), sky["ell"].shape)
    if not (noise >= 0).all():
        raise CrabError(f"noise_uk2 = {np.min(noise):g}: allowed are values >= 0")
    return Model(
        sky["ell"].values, sky["tensor_bb"].values, sky["scalar_bb"].values, np.array(noise)
    )


def log_likelihood(r: float, measured: np.ndarray, sky: Model, sky_fraction: float) -> float:
    """``ln L(r)`` up to a constant.

    Parameters
    ----------
    r : float
    measured : ndarray, shape (n_ell,)
        Measured BB spectrum, noise included, uK^2.
    sky : Model
    sky_fraction : float

    Returns
    -------
    float
        ``-1/2 sum (2l+1) f_sky (C^/C + ln C - ln C^ - 1)``.
    """
    expected = r * sky.tensor + sky.lensing + sky.noise
    if not (expected > 0).all():
        return -np.inf
    ratio = measured / expected
    return float(-0.5 * np.sum((2 * sky.ell + 1) * sky_fraction * (ratio - np.log(ratio) - 1)))


def auto_spectrum(bias_uk2, sky: Model, sky_fraction: float) -> Tensor:
    """r from an auto-spectrum in which a noise is not in the model.

    Parameters
    ----------
    bias_uk2 : float or array-like, shape (n_ell,)
        Spectrum of what is not modelled, beam taken out.
    sky : Model
    sky_fraction : float

    Returns
    -------
    Tensor
        The bias is exact, not linearised: the root of the derivative of the likelihood. It is NaN
        where an estimate below zero takes more off the spectrum than there is in it: no r has
        such data, and the stretch that the level is from is too short.

    Raises
    ------
    CrabError
        If the likelihood has no peak below r = 1e6 (the bias is no number).
    """
    modes = (2 * sky.ell + 1) * sky_fraction
    measured = sky.lensing + sky.noise + np.asarray(bias_uk2, float)

    def slope(r):
        expected = r * sky.tensor + sky.lensing + sky.noise
        return float(np.sum(modes * sky.tensor / expected * (measured / expected - 1)))

    sigma = np.sum(modes / 2 * (sky.tensor / (sky.lensing + sky.noise)) ** 2) ** -0.5
    if not (measured > 0).all():
        return Tensor(np.nan, sigma)
    # Below `low` the model is negative somewhere.
    low = -float(np.min((sky.lensing + sky.noise) / sky.tensor)) * (1 - 1e-9)
    if slope(0.0) < 0:
        return Tensor(brentq(slope, low, 0.0, xtol=1e-15), sigma)
    high = _BRACKET
    while slope(high) > 0:
        high *= 2
        if not high < 1e6:
            raise CrabError(f"bias_uk2 = {np.mean(bias_uk2):g}: the likelihood of r has no peak")
    return Tensor(brentq(slope, 0.0, high, xtol=1e-15), sigma)


def cross_spectrum(common_uk2, split_uk2, sky: Model, sky_fraction: float) -> Tensor:
    """r from the cross-spectrum of two splits of the data.

    Parameters
    ----------
    common_uk2 : float or array-like, shape (n_ell,)
        Noise that both splits share and the model does not know: 0 for halves of the time.
    split_uk2 : float or array-like, shape (n_ell,)
        Full noise of each split, instrument and background, which adds to the variance.
    sky : Model
        Its own noise is not used: noise that differs does not enter a cross-spectrum.
    sky_fraction : float

    Returns
    -------
    Tensor
        Weighted least squares with the Gaussian variance
        ``((C + N_x)^2 + (C + N)^2)/((2l+1) f_sky)`` of a cross-spectrum at r = 0.
    """
    common = np.broadcast_to(np.asarray(common_uk2, float), sky.ell.shape)
    own = sky.lensing + np.asarray(split_uk2, float)
    variance = ((sky.lensing + common) ** 2 + own**2) / ((2 * sky.ell + 1) * sky_fraction)
    fisher = np.sum(sky.tensor**2 / variance)
    return Tensor(float(np.sum(sky.tensor * common / variance) / fisher), float(fisher**-0.5))
