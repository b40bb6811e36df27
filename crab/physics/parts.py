"""Absorbers of the detectors as boxes in space: where they are and how far they reach.

A ``setup`` (see `crab.physics.transport.world_setup`) holds the detectors' points and, once, the
boxes that each detector has around its point.
"""

import numpy as np

from crab.errors import CrabError
from crab.params import Absorber

TOUCHING_MM = 1e-6
RESERVED = ("wafer", "shield", "shield_outer", "world")


def expand(absorber: Absorber) -> dict:
    """Boxes of an absorber, copies included.

    Parameters
    ----------
    absorber : Absorber

    Returns
    -------
    dict
        ``material``, and ``centre_mm`` (from the detector's point) and ``size_mm``, each a list
        of three numbers for each box.
    """
    centres, sizes = [], []
    for box in absorber.boxes:
        steps = np.arange(box.copies) - (box.copies - 1) / 2
        centres += (np.array(box.offset_mm) + steps[:, None] * np.array(box.pitch_mm)).tolist()
        sizes += [list(box.size_mm)] * box.copies
    return {"material": absorber.material, "centre_mm": centres, "size_mm": sizes}


def corners_mm(setup: dict, name: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper corners of boxes, from the detector's point.

    Parameters
    ----------
    setup : dict
    name : str, optional
        Absorber; default all of them, in their order.

    Returns
    -------
    lower, upper : ndarray, shape (n, 3)
    """
    chosen = setup["absorbers"].values() if name is None else [setup["absorbers"][name]]
    centre, half = (
        np.concatenate([np.array(part[key]) for part in chosen]) for key in ("centre_mm", "size_mm")
    )
    half = half / 2
    return centre - half, centre + half


def spheres_mm(setup: dict) -> tuple[np.ndarray, np.ndarray]:
    """Sphere around each absorber of a detector.

    Returns
    -------
    centre : ndarray, shape (n_absorbers, 3)
        From the detector's point, mm.
    radius : ndarray, shape (n_absorbers,)
    """
    corners = [corners_mm(setup, name) for name in setup["absorbers"]]
    lower = np.array([low.min(axis=0) for low, _ in corners])
    upper = np.array([high.max(axis=0) for _, high in corners])
    return (lower + upper) / 2, np.linalg.norm(upper - lower, axis=1) / 2


def reach_mm(setup: dict) -> float:
    """Largest distance in x or y of any part of a detector from its point."""
    lower, upper = corners_mm(setup)
    return float(np.abs([lower[:, :2], upper[:, :2]]).max())


def target_mm(setup: dict) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half lengths of what is hit: the wafer, or the box around all absorbers."""
    if setup["wafer_side_mm"] is not None:
        side, thickness = setup["wafer_side_mm"], setup["wafer_thickness_mm"]
        return np.zeros(3), np.array([side, side, thickness]) / 2
    lower, upper = corners_mm(setup)
    place = np.array(setup["detector_mm"])
    lower, upper = place.min(axis=0) + lower.min(axis=0), place.max(axis=0) + upper.max(axis=0)
    return (lower + upper) / 2, (upper - lower) / 2


def check(setup: dict) -> None:
    """Refuse what Geant4 would track wrongly without a word: boxes inside one another.

    Raises
    ------
    CrabError
        If an absorber has a reserved name, or two boxes (or a box and the wafer) overlap.
    """
    for name in setup["absorbers"]:
        if name in RESERVED:
            raise CrabError(
                f"geometry.absorbers.{name}: allowed are names other than {', '.join(RESERVED)}"
            )
    lower, upper = corners_mm(setup)
    names = np.repeat(
        list(setup["absorbers"]), [len(p["size_mm"]) for p in setup["absorbers"].values()]
    )
    place = np.array(setup["detector_mm"])[:, None]
    low, high = ((place + corner).reshape(-1, 3) for corner in (lower, upper))
    if setup["wafer_side_mm"] is not None:
        centre, half = target_mm(setup)
        low, high = (
            np.vstack([box, at]) for box, at in ((low, centre - half), (high, centre + half))
        )
    for k, point in enumerate(place):
        shared = np.minimum((point + upper)[:, None], high) - np.maximum(
            (point + lower)[:, None], low
        )
        inside = (shared > TOUCHING_MM).all(axis=-1)
        inside[np.arange(len(lower)), k * len(lower) + np.arange(len(lower))] = False
        if inside.any():
            one, other = (int(i[0]) for i in np.nonzero(inside))
            detector, box = divmod(other, len(lower))
            what = f"{names[box]} of detector {detector}"
            what = "the wafer" if detector == len(place) else what
            raise CrabError(
                f"geometry.absorbers.{names[one]}: a box of detector {k} overlaps {what}: allowed "
                "are boxes that touch at most"
            )
