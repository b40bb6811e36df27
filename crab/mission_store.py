"""Write a mission, or a part of it, as Zarr v3: in parallel, region by region, and resumable.

A region is one shard, so one file. It is computed, written, forced to the disk and only then
marked in the ledger (`crab.ledger`). Until all are there the store has another name.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import zarr

from crab import io, ledger, mission, mission_source, provenance, schema
from crab.errors import CrabError
from crab.mission import Plan
from crab.progress import tqdm

_BYTES = 4  # of a float32
# Besides those that are running: so that no worker waits, and memory does not grow with length.
_QUEUED_PER_WORKER = 1


def generate(
    path: str | Path,
    mission_name: str,
    environment: str,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    shard_mb: float = 32.0,
    progress: bool = True,
    **options,
) -> Path:
    """Write any part of a mission; the same call goes on after a kill, or makes a store longer.

    Parameters
    ----------
    path : path-like
        Zarr folder. Until it is whole its name ends in ``.unfinished``.
    mission_name, environment : str
        Keys of params.yaml.
    workers : int, optional
        Processes of this machine. Default: threads, one for each core.
    scheduler : str, optional
        Address of a running dask.distributed scheduler, whose workers then do it; they must see
        `path` and the project.
    shard_mb : float
        Size of a file before compression, rounded to whole chunks, at least one. A worker holds
        about three times as much.
    progress : bool
        Show a progress bar.
    **options
        ``wafer``, ``seed``, ``generator``, ``profile``, ``realisation``, ``duration_s``,
        ``start_s``, ``chunk_s`` of `crab.mission.open_mission`.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    CrabError
        As `open_mission`; if the store was begun with other values, or is longer already; if the
        disk is full, a worker died, or the scheduler does not answer. Finished regions are kept.
    """
    if workers is not None and workers < 1:
        raise CrabError(f"workers = {workers}: allowed are integers >= 1")
    if workers is not None and scheduler is not None:
        raise CrabError("workers and scheduler: give one of them")
    if not (np.isfinite(shard_mb) and shard_mb > 0):
        raise CrabError(f"shard_mb = {shard_mb!r}: allowed are numbers > 0")
    path = Path(path).absolute()
    what = mission.plan(mission_name, environment, **options)
    chunk_mb = what.detectors.sizes["detector"] * what.chunk_samples * _BYTES / 1e6
    region = max(1, round(shard_mb / chunk_mb)) * what.chunk_samples
    store = _prepared(path, what, region)
    if store == path:
        return path
    with ledger.opened(store) as mark:
        _, done = ledger.read(store)
        todo = [
            (index, begin, n_samples)
            for index, begin, n_samples in _regions(what.n_samples, region)
            if done.get(index) != n_samples
        ]
        with _computers(workers, scheduler) as (pool, n_workers):
            _write(store, what, todo, mark, pool, n_workers, progress)
        ledger.tidy(store)
        store.rename(path)
        ledger.sync_folder(path.parent)
    provenance.write(path, workers=workers, scheduler=scheduler)
    return path


def _prepared(path: Path, what: Plan, region: int) -> Path:
    """Store to write into; `path` itself if there is nothing left to do."""
    facts = _facts(what, region)
    store = ledger.unfinished_path(path)
    if path.exists() and store.exists():
        raise CrabError(f"{path} and {store.name} both exist: remove one of them")
    if path.exists():
        if not ledger.exists(path):
            raise CrabError(f"{path}: exists, and was not written by this: give another name")
        ledger.check_facts(path, facts)
        if _length(path, path, what) == what.n_samples:
            return path
        path.rename(store)
        ledger.sync_folder(path.parent)
    if not ledger.exists(store):
        path.parent.mkdir(parents=True, exist_ok=True)
        _create(store, what, region, facts)
        return store
    ledger.check_facts(store, facts)
    if _length(store, path, what) != what.n_samples:
        zarr.open_array(store / "tod", mode="r+").resize(
            (what.detectors.sizes["detector"], what.n_samples)
        )
        zarr.open_group(store, mode="r+").attrs.update(_plain(what.attrs))
    for stray in (store / "tod").rglob("*.partial"):
        stray.unlink()  # of a write that was killed
    return store


def _create(store: Path, what: Plan, region: int, facts: dict) -> None:
    if store.exists():
        raise CrabError(f"{store}: exists, but has no ledger: remove it")
    beginning = mission.virtual_cube(what._replace(n_samples=1))
    coords = io.with_plain_words(beginning.drop_vars(["tod", "time"]))
    partial = store.with_name(f".{store.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    coords.to_zarr(partial, zarr_format=3, consolidated=False)
    zarr.open_group(partial, mode="r+").create_array(
        "tod",
        shape=(what.detectors.sizes["detector"], what.n_samples),
        dtype=np.float32,
        chunks=(what.detectors.sizes["detector"], what.chunk_samples),
        shards=(what.detectors.sizes["detector"], region),
        compressors=io.COMPRESSOR,
        # What is not there yet can not be taken for a quiet detector.
        fill_value=np.nan,
        dimension_names=("detector", "time"),
        attributes=beginning["tod"].attrs,
    )
    ledger.create(partial, facts)
    partial.rename(store)
    ledger.sync_folder(store.parent)


def _facts(what: Plan, region: int) -> dict:
    """All that the numbers and their layout depend on, but not how many there are."""
    derived = ("phi_start_mv", "phi_stop_mv")
    attrs = {key: value for key, value in what.attrs.items() if key not in derived}
    # First what a user chose: an error names the first that differs.
    return {
        "generator": what.source.generator,
        "profile": what.source.profile,
        "wafer": what.source.wafer,
        **_plain(attrs),
        "fingerprint": what.source.fingerprint,
        "detectors": what.detectors["detector"].values.astype(str).tolist(),
        "sampling_rate_hz": what.sampling_rate_hz,
        "start_sample": what.start_sample,
        "chunk_samples": what.chunk_samples,
        "region_samples": region,
        "schema_version": schema.SCHEMA_VERSION,
    }


def _length(store: Path, path: Path, what: Plan) -> int:
    there = zarr.open_array(store / "tod", mode="r").shape[1]
    if there > what.n_samples:
        hours = [n / what.sampling_rate_hz / 3600 for n in (what.n_samples, there)]
        raise CrabError(
            f"{path}: {hours[0]:.6g} h were asked for, the store is for {hours[1]:.6g} h: allowed "
            "are the same duration, a longer one, or another output"
        )
    return there


def _regions(n_samples: int, region: int) -> Iterator[tuple[int, int, int]]:
    """Number, first sample and length of each region; places are in the store."""
    for index, begin in enumerate(range(0, n_samples, region)):
        yield index, begin, min(region, n_samples - begin)


def _write(
    store: Path,
    what: Plan,
    todo: list[tuple[int, int, int]],
    mark: Callable[[int, int], None],
    pool: Executor,
    n_workers: Callable[[], int],
    progress: bool,
) -> None:
    hours = 1 / what.sampling_rate_hz / 3600
    missing = sum(n_samples for *_, n_samples in todo)
    bar = tqdm(
        desc=store.stem,
        total=what.n_samples * hours,
        initial=(what.n_samples - missing) * hours,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} h, {remaining} left",
        disable=not progress,
    )
    waiting, running = iter(todo), {}
    try:
        while True:
            while len(running) < n_workers() * (1 + _QUEUED_PER_WORKER):
                one = next(waiting, None)
                if one is None:
                    break
                facts = (str(store), what.source, what.stream_seed, what.start_sample)
                running[pool.submit(write_region, *facts, *one, what.chunk_samples)] = one
            if not running:
                return
            finished, _ = wait_for(running, return_when=FIRST_COMPLETED)
            # All that are on the disk are marked before an error of another one ends the run.
            for future in sorted(finished, key=lambda f: f.exception() is not None):
                future.result()
                index, _, n_samples = running.pop(future)
                mark(index, n_samples)
                bar.update(n_samples * hours)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CrabError(
            f"{store}: no space left on the disk; {_kept(store)}: free some space and repeat"
        ) from error
    except BrokenProcessPool as error:
        raise CrabError(
            f"{store}: a worker process died, perhaps for want of memory; {_kept(store)}: repeat, "
            "with fewer workers"
        ) from error
    finally:
        # After an error or Ctrl-C: what is being computed comes to its end and is not lost.
        for future, (index, _, n_samples) in running.items():
            if not future.cancel() and future.exception() is None:
                mark(index, n_samples)
        bar.close()


def write_region(
    store: str,
    source: mission_source.Source,
    seed: int,
    start_sample: int,
    index: int,
    begin: int,
    n_samples: int,
    chunk_samples: int,
) -> None:
    """Compute one region and write it; returns when it is on the disk.

    Parameters
    ----------
    store : str
    source : crab.mission_source.Source
    seed : int
        Of the wafer and realisation.
    start_sample : int
        Absolute index of the store's first sample.
    index, begin, n_samples : int
        The region's number, its place in the store and its length.
    chunk_samples : int
        Computed at a time.

    Raises
    ------
    CrabError
        If the generator gives NaN or infinity.
    """
    array = zarr.open_array(Path(store) / "tod", mode="r+")
    tod = np.empty((array.shape[0], n_samples), dtype=np.float32)
    for low in range(0, n_samples, chunk_samples):
        length = min(chunk_samples, n_samples - low)
        first = start_sample + begin + low
        piece = tod[:, low : low + length]
        piece[...] = mission_source.tod(source, first, length, seed)
        if not np.isfinite(piece).all():
            raise CrabError(
                f"{source.generator}: NaN or infinity within samples {first} to {first + length} "
                f"of {source.environment}, seed {seed}: nothing of this region was written"
            )
    shard = Path(store) / "tod" / "c" / "0" / str(index)
    # Zarr reads a shard before it changes it, and one of a power cut may be unreadable.
    shard.unlink(missing_ok=True)
    array[:, begin : begin + n_samples] = tod
    with shard.open("rb") as handle:
        os.fsync(handle.fileno())
    ledger.sync_folder(shard.parent)


@contextmanager
def _computers(workers: int | None, scheduler: str | None):
    """An executor, and how many regions it computes at a time."""
    if scheduler is not None:
        from distributed import Client

        try:
            client = Client(scheduler, timeout="30s", set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise CrabError(f"scheduler = {scheduler!r}: no answer ({error})") from error
        with client, client.get_executor(pure=False) as pool:
            # A cluster may grow and shrink.
            yield pool, lambda: max(1, sum(client.nthreads().values()))
    elif workers is not None:
        # Not forked: TensorFlow and Zarr have threads.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield pool, lambda: workers
    else:
        n_threads = os.cpu_count() or 1
        with ThreadPoolExecutor(n_threads) as pool:
            yield pool, lambda: n_threads


def _kept(store: Path) -> str:
    _, done = ledger.read(store)
    return f"{len(done)} finished regions are kept"


def _plain(attrs: dict) -> dict:
    return {k: v.item() if hasattr(v, "item") else v for k, v in attrs.items()}
