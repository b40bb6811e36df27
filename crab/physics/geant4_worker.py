"""Process that runs Geant4: primaries come in and deposits go out as arrays, through pipes.

Started by `crab.physics.transport` as ``python -m crab.physics.geant4_worker``. One process holds
one initialised `G4RunManager`, because Geant4 allows no second one. Each batch runs in a child
forked from that untouched state, so that it depends on its primaries and its seed and never on
what ran before. Processes end with ``os._exit``: Geant4 may crash while Python shuts down.

Geant4: Agostinelli et al. 2003, doi:10.1016/S0168-9002(03)01368-8; Allison et al. 2016,
doi:10.1016/j.nima.2016.06.125.
"""

import io
import json
import os
import struct
import sys
import traceback
from pathlib import Path

import numpy as np

# Environment variable and folder name of each data set that the full FTFP_BERT list reads.
DATASETS = {
    "G4LEDATA": "G4EMLOW",
    "G4LEVELGAMMADATA": "PhotonEvaporation",
    "G4PARTICLEXSDATA": "G4PARTICLEXS",
    "G4ENSDFSTATEDATA": "G4ENSDFSTATE",
    "G4SAIDXSDATA": "G4SAIDDATA",
}
FULL_LIST = "FTFP_BERT (full data)"
PRUNED_LIST = "EM + FTFP_BERT hadronics; no neutron interactions; no phot, Rayl, eBrem"
DEPOSIT_DTYPE = np.dtype(
    [
        ("primary", "i4"),
        ("volume", "i1"),  # 0 wafer, 1, 2, ... absorbers in the geometry's order
        ("detector_index", "i2"),  # -1 for the wafer; witness films follow the detectors
        ("x_mm", "f4"),
        ("y_mm", "f4"),
        ("deposit_ev", "f4"),
    ]
)


def find_datasets() -> dict[str, str] | None:
    """Folders of the official Geant4 data sets, or None if one is missing.

    Looked up in each data set's own environment variable, then as ``<name><version>`` in
    ``$GEANT4_DATA_DIR`` and in ``~/.geant4_pybind``.

    Returns
    -------
    dict or None
        Folder by environment variable.
    """
    bases = [os.environ.get("GEANT4_DATA_DIR"), str(Path.home() / ".geant4_pybind")]
    found = {}
    for variable, name in DATASETS.items():
        folders = [Path(os.environ[variable])] if os.environ.get(variable) else []
        for base in filter(None, bases):
            folders += sorted(Path(base).glob(f"{name}[0-9]*"), reverse=True)
        filled = [f for f in folders if f.is_dir() and any(f.iterdir())]
        if not filled:
            return None
        found[variable] = str(filled[0])
    return found


def set_datasets(scratch: Path) -> bool:
    """Set the environment so that Geant4 starts, and never asks on stdin or downloads.

    Parameters
    ----------
    scratch : pathlib.Path
        Empty folder for placeholders, needed as long as Geant4 runs.

    Returns
    -------
    bool
        Whether the official data sets are there.
    """
    data = find_datasets()
    if data is not None:
        os.environ.update(data)
        os.environ.setdefault("GEANT4_DATA_DIR", str(Path(data["G4LEDATA"]).parent))
        return True
    empty, neutron = scratch / "empty", scratch / "particlexs" / "neutron"
    empty.mkdir()
    neutron.mkdir(parents=True)
    (scratch / "ENSDFSTATE.dat").touch()
    for z in range(1, 101):
        # Read while the list is built and never evaluated: the pruned list takes all
        # interactions of neutrons out.
        (neutron / f"inel{z}").write_text("1e-11 20 3\n3\n1e-11 0\n1e-3 0\n20 0\n")
    os.environ.update(dict.fromkeys(DATASETS, str(empty)))
    os.environ["GEANT4_DATA_DIR"] = str(empty)
    os.environ["G4PARTICLEXSDATA"] = str(neutron.parent)
    os.environ["G4ENSDFSTATEDATA"] = str(scratch)
    return False


def merge_cells(rows: np.ndarray, setup: dict) -> np.ndarray:
    """Scored cells to deposits: fine cells of the wafer merge into cells of ``cell_mm``.

    Parameters
    ----------
    rows : ndarray, shape (n, 4)
        From `crab.physics.geant4_world.World.run`.
    setup : dict
        See `crab.physics.transport.world_setup`.

    Returns
    -------
    ndarray of `DEPOSIT_DTYPE`
        Sorted by primary and volume. On the wafer the position is the energy-weighted mean of
        the fine cells' centres, in an absorber the detector's point.
    """
    columns = rows[rows[:, 3] > 0]
    primary, volume, index = columns[:, :3].T.astype(np.int64)
    energy = columns[:, 3]
    wafer = volume == 0
    x, y = np.empty((2, len(energy)))
    places_mm = np.array(setup["detector_mm"] + setup["witness_mm"]).reshape(-1, 3)
    x[~wafer], y[~wafer] = places_mm[index[~wafer], :2].T
    if wafer.any():
        n, merged = setup["n_cells"], setup["merged_cells"]
        width_mm = setup["wafer_side_mm"] / n
        ix, iy = np.divmod(index[wafer], n)
        x[wafer] = (ix + 0.5) * width_mm - setup["wafer_side_mm"] / 2
        y[wafer] = (iy + 0.5) * width_mm - setup["wafer_side_mm"] / 2
        index[wafer] = (ix // merged) * n + iy // merged
    key, place = np.unique(np.stack([primary, volume, index], axis=1), axis=0, return_inverse=True)
    place = place.ravel()
    total = np.bincount(place, energy, len(key))
    deposits = np.empty(len(key), DEPOSIT_DTYPE)
    deposits["primary"] = key[:, 0]
    deposits["volume"] = key[:, 1]
    deposits["detector_index"] = np.where(key[:, 1] == 0, -1, key[:, 2])
    deposits["x_mm"] = np.bincount(place, energy * x, len(key)) / total
    deposits["y_mm"] = np.bincount(place, energy * y, len(key)) / total
    deposits["deposit_ev"] = total * 1e6
    return deposits


def send(stream, content: bytes) -> None:
    """Write one message: its length in 8 bytes, then its bytes."""
    stream.write(struct.pack("<Q", len(content)) + content)
    stream.flush()


def receive(stream) -> bytes | None:
    """Read one message; None if the other side has gone."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (length,) = struct.unpack("<Q", head)
    content = stream.read(length)
    return content if len(content) == length else None


def pack(**arrays) -> bytes:
    """Arrays as the bytes of an npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def unpack(content: bytes) -> dict[str, np.ndarray]:
    """Inverse of `pack`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def run_batch(world, setup: dict, request: dict) -> np.ndarray:
    """Deposits of one batch: ``request`` holds ``primaries`` and ``seed``."""
    scratch = Path(setup["scratch"])
    return merge_cells(world.run(request["primaries"], int(request["seed"]), scratch), setup)


def main() -> None:
    """Answer requests on stdin until it closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Geant4 prints on stdout, which is now the same as stderr
    requests = sys.stdin.buffer
    setup = json.loads(receive(requests))
    full_data = set_datasets(Path(setup["scratch"]))
    from crab.physics import geant4_world

    world = geant4_world.World(setup, full_data)
    hello = {
        "physics_list": FULL_LIST if full_data else PRUNED_LIST,
        "geant4_version": geant4_world.VERSION,
    }
    send(answers, json.dumps(hello).encode())
    while (message := receive(requests)) is not None:
        child = os.fork()
        if child == 0:
            send(answers, pack(deposits=run_batch(world, setup, unpack(message))))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
