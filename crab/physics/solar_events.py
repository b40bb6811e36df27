"""Solar-particle events: a published fluence of protons, spread over time.

The spectrum does not change during an event; in nature it softens. Only protons: we found no
published helium spectrum of our event that we could check. Ellison & Ramaty's exponential has no
power-law tail, so above some 100 MeV there are fewer protons than a ground-level event has.
"""

import numpy as np

from crab.params import SolarEvent, choose
from crab.physics.interstellar import SPECIES, positive

_PER_CM2_IN_PER_M2 = 1e4


def fluence(event: SolarEvent, species: str, energy_mev) -> np.ndarray:
    """Time-integrated intensity, ``norm T^-index exp(-T / rollover)`` for protons, else 0.

    Ellison & Ramaty 1985, ApJ 298, 400.

    Parameters
    ----------
    event : crab.params.SolarEvent
    species : str
        Key of `SPECIES`.
    energy_mev : array-like
        Kinetic energy, > 0.

    Returns
    -------
    ndarray, shape of ``energy_mev``
        1/(m2 sr MeV), with the event's scale.

    Raises
    ------
    CrabError
        If the species or an energy is not allowed.
    """
    choose("species", species, SPECIES)
    energy = positive("energy_mev", energy_mev)
    if species != "proton":
        return np.zeros_like(energy)
    spectrum = energy**-event.index * np.exp(-energy / event.rollover_mev)
    return _PER_CM2_IN_PER_M2 * event.fluence_scale * event.norm_per_cm2_sr_mev * spectrum


def profile(event: SolarEvent, time_s) -> np.ndarray:
    """Share of the fluence per second, ``(exp(-t/decay) - exp(-t/rise)) / (decay - rise)``.

    With t since the onset, 0 before; the integral over time is 1.

    Parameters
    ----------
    event : crab.params.SolarEvent
    time_s : array-like
        Mission time.

    Returns
    -------
    ndarray, shape of ``time_s``
        1/s.
    """
    since_s = np.maximum(np.asarray(time_s, dtype=float) - event.onset_s, 0.0)
    shape = np.exp(-since_s / event.decay_s) - np.exp(-since_s / event.rise_s)
    return shape / (event.decay_s - event.rise_s)


def peak_time_s(event: SolarEvent) -> float:
    """Mission time of the maximum."""
    ratio = event.decay_s / event.rise_s
    return event.onset_s + event.rise_s * ratio / (ratio - 1) * float(np.log(ratio))


def peak_flux(event: SolarEvent, species: str, energy_mev) -> np.ndarray:
    """Flux at the maximum, 1/(m2 s sr MeV)."""
    return fluence(event, species, energy_mev) * profile(event, peak_time_s(event))


def weight(event: SolarEvent, time_s) -> np.ndarray:
    """Flux over that at the maximum: 0 before the onset, at most 1."""
    return profile(event, time_s) / profile(event, peak_time_s(event))
