"""An environment over mission time: independent Poisson components with weights.

The flux is ``sum_i w_i(t) J_i``. A steady environment is one component of weight 1. A potential
that changes has one component for each of its nodes, whose weights are hat functions: the flux,
not the potential, is linear between nodes. Where neighbours differ by more than 30 MV there are
further nodes between them, which keeps this within 1 % of the force field with the interpolated
potential (above 39 MeV per nucleon). Each solar event adds one component, its flux at the maximum,
whose weight is 0 before the onset. Mission time 0 is ``start_year``.
"""

import numpy as np
import xarray as xr

from crab.errors import CrabError
from crab.params import Environment, choose
from crab.physics import iso_dlr, solar_events
from crab.physics.interstellar import SPECIES, lis_flux, positive

YEAR_S = 365.25 * 86400.0
_LARGEST_STEP_MV = 30.0


def force_field(species: str, energy_mev, phi_mv: float, lis: str = "helmod_2017") -> np.ndarray:
    """Flux at 1 au, outside the magnetosphere: an interstellar spectrum behind a potential.

    ``J(T) = J_LIS(T + phi |Z|) T (T + 2 m) / [(T + phi |Z|) (T + phi |Z| + 2 m)]`` with the total
    kinetic energy T (Gleeson & Axford 1968, ApJ 154, 1011); per nucleon the shift is phi |Z|/A.

    Parameters
    ----------
    species : str
        Key of `SPECIES`.
    energy_mev : array-like
        Kinetic energy, > 0.
    phi_mv : float
    lis : str
        Family of spectra.

    Returns
    -------
    ndarray, shape of ``energy_mev``
        1/(m2 s sr MeV).

    Raises
    ------
    CrabError
        If the species, an energy, the potential or the family is not allowed.
    """
    particle = choose("species", species, SPECIES)
    energy = positive("energy_mev", energy_mev)
    if not 0 <= phi_mv < np.inf:
        raise CrabError(f"phi_mv = {phi_mv}: allowed are values >= 0")
    outside = energy + phi_mv * abs(particle.charge_number)
    momentum_ratio2 = energy * (energy + 2 * particle.mass_mev)
    momentum_ratio2 /= outside * (outside + 2 * particle.mass_mev)
    return lis_flux(species, outside, lis) * momentum_ratio2


def phi_at(environment: Environment, time_s) -> np.ndarray:
    """Modulation potential, MV, at mission times; beyond the nodes that of the nearest.

    Parameters
    ----------
    environment : crab.params.Environment
    time_s : array-like

    Returns
    -------
    ndarray, shape of ``time_s``
    """
    time_s = np.asarray(time_s, dtype=float)
    if not environment.phi_nodes:
        return np.full(time_s.shape, environment.phi_mv)
    return np.interp(time_s, *_nodes(environment))


def component_weights(environment: Environment, time_s) -> np.ndarray:
    """Weight of each component at mission times.

    Parameters
    ----------
    environment : crab.params.Environment
    time_s : array-like
        May be negative: a potential stays what it is at the first node.

    Returns
    -------
    ndarray, shape (n_components, n_times)
        Dimensionless, 0 to 1; the components that are no events sum to 1.
    """
    time_s = np.atleast_1d(np.asarray(time_s, dtype=float))
    if environment.phi_nodes:
        nodes_s, _ = _nodes(environment)
        rows = [np.interp(time_s, nodes_s, hat) for hat in np.eye(len(nodes_s))]
    else:
        rows = [np.ones(time_s.shape)]
    rows += [solar_events.weight(event, time_s) for event in environment.solar_events]
    return np.stack(rows)


def mean_weights(environment: Environment) -> np.ndarray:
    """Quiet mean over the span of the nodes: of hat functions, and 0 for solar events.

    Returns
    -------
    ndarray, shape (n_components,)
        Sums to 1.
    """
    quiet = np.ones(1)
    if environment.phi_nodes:
        steps = np.diff(_nodes(environment)[0])
        quiet = (np.append(steps, 0.0) + np.insert(steps, 0, 0.0)) / (2 * steps.sum())
    return np.append(quiet, np.zeros(len(environment.solar_events)))


