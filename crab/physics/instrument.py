"""Detectors of a mission, from the instrument database that ships with litebird-sim.

Names, wafers, pixels, channels, bands, NET and polarisation angles are the database's (LiteBIRD
vPTEP, arXiv:2202.02773). It holds no positions on the wafer: all its quaternions are the
identity. So positions are built from wafer, pixel index and pixel pitch. Pixels are numbered row
by row, on a square grid for LFT (3 x 3 or 6 x 6) and on a hexagonal one for MFT and HFT (61, 127
or 169, where the database orients wafers by the middle pixel); the grid is centred on the wafer.
The TES of a pixel sit on a ring about its centre in the order of their channels, T before B.
"""

import difflib
from functools import lru_cache

import numpy as np
import xarray as xr

from crab.errors import CrabError
from crab.params import Mission

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


def wafers(telescope: str) -> list[str]:
    """Names of the wafers of a telescope (``"LFT"``, ``"MFT"`` or ``"HFT"``)."""
    return list(_telescope(telescope))


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
        Entry of ``missions`` in params.yaml. ``detectors: null`` means the whole wafer.

    Returns
    -------
    xarray.Dataset
        No variables; coordinates on dimension ``detector``: ``detector`` (name), ``wafer``,
        ``pixel``, ``channel``, ``x_mm`` and ``y_mm`` (TES position, origin at the wafer
        centre), ``pol_angle_rad``, ``net_ukrts``, ``bandcenter_ghz``, ``bandwidth_ghz``. In the
        order of the list, or by pixel, band, T before B for a whole wafer.

    Raises
    ------
    CrabError
        For an unknown wafer or detector, a repeated one, an empty list, or a TES that does not
        fit on the wafer; the message has the valid choices.
    """
    table = _telescope(mission.telescope)
    if mission.wafer not in table:
        raise CrabError(
            f"wafer = {mission.wafer!r}: the {mission.telescope} wafers of "
            f"{mission.instrument_database} are {', '.join(table)}"
        )
    entries = {d["name"]: d for d in table[mission.wafer]}
    names = list(entries) if mission.detectors is None else list(mission.detectors)
    _check_names(names, entries, mission)

    geometry = mission.geometry
    pixels = [d["pixel"] for d in entries.values()]
    centres = pixel_centres_mm(mission.telescope, len(set(pixels)), geometry.pixel_pitch_mm)
    pixel = np.array([entries[name]["pixel"] for name in names])
    # The place on the ring counts all detectors of the pixel, so it never depends on the choice.
    mates = [[n for n, d in entries.items() if d["pixel"] == p] for p in pixel]
    turn = [(m.index(n) + 0.5) / len(m) for m, n in zip(mates, names, strict=True)]
    angle = 2 * np.pi * np.array(turn)
    ring = geometry.tes_ring_radius_mm * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x_mm, y_mm = (centres[pixel] + ring).T
    reach = np.maximum(np.abs(x_mm), np.abs(y_mm)).max() + geometry.tes_side_mm / 2
    if reach > geometry.wafer_side_mm / 2:
        raise CrabError(
            f"geometry.wafer_side_mm = {geometry.wafer_side_mm:g}: the outermost TES of wafer "
            f"{mission.wafer} needs at least {2 * reach:.1f} mm (pixel_pitch_mm = "
            f"{geometry.pixel_pitch_mm:g}, tes_ring_radius_mm = {geometry.tes_ring_radius_mm:g})"
        )

    def column(key, dtype):
        return ("detector", np.array([entries[name][key] for name in names], dtype=dtype))

    return xr.Dataset(
        coords={
            "detector": ("detector", np.array(names)),
            "wafer": column("wafer", str),
            "pixel": ("detector", pixel.astype(np.int32), {"long_name": "pixel on the wafer"}),
            "channel": column("channel", str),
            "x_mm": ("detector", x_mm, {"units": "mm", "long_name": "TES position on wafer, x"}),
            "y_mm": ("detector", y_mm, {"units": "mm", "long_name": "TES position on wafer, y"}),
            "pol_angle_rad": (*column("pol_angle_rad", float), {"units": "rad"}),
            "net_ukrts": (*column("net_ukrts", float), {"units": "uK s**0.5"}),
            "bandcenter_ghz": (*column("bandcenter_ghz", float), {"units": "GHz"}),
            "bandwidth_ghz": (*column("bandwidth_ghz", float), {"units": "GHz"}),
        }
    )


def _check_names(names: list[str], entries: dict[str, dict], mission: Mission) -> None:
    if not names:
        raise CrabError("detectors = []: name at least one detector, or null for the whole wafer")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CrabError(f"detectors: {', '.join(repeated)} listed more than once")
    for name in names:
        if name in entries:
            continue
        near = difflib.get_close_matches(name, list(entries), n=3)
        examples = near or list(entries)[:3]
        raise CrabError(
            f"detectors: {name!r} is not on wafer {mission.wafer} of {mission.telescope}; "
            f"allowed are its {len(entries)} detectors, such as {', '.join(examples)}"
        )
