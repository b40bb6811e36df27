"""Primary lines of the deposit library: disjoint strata that together hold every line.

A line of an isotropic flux belongs to the first of these that it crosses: the aim sphere of TES
0, 1, ... (stratum k + 1), the wafer's box grown by `WAFER_MARGIN_MM` (stratum 0), the shield's
outer sphere (stratum -1: only secondaries and scattered primaries of these reach the wafer).
Each stratum is sampled alone, lines that belong to another one are dropped but still counted, so
the strata add up without overlap and the rare hits on a TES get their own statistics.

A line drawn with density ``1/area`` (m-2, across its direction) and isotropic direction stands
for the rate ``J(E) * 4 pi area / (n p(E))``: the event's aperture times the flux.
"""

from dataclasses import dataclass

import numpy as np

from crab import seeds
from crab.errors import CrabError
from crab.params import DepositsNotebook, Environment
from crab.physics.spectra import SPECIES, isotropic_lines, sample_energies

WAFER_MARGIN_MM = 1.0
NO_STRATUM = -99
AIM_RADIUS_MM = 1.5
DISC_SHARE = np.array([0.35, 0.45, 0.2])
ALUMINIUM_RADIATION_LENGTH_MM = 88.97
BATCH_PRIMARIES = 10_000
# Share of the primaries. Rare nuclei get more than their flux, because deposits grow as Z^2, and
# iron not much more, because a primary costs CPU time as Z^2 too.
SPECIES_SHARE = {
    "proton": 0.755,
    "helium": 0.17,
    "carbon": 0.015,
    "oxygen": 0.012,
    "iron": 0.003,
    "electron": 0.045,
}
# One primary in a hundred that passes the wafer hits it after all, with what the shield made of it.
# Light and cheap ones do nearly all of that, and each must stand for little of their rate.
SHIELD_SHARE = {
    "proton": 0.88,
    "helium": 0.1,
    "carbon": 0.002,
    "oxygen": 0.0016,
    "iron": 0.0006,
    "electron": 0.0158,
}
_MM2_IN_M2 = 1e-6


@dataclass(frozen=True)
class Plan:
    """What is drawn: geometry of the strata and how many primaries of each species.

    ``counts`` has the shape (stratum, species), in the order of `strata` and `SPECIES_SHARE`.
    """

    setup: dict
    strata: np.ndarray
    counts: np.ndarray
    aim_radius_mm: float
    core_radius_mm: float

    @property
    def n_batches(self) -> int:
        """Batches of the plan; fixed, so that they do not depend on the number of workers."""
        return max(1, round(self.counts.sum() / BATCH_PRIMARIES))


