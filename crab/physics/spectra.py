"""Galactic cosmic rays at 1 au: solar modulation, fluxes, rates and sampling.

Energies are total kinetic energies of a particle in MeV, never per nucleon unless a name says so.
Fluxes are differential in that energy, per m2 s sr MeV. An environment is a modulation potential
and the interstellar spectra (`crab.physics.interstellar`) that it belongs to; how it changes with
time is in `crab.physics.environment`, the second model of nuclei in `crab.physics.iso_dlr`.

The force field (Gleeson & Axford 1968) knows nothing of the sign of the charge; with potentials
fitted to protons it gives up to 1.8 times as many electrons below 2 GeV as AMS-02 saw (Aguilar et
al. 2021, Phys. Rep. 894, 1; compared when the spectra were chosen, the points are not kept here).
"""

import numpy as np
import pandas as pd
from astropy import units
from scipy.optimize import curve_fit

from crab.errors import CrabError
from crab.params import Environment, choose
from crab.physics import iso_dlr
from crab.physics.environment import (
    component_rates_hz,
    component_weights,
    differential_flux,
    event_rates_hz,
    force_field,
    phi_at,
)
from crab.physics.interstellar import DATA, SPECIES, lis_flux

__all__ = [
    "SPECIES",
    "component_rates_hz",
    "component_weights",
    "convert_phi",
    "differential_flux",
    "event_rates_hz",
    "fit_phi",
    "fit_w_index",
    "force_field",
    "integral_flux",
    "iso_dlr_counterpart",
    "isotropic_lines",
    "lis_flux",
    "measurement",
    "omnidirectional_flux_cm2",
    "phi_at",
    "plate_crossing_rate_hz",
    "sample_energies",
    "sphere_crossing_rate_hz",
]

_PER_M2_IN_PER_CM2 = (1 / units.m**2).to_value(1 / units.cm**2)
_POINTS_PER_DECADE = 256
_ENERGY_MAX_MEV_PER_NUCLEON = 1e7
_FIT_RANGE_MEV = (400.0, 2e4)


def integral_flux(
    environment: Environment,
    species: str,
    energy_min_mev: float,
    energy_max_mev: float | None = None,
) -> float:
    """Flux between two kinetic energies, 1/(m2 s sr); by default up to 10 TeV per nucleon.

    Raises
    ------
    CrabError
        If the species is unknown or the energies are not ``0 < min < max``.
    """
    if energy_max_mev is None:
        nucleons = choose("species", species, SPECIES).nucleons
        energy_max_mev = _ENERGY_MAX_MEV_PER_NUCLEON * nucleons
    return _PowerLaws(environment, species, energy_min_mev, energy_max_mev).total


def omnidirectional_flux_cm2(
    environment: Environment,
    energy_min_mev_per_nucleon: float,
    species: tuple[str, ...] = ("proton", "helium"),
) -> float:
    """``4 pi J`` of several species above one energy per nucleon, 1/(cm2 s).

    It is what a small sphere sees per unit of its cross-section: twice what crosses a thin plate.

    Raises
    ------
    CrabError
        If a species or the energy is not allowed.
    """
    total = 0.0
    for name in species:
        energy = energy_min_mev_per_nucleon * choose("species", name, SPECIES).nucleons
        total += integral_flux(environment, name, energy)
    return 4 * np.pi * total * _PER_M2_IN_PER_CM2


def plate_crossing_rate_hz(flux_per_m2_s_sr: float, area_m2: float) -> float:
    """Crossings of a thin plate in an isotropic flux J: ``2 pi J A``, Hz.

    ``A`` is the area of one face and both faces count (pi J A each, by Lambert's cosine).
    """
    return 2 * np.pi * flux_per_m2_s_sr * area_m2


def sphere_crossing_rate_hz(flux_per_m2_s_sr: float, radius_m: float) -> float:
    """Straight lines of an isotropic flux J through a sphere: ``4 pi J * pi r^2``, Hz."""
    return 4 * np.pi * flux_per_m2_s_sr * np.pi * radius_m**2


