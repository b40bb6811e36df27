"""Noise of whole channels after the mission, of one telescope or several, and its table."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from crab.errors import CrabError
from crab.impact import focal_plane

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
            focal_plane.channels(telescope).loc[channel]
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
