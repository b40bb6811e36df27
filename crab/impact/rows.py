"""Row 12 of the scorecard: what maps, spectra and r say of a generated background."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from crab.errors import CrabError
from crab.impact import spectra, splits, tensor
from crab.impact.spectra import Level
from crab.metrics.windows import Estimate

N_BANDS = 4
AGREE_P, AGREE_ERRORS = 0.01, 3.0
SPECTRA = ("tt", "ee", "bb")


class MapNumbers(NamedTuple):
    """What maps of one cube say.

    Attributes
    ----------
    detectors : list of str
    sampling_rate_hz : float
    channels : list of str
    bands : dict of str to ndarray, shape (n_channel, n_block, n_band)
        Binned spectra ``tt``, ``ee``, ``bb`` of maps of stretches of time, uK^2.
    levels : dict of str to ndarray, shape (n_channel, n_block)
        Their means over all modes.
    delta_r : Level
        Bias of r from an auto-spectrum, whole focal plane, channels apart.
    loss : float
        Share of samples left out.
    """

    detectors: list[str]
    sampling_rate_hz: float
    channels: list[str]
    bands: dict[str, np.ndarray]
    levels: dict[str, np.ndarray]
    delta_r: Level
    loss: float


def band_edges(nside: int) -> np.ndarray:
    """Edges of the bands, see `spectra.binned`, up to twice nside."""
    return np.geomspace(splits.ELL_MIN, 2 * nside + 1, N_BANDS + 1).round().astype(int)


def map_numbers(
    cube: xr.Dataset,
    telescope: str,
    *,
    parts: tuple[str, ...] = ("tod",),
    nside: int = 16,
    n_sigma: float = 0.0,
    n_blocks: int = 10,
) -> MapNumbers:
    """Map a cube, stretch by stretch, and follow it to r.

    Parameters
    ----------
    cube : xarray.Dataset
        TOD cube of detectors in pairs.
    telescope : {"LFT", "MFT", "HFT"}
    parts : tuple of str
        What is mapped; flags are found in ``tod``.
    nside : int
    n_sigma : float
        Of the deglitching; 0: none.
    n_blocks : int
        Stretches.

    Returns
    -------
    MapNumbers
    """
    deglitching = tensor.Deglitching(n_sigma)
    edges = band_edges(nside)
    channel = cube["channel"].values
    channels = list(dict.fromkeys(channel))
    bands, levels = ({name: [] for name in SPECTRA} for _ in range(2))
    for one in channels:
        mine = cube.isel(detector=np.flatnonzero(channel == one))
        found = splits.block_spectra(mine, telescope, nside, deglitching, parts, n_blocks)
        for name in SPECTRA:
            binned = [spectra.binned(block, edges).values for block in found[name]]
            bands[name].append(binned)
            levels[name].append(splits.levels(found[name]))
    table = tensor.analyse(cube, telescope, deglitching, parts).table.set_index("channel")
    alone = table.loc[tensor.UNCORRELATED]
    return MapNumbers(
        [str(name) for name in cube["detector"].values],
        float(cube.attrs["sampling_rate_hz"]),
        channels,
        {name: np.array(values) for name, values in bands.items()},
        {name: np.array(values) for name, values in levels.items()},
        Level(float(alone["auto_bias"]), float(alone["auto_bias_error"])),
        float(alone["loss"]),
    )


def map_rows(ours: MapNumbers, theirs: MapNumbers, seed: int) -> dict[str, Estimate]:
    """How far two cubes are from each other, in maps.

    Parameters
    ----------
    ours, theirs : MapNumbers
        Generated and Monte Carlo, or two Monte Carlo cubes, of the same detectors and length.
    seed : int
        Of the exchanges, see `splits.agreement`.

    Returns
    -------
    dict of str to Estimate
        ``|ratio - 1|`` of the worst channel: ``downstream_noise_*`` (mean spectra of maps),
        ``downstream_spectrum_*`` (of the worst band), ``downstream_delta_r``; and
        ``downstream_p_*``, the probability that spectra of one kind differ by so much.

    Raises
    ------
    CrabError
        If the cubes differ in detectors, sampling rate or blocks.
    """
    _comparable(ours, theirs)
    rows = {}
    for name in SPECTRA:
        rows[f"downstream_noise_{name}"] = _worst(
            splits.mean(ours.levels[name]), splits.mean(theirs.levels[name])
        )
    for name in SPECTRA:
        one, two = (np.moveaxis(x.bands[name], 1, -1) for x in (ours, theirs))
        rows[f"downstream_spectrum_{name}"] = _worst(splits.mean(one), splits.mean(two))
        p = spectra_agree(ours, theirs, name, seed).p
        rows[f"downstream_p_{name}"] = Estimate(p, np.nan)
    rows["downstream_delta_r"] = _worst(
        *(Level(*np.array(x.delta_r)[:, None]) for x in (ours, theirs))
    )
    return rows


def spectra_agree(ours: MapNumbers, theirs: MapNumbers, name: str, seed: int) -> splits.Agreement:
    """Whether the bands of all channels agree, of one spectrum; see `splits.agreement`."""
    _comparable(ours, theirs)
    one, two = (np.concatenate(list(x.bands[name]), axis=1) for x in (ours, theirs))
    return splits.agreement(one, two, seed)


def statements(ours: MapNumbers, theirs: MapNumbers, seed: int) -> list[dict]:
    """Plainly, number by number: do they agree within their errors?

    Parameters
    ----------
    ours, theirs, seed
        As in `map_rows`.

    Returns
    -------
    list of dict
        For each spectrum and channel its level, for each spectrum its bands, and delta r:
        ``quantity``, ``ours``, ``theirs``, ``ratio``, ``error``, ``chi2``, ``n``, ``p``,
        ``agrees``. Levels and delta r agree within `AGREE_ERRORS`, bands if p is at least
        `AGREE_P`.
    """
    rows = []
    for name in SPECTRA:
        one, two = splits.mean(ours.levels[name]), splits.mean(theirs.levels[name])
        for i, channel in enumerate(ours.channels):
            pair = (Level(x.value[i], x.error[i]) for x in (one, two))
            rows.append(_statement(f"noise {name.upper()}, {channel}", *pair))
    for name in SPECTRA:
        chi2, n, p = spectra_agree(ours, theirs, name, seed)
        rows.append(
            {
                "quantity": f"spectrum {name.upper()}",
                "chi2": chi2,
                "n": n,
                "p": p,
                "agrees": p >= AGREE_P,
            }
        )
    rows.append(_statement("delta r", ours.delta_r, theirs.delta_r))
    return rows


def _statement(quantity: str, ours: Level, theirs: Level) -> dict:
    ratio = ours.value / theirs.value
    chi2 = (ours.value - theirs.value) ** 2 / (ours.error**2 + theirs.error**2)
    return {
        "quantity": quantity,
        "ours": ours.value,
        "theirs": theirs.value,
        "ratio": ratio,
        "error": abs(ratio) * np.hypot(ours.error / ours.value, theirs.error / theirs.value),
        "chi2": chi2,
        "n": 1,
        "agrees": chi2 <= AGREE_ERRORS**2,
    }


def _comparable(ours: MapNumbers, theirs: MapNumbers) -> None:
    for what, one, two in (
        ("detectors", ours.detectors, theirs.detectors),
        ("sampling_rate_hz", ours.sampling_rate_hz, theirs.sampling_rate_hz),
        ("blocks and bands", ours.bands["bb"].shape, theirs.bands["bb"].shape),
    ):
        if one != two:
            raise CrabError(f"{what} = {one}: the cube to compare with has {two}")


def _worst(ours: Level, theirs: Level) -> Estimate:
    ratio = ours.value / theirs.value
    error = np.abs(ratio) * np.hypot(ours.error / ours.value, theirs.error / theirs.value)
    i = np.argmax(np.abs(ratio - 1))
    return Estimate(float(np.abs(ratio - 1).flat[i]), float(error.flat[i]))
