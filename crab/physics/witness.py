"""Hits on a TES by strays: particles whose primary was not aimed near that TES.

Secondaries from the shield and far-scattered primaries make about a fifth of the hits on a TES,
but one TES is so small that a library would hold none of them, or one with a rate far too high.
Their density hardly changes across the wafer. So a lattice of witness films, each like a TES,
covers a few per cent of the wafer's face; what strays leave in any of the M films is moved, with
its deposits in the wafer, to a TES and counts as n_TES / M of an event.
"""

import numpy as np

from crab.params import Geometry
from crab.physics import strata

FILMS_PER_SIDE = 64
STRATUM = -2
PER_EVENT = ("species", "energy_mev", "direction", "stratum", "aperture_m2_sr_mev")


def lattice_mm(geometry: Geometry, tes_mm: np.ndarray) -> np.ndarray:
    """Places of the witness films.

    Parameters
    ----------
    geometry : Geometry
    tes_mm : ndarray, shape (n, 2)

    Returns
    -------
    ndarray, shape (m, 2)
        A square lattice across the wafer, less the films that would touch a TES; empty without
        TES.
    """
    if len(tes_mm) == 0:
        return np.empty((0, 2))
    axis = geometry.wafer_side_mm * ((np.arange(FILMS_PER_SIDE) + 0.5) / FILMS_PER_SIDE - 0.5)
    place = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    apart = np.abs(place[:, None] - tes_mm[None]).max(axis=-1).min(axis=1)
    return place[apart > 2 * geometry.tes_side_mm]


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
        Columns per event and per deposit. Films count only for primaries aimed at TES; strays
        are events of their own, of stratum `STRATUM`.
    """
    tes_mm, films_mm = (
        np.array(plan.setup[name]).reshape(-1, 2) for name in ("tes_mm", "witness_mm")
    )
    on_film, primary = deposits["volume"] == 1, deposits["primary"]
    witness = deposits["detector_index"].astype(int) - len(tes_mm)
    aimed = drawn["stratum"][primary] > 0
    parts = [_columns(drawn, deposits[~on_film | (aimed & (witness < 0))])]

    found = np.flatnonzero(on_film & ~aimed & (witness >= 0))
    lines = drawn["primaries"][primary[found], 3:]
    centres = strata.film_centre_mm(plan.setup, films_mm[witness[found]])
    # What passes as near as an aim sphere would is counted by the strata of the TES.
    far = strata.line_distance_mm(lines[:, :3], lines[:, 3:], centres) > plan.aim_radius_mm
    half_mm = plan.setup["wafer_side_mm"] / 2
    for row in found[far]:
        tes = witness[row] % len(tes_mm)
        moved = deposits[(primary == primary[row]) & (~on_film | (np.arange(len(primary)) == row))]
        moved["detector_index"][moved["volume"] == 1] = tes
        shift = tes_mm[tes] - films_mm[witness[row]]
        moved["x_mm"] += shift[0]
        moved["y_mm"] += shift[1]
        moved = moved[np.maximum(np.abs(moved["x_mm"]), np.abs(moved["y_mm"])) < half_mm]
        columns = _columns(drawn, moved)
        columns["stratum"][:] = STRATUM
        columns["aperture_m2_sr_mev"] *= len(tes_mm) / len(films_mm)
        parts.append(columns)
    return join(parts)


def join(parts: list[dict]) -> dict[str, np.ndarray]:
    """One after another, with ``event_index`` counting on."""
    first = np.cumsum([0, *(len(part["species"]) for part in parts)])
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    lengths = [len(part["event_index"]) for part in parts]
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
