"""Where the samples of a mission come from: a generator, found again by name in every process.

What travels to threads, processes and the workers of a cluster is a `Source`, a few words and
numbers. Each process reads the model itself, once.
"""

import threading
from typing import NamedTuple

import numpy as np

from crab import params, paths, seeds
from crab.errors import CrabError
from crab.generators import base
from crab.physics import instrument
from crab.provenance import params_hash

_lock = threading.Lock()
_kept: dict[tuple, "_Kept"] = {}


class Source(NamedTuple):
    """Names that lead to a generator.

    Attributes
    ----------
    generator : str
        Name in the registry of generators.
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
    found = _made(source)
    request = (source.environment, start_sample, n_samples, seed)
    if not found.warm.is_set():
        # What a first request builds (a compiled network, a simulator) is built by one thread.
        with _lock:
            values = found.made.sample(*request)
            found.warm.set()
            return values
    return found.made.sample(*request)


def stream_seed(seed: int, wafer: str, configured: str, realisation: int) -> int:
    """Seed of one wafer and realisation: the same for missions, injections and arrays.

    Parameters
    ----------
    seed : int
        Seed of the run, >= 0.
    wafer, configured : str
        Wafer asked for, and the mission's own.
    realisation : int
        >= 0.

    Returns
    -------
    int
        The seed itself for the configured wafer and realisation 0; else one of 63 bits that is
        derived from it, as many as an attribute of a file holds.

    Raises
    ------
    CrabError
        For a seed or a realisation that is no integer >= 0.
    """
    for key, value in (("seed", seed), ("realisation", realisation)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise CrabError(f"{key} = {value!r}: allowed are integers >= 0")
    seed, realisation = int(seed), int(realisation)
    if wafer == configured and realisation == 0:
        return seed
    return seeds.philox_key(seed, "wafer", str(wafer), "realisation", realisation) >> 65


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


class _Kept(NamedTuple):
    files: tuple
    made: base.Generator
    fingerprint: str
    warm: threading.Event


def _made(source: Source, settings: params.Params | None = None) -> _Kept:
    key, files = source._replace(fingerprint=""), _files(source)
    with _lock:
        if key not in _kept or _kept[key].files != files:
            settings = settings or params.load()
            made = _make(source, settings)
            _kept[key] = _Kept(files, made, _fingerprint(source, made, settings), threading.Event())
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
    names = (source.generator, source.profile, source.mission, source.environment)
    made = base.ready(*names, settings)
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
