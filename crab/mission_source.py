"""Where the samples of a mission come from: a generator, found again by name in every process.

What travels to threads, processes and the workers of a cluster is a `Source`, a few words and
numbers. Each process reads the model itself, once.
"""

import threading
from typing import NamedTuple

import numpy as np

from crab import io, params, paths, seeds
from crab.errors import CrabError
from crab.generators import base
from crab.generators.requests import check_request
from crab.physics import instrument, montecarlo
from crab.provenance import params_hash

MONTE_CARLO = "monte_carlo"

_lock = threading.Lock()
_kept: dict[tuple, "_Kept"] = {}
_warm: set[tuple] = set()


class Source(NamedTuple):
    """Names that lead to a generator.

    Attributes
    ----------
    generator : str
        Name in the registry of generators, or `MONTE_CARLO`.
    profile, mission, environment : str
        Whose model or library, and what is asked of it.
    wafer : str or None
        None: the one that the generator was trained for.
    root : str
        Project that it was found in.
    fingerprint : str
        Hash of the generator's record, its detectors and the environment.
    """

    generator: str
    profile: str
    mission: str
    environment: str
    wafer: str | None
    root: str
    fingerprint: str = ""


def find(
    generator: str,
    profile: str,
    mission: str,
    environment: str,
    wafer: str | None,
    settings: params.Params,
) -> tuple[Source, base.Generator]:
    """Find a generator and read it.

    Parameters
    ----------
    generator, profile, mission, environment, wafer
        See `Source`.
    settings : crab.params.Params

    Returns
    -------
    Source
    crab.generators.base.Generator

    Raises
    ------
    CrabError
        If a file is missing or does not fit, the generator does not know the environment, or it
        cannot be moved to the wafer.
    """
    source = Source(generator, profile, mission, environment, wafer, str(paths.root()))
    found = _made(source, settings)
    found.made.sample(environment, 0, 0, 0)  # refuses an environment that it does not know
    return source._replace(fingerprint=found.fingerprint), found.made


