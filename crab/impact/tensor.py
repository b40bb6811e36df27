"""From the TOD of a wafer to the tensor-to-scalar ratio of a mission, in one call."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from crab.errors import CrabError
from crab.impact import channel_levels, flagging, focal_plane, likelihood, maps, signals, theory
from crab.impact.channel_levels import ChannelLevels
from crab.impact.focal_plane import Blocks

SKY_FRACTION = 0.5  # less than 1: foregrounds are masked
_OWN = ("effective_detectors", "cube_n_ell", "cube_n_ell_error")
COMBINED, UNCORRELATED = "combined", "combined, channels apart"


class Deglitching(NamedTuple):
    """How samples are flagged; ``n_sigma`` 0: not at all."""

    n_sigma: float = 0.0
    singles: bool = True


class Analysis(NamedTuple):
    """What one cube says of r.

    Attributes
    ----------
    table : pandas.DataFrame
        As `delta_r`, with ``loss`` and, NaN for the combinations, ``effective_detectors`` (see
        `focal_plane.effective_detectors`) and ``cube_n_ell`` with its error: of the cube's
        detectors alone after the mission, without any extrapolation [uK^2].
    levels : ChannelLevels
    """

    table: pd.DataFrame
    levels: ChannelLevels


def measure(
    cube: xr.Dataset,
    telescope: str,
    deglitching: Deglitching,
    parts: tuple[str, ...] = ("tod",),
    start_sample: int = 0,
    n_samples: int | None = None,
    n_blocks: int = 20,
) -> Blocks:
    """Cross-spectra of a cube's detectors where polarisation is, after deglitching.

    Parameters
    ----------
    cube : xarray.Dataset
        TOD cube of detectors in pairs.
    telescope : {"LFT", "MFT", "HFT"}
    deglitching : Deglitching
        Flags are found in ``tod``, as they would be in flight.
    parts : tuple of str
        What the noise is asked of: ``("tod_wafer", "tod_direct")`` for the background alone.
    start_sample, n_samples : int
        Stretch of the cube; all of it by default.
    n_blocks : int
        Stretches for the error.

    Returns
    -------
    Blocks
    """
    n_samples = cube.sizes["time"] - start_sample if n_samples is None else n_samples
    flags = None
    if deglitching.n_sigma > 0:
        measured = signals.cube_source(cube)(start_sample, n_samples)
        pairs = focal_plane.pairs(cube)
        flags = flagging.sigma_flags(
            measured,
            deglitching.n_sigma,
            pairs,
            singles=deglitching.singles,
            start_sample=start_sample,
        )
    tod_uk = 1e6 * signals.cube_source(cube, parts)(start_sample, n_samples)
    return focal_plane.covariance_blocks(
        tod_uk,
        float(cube.attrs["sampling_rate_hz"]),
        maps.hwp_frequency_hz(telescope),
        flags=flags,
        n_blocks=n_blocks,
    )


def observations(
    cube: xr.Dataset,
    telescope: str,
    deglitching: Deglitching,
    parts: tuple[str, ...] = ("tod",),
    *,
    extra: signals.Source | None = None,
    sky: np.ndarray | None = None,
    start_sample: int = 0,
    n_samples: int | None = None,
    chunk_s: float = maps.CHUNK_S,
    blank: bool = False,
) -> list:
    """Observations of a cube's detectors along LiteBIRD's scan, to be mapped.

    Parameters
    ----------
    cube : xarray.Dataset
        TOD cube of one channel of the database.
    telescope : {"LFT", "MFT", "HFT"}
    deglitching : Deglitching
        Found chunk by chunk, in ``tod``.
    parts : tuple of str
        What is mapped.
    extra : callable, optional
        Source to map along (1/f noise, say), counted from ``start_sample``; flags ignore it.
    sky : ndarray, shape (3, n_pix), optional
        CMB to scan along, uK, ecliptic.
    start_sample, n_samples : int
        Stretch of the cube; all of it by default.
    chunk_s : float
        Length of an observation.
    blank : bool
        Set flagged samples to zero as well: a destriper fits all samples, those of the dropped
        pixel too, so they must not stand out.

    Returns
    -------
    list of litebird_sim.Observation
    """
    rate = float(cube.attrs["sampling_rate_hz"])
    n_samples = cube.sizes["time"] - start_sample if n_samples is None else n_samples
    names, channels = (tuple(cube[k].values.tolist()) for k in ("detector", "channel"))
    measured, wanted = signals.cube_source(cube), signals.cube_source(cube, parts)
    flags = None
    if deglitching.n_sigma > 0:
        pairs = focal_plane.pairs(cube)

        # Asked for several times in a row: by each map, and for a destriper's TOD too.
        @lru_cache(maxsize=1)
        def flags(start, n):
            first = start_sample + start
            return flagging.sigma_flags(
                measured(first, n),
                deglitching.n_sigma,
                pairs,
                singles=deglitching.singles,
                start_sample=first,
            )

    def source(start, n):
        tod = wanted(start_sample + start, n)
        tod = tod if extra is None else tod + extra(start, n)
        return tod if flags is None or not blank else np.where(flags(start, n), 0, tod)

    infos = maps.detector_infos(telescope, names, channels)
    # A cube of two wafers has detectors of one in two places.
    infos = [
        {**info, "wafer": str(wafer)}
        for info, wafer in zip(infos, cube["wafer"].values, strict=True)
    ]
    return maps.observations(
        source,
        infos,
        telescope,
        rate,
        n_samples,
        start_sample=int(cube.attrs.get("start_sample", 0)) + start_sample,
        flags=flags,
        sky=sky,
        chunk_s=chunk_s,
    )


def channel_map(
    cube: xr.Dataset,
    telescope: str,
    nside: int,
    deglitching: Deglitching,
    parts: tuple[str, ...] = ("tod",),
    *,
    differences: bool = False,
    baseline_s: float | None = None,
    **settings,
) -> xr.Dataset:
    """Map of the detectors of one channel along LiteBIRD's scan.

    Parameters
    ----------
    cube, telescope, deglitching, parts, **settings
        As in `observations`.
    nside : int
    differences : bool
        Differences of pairs (Q, U) instead of single detectors (I, Q, U).
    baseline_s : float, optional
        Destripe with baselines of this length instead of binning.

    Returns
    -------
    xarray.Dataset
        As `maps.binned_map`.
    """
    chunks = observations(
        cube, telescope, deglitching, parts, blank=baseline_s is not None, **settings
    )
    if baseline_s is not None:
        return maps.destriped_map(nside, chunks, baseline_s)
    return maps.pair_map(nside, chunks) if differences else maps.binned_map(nside, chunks)


def mission_levels(
    cube: xr.Dataset, telescope: str, blocks: Blocks, wafer_shares: bool = True
) -> np.ndarray:
    """N_ell of the channels of a cube after the whole mission, on the whole focal plane.

    Parameters
    ----------
    cube : xarray.Dataset
    telescope : {"LFT", "MFT", "HFT"}
    blocks : Blocks
        From `measure`.
    wafer_shares : bool
        See `focal_plane.focal_plane_net2`.

    Returns
    -------
    ndarray, shape (n_block, n_channel, n_channel)
        In uK^2, for the database's number of detectors (with its yield) and time of observation.
    """
    wafer = focal_plane.wafer_of(cube, blocks)
    facts = channel_levels.channels(telescope).loc[list(dict.fromkeys(wafer.channel))]
    if facts["wafers"].nunique() != 1:
        raise CrabError(
            f"channels {', '.join(facts.index)}: they sit on different numbers of wafers "
            f"({', '.join(map(str, facts['wafers']))}); treat them one by one"
        )
    n_wafers = int(facts["wafers"].iloc[0])
    working = facts["detectors"] * maps.mission_facts()["detector_yield"]
    net2 = focal_plane.focal_plane_net2(
        wafer, dict(working / 2 / n_wafers), n_wafers, dict(facts["alignment"]), wafer_shares
    )
    return 8 * np.pi / maps.mission_time_s() * net2


def delta_r(levels: ChannelLevels, sky_fraction: float = SKY_FRACTION) -> pd.DataFrame:
    """Bias and uncertainty of r for each channel and for all of them together.

    Parameters
    ----------
    levels : ChannelLevels
        Of one telescope, or of several (`channel_levels.joined`).
    sky_fraction : float

    Returns
    -------
    pandas.DataFrame
        By ``channel``, then `COMBINED` and `UNCORRELATED` (the same without what two channels
        share, which depends on where the sensors sit in a pixel): ``n_ell``, ``n_ell_error``,
        ``n_ell_instrument`` [uK^2]; ``auto_bias`` and its error (all of the background
        unmodelled), ``auto_sigma`` (noise of the instrument alone); ``times_bias``,
        ``times_sigma`` (halves of the time: nothing is shared); ``detectors_bias`` and its error,
        ``detectors_sigma`` (halves of each wafer's detectors).
    """
    names = list(levels.channels.index)
    ell = likelihood.model().ell
    noise, fwhm = levels.instrument()
    windows = np.array([theory.beam(ell, one) for one in fwhm])
    rows = []
    alone = np.eye(len(names))
    cases = {name: ([i], 1.0) for i, name in enumerate(names)}
    cases |= {COMBINED: (range(len(names)), 1.0), UNCORRELATED: (range(len(names)), alone)}
    for name, (keep, factor) in cases.items():
        square = np.ix_(keep, keep)

        def together(blocks, square=square, keep=keep, factor=factor):
            each = [
                channel_levels.combined((factor * block)[square], noise[keep], windows[keep])[0]
                for block in blocks
            ]
            return np.mean(each, axis=0), np.std(each, axis=0, ddof=1) / np.sqrt(len(each))

        _, instrument = channel_levels.combined(levels.n_ell[0][square], noise[keep], windows[keep])
        background, error = together(levels.n_ell)
        common, common_error = together(levels.shared)
        sky = likelihood.model(instrument)
        auto = likelihood.auto_spectrum(background, sky, sky_fraction)
        higher = likelihood.auto_spectrum(background + error, sky, sky_fraction)
        # A level that is estimated below zero does not make the instrument quieter.
        halves = 2 * (instrument + np.maximum(background, 0.0))
        times = likelihood.cross_spectrum(0.0, halves, sky, sky_fraction)
        detectors = likelihood.cross_spectrum(common, halves, sky, sky_fraction)
        more = likelihood.cross_spectrum(common + common_error, halves, sky, sky_fraction)
        rows.append(
            {
                "channel": name,
                "n_ell": background[0],
                "n_ell_error": error[0],
                "n_ell_instrument": instrument[0],
                "auto_bias": auto.bias,
                "auto_bias_error": higher.bias - auto.bias,
                "auto_sigma": auto.sigma,
                "times_bias": times.bias,
                "times_sigma": times.sigma,
                "detectors_bias": detectors.bias,
                "detectors_bias_error": abs(more.bias - detectors.bias),
                "detectors_sigma": detectors.sigma,
            }
        )
    return pd.DataFrame(rows)


def analyse(
    cube: xr.Dataset,
    telescope: str,
    deglitching: Deglitching,
    parts: tuple[str, ...] = ("tod",),
    sky_fraction: float = SKY_FRACTION,
    **stretch,
) -> Analysis:
    """`measure`, `mission_levels` and `delta_r` of one cube.

    Parameters
    ----------
    cube, telescope, deglitching, parts, **stretch
        As in `measure`.
    sky_fraction : float

    Returns
    -------
    Analysis
    """
    blocks = measure(cube, telescope, deglitching, parts, **stretch)
    whole = mission_levels(cube, telescope, blocks)
    # Two halves of a wafer's pixels share what is not a pixel's own.
    apart = whole - mission_levels(cube, telescope, blocks, wafer_shares=False)
    channel = cube["channel"].values
    names = list(dict.fromkeys(channel))
    loss = float(1 - blocks.kept.mean())
    facts = pd.DataFrame(
        {"telescope": telescope, "loss": loss}, index=pd.Index(names, name="channel")
    )
    levels = ChannelLevels(facts, whole, apart)
    table = delta_r(levels, sky_fraction)
    members = focal_plane.pairs(cube)
    own = {key: [np.nan] * len(table) for key in _OWN}
    for i, name in enumerate(names):
        chosen = members[channel[members[:, 0]] == name]
        weight = focal_plane.pair_weights(cube["pol_angle_rad"].values, chosen)
        mine = np.flatnonzero(channel == name)
        square = Blocks(blocks.covariance[:, mine][:, :, mine], blocks.kept[mine])
        net2 = focal_plane.net2(square, weight[mine])
        scale = 8 * np.pi / maps.mission_time_s()
        own["effective_detectors"][i] = focal_plane.effective_detectors(square, weight[mine])
        own["cube_n_ell"][i], own["cube_n_ell_error"][i] = (scale * x for x in net2)
    table.insert(1, "loss", loss)
    for place, key in enumerate(_OWN, 2):
        table.insert(place, key, own[key])
    return Analysis(table, levels)
