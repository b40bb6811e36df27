"""What of an environment a conditional generator is told: how many particles come, of what kind.

Two numbers for any time of a mission, without a deposit library: the flux of quiet protons and
helium that passes a shield of 7 mm of aluminium, which falls steadily with the potential, and how
much a solar event adds to it.
"""

from functools import lru_cache

import numpy as np
from scipy.integrate import trapezoid

from crab.params import Environment
from crab.physics.environment import component_fluxes, component_weights, mean_weights
from crab.physics.interstellar import SPECIES

# Kinetic energy per nucleon at which protons pass 7 mm of aluminium (arXiv:1303.5071).
THRESHOLD_MEV_PER_NUCLEON = 39.0
_ENERGY_MAX_MEV_PER_NUCLEON = 1e6
_POINTS = 1024
_COUNTED = ("proton", "helium")


def fluxes_cm2(environment: Environment, time_s) -> tuple[np.ndarray, np.ndarray]:
    """Omnidirectional flux ``4 pi J`` of protons and helium above the threshold.

    Parameters
    ----------
    environment : crab.params.Environment
    time_s : array-like, shape (n,)
        Mission times; may be negative.

    Returns
    -------
    quiet, solar : ndarray, shape (n,)
        Galactic particles and those of solar events, 1/(cm2 s).
    """
    fluxes = _component_fluxes_cm2(_text(environment))
    parts = component_weights(environment, time_s) * np.array(fluxes)[:, None]
    n_quiet = len(parts) - len(environment.solar_events)
    return parts[:n_quiet].sum(axis=0), parts[n_quiet:].sum(axis=0)


def conditions(environment: Environment, time_s) -> np.ndarray:
    """What a conditional generator is told about times of a mission.

    Parameters
    ----------
    environment : crab.params.Environment
    time_s : array-like, shape (n,)
        Mission times; may be negative.

    Returns
    -------
    ndarray, shape (n, 2)
        ``ln(quiet flux / 1 cm-2 s-1)`` and ``ln(1 + solar flux / quiet flux)``, see `fluxes_cm2`.
    """
    quiet, solar = fluxes_cm2(environment, time_s)
    return np.stack([np.log(quiet), np.log1p(solar / quiet)], axis=1)


def mean_flux_cm2(environment: Environment) -> float:
    """Mean of the quiet flux over the environment's span, see `fluxes_cm2`: 1/(cm2 s)."""
    return float(mean_weights(environment) @ np.array(_component_fluxes_cm2(_text(environment))))


def _text(environment: Environment) -> str:
    return environment.model_dump_json()


@lru_cache(maxsize=64)
def _component_fluxes_cm2(description: str) -> tuple[float, ...]:
    environment = Environment.model_validate_json(description)
    total = 0.0
    for name in _COUNTED:
        energy = np.geomspace(THRESHOLD_MEV_PER_NUCLEON, _ENERGY_MAX_MEV_PER_NUCLEON, _POINTS)
        energy *= SPECIES[name].nucleons
        flux = component_fluxes(environment, name, energy)
        total = total + trapezoid(flux * energy, np.log(energy), axis=1)
    return tuple(4 * np.pi * 1e-4 * total)
