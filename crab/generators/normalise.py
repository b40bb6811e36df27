"""From W to numbers of order one and back: the amplitude is never lost.

For each detector, with its own location a and scale b from the training cube,

    u = sign * (tod - a) / b,        x = s * asinh(u / s)

The sign turns hits upwards: the reference network ends in a LeakyReLU, which passes positive
values and squeezes negative ones. The stretch is linear below a few s and logarithmic above, so
that a direct hit of a thousand sigma does not swamp the rest; s = 0 leaves it out.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import xarray as xr

from crab.errors import CrabError

HIT_SIGN = {"joule": -1, "optical_equivalent": 1}
_KEYS = ("detectors", "location_w", "scale_w", "sign", "stretch_sigma", "floor", "ceiling")
_FLOOR_QUANTILE = 1e-3


@dataclass(frozen=True)
class Normalisation:
    """Invertible map between W and network units.

    Attributes
    ----------
    detectors : tuple of str, length n_det
    location_w, scale_w : ndarray, shape (n_det,)
        Median and half of the central 68.27 % interval of the training cube, in W. Both ignore
        rare direct hits.
    sign : int
        +1 or -1; hits are positive in network units.
    stretch_sigma : float
        s above, in units of the scale; 0 for no stretch.
    floor, ceiling : float
        Where the training cube begins and ends in network units: its 0.1 % quantile, below which
        only the anti-alias filter's ringing beside the largest hits reaches, and its maximum.
    """

    detectors: tuple[str, ...]
    location_w: np.ndarray
    scale_w: np.ndarray
    sign: int
    stretch_sigma: float
    floor: float
    ceiling: float

    @classmethod
    def fit(cls, cube: xr.Dataset, stretch_sigma: float) -> Self:
        """Fit to a training cube.

        Parameters
        ----------
        cube : xarray.Dataset
            Valid TOD cube with dimensions ``(detector, time)``.
        stretch_sigma : float
            >= 0.

        Raises
        ------
        CrabError
            If a detector's TOD is constant.
        """
        tod = cube["tod"].values.astype(np.float64)
        lower, location, upper = np.quantile(tod, [0.158655, 0.5, 0.841345], axis=1)
        scale = (upper - lower) / 2
        detectors = tuple(cube["detector"].values.astype(str).tolist())
        for name, value in zip(detectors, scale, strict=True):
            if not value > 0:
                raise CrabError(f"tod of detector {name!r} is constant: nothing to normalise")
        sign = HIT_SIGN[cube.attrs["power_convention"]]
        unbounded = cls(detectors, location, scale, sign, float(stretch_sigma), -np.inf, np.inf)
        values = unbounded.forward(tod)
        floor, ceiling = float(np.quantile(values, _FLOOR_QUANTILE)), float(values.max())
        return cls(detectors, location, scale, sign, float(stretch_sigma), floor, ceiling)

    def forward(self, tod_w: np.ndarray) -> np.ndarray:
        """W to network units.

        Parameters
        ----------
        tod_w : ndarray, shape (n_det, n_samples)
            Power in W.

        Returns
        -------
        ndarray of float32, shape (n_det, n_samples)
        """
        u = np.asarray(tod_w, dtype=np.float64) - self.location_w[:, None]
        u *= self.sign / self.scale_w[:, None]
        if self.stretch_sigma:
            u = self.stretch_sigma * np.arcsinh(u / self.stretch_sigma)
        return u.astype(np.float32)

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """Network units to W.

        Parameters
        ----------
        values : ndarray, shape (n_det, n_samples)

        Returns
        -------
        ndarray of float32, shape (n_det, n_samples)
            Power in W.
        """
        u = np.asarray(values, dtype=np.float64)
        if self.stretch_sigma:
            u = self.stretch_sigma * np.sinh(u / self.stretch_sigma)
        tod_w = self.location_w[:, None] + self.sign * self.scale_w[:, None] * u
        return tod_w.astype(np.float32)

    def to_dict(self) -> dict:
        """Plain numbers for the model's JSON file."""
        return {
            "detectors": list(self.detectors),
            "location_w": self.location_w.tolist(),
            "scale_w": self.scale_w.tolist(),
            "sign": self.sign,
            "stretch_sigma": self.stretch_sigma,
            "floor": self.floor,
            "ceiling": self.ceiling,
        }

    @classmethod
    def from_dict(cls, values: dict, source: str) -> Self:
        """Inverse of `to_dict`.

        Parameters
        ----------
        values : dict
        source : str
            Where it was read, for errors.

        Raises
        ------
        CrabError
            If a key is missing, or a length is not the number of detectors.
        """
        for key in _KEYS:
            if key not in values:
                raise CrabError(
                    f"{source}: normalisation.{key} is missing: watts cannot be recovered; train "
                    "the model again"
                )
        n_det = len(values["detectors"])
        for key in ("location_w", "scale_w"):
            if len(values[key]) != n_det:
                raise CrabError(
                    f"{source}: normalisation.{key} has {len(values[key])} values: needs one for "
                    f"each of {n_det} detectors"
                )
        return cls(
            tuple(values["detectors"]),
            np.array(values["location_w"], dtype=np.float64),
            np.array(values["scale_w"], dtype=np.float64),
            values["sign"],
            values["stretch_sigma"],
            values["floor"],
            values["ceiling"],
        )
