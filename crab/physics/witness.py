"""Hits on a wafer's absorbers by strays: particles whose primary was not aimed near them.

Secondaries from the shield and far-scattered primaries make about a fifth of the hits on a TES,
but one TES is so small that a library would hold none of them, or one with a rate far too high.
Their density hardly changes across the wafer. So a lattice of witness films, each with all that a
detector has, covers a part of the wafer's face; what strays leave in any of the M films is
moved, with its deposits in the wafer, to a detector and counts as n_detectors / M of an event.

Without a wafer there are no films, and whatever hits an absorber counts.
"""

import numpy as np

from crab.physics import parts, strata

FILMS_PER_SIDE = 64
STRATUM = -2
PER_EVENT = ("species", "energy_mev", "direction", "stratum", "aperture_m2_sr_mev", "images")


def lattice_mm(setup: dict) -> np.ndarray:
    """Places of the witness films.

    Parameters
    ----------
    setup : dict
        From `crab.physics.transport.world_setup`; its films are not read.

    Returns
    -------
    ndarray, shape (m, 3)
        A square lattice across the wafer, less the films that would touch a detector; empty
        without wafer or detectors. Film k lies as high as detector ``k % n_detectors``.
    """
    detector_mm = np.array(setup["detector_mm"])
    if setup["wafer_side_mm"] is None or len(detector_mm) == 0:
        return np.empty((0, 3))
    reach = parts.reach_mm(setup)
    n = min(FILMS_PER_SIDE, int(setup["wafer_side_mm"] / (2 * reach)))
    axis = setup["wafer_side_mm"] * ((np.arange(n) + 0.5) / n - 0.5)
    place = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    apart = np.abs(place[:, None] - detector_mm[None, :, :2]).max(axis=-1).min(axis=1)
    place = place[apart > 4 * reach]
    return np.column_stack([place, detector_mm[np.arange(len(place)) % len(detector_mm), 2]])


def hit_events(plan: strata.Plan, drawn: dict, deposits: np.ndarray) -> dict[str, np.ndarray]:
    """Library columns of one batch.

    Parameters
    ----------
    plan : Plan
    drawn : dict of ndarray
        From `strata.draw_batch`.
    deposits : ndarray of `geant4_worker.DEPOSIT_DTYPE`
        What Geant4 made of it, witness films included.

    Returns
    -------
    dict of ndarray
        Columns per event and per deposit. Where there are films, absorbers count only for
        primaries aimed at them; strays are events of their own, of stratum `STRATUM`.
    """
    detector_mm, film_mm = (
        np.array(plan.setup[name]).reshape(-1, 3) for name in ("detector_mm", "witness_mm")
    )
    primary, on_wafer = deposits["primary"], deposits["volume"] == 0
    film = deposits["detector_index"].astype(int) - len(detector_mm)
    own = film < 0
    if len(film_mm):
        own &= drawn["stratum"][primary] > 0
    drawn = drawn | {"images": np.ones(len(drawn["stratum"]), dtype=np.uint8)}
    if len(film_mm):
        blank = np.unique(primary[on_wafer & (drawn["stratum"][primary] <= 0)])
        line = drawn["primaries"][blank, 3:]
        drawn["images"][blank] = strata.images(plan, line[:, :3], line[:, 3:])
    tables = [_columns(drawn, deposits[on_wafer | own])]

    found = np.unique(np.stack([primary, film], axis=1)[~on_wafer & (film >= 0)], axis=0)
    detector = found[:, 1] % len(detector_mm) if len(found) else found[:, 1]
    shift = detector_mm[detector] - film_mm[found[:, 1]]
    line = drawn["primaries"][found[:, 0], 3:]
    # What would then pass through an aim sphere is counted by the strata of the aim points.
    stray = strata.classify(plan, line[:, :3] + shift, line[:, 3:]) <= 0
    for (event, k), j, by in zip(found[stray], detector[stray], shift[stray], strict=True):
        moved = deposits[(primary == event) & (on_wafer | (film == k))]
        moved["detector_index"][moved["volume"] > 0] = j
        moved["x_mm"] += by[0]
        moved["y_mm"] += by[1]
        off = np.maximum(np.abs(moved["x_mm"]), np.abs(moved["y_mm"]))
        columns = _columns(drawn, moved[off < plan.setup["wafer_side_mm"] / 2])
        columns["stratum"][:] = STRATUM
        columns["images"][:] = 1  # it belongs to the detector that it was moved to
        columns["aperture_m2_sr_mev"] *= len(detector_mm) / len(film_mm)
        tables.append(columns)
    return join(tables)


def join(tables: list[dict]) -> dict[str, np.ndarray]:
    """One after another, with ``event_index`` counting on."""
    first = np.cumsum([0, *(len(one["species"]) for one in tables)])
    columns = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    lengths = [len(one["event_index"]) for one in tables]
    columns["event_index"] = columns["event_index"] + np.repeat(first[:-1], lengths)
    return columns


def _columns(drawn: dict, deposits: np.ndarray) -> dict[str, np.ndarray]:
    hit, event = np.unique(deposits["primary"], return_inverse=True)
    names = deposits.dtype.names[1:]
    return (
        {name: drawn[name][hit] for name in PER_EVENT}
        | {"event_index": event}
        | {name: deposits[name] for name in names}
    )
