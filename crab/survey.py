"""A whole mission described and not stored: generated chunk by chunk, summarised, forgotten.

Chunks belong to days and days to months, whose statistics are merged in the order of time; so the
result is the same bytes whatever the number of workers, and whether or not it was interrupted.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from crab import io, provenance
from crab.errors import CrabError
from crab.metrics import periods, running
from crab.metrics.running import Measures
from crab.progress import tqdm


class Plan(NamedTuple):
    """Which parts of a mission are looked at.

    Attributes
    ----------
    n_samples : int
        Length of the mission.
    chunk_samples : int
        Length of a chunk: whole segments; a multiple of a network's block wastes nothing.
    stride_samples : int
        From the start of one chunk to that of the next; ``chunk_samples`` leaves out nothing.
    measures : Measures
    """

    n_samples: int
    chunk_samples: int
    stride_samples: int
    measures: Measures


def plan(measures: Measures, mission_s: float, chunk_samples: int, stride_s: float = 0.0) -> Plan:
    """Plan of a survey.

    Parameters
    ----------
    measures : Measures
    mission_s : float
        Length of the mission.
    chunk_samples : int
        Rounded up to whole segments.
    stride_s : float
        From one chunk's start to the next one's, rounded up to whole chunks, so that chunks stay on
        the blocks of a network. 0: no gaps.

    Returns
    -------
    Plan

    Raises
    ------
    CrabError
        For lengths that are not positive, a mission shorter than a segment, or measures that
        `crab.metrics.running.check` refuses.
    """
    running.check(measures)
    if chunk_samples < 1 or stride_s < 0:
        raise CrabError(
            f"chunk_samples = {chunk_samples}, stride_s = {stride_s}: allowed are at least 1 and 0"
        )
    segment = measures.segment_samples
    n_samples = int(mission_s * measures.sampling_rate_hz) // segment * segment
    if n_samples < segment:
        raise CrabError(f"mission_s = {mission_s}: shorter than one segment of {segment} samples")
    chunk = -(-chunk_samples // segment) * segment
    n_strides = max(1, ceil(stride_s * measures.sampling_rate_hz / chunk))
    return Plan(n_samples, chunk, n_strides * chunk, measures)


def starts(plan: Plan) -> np.ndarray:
    """Absolute first samples of all chunks, ascending."""
    return np.arange(0, plan.n_samples, plan.stride_samples)


def run(
    load: Callable,
    environment: str,
    seed: int,
    plan: Plan,
    path: str | Path,
    workers: int = 2,
    progress: bool = True,
) -> tuple[xr.Dataset, dict[str, float]]:
    """Survey a mission and write what was found.

    Each month that is done is kept in a folder beside the file, and not done again if the same
    survey is started again; the folder goes when the file is there.

    Parameters
    ----------
    load : callable
        Takes nothing, returns a `crab.generators.base.Generator`; can be pickled if there are
        workers. Called once by each of them.
    environment : str
    seed : int
    plan : Plan
    path : path-like
        File to write.
    workers : int
        Processes of one thread each. 0: in this process, for a generator on an accelerator.
    progress : bool
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        What is written: by ``day`` the statistics of `crab.metrics.running.chunk`, by ``month``
        the spectra; see `crab.metrics.periods`.
    dict of str to float
        ``wall_s``; ``generate_core_s`` and ``describe_core_s``, the time of cores summed over
        workers (wall time without workers, when an accelerator is what counts), without loading;
        all of all months, also of those that were there already. ``duration_s`` of TOD generated,
        ``mission_s``, ``load_s`` of the generator in this process.

    Raises
    ------
    CrabError
        If the generator refuses a request or does not fit the plan.
    """
    path = Path(path)
    asked = time.perf_counter()
    generator = load()
    facts = _facts(generator, environment, seed, plan)
    load_s = time.perf_counter() - asked
    folder = path.with_name(f".{path.stem}-{provenance.params_hash(facts)}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    chunks = {
        month: list(group)
        for month, group in groupby(
            starts(plan).tolist(),
            key=lambda s: int(periods.month_of(periods.day_of(s, plan.measures.sampling_rate_hz))),
        )
    }
    missing = [m for m in chunks if not _month(folder, m).is_file()]
    wanted = [start for m in missing for start in chunks[m]]
    bar = tqdm(
        total=sum(map(len, chunks.values())),
        initial=sum(map(len, chunks.values())) - len(wanted),
        desc=path.stem,
        unit="chunk",
        disable=not progress,
    )
    with bar:
        results = _results(load, generator, (environment, seed, plan), wanted, workers)
        begun = time.perf_counter()
        for month in missing:
            parts, spent = [], {"generate_core_s": 0.0, "describe_core_s": 0.0}
            for _ in chunks[month]:
                part, times = next(results)
                parts.append(part)
                spent = {key: spent[key] + times[key] for key in spent}
                bar.update()
            # Each month's includes the writing of the one before.
            spent["wall_s"], begun = time.perf_counter() - begun, time.perf_counter()
            _month(folder, month).with_suffix(".json").write_text(json.dumps(spent))
            io.write(
                periods.assemble(parts, generator.record["detectors"], plan.measures),
                _month(folder, month),
            )
        results.close()
    files = [_month(folder, month) for month in chunks]
    found = periods.join([io.open_table(file) for file in files]).assign_attrs(facts)
    io.write(found, path)
    times = [json.loads(file.with_suffix(".json").read_text()) for file in files]
    for file in files:
        file.unlink()
        file.with_suffix(".json").unlink()
    folder.rmdir()
    rate_hz = plan.measures.sampling_rate_hz
    total = {key: sum(t[key] for t in times) for key in times[0]}
    total["wall_s"] += time.perf_counter() - begun
    return found, {
        **total,
        "duration_s": float(found["n_samples"].sum()) / rate_hz,
        "mission_s": plan.n_samples / rate_hz,
        "load_s": load_s,
    }


def of_cube(cube: xr.Dataset, plan: Plan) -> xr.Dataset:
    """The same statistics of a stored cube, such as a simulated one.

    Parameters
    ----------
    cube : xarray.Dataset
        TOD cube; begins at the start of a segment. What is beyond the last whole segment is left
        out.
    plan : Plan
        Its measures and the length of its chunks.

    Returns
    -------
    xarray.Dataset
        As of `run`.
    """
    segment = plan.measures.segment_samples
    first = round(float(cube["time"].values[0]) * plan.measures.sampling_rate_hz)
    n = cube.sizes["time"] // segment * segment
    tod = cube["tod"].values[:, :n]
    step = plan.chunk_samples
    parts = [
        running.chunk(tod[:, a : a + step], first + a, plan.measures) for a in range(0, n, step)
    ]
    names = cube["detector"].values.astype(str).tolist()
    return periods.assemble(parts, names, plan.measures)


def _facts(generator, environment: str, seed: int, plan: Plan) -> dict:
    record = generator.record
    rate_hz = plan.measures.sampling_rate_hz
    if record["sampling_rate_hz"] != rate_hz:
        raise CrabError(
            f"sampling_rate_hz = {rate_hz}: {generator.name} makes {record['sampling_rate_hz']} Hz"
        )
    known, asked = len(record["detectors"]), np.shape(plan.measures.thresholds_w)[1]
    if known != asked:
        raise CrabError(f"thresholds_w: {asked} detectors, {generator.name} has {known}")
    return {
        "title": "Statistics of a generated mission",
        "mission": record["mission"],
        "environment": environment,
        "generator": generator.name,
        "model": str(record.get("keras_sha256", record.get("params_hash", ""))),
        "seed": seed,
        "sampling_rate_hz": rate_hz,
        "segment_samples": plan.measures.segment_samples,
        "dead_samples": plan.measures.dead_samples,
        "band_hz": list(plan.measures.band_hz),
        "chunk_samples": plan.chunk_samples,
        "stride_samples": plan.stride_samples,
        "mission_samples": plan.n_samples,
        "thresholds_hash": provenance.params_hash(plan.measures.thresholds_w),
    }


def _month(folder: Path, month: int) -> Path:
    return folder / f"month-{month:03d}.nc"


def _results(load, generator, request: tuple, wanted: list[int], workers: int) -> Iterator:
    """Statistics of chunks in the order asked for, and the time that each took."""
    if not workers or not wanted:
        for start in wanted:
            yield _chunk(generator, *request, start, time.perf_counter)
        return
    # Not forked: a process that has begun to use TensorFlow must not be.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin, initargs=(load, request)
    )
    try:
        yield from pool.map(_work, wanted)
    except BrokenProcessPool as error:
        raise CrabError(
            f"a worker was ended from outside, perhaps for lack of memory (workers = {workers}, "
            f"chunk_samples = {request[2].chunk_samples}): take less of either and start again; "
            "months that were done are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_state: dict = {}


def _begin(load: Callable, request: tuple) -> None:
    # One thread a process; set before TensorFlow is imported by what is loaded.
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = "1"
    _state["limits"] = threadpool_limits(1)
    generator, (environment, seed, _) = load(), request
    generator.sample(environment, 0, 1, seed)  # compiles: no part of what a sample takes
    _state["request"] = (generator, *request)


def _work(start: int):
    return _chunk(*_state["request"], start, time.process_time)


def _chunk(generator, environment: str, seed: int, plan: Plan, start: int, clock: Callable):
    n = min(plan.chunk_samples, plan.n_samples - start)
    begun = clock()
    tod = generator.sample(environment, start, n, seed)
    made = clock()
    part = running.chunk(tod, start, plan.measures)
    return part, {"generate_core_s": made - begun, "describe_core_s": clock() - made}
