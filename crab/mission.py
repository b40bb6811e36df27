"""Whole missions as cubes that are computed where they are looked at.

A virtual cube is an xarray dataset on dask: opening three years takes no time and no memory, a
selection computes the chunks that it touches. Any chunk is the same bits whoever computes it, and
in whatever order. `crab.mission_store.generate` writes a part of it.
"""

from typing import NamedTuple

import dask.array
import numpy as np
import xarray as xr

from crab import mission_source, params, schema
from crab.errors import CrabError
from crab.mission_source import Source
from crab.params import Environment
from crab.physics import spectra
from crab.provenance import params_hash

_YEAR_S = 365.25 * 86400.0
_DEFAULT_YEARS = 3.0
# Facts that only some generators have, by their names in a record and in a cube.
_IF_KNOWN = {
    "keras_sha256": "model_sha256",
    "split": "split",
    "internal_rate_hz": "internal_rate_hz",
    "direct_hits": "direct_hits",
}


class Plan(NamedTuple):
    """All that a virtual cube is made from.

    Attributes
    ----------
    source : crab.mission_source.Source
    stream_seed : int
        Seed of the wafer and realisation.
    start_sample, n_samples, chunk_samples : int
    sampling_rate_hz : float
    detectors : xarray.Dataset
        Detector table.
    attrs : dict
        Attributes of the cube.
    """

    source: Source
    stream_seed: int
    start_sample: int
    n_samples: int
    chunk_samples: int
    sampling_rate_hz: float
    detectors: xr.Dataset
    attrs: dict


def open_mission(
    mission: str = "litebird_lft",
    environment: str = "litebird_2032",
    wafer: str | None = None,
    seed: int | None = None,
    generator: str | None = None,
    profile: str = "smoke",
    realisation: int = 0,
    duration_s: float | None = None,
    start_s: float = 0.0,
    detectors: list[str] | None = None,
    chunk_s: float = 3600.0,
) -> xr.Dataset:
    """Open a mission that nobody has computed yet.

    Parameters
    ----------
    mission, environment : str
        Keys of params.yaml.
    wafer : str, optional
        Another wafer of the same telescope, for generators that can be moved to other detectors.
        Default: the mission's own.
    seed : int, optional
        Seed of the run, >= 0. Default: that of params.yaml.
    generator : str, optional
        Name in the registry; ``"monte_carlo"`` is the simulation itself, from the test split's
        deposits. Default: ``generate.generator`` of the profile.
    profile : str
        Whose model.
    realisation : int
        0, 1, ...: the same mission with other particles.
    duration_s : float, optional
        Default: the environment's ``phi_nodes`` from first to last, or three years.
    start_s : float
        Since the mission's start, >= 0.
    detectors : list of str, optional
        Some of the detectors, in this order. Default: all.
    chunk_s : float
        Length of a chunk; rounded to whole blocks of the generator.

    Returns
    -------
    xarray.Dataset
        TOD cube (`crab.schema`) on dask: ``tod`` float32 in W, dimensions ``(detector, time)``.
        ``time`` in s is not held either; it selects like any other.

    Raises
    ------
    CrabError
        If a name is unknown, a file is missing, the generator does not know the environment or
        the wafer, or a number is out of range.
    """
    what = plan(
        mission,
        environment,
        wafer=wafer,
        seed=seed,
        generator=generator,
        profile=profile,
        realisation=realisation,
        duration_s=duration_s,
        start_s=start_s,
        chunk_s=chunk_s,
    )
    cube = virtual_cube(what)
    return cube if detectors is None else cube.isel(detector=_rows(cube, detectors))