def isotropic_lines(
    rng: np.random.Generator, n: int, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Straight lines of an isotropic flux that cross a sphere around the origin.

    Directions are uniform on the sphere, and each line's point nearest to the origin is uniform
    on the disc across it. In a flux J, n lines take ``n / sphere_crossing_rate_hz(J, radius)``.

    Parameters
    ----------
    rng : numpy.random.Generator
    n : int
    radius : float
        In any unit of length.

    Returns
    -------
    points : ndarray, shape (n, 3)
        Nearest to the origin, unit of ``radius``.
    directions : ndarray, shape (n, 3)
        Unit vectors.
    """
    cosine = rng.uniform(-1, 1, n)
    azimuth, angle = rng.uniform(0, 2 * np.pi, (2, n))
    distance = radius * np.sqrt(rng.uniform(size=n))
    sine = np.sqrt(1 - cosine**2)
    cos_a, sin_a = np.cos(azimuth), np.sin(azimuth)
    directions = np.stack([sine * cos_a, sine * sin_a, cosine], axis=1)
    # Two unit vectors across the direction: along increasing polar angle and azimuth.
    polar = np.stack([cosine * cos_a, cosine * sin_a, -sine], axis=1)
    along = np.stack([-sin_a, cos_a, np.zeros(n)], axis=1)
    points = distance[:, None] * (np.cos(angle)[:, None] * polar + np.sin(angle)[:, None] * along)
    return points, directions


def sample_energies(
    rng: np.random.Generator,
    n: int,
    environment: Environment,
    species: str,
    energy_min_mev: float,
    energy_max_mev: float,
    low_share: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw kinetic energies from the spectrum between two energies.

    The inverse of the cumulative distribution of the piecewise power law through the spectrum on
    a fine grid (256 points a decade), so the stated density is exactly the one that is drawn from;
    it differs from the spectrum itself by less than 1e-4.

    Parameters
    ----------
    rng : numpy.random.Generator
    n : int
        How many.
    environment : crab.params.Environment
    species : str
        Key of `SPECIES`.
    energy_min_mev, energy_max_mev : float
    low_share : float
        Share of the draws that come from the lowest decade instead, evenly in the logarithm: for
        spectra that are much softer than this one. The stated density is that of the mixture.

    Returns
    -------
    energy_mev : ndarray, shape (n,)
    pdf_per_mev : ndarray, shape (n,)
        Density of the distribution at these energies, 1/MeV.

    Raises
    ------
    CrabError
        If the species is unknown or the energies are not ``0 < min < max``.
    """
    table = _PowerLaws(environment, species, energy_min_mev, energy_max_mev)
    energy = table.inverse_cdf(rng.random(n))
    if not low_share:
        return energy, table.pdf(energy)
    top = min(10 * energy_min_mev, energy_max_mev)
    span = np.log(top / energy_min_mev)
    low = rng.random(n) < low_share
    energy = np.where(low, energy_min_mev * np.exp(span * rng.random(n)), energy)
    flat_pdf = np.where(energy <= top, 1 / (energy * span), 0)
    return energy, (1 - low_share) * table.pdf(energy) + low_share * flat_pdf


def fit_phi(
    energy_mev, flux, flux_error, lis: str = "helmod_2017", model_error: float = 0.03
) -> tuple[float, float]:
    """Modulation potential that fits measured protons.

    Parameters
    ----------
    energy_mev, flux, flux_error : array-like, shape (n,)
        Kinetic energies in MeV, fluxes and their errors in one unit, 1/(m2 s sr MeV).
    lis : str
        Family of spectra.
    model_error : float
        Relative error of LIS and force field, added in quadrature. Without it the points with the
        smallest errors (5 to 20 GeV) decide, where the potential matters least.

    Returns
    -------
    phi_mv, error : float
    """

    def model(energy, phi_mv):
        return force_field("proton", energy, phi_mv, lis)

    return _fit_one(model, energy_mev, flux, flux_error, model_error, 500.0, 3000.0)


def fit_w_index(energy_mev, flux, flux_error, model_error: float = 0.03) -> tuple[float, float]:
    """Index W of ISO-DLR that fits measured protons; like `fit_phi`.

    Returns
    -------
    w_index, error : float
    """

    def model(energy, w_index):
        return iso_dlr.flux("proton", energy, w_index)

    return _fit_one(model, energy_mev, flux, flux_error, model_error, 50.0, 200.0)


def iso_dlr_counterpart(environment: Environment) -> Environment:
    """The same environment by ISO-DLR: W fitted to its quiet protons from 0.4 to 20 GeV.

    Steady even where the environment is not, and without solar events. The potential stays for
    the electrons, which ISO-DLR does not have.
    """
    energy = np.geomspace(*_FIT_RANGE_MEV, 60)
    flux = differential_flux(environment, "proton", energy)
    w_index, _ = fit_w_index(energy, flux, np.zeros_like(flux))
    return Environment(
        title=f"{environment.title}, ISO-DLR",
        phi_mv=environment.phi_mv,
        lis="iso_dlr_2013",
        w_index=w_index,
        source=f"W fitted to the protons of: {environment.title}",
    )


def convert_phi(phi_mv: float, lis_from: str, lis_to: str) -> float:
    """Potential that brings one LIS nearest to the protons of a potential of another LIS.

    Fitted between 0.4 and 20 GeV. Differences of potentials convert well; the absolute value
    carries the difference of the LIS themselves.

    Parameters
    ----------
    phi_mv : float
        Potential that belongs to ``lis_from``.
    lis_from, lis_to : str
        Families of spectra.

    Returns
    -------
    float
        Potential in MV that belongs to ``lis_to``.
    """
    energy = np.geomspace(*_FIT_RANGE_MEV, 60)
    flux = force_field("proton", energy, phi_mv, lis_from)
    return fit_phi(energy, flux, np.zeros_like(flux), lis_to)[0]


def measurement(name: str) -> pd.DataFrame:
    """Published points that the package carries (``crab/data/<name>.csv``).

    Returns
    -------
    pandas.DataFrame
        Units are in the column names; ``attrs["source"]`` says who measured.

    Raises
    ------
    CrabError
        If there is no such file.
    """
    files = {f.name.removesuffix(".csv"): f for f in DATA.iterdir() if f.name.endswith(".csv")}
    path = choose("measurement", name, files)
    with path.open() as stream:
        table = pd.read_csv(stream, comment="#")
    lines = path.read_text().splitlines()
    table.attrs["source"] = "\n".join(s.lstrip("# ") for s in lines if s.startswith("#"))
    return table


class _PowerLaws:
    """Spectrum between two energies as power laws between the points of a fine grid."""

    def __init__(self, environment, species, energy_min_mev, energy_max_mev):
        if not 0 < energy_min_mev < energy_max_mev < np.inf:
            raise CrabError(
                f"energy_min_mev = {energy_min_mev}, energy_max_mev = {energy_max_mev}: "
                "allowed is 0 < energy_min_mev < energy_max_mev"
            )
        decades = np.log10(energy_max_mev / energy_min_mev)
        n = max(int(np.ceil(decades * _POINTS_PER_DECADE)), 16) + 1
        self.energy = np.geomspace(energy_min_mev, energy_max_mev, n)
        self.flux = differential_flux(environment, species, self.energy)
        step = np.diff(np.log(self.energy))
        # Per logarithm of energy, E J ~ E^rate: an integral over a step has no special case but 0.
        self.rate = np.diff(np.log(self.flux * self.energy)) / step
        self.rate = np.where(np.abs(self.rate) < 1e-12, 1e-12, self.rate)
        self.height = (self.flux * self.energy)[:-1]
        parts = self.height * np.expm1(self.rate * step) / self.rate
        self.cumulative = np.concatenate([[0.0], np.cumsum(parts)])
        self.total = float(self.cumulative[-1])

    def inverse_cdf(self, uniform: np.ndarray) -> np.ndarray:
        target = uniform * self.total
        i = np.clip(np.searchsorted(self.cumulative, target, "right") - 1, 0, len(self.rate) - 1)
        rest = (target - self.cumulative[i]) * self.rate[i] / self.height[i]
        energy = self.energy[i] * np.exp(np.log1p(rest) / self.rate[i])
        return np.clip(energy, self.energy[0], self.energy[-1])

    def pdf(self, energy: np.ndarray) -> np.ndarray:
        i = np.clip(np.searchsorted(self.energy, energy, "right") - 1, 0, len(self.rate) - 1)
        ratio = energy / self.energy[i]
        return self.height[i] * ratio ** self.rate[i] / energy / self.total


def _fit_one(model, energy_mev, flux, flux_error, model_error, start, highest):
    sigma = np.hypot(flux_error, model_error * np.asarray(flux))
    best, covariance = curve_fit(
        model, energy_mev, flux, [start], sigma, absolute_sigma=True, bounds=(0, highest)
    )
    return float(best[0]), float(np.sqrt(covariance[0, 0]))
