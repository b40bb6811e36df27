"""The second spectrum: nuclei near the Earth by ISO-DLR, with one index W for the Sun.

Matthiae, Berger, Mrigakshi & Reitz 2013 (Adv. Space Res. 51, 329) kept the form and coefficients
of ISO 15390:2004 and replaced its description of the Sun by one index W, which they fitted to
ACE/CRIS carbon and tied to the count rate of the Oulu neutron monitor. The form differs from an
interstellar spectrum with a force field at every energy, which is why it serves as the other end
of a systematic band. It has no electrons.
"""

from functools import cache

import numpy as np
import yaml

from crab.errors import CrabError
from crab.params import choose
from crab.physics.interstellar import DATA, SPECIES, positive


def flux(species: str, energy_mev, w_index: float) -> np.ndarray:
    """Flux of a nucleus near the Earth, outside the magnetosphere.

    ``F(R) = C beta^alpha R^-gamma (R / (R + R_0))^delta`` per rigidity R in GV, with
    ``R_0 = 0.37 + 3e-4 W^1.45`` and ``delta = 4.7 + 0.02 W``, times ``dR/dT = 1 / (Z beta)``.
    Made for 10 MeV to 100 GeV per nucleon.

    Parameters
    ----------
    species : str
        A nucleus of `SPECIES`.
    energy_mev : array-like
        Kinetic energy, > 0.
    w_index : float
        0 to 200; about 5 at a deep solar minimum, 100 at maximum.

    Returns
    -------
    ndarray, shape of ``energy_mev``
        1/(m2 s sr MeV).

    Raises
    ------
    CrabError
        If the species, the index or an energy is not allowed.
    """
    c = choose("species of iso_dlr_2013", species, _coefficients())
    particle = SPECIES[species]
    energy = positive("energy_mev", energy_mev)
    if not 0 <= w_index <= 200:
        raise CrabError(f"w_index = {w_index}: allowed are values from 0 to 200")
    momentum = np.sqrt(energy * (energy + 2 * particle.mass_mev))
    beta = momentum / (energy + particle.mass_mev)
    rigidity_gv = momentum / particle.charge_number / 1e3
    r_0 = 0.37 + 3e-4 * w_index**1.45
    per_gv = c["norm"] * beta ** c["alpha"] * rigidity_gv ** -c["gamma"]
    per_gv *= (rigidity_gv / (rigidity_gv + r_0)) ** (4.7 + 0.02 * w_index)
    return per_gv / (particle.charge_number * beta) / 1e3


def w_from_oulu(counts_per_minute: float) -> float:
    """Index from the Oulu neutron monitor, ``W = 638.7 - 0.093 N`` (same paper).

    N is corrected for pressure and efficiency. The relation gives negative values above 6868 per
    minute, which the monitor has not seen as a monthly mean.
    """
    return 638.7 - 0.093 * counts_per_minute


@cache
def _coefficients() -> dict:
    return yaml.safe_load((DATA / "iso_dlr_2013.yaml").read_text())
