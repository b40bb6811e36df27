"""Detectors of a mission: from the instrument database of litebird-sim, or listed in params.yaml.

In the database, names, wafers, pixels, channels, bands, NET and polarisation angles are its own
(LiteBIRD vPTEP, arXiv:2202.02773). It holds no positions on the wafer: all its quaternions are the
identity. So positions are built from wafer, pixel index and pixel pitch. Pixels are numbered row
by row, on a square grid for LFT (3 x 3 or 6 x 6) and on a hexagonal one for MFT and HFT (61, 127
or 169, where the database orients wafers by the middle pixel); the grid is centred on the wafer.
The sensors of a pixel sit on a ring about its centre in the order of their channels, T before B.
"""

import difflib
from functools import lru_cache

import numpy as np
import xarray as xr

from crab.errors import CrabError
from crab.params import InstrumentDatabase, InstrumentTable, Mission

RELEASE = "/releases/vPTEP/satellite"


@lru_cache(maxsize=1)
def _database():
    # Imported here because litebird_sim takes seconds to import.
    import litebird_sim as lbs

    return lbs.Imo(flatfile_location=lbs.PTEP_IMO_LOCATION)


@lru_cache(maxsize=3)
def _telescope(telescope: str) -> dict[str, list[dict]]:
    """Database entries of one telescope by wafer, in the order pixel, band, T before B."""
    query = _database().query
    wafers = {}
    for channel in query(f"{RELEASE}/{telescope}/instrument_info").metadata["channel_names"]:
        path = f"{RELEASE}/{telescope}/{channel}"
        for name in query(f"{path}/channel_info").metadata["detector_names"]:
            info = query(f"{path}/{name}/detector_info").metadata
            wafers.setdefault(info["wafer"], []).append(info)
    for entries in wafers.values():
        entries.sort(key=lambda d: (d["pixel"], d["bandcenter_ghz"], d["pol"] != "T"))
    return dict(sorted(wafers.items()))


def pixel_centres_mm(telescope: str, n_pixels: int, pitch_mm: float) -> np.ndarray:
    """Pixel centres on a wafer, origin at its centre.

    Parameters
    ----------
    telescope : {"LFT", "MFT", "HFT"}
        LFT has square grids, the others hexagonal ones.
    n_pixels : int
        Pixels on the wafer: a square number for LFT, else 1 + 3 k (k + 1).
    pitch_mm : float
        Distance between neighbours.

    Returns
    -------
    ndarray, shape (n_pixels, 2)
        x and y in mm; pixel 0 is at the top left, numbers run along rows.

    Raises
    ------
    CrabError
        If no such grid has this number of pixels.
    """
    if telescope == "LFT":
        rows = [round(n_pixels**0.5)] * round(n_pixels**0.5)
        row_pitch = pitch_mm
    else:
        k = round(((4 * n_pixels - 1) / 12) ** 0.5 - 0.5)
        rows = [2 * k + 1 - abs(row) for row in range(-k, k + 1)]
        row_pitch = pitch_mm * 3**0.5 / 2
    if sum(rows) != n_pixels:
        grid = "square" if telescope == "LFT" else "hexagonal"
        raise CrabError(f"telescope {telescope}: {n_pixels} pixels do not fill a {grid} grid")
    middle = (len(rows) - 1) / 2
    return np.array(
        [
            (pitch_mm * (column - (length - 1) / 2), row_pitch * (middle - row))
            for row, length in enumerate(rows)
            for column in range(length)
        ]
    )


