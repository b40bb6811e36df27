"""Rates of the kinds of events as a function of the flux, and the flux of an environment."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from crab.params import Environment
from crab.physics.conditions import fluxes_cm2
from crab.physics.environment import YEAR_S

_SPAN_POINTS = 2001
_TINY = np.finfo(float).tiny


class Flux:
    """Flux of an environment over time, see `crab.physics.conditions`.

    Attributes
    ----------
    name : str
    environment : Environment
    span_cm2 : ndarray
        Quiet flux at equally spaced times of the environment's span, whose mean is taken off.
    mean_w : ndarray or None
        Filled in by the generator.
    """

    def __init__(self, name: str, environment: Environment):
        self.name, self.environment = name, environment
        time_s = np.zeros(1)
        if environment.phi_nodes:
            years = [environment.phi_nodes[0].year, environment.phi_nodes[-1].year]
            steps = (np.arange(_SPAN_POINTS) + 0.5) / _SPAN_POINTS
            year = years[0] + steps * (years[1] - years[0])
            time_s = (year - environment.start_year) * YEAR_S
        self.span_cm2 = fluxes_cm2(environment, time_s)[0]
        self.mean_w = None

    def at(self, time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Quiet and solar flux at mission times, 1/(cm2 s)."""
        return fluxes_cm2(self.environment, time_s)


@dataclass(frozen=True)
class Rates:
    """Rates of kinds against the flux.

    Attributes
    ----------
    kinds : ndarray of bool, shape (n_kinds, n_marks)
        Which marks a kind has.
    slots : tuple of (int, int)
        Absorber and detector of the last marks; the detector is -1 if it is drawn.
    ln_flux : ndarray, shape (n_potentials,)
        Logarithm of the quiet flux, increasing.
    quiet_hz : ndarray, shape (n_potentials, n_kinds)
        For kinds that leave the detector open: of one detector.
    solar_hz : ndarray, shape (n_kinds,)
        For a solar flux of 1/(cm2 s).
    slots_ev_s : ndarray, shape (n_potentials, n_slots)
        Mean power deposited in the absorbers, likewise.
    """

    kinds: np.ndarray
    slots: tuple
    ln_flux: np.ndarray
    quiet_hz: np.ndarray
    solar_hz: np.ndarray
    slots_ev_s: np.ndarray

    @classmethod
    def from_dict(cls, tables: dict) -> Self:
        """From the plain numbers of a model's record."""
        return cls(
            kinds=np.array(tables["kinds"], dtype=bool),
            slots=tuple(tuple(slot) for slot in tables["slots"]),
            **{
                key: np.array(tables[key], dtype=float)
                for key in ("ln_flux", "quiet_hz", "solar_hz", "slots_ev_s")
            },
        )

    @property
    def has_solar(self) -> bool:
        """Whether solar events were learned."""
        return bool(self.solar_hz.sum() > 0)

    @property
    def per_detector(self) -> np.ndarray:
        """Kinds whose rate grows with the number of detectors, shape (n_kinds,)."""
        first = self.kinds.shape[1] - len(self.slots)
        drawn = np.array([detector < 0 for _, detector in self.slots])
        return (self.kinds[:, first:] & drawn).any(axis=1)

    def at(self, quiet_cm2: np.ndarray, solar_cm2: np.ndarray, n_detectors: int) -> np.ndarray:
        """Rates for fluxes, 1/s.

        Parameters
        ----------
        quiet_cm2, solar_cm2 : ndarray, shape (n,)
        n_detectors : int

        Returns
        -------
        ndarray, shape (2, n, n_kinds)
            Of quiet particles and of solar ones.
        """
        times = np.where(self.per_detector, n_detectors, 1)
        quiet = interpolate(np.log(quiet_cm2), self.ln_flux, self.quiet_hz)
        return np.stack([quiet, solar_cm2[:, None] * self.solar_hz]) * times

    def mean_slots_ev_s(self, flux: Flux, n_detectors: int) -> np.ndarray:
        """Mean power in each slot over an environment's quiet span, eV/s, shape (n_slots,)."""
        return interpolate(np.log(flux.span_cm2), self.ln_flux, self.slots_ev_s).mean(axis=0)

    def context(self, kind: np.ndarray, ln_flux: np.ndarray, solar: np.ndarray) -> np.ndarray:
        """What the network of marks is told of events.

        Returns
        -------
        ndarray of float32, shape (n, 2 + n_marks)
            Quiet flux (0 for solar particles), whether solar, and the marks that there are.
        """
        middle = (self.ln_flux[0] + self.ln_flux[-1]) / 2
        half = (self.ln_flux[-1] - self.ln_flux[0]) / 2
        out = np.empty((len(kind), 2 + self.kinds.shape[1]), dtype=np.float32)
        out[:, 0] = np.where(solar, 0, (ln_flux - middle) / half)
        out[:, 1] = solar
        out[:, 2:] = self.kinds[kind]
        return out


def interpolate(x: np.ndarray, grid: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rows of a table of positive numbers at other places: linear in logarithms.

    Parameters
    ----------
    x : ndarray, shape (n,)
        Beyond the grid the last two rows are continued.
    grid : ndarray, shape (m,)
        Increasing.
    values : ndarray, shape (m, ...)
        >= 0.

    Returns
    -------
    ndarray, shape (n, ...)
    """
    left = np.clip(np.searchsorted(grid, x, "right") - 1, 0, len(grid) - 2)
    part = ((x - grid[left]) / (grid[left + 1] - grid[left])).reshape(-1, *[1] * (values.ndim - 1))
    logs = np.log(np.maximum(values, _TINY))
    return np.exp((1 - part) * logs[left] + part * logs[left + 1])
