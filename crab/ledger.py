"""What is finished of a cube that is written region by region, and what it is made from.

The ledger lies in the store, beside the chunks: one line of facts, then one line for each region.
A line is written after its region is on the disk, so a kill or a power cut loses at most what was
being computed.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crab.errors import CrabError
from crab.provenance import params_hash

# Inside the array's folder: Zarr takes every other name in a group for an array or a group.
_PLACE = Path("tod") / "ledger.jsonl"


def unfinished_path(path: str | Path) -> Path:
    """Where a store is until it is finished."""
    path = Path(path)
    return path.with_name(path.name + ".unfinished")


def exists(store: str | Path) -> bool:
    """Whether a store has a ledger."""
    return (Path(store) / _PLACE).is_file()


def create(store: str | Path, facts: dict) -> None:
    """Start a ledger.

    Parameters
    ----------
    store : path-like
        Zarr folder with an array ``tod``.
    facts : dict
        All that the numbers depend on, and ``region_samples``; anything JSON can hold.
    """
    _rewrite(Path(store) / _PLACE, [{"facts": facts, "facts_hash": params_hash(facts)}])


def read(store: str | Path) -> tuple[dict, dict[int, int]]:
    """Facts and finished regions.

    Parameters
    ----------
    store : path-like

    Returns
    -------
    facts : dict
    done : dict of int to int
        Samples of each finished region.

    Raises
    ------
    CrabError
        If the ledger is damaged, or its facts are not those of its hash.
    """
    path = Path(store) / _PLACE
    lines = path.read_bytes().split(b"\n")
    # What follows the last line break was cut short by a kill: that region does not count.
    try:
        head, *rows = (json.loads(line) for line in lines[:-1])
        facts, done = head["facts"], {row["region"]: row["n_samples"] for row in rows}
        whole = params_hash(facts) == head["facts_hash"]
    except (ValueError, KeyError, TypeError) as error:
        raise CrabError(f"{path}: not a readable ledger ({error}): remove {store}") from error
    if not whole:
        raise CrabError(f"{path}: the facts are not those of facts_hash: remove {store}")
    return facts, done


def check_facts(store: str | Path, facts: dict) -> None:
    """Refuse to mix: a store holds data of one set of facts.

    Parameters
    ----------
    store : path-like
    facts : dict
        Of the data to be added.

    Raises
    ------
    CrabError
        For the first fact that differs, with both values.
    """
    old, _ = read(store)
    new = json.loads(json.dumps(facts))
    for key in {**new, **old}:
        if old.get(key) != new.get(key):
            raise CrabError(
                f"{store}: {key} = {new.get(key)!r} was asked for, the store was begun with "
                f"{old.get(key)!r}: allowed are the same values, or another output"
            )


@contextmanager
def opened(store: str | Path) -> Iterator:
    """A ledger to write to, by this process alone.

    Parameters
    ----------
    store : path-like

    Yields
    ------
    callable
        ``mark(region, n_samples)``: returns when the line is on the disk.

    Raises
    ------
    CrabError
        If another process is writing to the store.
    """
    path = Path(store) / _PLACE
    with path.open("r+b") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CrabError(f"{store}: another process is writing to it") from error
        content = handle.read()
        handle.truncate(content.rfind(b"\n") + 1)
        handle.seek(0, os.SEEK_END)

        def mark(region: int, n_samples: int) -> None:
            handle.write(_line({"region": region, "n_samples": n_samples}))
            handle.flush()
            os.fsync(handle.fileno())

        yield mark


def tidy(store: str | Path) -> None:
    """Put the lines of a finished store in order, so that its bytes do not tell who was faster.

    Parameters
    ----------
    store : path-like
    """
    facts, done = read(store)
    rows = [{"region": region, "n_samples": done[region]} for region in sorted(done)]
    head = {"facts": facts, "facts_hash": params_hash(facts)}
    _rewrite(Path(store) / _PLACE, [head, *rows])


def refuse_unfinished(path: str | Path) -> None:
    """Say so if a store is not finished, under its name or the one it has until then.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    CrabError
        With how much is there and what to do.
    """
    path = Path(path)
    store = path if path.exists() else unfinished_path(path)
    if not exists(store):
        return
    facts, done = read(store)
    n_samples = json.loads((store / "tod" / "zarr.json").read_text())["shape"][-1]
    n_done = sum(done.values())
    if n_done < n_samples or store != path or path.suffix == ".unfinished":
        hours = [n / facts["sampling_rate_hz"] / 3600 for n in (n_done, n_samples)]
        raise CrabError(
            f"{path}: not finished: {hours[0]:.6g} of {hours[1]:.6g} h are in {store.name}; repeat "
            "the command that writes it (`crab generate`): it goes on where it was"
        )


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rewrite(path: Path, rows: list[dict]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as handle:
        handle.writelines(_line(row) for row in rows)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def _line(row: dict) -> bytes:
    return json.dumps(row, sort_keys=True).encode() + b"\n"