def detectors(mission: Mission) -> xr.Dataset:
    """Detectors of a mission with their positions on the wafer.

    Parameters
    ----------
    mission : Mission
        Entry of ``missions`` in params.yaml. In a database, ``detectors: null`` means the whole
        wafer.

    Returns
    -------
    xarray.Dataset
        No variables; coordinates on dimension ``detector``: ``detector`` (name), ``wafer``,
        ``pixel``, ``channel``, ``x_mm``, ``y_mm`` and ``z_mm`` (sensor's position, origin at the
        wafer's centre), ``pol_angle_rad``, ``net_ukrts``, ``bandcenter_ghz``, ``bandwidth_ghz``.
        In the order of the list, or by pixel, band, T before B for a whole wafer.

    Raises
    ------
    CrabError
        For an unknown wafer or detector, a repeated one, an empty list, or an absorber that does
        not fit on the wafer; the message has the valid choices.
    """
    source = mission.instrument
    entries = _listed(source) if source.kind == "table" else _looked_up(source)
    upper_mm = 0.0
    if mission.geometry is not None and mission.geometry.wafer_thickness_mm is not None:
        upper_mm = mission.geometry.wafer_thickness_mm / 2
    for entry in entries:
        entry["z_mm"] = upper_mm if entry["z_mm"] is None else entry["z_mm"]
    _check_fit(mission, entries)

    def column(key, dtype, **attrs):
        return ("detector", np.array([entry[key] for entry in entries], dtype=dtype), attrs)

    places = {
        f"{axis}_mm": column(f"{axis}_mm", float, units="mm", long_name=f"sensor's place, {axis}")
        for axis in "xyz"
    }
    return xr.Dataset(
        coords={
            "detector": column("name", str),
            "wafer": ("detector", np.full(len(entries), source.wafer)),
            "pixel": column("pixel", np.int32, long_name="pixel on the wafer"),
            "channel": column("channel", str),
            **places,
            "pol_angle_rad": column("pol_angle_rad", float, units="rad"),
            "net_ukrts": column("net_ukrts", float, units="uK s**0.5"),
            "bandcenter_ghz": column("bandcenter_ghz", float, units="GHz"),
            "bandwidth_ghz": column("bandwidth_ghz", float, units="GHz"),
        }
    )


def _listed(source: InstrumentTable) -> list[dict]:
    entries = [detector.model_dump() for detector in source.detectors]
    _check_unique([entry["name"] for entry in entries])
    return entries


def _looked_up(source: InstrumentDatabase) -> list[dict]:
    table = _telescope(source.telescope)
    if source.wafer not in table:
        raise CrabError(
            f"wafer = {source.wafer!r}: the {source.telescope} wafers of "
            f"{source.release} are {', '.join(table)}"
        )
    entries = {d["name"]: d for d in table[source.wafer]}
    names = list(entries) if source.detectors is None else list(source.detectors)
    _check_names(names, entries, source)
    n_pixels = len({d["pixel"] for d in entries.values()})
    centres = pixel_centres_mm(source.telescope, n_pixels, source.pixel_pitch_mm)
    chosen = []
    for name in names:
        entry = entries[name]
        # The place on the ring counts all detectors of the pixel, whichever are chosen.
        mates = [n for n, d in entries.items() if d["pixel"] == entry["pixel"]]
        angle = 2 * np.pi * (mates.index(name) + 0.5) / len(mates)
        x_mm, y_mm = centres[entry["pixel"]] + source.sensor_ring_radius_mm * np.array(
            [np.cos(angle), np.sin(angle)]
        )
        chosen.append({**entry, "x_mm": x_mm, "y_mm": y_mm, "z_mm": None})
    return chosen


def _check_fit(mission: Mission, entries: list[dict]) -> None:
    geometry = mission.geometry
    if geometry is None or geometry.wafer_side_mm is None:
        return
    reach = 0.0
    boxes = [box for absorber in geometry.absorbers.values() for box in absorber.boxes]
    for axis in range(2):
        half = max(
            abs(box.offset_mm[axis])
            + (box.size_mm[axis] + (box.copies - 1) * abs(box.pitch_mm[axis])) / 2
            for box in boxes
        )
        place = max(abs(entry["xy"[axis] + "_mm"]) for entry in entries)
        reach = max(reach, place + half)
    if reach > geometry.wafer_side_mm / 2:
        raise CrabError(
            f"geometry.wafer_side_mm = {geometry.wafer_side_mm:g}: the outermost absorber of wafer "
            f"{mission.instrument.wafer} needs at least {2 * reach:.1f} mm; see the detectors' "
            "places (pixel_pitch_mm and sensor_ring_radius_mm, or x_mm and y_mm)"
        )


def _check_unique(names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CrabError(f"detectors: {', '.join(repeated)} listed more than once")


def _check_names(names: list[str], entries: dict[str, dict], source: InstrumentDatabase) -> None:
    if not names:
        raise CrabError("detectors = []: name at least one detector, or null for the whole wafer")
    _check_unique(names)
    for name in names:
        if name in entries:
            continue
        near = difflib.get_close_matches(name, list(entries), n=3)
        examples = near or list(entries)[:3]
        raise CrabError(
            f"detectors: {name!r} is not on wafer {source.wafer} of {source.telescope}; "
            f"allowed are its {len(entries)} detectors, such as {', '.join(examples)}"
        )
