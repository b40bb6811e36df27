"""What the simulation takes from a deposit library: whose it is, and which events hit what."""

import numpy as np
import xarray as xr

from crab.errors import CrabError
from crab.params import Mission

_ROUNDING_MM = 1e-3


def hit_tables(deposits: dict, on_wafer: dict, n_events: int, n_detectors: int) -> dict:
    """Hits on absorbers sorted by event, and the event columns of the truth table.

    Parameters
    ----------
    deposits, on_wafer : dict of ndarray
        ``event_index``, ``volume``, ``detector_index``, ``x_mm``, ``y_mm``, ``deposit_ev`` of all
        deposits, and of those in the wafer.
    n_events, n_detectors : int

    Returns
    -------
    dict
        Per hit on an absorber: ``event``, ``absorber`` (in the geometry's order, from 0),
        ``detector``, ``deposit_ev``; ``starts``, the first row of each event and the end; and
        ``events``, per event: ``deposit_ev`` in the wafer and its centroid ``x_mm``, ``y_mm``,
        the largest hit's ``detector_index``, ``absorber`` and ``direct_deposit_ev``, and
        ``n_detectors`` hit.
    """
    inside = deposits["volume"] > 0
    absorber = deposits["volume"][inside].astype(np.int64) - 1
    n_absorbers = absorber.max(initial=0) + 1
    key = deposits["event_index"][inside].astype(np.int64) * n_absorbers + absorber
    key, place = np.unique(
        key * n_detectors + deposits["detector_index"][inside], return_inverse=True
    )
    deposit_ev = np.bincount(place, deposits["deposit_ev"][inside], len(key))
    rest, detector = np.divmod(key, n_detectors)
    event, absorber = np.divmod(rest, n_absorbers)

    most = {name: np.full(n_events, -1, dtype=np.int16) for name in ("detector_index", "absorber")}
    most_ev = np.zeros(n_events, dtype=np.float32)
    order = np.argsort(deposit_ev, kind="stable")  # the largest is written last
    most["detector_index"][event[order]] = detector[order]
    most["absorber"][event[order]] = absorber[order]
    most_ev[event[order]] = deposit_ev[order]
    pairs = np.unique(event * n_detectors + detector)
    met = np.bincount(pairs // n_detectors, minlength=n_events).astype(np.int16)

    where, energy = on_wafer["event_index"], on_wafer["deposit_ev"].astype(float)
    total = np.bincount(where, energy, n_events)
    weight = np.maximum(total, np.finfo(float).tiny)
    columns = {"deposit_ev": total.astype(np.float32)}
    for axis in ("x_mm", "y_mm"):
        moment = np.bincount(where, energy * on_wafer[axis], n_events)
        columns[axis] = np.where(total > 0, moment / weight, np.nan).astype(np.float32)
    columns |= {**most, "direct_deposit_ev": most_ev, "n_detectors": met}
    return {
        "starts": np.searchsorted(event, np.arange(n_events + 1)),
        "event": event,
        "absorber": absorber,
        "detector": detector,
        "deposit_ev": deposit_ev,
        "events": columns,
    }


def check(
    library: xr.Dataset, detectors: xr.Dataset, mission: Mission, mission_name: str, split: str
) -> None:
    """Refuse a library that was not made for these detectors.

    Parameters
    ----------
    library : xarray.Dataset
    detectors : xarray.Dataset
        Of `crab.physics.instrument.detectors`.
    mission : Mission
    mission_name, split : str

    Raises
    ------
    CrabError
        If the library belongs to another mission, split, geometry or set of detectors, or is empty.
    """
    for key in ("mission", "split", "physics_list", "params_hash"):
        if key not in library.attrs:
            raise CrabError(f"deposit library: attribute {key!r} is missing")
    for key, wanted in (("mission", mission_name), ("split", split)):
        if library.attrs[key] != wanted:
            raise CrabError(
                f"deposit library: {key} = {library.attrs[key]!r}: allowed here is {wanted!r}"
            )
    if not library.sizes["event"] or not library.sizes["deposit"]:
        raise CrabError("deposit library: it holds no event: build it with more primaries")
    for key, made_for, wanted in (
        ("detectors", library.attrs.get("detectors"), detectors["detector"].values.tolist()),
        (
            "absorbers",
            library["volume"].attrs.get("flag_meanings", "wafer").partition(" ")[2] or None,
            list(mission.geometry.absorbers),
        ),
    ):
        if made_for is not None and made_for.split() != wanted:
            raise CrabError(
                f"deposit library: made for the {key} {made_for}: allowed here are "
                f"{' '.join(map(str, wanted))}; build it again for {mission_name}"
            )
    # Where the deposits lie tells for which wafer and geometry the library was made.
    inside = library["volume"].values > 0
    index = library["detector_index"].values[inside].astype(int)
    n_detectors, n_absorbers = detectors.sizes["detector"], len(mission.geometry.absorbers)
    if index.max(initial=-1) >= n_detectors or library["volume"].max() > n_absorbers:
        raise CrabError(
            f"deposit library: it has hits in {index.max() + 1} detectors and "
            f"{int(library['volume'].max())} absorbers: allowed here are {n_detectors} and "
            f"{n_absorbers}; build it again for the detectors of {mission_name}"
        )
    for axis in ("x_mm", "y_mm"):
        at = library[axis].values.astype(float)
        off = np.abs(at[inside] - detectors[axis].values[index])
        if off.max(initial=0.0) > _ROUNDING_MM:
            worst = detectors["detector"].values[index[off.argmax()]]
            raise CrabError(
                f"deposit library: a hit in detector {worst} has {axis} = "
                f"{at[inside][off.argmax()]:.2f}, but the detector is at "
                f"{float(detectors[axis].sel(detector=worst)):.2f}: the library was made for other "
                f"detectors or another geometry; build it again for {mission_name}"
            )
        if mission.geometry.wafer_side_mm is None:
            continue
        half = mission.geometry.wafer_side_mm / 2
        if np.abs(at).max(initial=0.0) > half + _ROUNDING_MM:
            raise CrabError(
                f"deposit library: {axis} reaches {np.abs(at).max():.2f}: allowed are positions "
                f"on the wafer, up to {half:g} mm from its centre"
            )