def tod(source: Source, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
    """TOD of any part of a mission, in any process.

    Parameters
    ----------
    source : Source
    start_sample : int
        Absolute index of the first sample, >= 0.
    n_samples : int
    seed : int
        Seed of the wafer and realisation, see `stream_seed`.

    Returns
    -------
    ndarray of float32, shape (n_det, n_samples)
        Power in W.

    Raises
    ------
    CrabError
        If this process finds another generator than the one that was opened.
    """
    made = _made(source).made
    request = (source.environment, start_sample, n_samples, seed)
    key = (source, seed)
    if key not in _warm:
        # What a first request builds (a compiled network, a simulator) is built by one thread.
        with _lock:
            values = made.sample(*request)
            _warm.add(key)
            return values
    return made.sample(*request)


def stream_seed(seed: int, wafer: str, configured: str, realisation: int) -> int:
    """Seed of one wafer and realisation.

    Parameters
    ----------
    seed : int
        Seed of the run.
    wafer, configured : str
        Wafer asked for, and the mission's own.
    realisation : int

    Returns
    -------
    int
        The seed itself for the configured wafer and realisation 0; else one derived from it.
    """
    if wafer == configured and realisation == 0:
        return seed
    return seeds.integer(seed, "wafer", wafer, "realisation", realisation)


def block_samples(generator: base.Generator) -> int:
    """Samples that a generator computes together; 1 if it does not say.

    Parameters
    ----------
    generator : crab.generators.base.Generator

    Returns
    -------
    int
    """
    if generator.windowed:
        return getattr(generator, "group_windows", 1) * generator.record["window_samples"]
    if hasattr(generator, "block_samples"):
        return generator.block_samples
    return getattr(generator, "group_blocks", 1) * getattr(generator, "n_taps", 1)


class MonteCarlo:
    """The Monte Carlo itself, asked for samples like a generator: ``tod`` of `lazy_cube`.

    Parameters
    ----------
    profile, mission_name, environment_name : str
        Whose deposit library of the test split, and where.
    settings : crab.params.Params
    """

    name = MONTE_CARLO
    windowed = False
    split = "test"

    def __init__(
        self, profile: str, mission_name: str, environment_name: str, settings: params.Params
    ):
        mission = params.choose("mission", mission_name, settings.missions)
        environment = params.choose("environment", environment_name, settings.environments)
        library = io.open_table(paths.deposits(profile, mission_name, self.split))
        self._what = (library, mission, environment)
        self._options = {
            "mission_name": mission_name,
            "environment_name": environment_name,
            "split": self.split,
            "direct_hits": settings.profiles[profile].simulate_tod.direct_hits,
        }
        one = montecarlo.lazy_cube(
            *self._what, duration_s=1 / mission.sampling_rate_hz, seed=0, **self._options
        )
        self.detectors = one.coords.to_dataset().drop_vars("time")
        named = ("seed", "start_sample", "phi_start_mv", "phi_stop_mv", "hit_rate_hz", "title")
        facts = {key: value for key, value in one.attrs.items() if key not in named}
        self.record = {
            **facts,
            "generator": self.name,
            "detectors": one["detector"].values.tolist(),
        }
        self._simulators = {}
        self.block_samples = self._simulator(0).chunk_samples

    def sample(self, environment: str, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
        """TOD of any part of a mission; see `crab.generators.base.Generator.sample`."""
        check_request(self.name, self.record, environment, start_sample, n_samples)
        if n_samples == 0:
            return np.empty((len(self.record["detectors"]), 0), dtype=np.float32)
        return self._simulator(seed).samples(start_sample, n_samples)["tod"]

    def _simulator(self, seed: int):
        simulator = self._simulators.get(seed)
        if simulator is None:
            simulator = montecarlo.prepare(*self._what, seed=seed, **self._options)
            self._simulators = {seed: simulator}  # a library's worth of memory: one is kept
        return simulator


class _Kept(NamedTuple):
    files: tuple
    made: base.Generator
    fingerprint: str


def _made(source: Source, settings: params.Params | None = None) -> _Kept:
    key, files = source._replace(fingerprint=""), _files(source)
    with _lock:
        if key not in _kept or _kept[key].files != files:
            settings = settings or params.load()
            made = _make(source, settings)
            _kept[key] = _Kept(files, made, _fingerprint(source, made, settings))
        found = _kept[key]
    if source.fingerprint not in ("", found.fingerprint):
        raise CrabError(
            f"{source.generator} in {paths.root()} is not the one that was opened in "
            f"{source.root}: allowed is the same model with the same params.yaml; set CRAB_ROOT "
            "for the workers, or open the mission again"
        )
    return found


def _files(source: Source) -> tuple:
    """Names and times of the files that a generator may be made from: a newer one is read again."""
    where = (source.profile, source.mission)
    model = paths.model(*where, source.generator)
    files = [paths.root() / "params.yaml", model, model.with_suffix(".json")]
    files += [paths.tod(*where, source.environment, "train")]
    files += [paths.deposits(*where, split) for split in ("train", "test")]
    return tuple((str(f), f.stat().st_mtime_ns) for f in files if f.is_file())


def _make(source: Source, settings: params.Params) -> base.Generator:
    params.choose("profile", source.profile, settings.profiles)
    mission = params.choose("mission", source.mission, settings.missions)
    params.choose("environment", source.environment, settings.environments)
    names = (source.profile, source.mission, source.environment)
    if source.generator == MONTE_CARLO:
        made = MonteCarlo(*names, settings)
    else:
        params.choose("generator", source.generator, {**base.REGISTRY, MONTE_CARLO: None})
        made = base.ready(source.generator, *names, settings)
    if source.wafer is None or source.wafer == mission.instrument.wafer:
        return made
    return _moved(made, source, mission)


def _moved(made: base.Generator, source: Source, mission: params.Mission) -> base.Generator:
    own = mission.instrument.wafer
    if not hasattr(made, "with_detectors"):
        raise CrabError(
            f"wafer = {source.wafer!r}: {source.generator} knows the detectors of {own!r} only: "
            f"allowed are {own!r}, or a generator that can be moved (one with `with_detectors`)"
        )
    if mission.instrument.kind != "database":
        raise CrabError(
            f"wafer = {source.wafer!r}: the detectors of {source.mission} are listed in "
            f"params.yaml, for {own!r} only: allowed is {own!r}"
        )
    changes = {"wafer": source.wafer, "detectors": None}
    elsewhere = mission.model_copy(
        update={"instrument": mission.instrument.model_copy(update=changes)}
    )
    return made.with_detectors(instrument.detectors(elsewhere))


def _fingerprint(source: Source, made: base.Generator, settings: params.Params) -> str:
    environment = settings.environments[source.environment]
    names = made.detectors["detector"].values.astype(str).tolist()
    return params_hash(made.record, environment, source.generator, names)
