"""Local interstellar spectra (LIS) of cosmic-ray protons, nuclei and electrons.

Family ``helmod_2017``, coefficients and sources in ``crab/data/lis_helmod_2017.yaml``:

* protons and helium (all isotopes, counted as He-4): HelMod-GALPROP, Boschini et al. 2017;
* electrons: Boschini et al. 2018;
* carbon, oxygen and iron: helium times an abundance ratio that depends on rigidity, which we
  fitted to the fluxes that AMS-02 published (Aguilar et al. 2021, Phys. Rep. 894, 1 and PRL 126,
  041104). This is *not* the published HelMod parameterisation of these elements, which we could
  not find in a form that we could check. When fitted, with the force field, it was within 3 % of
  AMS-02 from 2 to 100 GV; those points are not part of this package. Below 2.9 GV in the LIS (500
  to 650 MeV per nucleon at 1 au) it extrapolates; HelMod-GALPROP's tabulated run of 2020 has up to
  25 % less carbon and oxygen there.

The published proton branches differ by 4.9 % where they join (1 GV), those of electrons by 11 %
(6.88 GeV). We go over from one to the other in the logarithm of the flux with a quintic smooth
step, between join/width and join*width (a factor of 1.2 each way), which leaves the rest as it was
published. The branches of helium cross at 1.9 GV, where we join them.

``burger_2000`` has protons only. The potentials of neutron monitors (Usoskin et al. 2011) belong
to it.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import yaml
from astropy import constants, units

from crab.errors import CrabError
from crab.params import choose

_ELECTRON_MEV = float((constants.m_e * constants.c**2).to_value(units.MeV))
_PROTON_MEV = float((constants.m_p * constants.c**2).to_value(units.MeV))
_DALTON_MEV = float((constants.u * constants.c**2).to_value(units.MeV))
DATA = resources.files("crab") / "data"


@dataclass(frozen=True)
class Species:
    """A cosmic-ray particle: fully stripped nucleus or electron."""

    charge_number: int
    mass_number: int
    mass_mev: float

    @property
    def nucleons(self) -> int:
        """What an energy *per nucleon* is multiplied by: mass number, 1 for electrons."""
        return max(self.mass_number, 1)


def _nucleus(charge_number: int, mass_number: int, atomic_mass_u: float) -> Species:
    mass = atomic_mass_u * _DALTON_MEV - charge_number * _ELECTRON_MEV
    return Species(charge_number, mass_number, mass)


# Atomic masses: AME2020 (Wang et al. 2021, doi:10.1088/1674-1137/abddaf).
SPECIES: dict[str, Species] = {
    "proton": Species(1, 1, _PROTON_MEV),
    "helium": _nucleus(2, 4, 4.002603),
    "carbon": _nucleus(6, 12, 12.0),
    "oxygen": _nucleus(8, 16, 15.994915),
    "iron": _nucleus(26, 56, 55.934936),
    "electron": Species(-1, 0, _ELECTRON_MEV),
}


def lis_flux(species: str, energy_mev, lis: str = "helmod_2017") -> np.ndarray:
    """Flux in interstellar space.

    Parameters
    ----------
    species : str
        Key of `SPECIES`.
    energy_mev : array-like
        Kinetic energy, > 0.
    lis : str
        Family of spectra.

    Returns
    -------
    ndarray, shape of ``energy_mev``
        1/(m2 s sr MeV).

    Raises
    ------
    CrabError
        If the species, the family or an energy is not allowed.
    """
    particle = choose("species", species, SPECIES)
    energy = positive("energy_mev", energy_mev)
    table = _coefficients(lis)
    form = choose(f"species of lis {lis!r}", species, table)["form"]
    if form == "energy":
        return _extended(table, species, energy / 1e3) / 1e3
    momentum = np.sqrt(energy * (energy + 2 * particle.mass_mev))
    beta = momentum / (energy + particle.mass_mev)
    rigidity_gv = momentum / abs(particle.charge_number) / 1e3
    if form == "momentum":
        return _extended(table, species, rigidity_gv) / 1e3
    # J = F dR/dT with dR/dT = 1/(|Z| beta)
    return _extended(table, species, rigidity_gv) / (abs(particle.charge_number) * beta) / 1e3


def _extended(table: dict, species: str, x: np.ndarray) -> np.ndarray:
    """Published formula inside its range, a power law with the slope at its end outside."""
    low, high = table[species]["range"]
    inside = np.clip(x, low, high)
    value = _published(table, species, inside)
    for edge, outside in ((low, x < low), (high, x > high)):
        if np.any(outside):
            pair = edge * np.array([0.999, 1.001])
            values = np.log(_published(table, species, pair))
            slope = (values[1] - values[0]) / np.log(pair[1] / pair[0])
            value = np.where(outside, value * (x / inside) ** slope, value)
    return value


def _published(table: dict, species: str, x: np.ndarray) -> np.ndarray:
    """Forms ``rigidity``, ``ratio``, ``energy`` and ``momentum`` of the coefficient files."""
    c = table[species]
    if c["form"] == "momentum":
        return c["norm"] * x ** -c["index"] / (1 + c["knee"] * x ** -c["knee_index"])
    if c["form"] == "ratio":
        ratio = c["plateau"] * (1 + c["knee"] / x) ** -c["index"]
        return _published(table, "helium", x) * ratio
    if c["form"] == "energy":
        a, h = c["low"], c["high"]
        low = a[0] * x ** a[1] / (1 + a[2] * x ** a[3] + a[4] * x ** a[5])
        return _joined(x, low, h[0] * x ** h[1] + h[2] * x ** h[3], c["join"], c["width"])
    h = c["high"]
    low = np.polynomial.polynomial.polyval(x, c["low"])
    high = h["b"] + h["c"] / x + h["g"] * x + sum(h[k][0] / (h[k][1] + x) for k in "def")
    return _joined(x, low, high, c["join"], c["width"]) / x**2.7


def _joined(x, low, high, join: float, width: float) -> np.ndarray:
    """`low` below join/width, `high` above join*width, a quintic smooth step of logs between."""
    t = np.clip((np.log(x / join) / np.log(width) + 1) / 2, 0, 1)
    weight = t**3 * (10 - 15 * t + 6 * t**2)
    # Either formula may be negative where it does not count.
    low = np.where(weight < 1, low, 1.0)
    high = np.where(weight > 0, high, 1.0)
    return np.exp((1 - weight) * np.log(low) + weight * np.log(high))


def positive(name: str, values) -> np.ndarray:
    """Finite values > 0 as an array, or a `CrabError` that names the variable."""
    values = np.asarray(values, dtype=float)
    if not np.all((values > 0) & np.isfinite(values)):
        raise CrabError(f"{name} = {values.flat[np.argmin(values)]}: allowed are finite values > 0")
    return values


@cache
def _coefficients(lis: str) -> dict:
    files = {f.name[4:-5]: f for f in DATA.iterdir() if f.name.startswith("lis_")}
    return yaml.safe_load(choose("lis", lis, files).read_text())
