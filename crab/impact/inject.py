"""Put the background into a simulation of litebird_sim.

What a detector gets depends on its name, its wafer and the absolute sample of the mission only, so
it is the same however a simulation is split over observations, processes and groups of detectors.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xarray as xr

from crab import params
from crab.errors import CrabError
from crab.impact import flagging, sources
from crab.impact.background import Group, check_rate, noise_text, route
from crab.impact.observations import check_flags, component_of, describe, unpack
from crab.progress import tqdm

# Work is cut at multiples of this: memory holds one such piece of a wafer.
_PIECE_SAMPLES = 8 * flagging.BLOCK_SAMPLES


@dataclass(frozen=True)
class _Job:
    observation: object
    group: Group
    start_sample: int
    scale: float
    noise_k: np.ndarray
    margins: dict | None


def inject(
    target,
    *,
    environment: str,
    seed: int | None = None,
    generator=None,
    mission: str | Iterable[str] | None = None,
    profile: str = "smoke",
    component: str = "tod",
    realisation: int = 0,
    stand_ins: Mapping[str, str] | None = None,
    mission_start=None,
    flags: bool = True,
    threshold_sigma: float = 5.0,
    before_s: float = 0.05,
    after_s: float = 0.2,
    flag_value: int = 1,
    progress: bool = True,
) -> xr.Dataset:
    """Add the cosmic-ray background to a litebird_sim simulation, in place.

    Parameters
    ----------
    target : litebird_sim.Simulation, litebird_sim.Observation or list of Observation
    environment : str
        Key of ``environments`` in params.yaml.
    seed : int, optional
        Default: the one of params.yaml.
    generator : str, Generator or mapping, optional
        Name of a registered generator; ``"monte_carlo"`` for the simulator itself; an object with
        ``sample``; or a dict of these by mission. Default: ``generate.generator`` of the profile.
        A generator with a method ``background`` leaves the noise of the detectors out; one without
        puts it in: the record says which.
    mission : str or iterable of str, optional
        Keys of ``missions``. Default: those that have the detectors. One mission is one wafer.
    profile : {"smoke", "full"}
        Whose networks and deposit libraries.
    component : str
        TOD to add to. One that the observations do not have yet is made (float32, K_CMB), so that
        map-making can be asked for it, or not, by ``components=``.
    realisation : int
        0, 1, ...: independent backgrounds of the same seed.
    stand_ins : mapping of str to str, optional
        Your detector -> detector of a generator that stands in for it. Wafers (``wafer`` of your
        detectors) are independent of each other, detectors of one wafer are correlated.
    mission_start : float or astropy.time.Time, optional
        Time of the mission's sample 0. Default: the simulation's start; for observations alone 0 s,
        or, of a single one that has a calendar time, its own start.
    flags : bool
        Set ``local_flags`` where glitches stand out, by `crab.impact.flagging.flag`: of background
        and noise if the generator makes both, else of the background against the noise that the
        observation's ``net_ukrts`` stands for (the generator's, where that is missing).
    threshold_sigma : float
        Usual are 3 to 5.
    before_s, after_s : float
        Margins around a glitch that are flagged with it.
    flag_value : int
        Bits to set in ``local_flags`` (made as int32 if there are none yet).
    progress : bool
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        What was added, for each local detector: ``rms_k_cmb``, ``mean_k_cmb``, ``n_samples``, and
        with flags ``hits_flagged`` and ``loss`` (share of the samples). Attributes say from what;
        ``detector_noise`` is ``left out`` or ``included``.

    Raises
    ------
    CrabError
        Before anything is changed: for detectors that no generator knows, a sampling rate or a
        unit that does not fit, samples before the mission's start, a number out of range, or a
        missing or unfit model.
    """
    seed = params.load().seed if seed is None else seed
    _check(threshold_sigma, before_s, after_s)
    observations, origin = unpack(target, mission_start)
    names = {name for obs in observations for name in _names(obs)}
    found = []
    if names:
        wanted = sorted({(stand_ins or {}).get(name, name) for name in names})
        found = sources.find(
            wanted,
            environment=environment,
            generator=generator,
            mission=mission,
            profile=profile,
        )
    jobs = []
    for obs in observations:
        scale = component_of(obs, component)
        if flags:
            check_flags(obs, flag_value)
        wafers = getattr(obs, "wafer", None)
        for group in route(_names(obs), found, stand_ins, wafers):
            rate_hz = check_rate(group.source, obs.sampling_rate_hz)
            start = origin(obs)
            # A generator refuses an environment that it was not made for, here.
            group.source.kelvin(environment, start, 0, seed, realisation)
            margins = None
            if flags:
                samples = (math.ceil(before_s * rate_hz), math.ceil(after_s * rate_hz))
                margins = dict(zip(("before_samples", "after_samples"), samples, strict=True))
            jobs.append(_Job(obs, group, start, scale, _noise_k(obs, group), margins))
    # Generator by generator: each holds what it works with.
    jobs.sort(
        key=lambda job: (job.group.source.generator.record["mission"], job.group.source.wafer)
    )
    # All is checked: from here on observations change.
    for obs in observations:
        component_of(obs, component, make=True)
        if flags:
            check_flags(obs, flag_value, make=True)
    describe(target, component)
    draw = {"environment": environment, "seed": seed, "realisation": realisation}
    pieces = [(job, *piece) for job in jobs for piece in _pieces(job)]
    sums: dict[str, np.ndarray] = {}
    bar = {"desc": "background", "unit": "piece", "disable": not progress}
    for job, low, high in tqdm(pieces, **bar):
        values, mask, hits = _piece(job, low, high, draw, threshold_sigma)
        _add(job, low, values, component)
        if mask is not None:
            _set_flags(job, low, mask, flag_value)
        _count(sums, job, values, mask, hits)
    facts = {
        "component": component,
        **draw,
        "profile": profile,
        "flags": int(flags),
        "threshold_sigma": float(threshold_sigma),
    }
    return _record(sums, jobs, facts)


def _check(threshold_sigma: float, before_s: float, after_s: float) -> None:
    if not threshold_sigma > 0:
        raise CrabError(f"threshold_sigma = {threshold_sigma}: allowed are numbers > 0")
    for key, value in (("before_s", before_s), ("after_s", after_s)):
        if not (math.isfinite(value) and value >= 0):
            raise CrabError(f"{key} = {value}: allowed are numbers >= 0")


def _names(obs) -> list[str]:
    names = getattr(obs, "name", None)
    if names is None or len(names) != obs.n_detectors:
        if obs.n_detectors == 0:
            return []
        raise CrabError(
            f"observation of {obs.n_detectors} detectors: they have no names: allowed are "
            "observations made from DetectorInfo with name"
        )
    return [str(name) for name in names]


def _noise_k(obs, group: Group) -> np.ndarray:
    """Standard deviation of a sample of the noise that is not in the background."""
    if group.source.has_noise:
        return np.zeros(len(group.rows))
    net = group.source.generator.detectors["net_ukrts"].values[group.picks].astype(float)
    theirs = getattr(obs, "net_ukrts", None)
    if theirs is not None:
        given = np.broadcast_to(np.asarray(theirs, dtype=float), obs.n_detectors)[group.rows]
        net = np.where(np.isfinite(given) & (given > 0), given, net)
    return 1e-6 * net * math.sqrt(obs.sampling_rate_hz)


def _pieces(job: _Job) -> list[tuple[int, int]]:
    start, stop = job.start_sample, job.start_sample + job.observation.n_samples
    first = start // _PIECE_SAMPLES * _PIECE_SAMPLES
    edges = [start, *range(first + _PIECE_SAMPLES, stop, _PIECE_SAMPLES), stop]
    return [(low, high) for low, high in pairwise(edges) if high > low]


def _piece(job: _Job, low: int, high: int, draw: dict, threshold: float):
    """Background of one piece, its flags, and how many glitches begin in it."""
    source, picks, margins = job.group.source, job.group.picks, job.margins
    if margins is None:
        return source.kelvin(start_sample=low, n_samples=high - low, **draw)[picks], None, None
    # One sample earlier, to tell a glitch that begins from one that goes on.
    begin, end = flagging.reach(max(low - 1, 0), high, **margins)
    values = source.kelvin(start_sample=begin, n_samples=end - begin, **draw)[picks]
    options = {"start_sample": begin, "noise": job.noise_k, **margins}
    mask, _ = flagging.flag(values, threshold, **options)
    inside = slice(low - begin, high - begin)
    before = mask[:, low - begin - 1] if low > begin else None
    return values[:, inside], mask[:, inside], flagging.count(mask[:, inside], before)


def _add(job: _Job, low: int, values: np.ndarray, component: str) -> None:
    tod = getattr(job.observation, component)
    first = low - job.start_sample
    for row, samples in zip(job.group.rows, values, strict=True):
        tod[row, first : first + len(samples)] += samples * np.float32(job.scale)


def _set_flags(job: _Job, low: int, mask: np.ndarray, value: int) -> None:
    flags = job.observation.local_flags
    first = low - job.start_sample
    for row, flagged in zip(job.group.rows, mask, strict=True):
        flags[row, first : first + len(flagged)][flagged] |= flags.dtype.type(value)


def _count(sums: dict, job: _Job, values, mask, hits) -> None:
    names = _names(job.observation)
    exact = values.astype(float)
    for index, row in enumerate(job.group.rows):
        lost = (0, 0) if mask is None else (mask[index].sum(), hits[index])
        own = (exact.shape[1], exact[index].sum(), (exact[index] ** 2).sum(), *lost)
        sums[names[row]] = sums.get(names[row], 0) + np.array(own, dtype=float)


def _record(sums: dict, jobs: list[_Job], facts: dict) -> xr.Dataset:
    names = list(sums)
    n, total, squares, lost, hits = np.array([sums[k] for k in names]).reshape(-1, 5).T
    mean = total / n
    per = {"mean_k_cmb": mean, "rms_k_cmb": np.sqrt(np.maximum(squares / n - mean**2, 0))}
    per["n_samples"] = n.astype(np.int64)
    if facts["flags"]:
        per |= {"hits_flagged": hits.astype(np.int64), "loss": lost / n}
    ds = xr.Dataset({key: ("detector", values) for key, values in per.items()})
    sources_of = {
        _names(job.observation)[row]: job.group.source for job in jobs for row in job.group.rows
    }
    ds = ds.assign_coords(
        detector=np.array(names, dtype=str),
        wafer=("detector", np.array([sources_of[k].wafer for k in names], dtype=str)),
    )
    for key in ("mean_k_cmb", "rms_k_cmb"):
        ds[key].attrs["units"] = "K_CMB"
    groups = [job.group for job in jobs]
    ds.attrs = {
        "title": "Cosmic-ray background that was added to a simulation",
        **facts,
        "generator": ", ".join(dict.fromkeys(g.source.generator.name for g in groups)),
        "mission": ", ".join(dict.fromkeys(g.source.generator.record["mission"] for g in groups)),
        "detector_noise": noise_text(groups) if groups else "left out",
    }
    return ds