def component_fluxes(environment: Environment, species: str, energy_mev) -> np.ndarray:
    """Flux of each component at weight 1.

    Returns
    -------
    ndarray, shape (n_components, \\*shape of ``energy_mev``)
        1/(m2 s sr MeV).

    Raises
    ------
    CrabError
        If the species or an energy is not allowed.
    """
    potentials = _nodes(environment)[1] if environment.phi_nodes else [environment.phi_mv]
    rows = [_quiet_flux(environment, species, energy_mev, phi_mv) for phi_mv in potentials]
    rows += [solar_events.peak_flux(e, species, energy_mev) for e in environment.solar_events]
    return np.stack(rows)


def differential_flux(
    environment: Environment, species: str, energy_mev, time_s: float | None = None
) -> np.ndarray:
    """Flux at 1 au, outside the magnetosphere.

    `force_field` on the environment's own LIS, or `iso_dlr.flux`; electrons of the latter are
    those of helmod_2017 with the environment's potential.

    Parameters
    ----------
    environment : crab.params.Environment
    species : str
        Key of `SPECIES`.
    energy_mev : array-like
        Kinetic energy, > 0.
    time_s : float, optional
        Mission time. Default: the quiet mean over the environment's span, without solar events.

    Returns
    -------
    ndarray, shape of ``energy_mev``
        1/(m2 s sr MeV).

    Raises
    ------
    CrabError
        If the species or an energy is not allowed.
    """
    if not environment.phi_nodes and (time_s is None or not environment.solar_events):
        return _quiet_flux(environment, species, energy_mev, environment.phi_mv)
    weights = _weights_at(environment, time_s)
    return np.tensordot(weights, component_fluxes(environment, species, energy_mev), 1)


def component_rates_hz(library: xr.Dataset, environment: Environment) -> np.ndarray:
    """Rate of each event of a deposit library for each component at weight 1.

    Parameters
    ----------
    library : xarray.Dataset
        Deposit library with ``species``, ``energy_mev`` and ``aperture_m2_sr_mev`` per event.
    environment : crab.params.Environment

    Returns
    -------
    ndarray, shape (n_components, n_events)
        J(species, E) times the event's aperture, in 1/s.
    """
    names = str(library["species"].attrs["flag_meanings"]).split()
    species = library["species"].values
    energy_mev = library["energy_mev"].values.astype(float)
    flux = np.zeros((len(mean_weights(environment)), len(species)))
    for index in np.unique(species):
        chosen = species == index
        flux[:, chosen] = component_fluxes(environment, names[index], energy_mev[chosen])
    return flux * library["aperture_m2_sr_mev"].values


def event_rates_hz(
    library: xr.Dataset, environment: Environment, time_s: float | None = None
) -> np.ndarray:
    """Rate of each event of a deposit library in an environment.

    Parameters
    ----------
    library : xarray.Dataset
        As for `component_rates_hz`.
    environment : crab.params.Environment
    time_s : float, optional
        Mission time. Default: the quiet mean over the environment's span, without solar events.

    Returns
    -------
    ndarray, shape (n_events,)
        In 1/s; the sum is the hit rate.
    """
    return _weights_at(environment, time_s) @ component_rates_hz(library, environment)


def _weights_at(environment, time_s) -> np.ndarray:
    if time_s is None:
        return mean_weights(environment)
    return component_weights(environment, float(time_s))[:, 0]


def _nodes(environment) -> tuple[np.ndarray, np.ndarray]:
    """Mission times in s and potentials in MV, with the further nodes between distant ones."""
    years = np.array([node.year for node in environment.phi_nodes])
    phi_mv = np.array([node.phi_mv for node in environment.phi_nodes])
    parts = np.maximum(np.ceil(np.abs(np.diff(phi_mv)) / _LARGEST_STEP_MV), 1).astype(int)
    position = np.append(
        np.concatenate([i + np.arange(n) / n for i, n in enumerate(parts)]), len(parts)
    )
    index = np.arange(len(years))
    times_s = (np.interp(position, index, years) - environment.start_year) * YEAR_S
    return times_s, np.interp(position, index, phi_mv)


def _quiet_flux(environment, species, energy_mev, phi_mv) -> np.ndarray:
    if environment.lis != "iso_dlr_2013":
        return force_field(species, energy_mev, phi_mv, environment.lis)
    if species == "electron":
        return force_field(species, energy_mev, phi_mv)
    return iso_dlr.flux(species, energy_mev, environment.w_index)
