"""Noise of whole channels after the mission, of one telescope or several, put together."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from crab.errors import CrabError
from crab.impact import focal_plane, maps
from crab.impact.spectra import white_level_uk2
from crab.physics.instrument import RELEASE

COLUMNS = ("telescope", "loss", "block", "channel", "other", "n_ell", "shared")


class ChannelLevels(NamedTuple):
    """Levels of channels after the whole mission, on the whole focal plane.

    Attributes
    ----------
    channels : pandas.DataFrame
        By ``channel``: ``telescope`` and ``loss``, the share of samples left out.
    n_ell : ndarray, shape (n_block, n_channel, n_channel)
        N_ell of the background, auto- and cross-spectra, uK^2. Blocks are stretches of time: their
        scatter is the error.
    shared : ndarray, shape (n_block, n_channel, n_channel)
        Of that, what two halves of the detectors of the same wafers have in common.
    """

    channels: pd.DataFrame
    n_ell: np.ndarray
    shared: np.ndarray

    def instrument(self) -> tuple[np.ndarray, np.ndarray]:
        """White noise of the instrument, losses included, and FWHM of the beams.

        Returns
        -------
        noise_uk2, fwhm_arcmin : ndarray, shape (n_channel,)
        """
        rows = [
            channels(telescope).loc[channel]
            for channel, telescope in self.channels["telescope"].items()
        ]
        noise = np.array([row["noise_uk2"] for row in rows]) / (1 - self.channels["loss"])
        return noise.to_numpy(), np.array([row["fwhm_arcmin"] for row in rows])


def as_table(levels: ChannelLevels) -> pd.DataFrame:
    """One row for each block and pair of channels: `COLUMNS`."""
    names = levels.channels.index
    rows = [
        (*levels.channels.loc[one, ["telescope", "loss"]], block, one, other, n_ell, shared)
        for block, (auto, common) in enumerate(zip(levels.n_ell, levels.shared, strict=True))
        for i, one in enumerate(names)
        for other, n_ell, shared in zip(names, auto[i], common[i], strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def from_table(table: pd.DataFrame) -> ChannelLevels:
    """Inverse of `as_table`.

    Raises
    ------
    CrabError
        If a column or a pair of channels is missing.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise CrabError(f"no column {missing[0]!r}: there are {', '.join(table.columns)}")
    channels = table.drop_duplicates("channel").set_index("channel")[["telescope", "loss"]]
    names, n_blocks = list(channels.index), table["block"].nunique()
    if len(table) != n_blocks * len(names) ** 2:
        raise CrabError(
            f"channels {', '.join(names)}, {n_blocks} blocks: {len(table)} rows: allowed are "
            f"{n_blocks * len(names) ** 2}, one for each block and pair of channels"
        )
    square = table.set_index(["block", "channel", "other"]).sort_index()
    order = pd.MultiIndex.from_product([sorted(table["block"].unique()), names, names])
    shape = (n_blocks, len(names), len(names))
    n_ell, shared = (square[k].reindex(order).to_numpy().reshape(shape) for k in COLUMNS[-2:])
    return ChannelLevels(channels, n_ell, shared)


def joined(parts: Sequence[ChannelLevels]) -> ChannelLevels:
    """Channels of several telescopes, whose backgrounds are independent.

    Parameters
    ----------
    parts : sequence of ChannelLevels
        Of different telescopes. Blocks are put side by side: the shortest has the number.

    Returns
    -------
    ChannelLevels

    Raises
    ------
    CrabError
        If a channel comes twice.
    """
    channels = pd.concat([part.channels for part in parts])
    twice = channels.index[channels.index.duplicated()]
    if len(twice):
        raise CrabError(f"channel {twice[0]!r} comes more than once: allowed is once")
    n_blocks = min(len(part.n_ell) for part in parts)
    n_ell, shared = np.zeros((2, n_blocks, len(channels), len(channels)))
    first = 0
    for part in parts:
        last = first + len(part.channels)
        for out, values in ((n_ell, part.n_ell), (shared, part.shared)):
            # All blocks count: neighbours are put together, not left out.
            groups = np.array_split(values, n_blocks)
            out[:, first:last, first:last] = [group.mean(axis=0) for group in groups]
        first = last
    return ChannelLevels(channels, n_ell, shared)


def combined(
    levels_uk2: np.ndarray, noise_uk2: np.ndarray, windows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Spectra of the map that combines channels by their instrument noise, beams taken out.

    Parameters
    ----------
    levels_uk2 : ndarray, shape (n_channel, n_channel)
        Background, auto- and cross-spectra.
    noise_uk2 : ndarray, shape (n_channel,)
        White noise of the instrument.
    windows : ndarray, shape (n_channel, n_ell)
        `theory.beam` of each.

    Returns
    -------
    tuple of two ndarray, shape (n_ell,)
        Background and instrument noise. No foregrounds: weights that clean them cost more noise.
    """
    share = windows / np.asarray(noise_uk2)[:, None]
    share = share / share.sum(axis=0)
    noise = np.sum(share**2 * np.asarray(noise_uk2)[:, None] / windows, axis=0)
    scaled = share / np.sqrt(windows)
    return np.einsum("il,ij,jl->l", scaled, levels_uk2, scaled), noise


@lru_cache(maxsize=3)
def channels(telescope: str) -> pd.DataFrame:
    """Channels of a telescope in the instrument database.

    Parameters
    ----------
    telescope : {"LFT", "MFT", "HFT"}

    Returns
    -------
    pandas.DataFrame
        By ``channel``: ``detectors``, ``wafers``, ``alignment`` (mean over the wafers),
        ``net_ukrts`` of one detector, ``fwhm_arcmin``, ``noise_uk2`` (white noise of polarisation
        after the mission, with the yield) and ``published_ukarcmin`` (the database's own number
        for it).
    """
    facts, rows = maps.mission_facts(), []
    for channel in maps.telescope_info(telescope).channel_names:
        path = f"{RELEASE}/{telescope}/{channel}"
        info = maps.database().query(f"{path}/channel_info").metadata
        names = info["detector_names"]
        every = [maps.database().query(f"{path}/{name}/detector_info").metadata for name in names]
        working = len(names) * facts["detector_yield"]
        net = info["net_detector_ukrts"]
        rows.append(
            {
                "channel": channel,
                "detectors": len(names),
                "wafers": len({one["wafer"] for one in every}),
                "alignment": _mean_alignment(every),
                "net_ukrts": net,
                "fwhm_arcmin": info["fwhm_arcmin"],
                "noise_uk2": white_level_uk2(net, working, maps.mission_time_s()),
                "published_ukarcmin": info["pol_sensitivity_channel_ukarcmin"],
            }
        )
    return pd.DataFrame(rows).set_index("channel")


def _mean_alignment(detectors: list[dict]) -> float:
    of_wafer: dict[str, dict] = {}
    for one in detectors:
        of_wafer.setdefault(one["wafer"], {}).setdefault(one["pixel"], []).append(one)
    found = []
    for pixels in of_wafer.values():
        both = [sorted(pair, key=lambda one: one["pol"]) for pair in pixels.values()]
        angles = np.array([[one["pol_angle_rad"] for one in pair] for pair in both])
        members = np.arange(angles.size).reshape(angles.shape)
        found.append(focal_plane.alignment(focal_plane.directions(angles.ravel(), members)))
    return float(np.mean(found))