def plan(
    mission: str,
    environment: str,
    *,
    wafer: str | None = None,
    seed: int | None = None,
    generator: str | None = None,
    profile: str = "smoke",
    realisation: int = 0,
    duration_s: float | None = None,
    start_s: float = 0.0,
    chunk_s: float = 3600.0,
) -> Plan:
    """Look up all that a virtual cube is made from; see `open_mission`.

    Returns
    -------
    Plan

    Raises
    ------
    CrabError
        As `open_mission`.
    """
    settings = params.load()
    craft = params.choose("mission", mission, settings.missions)
    sky = params.choose("environment", environment, settings.environments)
    chosen = params.choose("profile", profile, settings.profiles)
    seed = settings.seed if seed is None else seed
    own = craft.instrument.wafer
    stream_seed = mission_source.stream_seed(seed, wafer or own, own, realisation)
    duration_s = _default_duration_s(sky) if duration_s is None else duration_s
    rate_hz = craft.sampling_rate_hz
    for key, value, least in (
        ("duration_s", duration_s, 1 / rate_hz),
        ("start_s", start_s, 0.0),
        ("chunk_s", chunk_s, 1 / rate_hz),
    ):
        if not (np.isfinite(value) and value >= least):
            raise CrabError(f"{key} = {value!r}: allowed are numbers >= {least:.6g}")
    generator = generator or chosen.generate.generator
    names = (generator, profile, mission, environment, wafer or own)
    source, made = mission_source.find(*names, settings)
    record = made.record
    if record["sampling_rate_hz"] != rate_hz:
        raise CrabError(
            f"{generator}: sampling_rate_hz = {record['sampling_rate_hz']:g}: allowed is that of "
            f"{mission}, {rate_hz:g}; train it again"
        )
    start_sample, n_samples = round(start_s * rate_hz), round(duration_s * rate_hz)
    block = mission_source.block_samples(made)
    ends_s = (start_sample + np.array([0, n_samples])) / rate_hz
    phi_mv = spectra.phi_at(sky, ends_s)
    attrs = {
        "title": "Cosmic-ray background in time-ordered data, generated",
        "mission": mission,
        "environment": environment,
        "phi_mv": sky.phi_mv,
        "phi_start_mv": float(phi_mv[0]),
        "phi_stop_mv": float(phi_mv[1]),
        "lis": sky.lis,
        "seed": int(seed),
        "realisation": int(realisation),
        "power_convention": record["power_convention"],
        "physics_list": record["physics_list"],
        "generator": generator,
        **{new: record[old] for old, new in _IF_KNOWN.items() if old in record},
        # A generator of many environments has one hash for all of them.
        "params_hash": record["params_hash"]
        if record["environment"] == environment
        else params_hash(record["params_hash"], sky),
    }
    return Plan(
        source,
        stream_seed,
        start_sample,
        n_samples,
        max(1, round(chunk_s * rate_hz / block)) * block,
        rate_hz,
        made.detectors,
        attrs,
    )


def virtual_cube(what: Plan) -> xr.Dataset:
    """Cube of a plan, on dask.

    Parameters
    ----------
    what : Plan

    Returns
    -------
    xarray.Dataset
    """
    start, length = what.start_sample, what.chunk_samples
    stop = start + what.n_samples
    # Chunks end where blocks of the generator end, so that no block is computed for two of them.
    edges = [start, *range((start // length + 1) * length, stop, length), stop]
    n_detectors = what.detectors.sizes["detector"]
    tod = dask.array.from_array(
        VirtualTod(what.source, what.stream_seed, start, (n_detectors, what.n_samples)),
        chunks=((n_detectors,), tuple(np.diff(edges).tolist())),
        # A name of its own, else dask would read everything to make one.
        name=f"mission-{params_hash(what.source._asdict(), what.stream_seed, edges[:2], stop)}",
        asarray=False,
        meta=np.empty((0, 0), np.float32),
    )
    rate_hz = what.sampling_rate_hz
    return schema.make_cube({"tod": tod}, what.detectors, rate_hz, what.attrs, start)


class VirtualTod:
    """Looks like an array of all samples of a mission; what is indexed is computed.

    Parameters
    ----------
    source : crab.mission_source.Source
    seed : int
        Seed of the wafer and realisation.
    start_sample : int
        Absolute index of the first sample.
    shape : tuple of int
        Detectors and samples.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, source: Source, seed: int, start_sample: int, shape: tuple[int, int]):
        self.source, self.seed, self.start_sample, self.shape = source, seed, start_sample, shape

    def __getitem__(self, key) -> np.ndarray:
        rows, times = key
        if not isinstance(times, slice):
            raise TypeError(f"time is indexed by {type(times).__name__}: allowed are slices")
        wanted = range(self.shape[1])[times]
        n_samples = len(wanted)
        if not n_samples:
            return np.empty((self.shape[0], 0), np.float32)[rows]
        low, high = sorted((wanted[0], wanted[-1]))
        tod = mission_source.tod(self.source, self.start_sample + low, high + 1 - low, self.seed)
        return tod[:, :: wanted.step][rows] if wanted.step != 1 else tod[rows]


def _default_duration_s(sky: Environment) -> float:
    if sky.phi_nodes:
        return (sky.phi_nodes[-1].year - sky.phi_nodes[0].year) * _YEAR_S
    return _DEFAULT_YEARS * _YEAR_S


def _rows(cube: xr.Dataset, detectors: list[str]) -> list[int]:
    known = {name: row for row, name in enumerate(cube["detector"].values.tolist())}
    return [params.choose("detectors", name, known) for name in detectors]