def make_plan(setup: dict, settings: DepositsNotebook) -> Plan:
    """Share out the primaries.

    Parameters
    ----------
    setup : dict
        See `crab.physics.transport.world_setup`.
    settings : DepositsNotebook
        ``n_wafer_primaries``, ``n_shield_primaries`` and ``n_tes_primaries`` (all TES together).

    Returns
    -------
    Plan

    Raises
    ------
    CrabError
        If a stratum would get fewer primaries than there are species.
    """
    n_tes = len(setup["tes_mm"])
    totals = {0: settings.n_wafer_primaries}
    if setup["shield_thickness_mm"] > 0:
        totals[-1] = settings.n_shield_primaries
    totals |= {k + 1: settings.n_tes_primaries // n_tes for k in range(n_tes)}
    shares = {-1: SHIELD_SHARE}
    share = np.array([list(shares.get(k, SPECIES_SHARE).values()) for k in totals])
    counts = np.round(np.array(list(totals.values()))[:, None] * share).astype(int)
    if counts.min() < 1:
        row = int(counts.min(axis=1).argmin())
        stratum, share = list(totals)[row], share[row]
        name = {0: "n_wafer_primaries", -1: "n_shield_primaries"}.get(stratum, "n_tes_primaries")
        least = int(np.ceil(0.51 / share.min())) * (n_tes if stratum > 0 else 1)
        raise CrabError(f"{name} = {getattr(settings, name)}: allowed are values >= {least} here")
    core = setup["tes_side_mm"] / 2**0.5
    place = np.array(setup["tes_mm"]).reshape(-1, 2)
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    nearest = distance[distance > 0].min(initial=np.inf)
    aim = max(core, min(AIM_RADIUS_MM, 0.49 * nearest))
    return Plan(setup, np.array(list(totals)), counts, aim, core)


def draw_batch(
    plan: Plan, settings: DepositsNotebook, proposal: Environment, batch: int, seed: int, *labels
) -> dict[str, np.ndarray]:
    """Primaries of one batch: the same whichever batches were drawn before.

    Parameters
    ----------
    plan : Plan
    settings : DepositsNotebook
        Energy range, in MeV per nucleon (electrons: MeV).
    proposal : Environment
        Energies are drawn from its spectra.
    batch : int
        In [0, ``plan.n_batches``).
    seed, *labels
        See `crab.seeds.rng`.

    Returns
    -------
    dict of ndarray
        Per primary: ``species`` (index in `SPECIES_SHARE`), ``energy_mev`` (total kinetic),
        ``direction`` (n, 3), ``stratum``, ``aperture_m2_sr_mev``, and ``primaries`` (n, 9) as
        `crab.physics.geant4_world.World.run` takes them.
    """
    rng = seeds.rng(seed, *labels, block=batch)
    done, after = (plan.counts * b // plan.n_batches for b in (batch, batch + 1))
    repeats = (after - done).ravel()
    stratum, species = (
        np.repeat(grid.ravel(), repeats)
        for grid in np.meshgrid(plan.strata, np.arange(len(SPECIES_SHARE)), indexing="ij")
    )
    n = len(species)
    energy_mev, pdf_per_mev, spread_mm = np.empty((3, n))
    kind = np.empty((n, 2))
    for index, name in enumerate(SPECIES_SHARE):
        own, particle = species == index, SPECIES[name]
        limits_mev = particle.nucleons * np.array(
            [settings.energy_min_mev_per_nucleon, settings.energy_max_mev_per_nucleon]
        )
        energy_mev[own], pdf_per_mev[own] = sample_energies(
            rng, own.sum(), proposal, name, *limits_mev
        )
        spread_mm[own] = _scattering_mm(plan.setup, name, energy_mev[own])
        kind[own] = particle.charge_number, particle.mass_number
    point, direction, area_m2 = _lines(plan, stratum, rng, spread_mm)
    total = np.repeat(plan.counts.ravel(), repeats)
    columns = {
        "species": species.astype(np.int8),
        "energy_mev": energy_mev,
        "direction": direction,
        "stratum": stratum.astype(np.int16),
        "aperture_m2_sr_mev": 4 * np.pi * area_m2 / (total * pdf_per_mev),
        "primaries": np.column_stack(
            [kind, energy_mev, _start_mm(plan.setup, point, direction), direction]
        ),
    }
    own = classify(plan, point, direction) == stratum
    return {name: column[own] for name, column in columns.items()}


def box_lines(rng: np.random.Generator, n: int, half_mm) -> tuple[np.ndarray, np.ndarray]:
    """Straight lines of an isotropic flux that cross a box: uniform on its surface, cosine law.

    In a flux J the box of surface S is crossed at ``pi J S``, so n lines stand for S/4 each n.

    Parameters
    ----------
    rng : numpy.random.Generator
    n : int
    half_mm : array-like, shape (3,)
        Half lengths of the box, centred on the origin.

    Returns
    -------
    point, direction : ndarray, shape (n, 3)
        Where a line enters, mm, and its unit direction.
    """
    half = np.asarray(half_mm, dtype=float)
    faces = np.prod(half) / half
    axis = rng.choice(3, n, p=faces / faces.sum())
    sign = rng.choice([-1.0, 1.0], n)
    point = rng.uniform(-1, 1, (n, 3)) * half
    rows = np.arange(n)
    point[rows, axis] = sign * half[axis]
    cosine2, azimuth = rng.uniform(size=n), rng.uniform(0, 2 * np.pi, n)
    sine = np.sqrt(1 - cosine2)
    direction = np.empty((n, 3))
    direction[rows, axis] = -sign * np.sqrt(cosine2)
    direction[rows, (axis + 1) % 3] = sine * np.cos(azimuth)
    direction[rows, (axis + 2) % 3] = sine * np.sin(azimuth)
    return point, direction


def crosses_box(point: np.ndarray, direction: np.ndarray, half_mm) -> np.ndarray:
    """Whether straight lines cross a box centred on the origin.

    Parameters
    ----------
    point, direction : ndarray, shape (n, 3)
        A point on each line, mm, and its direction.
    half_mm : array-like, shape (3,)

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    with np.errstate(divide="ignore"):
        inverse = 1 / direction
    near = -point * inverse - np.abs(inverse) * half_mm
    far = -point * inverse + np.abs(inverse) * half_mm
    return near.max(axis=1) < far.min(axis=1)


def classify(plan: Plan, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Stratum of straight lines, `NO_STRATUM` for those that cross nothing.

    Parameters
    ----------
    plan : Plan
    point, direction : ndarray, shape (n, 3)

    Returns
    -------
    ndarray of int, shape (n,)
    """
    outer = _outer_radius_mm(plan.setup)
    stratum = np.where(line_distance_mm(point, direction, np.zeros(3)) < outer, -1, NO_STRATUM)
    stratum[crosses_box(point, direction, _grown_half_mm(plan.setup))] = 0
    for k in reversed(range(len(plan.setup["tes_mm"]))):
        centre = film_centre_mm(plan.setup, plan.setup["tes_mm"][k])
        stratum[line_distance_mm(point, direction, centre) < plan.aim_radius_mm] = k + 1
    return stratum


def line_distance_mm(point: np.ndarray, direction: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Distance of straight lines from a centre, or each from its own (shapes (n, 3))."""
    return np.linalg.norm(np.cross(point - centre, direction), axis=1)


def film_centre_mm(setup: dict, place_mm) -> np.ndarray:
    """Centres of TES or witness films from x and y: shape (..., 2) to (..., 3)."""
    z = (setup["wafer_thickness_mm"] + setup["tes_thickness_mm"]) / 2
    place = np.asarray(place_mm, dtype=float)
    return np.concatenate([place, np.full((*place.shape[:-1], 1), z)], axis=-1)


def _scattering_mm(setup: dict, name: str, energy_mev: np.ndarray) -> np.ndarray:
    """How far the shield's multiple scattering moves tracks at the wafer (Highland's formula,
    Particle Data Group 2024, eq. 34.16): sets where lines are drawn, not what they count."""
    depth = setup["shield_thickness_mm"] / ALUMINIUM_RADIATION_LENGTH_MM
    if depth == 0:
        return np.zeros_like(energy_mev)
    mass = SPECIES[name].mass_mev
    momentum_beta = energy_mev * (energy_mev + 2 * mass) / (energy_mev + mass)
    charge = abs(SPECIES[name].charge_number)
    angle = 13.6 * charge / momentum_beta * np.sqrt(depth) * (1 + 0.038 * np.log(depth))
    return np.maximum(angle, 0) * setup["shield_radius_mm"]


def _lines(plan: Plan, stratum: np.ndarray, rng, spread_mm: np.ndarray):
    """Point, direction and area (m2) of lines that cross their stratum's own box or sphere."""
    n = len(stratum)
    point, direction = np.empty((2, n, 3))
    area_mm2 = np.empty(n)

    own, half = stratum == 0, _grown_half_mm(plan.setup)
    point[own], direction[own] = box_lines(rng, own.sum(), half)
    area_mm2[own] = 2 * (half[0] * half[1] + half[1] * half[2] + half[2] * half[0])  # S / 4

    own, radius = stratum == -1, _outer_radius_mm(plan.setup)
    point[own], direction[own] = isotropic_lines(rng, own.sum(), radius)
    area_mm2[own] = np.pi * radius**2

    # Offsets from the TES: uniform on one of three discs, as large as the TES, as the scattered
    # beam, and as the aim sphere. Their density is the mean of the discs' densities.
    own = stratum > 0
    n = own.sum()
    if n == 0:
        return point, direction, area_mm2 * _MM2_IN_M2
    radii = np.full((n, 3), plan.aim_radius_mm)
    radii[:, 0] = plan.core_radius_mm
    radii[:, 1] = np.minimum(plan.core_radius_mm + 2 * spread_mm[own], plan.aim_radius_mm)
    offset, direction[own] = isotropic_lines(rng, n, 1.0)
    offset *= radii[np.arange(n), rng.choice(3, n, p=DISC_SHARE)][:, None]
    inside = np.linalg.norm(offset, axis=1)[:, None] <= radii
    area_mm2[own] = 1 / (DISC_SHARE * inside / (np.pi * radii**2)).sum(axis=1)
    place_mm = np.array(plan.setup["tes_mm"])[stratum[own] - 1]
    point[own] = film_centre_mm(plan.setup, place_mm) + offset
    return point, direction, area_mm2 * _MM2_IN_M2


def _start_mm(setup: dict, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Where lines enter the sphere around everything."""
    nearest = point - np.sum(point * direction, axis=1, keepdims=True) * direction
    back = np.sqrt(setup["start_radius_mm"] ** 2 - np.sum(nearest**2, axis=1, keepdims=True))
    return nearest - back * direction


def _grown_half_mm(setup: dict) -> np.ndarray:
    side, thickness = setup["wafer_side_mm"], setup["wafer_thickness_mm"]
    return np.array([side, side, thickness]) / 2 + WAFER_MARGIN_MM


def _outer_radius_mm(setup: dict) -> float:
    return setup["shield_radius_mm"] + setup["shield_thickness_mm"]
