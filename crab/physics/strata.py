"""Primary lines of the deposit library: disjoint strata that together hold every line.

A line of an isotropic flux belongs to the first of these that it crosses: the sphere around aim
point 0, 1, ... (stratum k + 1), the target's box grown by `MARGIN_MM` (stratum 0; the target is
the wafer, or what holds all absorbers where there is none), the shield's outer sphere (stratum -1:
only secondaries and scattered primaries of these reach the target). Each stratum is sampled alone,
lines that belong to another one are dropped but still counted, so the strata add up without
overlap and the rare hits on small absorbers get their own statistics.

Aim points are the centres of the detectors' smallest absorbers; detectors nearer to one another
than the aim radius share one.

A line drawn with density ``1/area`` (m-2, across its direction) and isotropic direction stands
for the rate ``J(E) * 4 pi area / (n p(E))``: the event's aperture times the flux.
"""

from dataclasses import dataclass

import numpy as np

from crab import seeds
from crab.errors import CrabError
from crab.params import DepositsNotebook, Environment
from crab.physics import parts
from crab.physics.lines import box_lines, crosses_box, line_distance_mm
from crab.physics.spectra import SPECIES, isotropic_lines, sample_energies
from crab.physics.wafer import mirror

MARGIN_MM = 1.0
NO_STRATUM = -99
# Lines are aimed at discs as large as an absorber, as the scattered beam, and as the aim sphere.
CORE_SHARE, SCATTERED_SHARE, AIM_SHARE = 0.35, 0.45, 0.2
# Protons of a solar-particle event are soft: with the Galactic spectrum alone a few hundred events
# of a library would stand for all of them.
LOW_SHARE = {"proton": 0.25}
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
# One primary in a hundred that passes the target hits it after all, with what the shield made of
# it. Light and cheap ones do nearly all of that, and each must stand for little of their rate.
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
    ``aim_mm`` has the shape (aim point, 3). Each aim point has discs around the small absorbers of
    each of its detectors: ``core_mm`` (aim point, disc, 3), ``core_radius_mm`` and ``core_share``
    (aim point, disc); the share of a disc that only fills the table is 0.
    """

    setup: dict
    strata: np.ndarray
    counts: np.ndarray
    aim_of_detector: np.ndarray
    aim_mm: np.ndarray
    aim_radius_mm: float
    core_mm: np.ndarray
    core_radius_mm: np.ndarray
    core_share: np.ndarray

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
        ``n_target_primaries`` (the target), ``n_shield_primaries`` and ``n_aimed_primaries`` (all
        aim points together).

    Returns
    -------
    Plan

    Raises
    ------
    CrabError
        If a stratum would get fewer primaries than there are species.
    """
    aim = _aim(setup)
    n_aim = len(aim["aim_mm"])
    totals = {0: settings.n_target_primaries}
    if setup["shield_thickness_mm"] > 0:
        totals[-1] = settings.n_shield_primaries
    totals |= {k + 1: settings.n_aimed_primaries // n_aim for k in range(n_aim)}
    shares = {-1: SHIELD_SHARE}
    share = np.array([list(shares.get(k, SPECIES_SHARE).values()) for k in totals])
    counts = np.round(np.array(list(totals.values()))[:, None] * share).astype(int)
    if counts.min() < 1:
        row = int(counts.min(axis=1).argmin())
        stratum, share = list(totals)[row], share[row]
        name = {0: "n_target_primaries", -1: "n_shield_primaries"}.get(stratum, "n_aimed_primaries")
        least = int(np.ceil(0.51 / share.min())) * (n_aim if stratum > 0 else 1)
        raise CrabError(f"{name} = {getattr(settings, name)}: allowed are values >= {least} here")
    return Plan(setup, np.array(list(totals)), counts, **aim)


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
            rng, own.sum(), proposal, name, *limits_mev, LOW_SHARE.get(name, 0.0)
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
    centre, half = _grown_target_mm(plan.setup)
    stratum[crosses_box(point - centre, direction, half)] = 0
    for k in reversed(range(len(plan.aim_mm))):
        stratum[line_distance_mm(point, direction, plan.aim_mm[k]) < plan.aim_radius_mm] = k + 1
    return stratum


def images(plan: Plan, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Symmetries of a square wafer under which lines stay clear of all aim points.

    A library holds each line of the strata 0 and -1 once; those near an aim point belong to its own
    stratum. So an event may come in the images that miss all aim points, in each as often as in the
    others, and then every such line is met once, as it should.

    Parameters
    ----------
    plan : Plan
    point, direction : ndarray, shape (n, 3)
        Lines of strata 0 or -1.

    Returns
    -------
    ndarray of uint8, shape (n,)
        Bit k is set if image k (`crab.physics.wafer.mirror`) is allowed; bit 0 always is.
    """
    allowed = np.zeros(len(point), dtype=np.uint8)
    for k in range(8):
        image = np.full(len(point), k)
        moved = [
            np.stack([*mirror(v[:, 0], v[:, 1], image), v[:, 2]], axis=1)
            for v in (point, direction)
        ]
        allowed |= (classify(plan, *moved) <= 0).astype(np.uint8) << k
    return allowed


def _aim(setup: dict) -> dict:
    """Aim points, their radius and the discs around the absorbers: fields of `Plan`."""
    detector_mm = np.array(setup["detector_mm"]).reshape(-1, 3)
    if len(detector_mm) == 0:
        none = np.empty((0, 0))
        return {
            "aim_of_detector": np.empty(0, int),
            "aim_mm": np.empty((0, 3)),
            "aim_radius_mm": setup["aim_radius_mm"],
            "core_mm": np.empty((0, 0, 3)),
            "core_radius_mm": none,
            "core_share": none,
        }
    centre, core = parts.spheres_mm(setup)
    middle = centre[core.argmin()]
    group = np.arange(len(detector_mm))
    apart = np.linalg.norm(detector_mm[:, None] - detector_mm, axis=-1)
    for i, j in np.argwhere(np.triu(apart < setup["aim_radius_mm"], 1)):
        group[group == group[j]] = group[i]
    names, group = np.unique(group, return_inverse=True)
    members = [detector_mm[group == k] for k in range(len(names))]
    aim_mm = np.array([m.mean(axis=0) for m in members]) + middle
    apart = np.linalg.norm(aim_mm[:, None] - aim_mm, axis=-1)
    nearest = apart[apart > 0].min(initial=np.inf)
    radius = min(setup["aim_radius_mm"], 0.49 * nearest)

    # Larger absorbers fill the aim sphere, or are hit by enough lines through the target.
    small = (core < radius) | (core == core.min())
    centre, core = centre[small], core[small]
    n = max(map(len, members)) * len(core)
    core_mm, share = np.zeros((len(names), n, 3)), np.zeros((len(names), n))
    core_radius = np.full((len(names), n), radius)
    for k, own in enumerate(members):
        discs = len(own) * len(core)
        core_mm[k, :discs] = (own[:, None] + centre).reshape(-1, 3)
        core_radius[k, :discs] = np.tile(np.minimum(core, radius), len(own))
        share[k, :discs] = 1 / discs
    return {
        "aim_of_detector": group,
        "aim_mm": aim_mm,
        "aim_radius_mm": radius,
        "core_mm": core_mm,
        "core_radius_mm": core_radius,
        "core_share": share,
    }


def _scattering_mm(setup: dict, name: str, energy_mev: np.ndarray) -> np.ndarray:
    """How far the shield's multiple scattering moves tracks at the target (Highland's formula,
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

    own = stratum == 0
    centre, half = _grown_target_mm(plan.setup)
    point[own], direction[own] = box_lines(rng, own.sum(), half)
    point[own] += centre
    area_mm2[own] = 2 * (half[0] * half[1] + half[1] * half[2] + half[2] * half[0])  # S / 4

    own, radius = stratum == -1, _outer_radius_mm(plan.setup)
    point[own], direction[own] = isotropic_lines(rng, own.sum(), radius)
    area_mm2[own] = np.pi * radius**2

    own = stratum > 0
    if own.any():
        aim, offset = stratum[own] - 1, isotropic_lines(rng, own.sum(), 1.0)
        point[own], direction[own], area_mm2[own] = _aimed(plan, aim, *offset, spread_mm[own], rng)
    return point, direction, area_mm2 * _MM2_IN_M2


def _aimed(plan: Plan, aim, offset, direction, spread_mm, rng):
    """Lines uniform on one disc of several; their density is the mean of the discs' densities."""
    core = plan.core_radius_mm[aim]
    whole = np.full((len(aim), 1), plan.aim_radius_mm)
    radius = np.hstack([core, np.minimum(core + 2 * spread_mm[:, None], whole), whole])
    share = plan.core_share[aim]
    share = np.hstack([CORE_SHARE * share, SCATTERED_SHARE * share, 0 * whole + AIM_SHARE])
    cores = plan.core_mm[aim]
    centre = np.concatenate([cores, cores, plan.aim_mm[aim][:, None]], axis=1)
    last = share.shape[1] - 1
    chosen = np.minimum((rng.uniform(size=(len(aim), 1)) > share.cumsum(axis=1)).sum(axis=1), last)
    row = np.arange(len(aim))
    point = centre[row, chosen] + offset * radius[row, chosen][:, None]
    distance = line_distance_mm(point[:, None], direction[:, None], centre)
    inside = distance <= radius * (1 + 1e-9)
    area_mm2 = 1 / (share * inside / (np.pi * radius**2)).sum(axis=1)
    return point, direction, area_mm2


def _start_mm(setup: dict, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Where lines enter the sphere around everything."""
    nearest = point - np.sum(point * direction, axis=1, keepdims=True) * direction
    back = np.sqrt(setup["start_radius_mm"] ** 2 - np.sum(nearest**2, axis=1, keepdims=True))
    return nearest - back * direction


def _grown_target_mm(setup: dict) -> tuple[np.ndarray, np.ndarray]:
    centre, half = parts.target_mm(setup)
    return centre, half + MARGIN_MM


def _outer_radius_mm(setup: dict) -> float:
    return setup["shield_radius_mm"] + setup["shield_thickness_mm"]
