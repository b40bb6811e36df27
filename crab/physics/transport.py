"""Library of energy deposits: Geant4 transport of cosmic rays through shield, wafer and absorbers.

Primaries come from `crab.physics.strata`, in fixed batches with a seed each. Workers
(`crab.physics.geant4_pool`) track them; each finished batch is a file, so a crash or a stop loses
none, and the library does not depend on the number of workers.
"""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import xarray as xr

from crab import seeds
from crab.errors import CrabError
from crab.params import DepositsNotebook, Environment, Geometry
from crab.physics import geant4_pool, geant4_worker, parts, strata, witness
from crab.physics.interstellar import DATA
from crab.progress import tqdm
from crab.provenance import params_hash

# The wafer is scored in cells this many times finer, so that positions are means inside a cell.
FINE_CELLS = 4
# The shield's inner skin is this many of its production cuts thick, and so is the cut behind it.
SKIN_CUTS = 10
_CODE = (
    "environment.py",
    "geant4_worker.py",
    "geant4_world.py",
    "interstellar.py",
    "iso_dlr.py",
    "parts.py",
    "spectra.py",
    "strata.py",
    "transport.py",
    "wafer.py",
    "witness.py",
)
_PHYSICS = ("physics_list", "geant4_version")
_UNITS = {
    "energy_mev": ("MeV", "total kinetic energy of the primary"),
    "direction": ("1", "unit vector of the primary's flight"),
    "aperture_m2_sr_mev": ("m2 sr MeV", "rate of the event over the flux at its energy"),
    "x_mm": ("mm", "energy-weighted position of the deposit"),
    "y_mm": ("mm", "energy-weighted position of the deposit"),
    "deposit_ev": ("eV", "energy deposited"),
}


def world_setup(
    geometry: Geometry,
    detectors: xr.Dataset | None,
    cell_mm: float,
    cuts_um: dict[str, float],
    wafer_material: str = "G4_Si",
) -> dict:
    """What `crab.physics.geant4_world` builds, as JSON can hold it.

    Parameters
    ----------
    geometry : Geometry
        A shield of 0 mm is left out, and so is a wafer of None.
    detectors : xarray.Dataset or None
        Points of the detectors: ``x_mm``, ``y_mm`` and, where finite, ``z_mm`` (else the wafer's
        upper face, or 0 without wafer); None for a bare wafer.
    cell_mm : float
        Deposits on the wafer are merged into square cells of at most this size.
    cuts_um : dict
        Production cut of the regions ``shield`` and ``wafer``; absorbers bring their own.
    wafer_material : str
        Name in Geant4's NIST table.

    Returns
    -------
    dict

    Raises
    ------
    CrabError
        If wafer and absorbers do not fit into the shield, or overlap.
    """
    side, outer = geometry.wafer_side_mm, geometry.shield_radius_mm + geometry.shielding_al_mm
    setup = {
        "start_radius_mm": 1.01 * outer,
        "world_half_mm": 1.05 * outer,
        "shield_radius_mm": geometry.shield_radius_mm,
        "shield_thickness_mm": geometry.shielding_al_mm,
        "shield_material": "G4_Al",
        "wafer_side_mm": side,
        "wafer_thickness_mm": geometry.wafer_thickness_mm,
        "wafer_material": wafer_material,
        "n_cells": 0 if side is None else FINE_CELLS * int(np.ceil(side / cell_mm)),
        "merged_cells": FINE_CELLS,
        "aim_radius_mm": geometry.aim_radius_mm,
        "detector_mm": [],
        "absorbers": {},
    }
    if detectors is not None:
        setup["detector_mm"] = _points_mm(geometry, detectors).tolist()
        setup["absorbers"] = {name: parts.expand(a) for name, a in geometry.absorbers.items()}
        parts.check(setup)
    elif side is None:
        raise CrabError("geometry.wafer_side_mm = None: needs detectors, else there is nothing")
    _check_shield(geometry, setup)
    setup["witness_mm"] = witness.lattice_mm(setup).tolist()
    setup["shells_mm"], setup["cuts_um"] = _shells(geometry, cuts_um.get("shield"))
    if side is not None and "wafer" in cuts_um:
        setup["cuts_um"]["wafer"] = cuts_um["wafer"]
    for name in setup["absorbers"]:
        setup["cuts_um"][name] = geometry.absorbers[name].production_cut_um
    return setup


def _shells(geometry: Geometry, cut_um: float | None) -> tuple[list, dict]:
    """Shells of the shield, inner one first, as (region, radii), and their production cuts.

    Electrons below the cut of the outer one would end in the inner one: it is as thick as their
    range.
    """
    inner, thickness = geometry.shield_radius_mm, geometry.shielding_al_mm
    if thickness == 0:
        return [], {}
    if cut_um is None:
        return [("shield", inner, inner + thickness)], {}
    skin_mm = SKIN_CUTS * cut_um / 1e3
    if thickness <= skin_mm:
        return [("shield", inner, inner + thickness)], {"shield": cut_um}
    shells = [
        ("shield", inner, inner + skin_mm),
        ("shield_outer", inner + skin_mm, inner + thickness),
    ]
    return shells, {"shield": cut_um, "shield_outer": SKIN_CUTS * cut_um}


def _points_mm(geometry: Geometry, detectors: xr.Dataset) -> np.ndarray:
    x, y = (detectors[name].values.astype(float) for name in ("x_mm", "y_mm"))
    z = np.full(len(x), np.nan)
    if "z_mm" in detectors:
        z = detectors["z_mm"].values.astype(float)
    face = 0.0 if geometry.wafer_thickness_mm is None else geometry.wafer_thickness_mm / 2
    return np.stack([x, y, np.where(np.isfinite(z), z, face)], axis=1)


def _check_shield(geometry: Geometry, setup: dict) -> None:
    centre, half = parts.target_mm(setup)
    needed = np.linalg.norm(np.abs(centre) + half)
    if setup["absorbers"]:
        lower, upper = parts.corners_mm(setup)
        corner = np.maximum(np.abs(lower), np.abs(upper)).max(axis=0)
        needed = max(needed, np.linalg.norm(np.abs(setup["detector_mm"]) + corner, axis=1).max())
        # A line aimed at an absorber has to start outside the shield.
        aimed = np.linalg.norm(setup["detector_mm"], axis=1).max() + geometry.aim_radius_mm
        needed = max(needed, aimed)
    needed += 2 * strata.MARGIN_MM
    if geometry.shield_radius_mm < needed:
        what = "the absorbers"
        if geometry.wafer_side_mm is not None:
            what = f"a wafer of {geometry.wafer_side_mm:g} mm"
        raise CrabError(
            f"geometry.shield_radius_mm = {geometry.shield_radius_mm:g}: allowed are values >= "
            f"{needed:.1f} for {what}"
        )


def build_library(
    mission: str,
    geometry: Geometry,
    detectors: xr.Dataset,
    split: str,
    settings: DepositsNotebook,
    environments: dict[str, Environment],
    seed: int,
    work_folder: Path,
) -> xr.Dataset:
    """Run Geant4 and collect the deposits of one Monte Carlo split.

    Parameters
    ----------
    mission : str
        Its name, for seeds and attributes.
    geometry : Geometry
    detectors : xarray.Dataset
        See `crab.physics.instrument.detectors`.
    split : str
        ``train``, ``validation`` or ``test``: independent primaries.
    settings : DepositsNotebook
    environments : dict of str to Environment
        Must hold ``settings.proposal_environment``.
    seed : int
    work_folder : pathlib.Path
        Finished batches land below it, in a folder named by a hash of all that decides them. A
        second call takes them from there.

    Returns
    -------
    xarray.Dataset
        Dimensions ``event`` (primaries that left a deposit) and ``deposit`` (one per cell of the
        wafer or absorber of a detector, sorted by event). ``volume``: 0 wafer, then the absorbers
        in the geometry's order. In an environment of flux J the rate of an event is
        ``J(species, energy_mev) * aperture_m2_sr_mev``, and the sum over events the hit rate.

    Raises
    ------
    CrabError
        If Geant4 cannot start, or a batch crashes twice; finished batches are kept.
    """
    proposal = environments[settings.proposal_environment]
    cuts_um = {
        "shield": settings.shield_production_cut_um,
        "wafer": settings.production_cut_um,
    }
    setup = world_setup(geometry, detectors, settings.cell_mm, cuts_um)
    plan = strata.make_plan(setup, settings)
    # The number of workers decides nothing, so no hash sees it.
    own_hash = params_hash(setup, settings.model_dump(exclude={"n_workers"}), proposal, seed)
    source = b"".join(Path(__file__).with_name(name).read_bytes() for name in _CODE)
    source += b"".join(file.read_bytes() for file in sorted(DATA.iterdir(), key=str))
    full_data = geant4_worker.find_datasets() is not None
    key = params_hash(
        own_hash,
        mission,
        split,
        geant4_pool.installed_version(),
        full_data,
        hashlib.sha256(source).hexdigest(),
    )
    folder = Path(work_folder) / f"{mission}-{split}-{key}"
    folder.mkdir(parents=True, exist_ok=True)

    def draw(batch):
        labels = (mission, "deposits", split)
        primaries = strata.draw_batch(plan, settings, proposal, batch, seed, *labels)
        return primaries, seeds.integer(seed, *labels, "geant4", batch)

    _run_batches(plan, draw, folder, settings.n_workers, f"{mission} {split}")
    batches = [_read(_batch_file(folder, batch)) for batch in range(plan.n_batches)]
    physics = {name: str(batches[0][name]) for name in _PHYSICS}
    ds = _assemble(batches, list(geometry.absorbers))
    ds.attrs = {
        "title": "Energy deposits of cosmic rays",
        "mission": mission,
        "split": split,
        "seed": seed,
        "params_hash": own_hash,
        **physics,
        "proposal_environment": settings.proposal_environment,
        "proposal_phi_mv": proposal.phi_mv,
        "energy_min_mev_per_nucleon": settings.energy_min_mev_per_nucleon,
        "energy_max_mev_per_nucleon": settings.energy_max_mev_per_nucleon,
        "shielding_al_mm": geometry.shielding_al_mm,
        "aim_radius_mm": plan.aim_radius_mm,
        "cell_mm": settings.cell_mm,
        **{f"{region}_production_cut_um": cut for region, cut in setup["cuts_um"].items()},
        "strata": "-2 strays moved to a detector, -1 lines through the shield past the target, "
        "0 through the target (wafer, or box around the absorbers), k + 1 aimed at point k",
        "detectors": " ".join([] if detectors is None else detectors["detector"].values.tolist()),
        "aim_point_of_detector": plan.aim_of_detector.tolist(),
        "n_primaries_shield_target_aimed": [
            int(plan.counts[own].sum())
            for own in (plan.strata == -1, plan.strata == 0, plan.strata > 0)
        ],
        "n_primaries_per_species": plan.counts.sum(axis=0).tolist(),
    }
    return ds


def track(setup: dict, primaries: np.ndarray, seed: int) -> np.ndarray:
    """Deposits of given primaries in one Geant4 run: beams, for checks.

    Parameters
    ----------
    setup : dict
        See `world_setup`.
    primaries : ndarray, shape (n, 9)
        As `crab.physics.geant4_world.World.run` takes them.
    seed : int
        In [1, 2**31).

    Returns
    -------
    ndarray of `crab.physics.geant4_worker.DEPOSIT_DTYPE`

    Raises
    ------
    CrabError
        If Geant4 cannot start.
    """
    with geant4_pool.Worker(setup) as worker:
        return worker.track(primaries, seed)


def _run_batches(plan: strata.Plan, draw, folder, n_workers, what) -> None:
    """Run the batches that have no file yet; each gets a second try with a fresh worker."""
    n_batches = plan.n_batches
    pending = [b for b in range(n_batches) if not _batch_file(folder, b).is_file()]
    own, workers, guard = threading.local(), set(), threading.Lock()

    def worker():
        if getattr(own, "worker", None) is None:
            own.worker = geant4_pool.Worker(plan.setup)
            with guard:
                workers.add(own.worker)
        return own.worker

    def run(batch):
        drawn, geant4_seed = draw(batch)
        for last_try in (False, True):
            try:
                deposits = worker().track(drawn["primaries"], geant4_seed)
                break
            except geant4_pool.WorkerDied as died:
                own.worker.close()
                own.worker = None
                if last_try:
                    raise CrabError(
                        f"Geant4, {what}: batch {batch} of {n_batches} crashed twice: {died}\n"
                        f"Finished batches are kept in {folder}: run again to go on from there"
                    ) from None
        physics = {name: np.array(getattr(worker(), name)) for name in _PHYSICS}
        _write(_batch_file(folder, batch), witness.hit_events(plan, drawn, deposits) | physics)

    pool = ThreadPoolExecutor(max_workers=max(1, min(n_workers, len(pending))))
    try:
        with tqdm(
            total=n_batches, initial=n_batches - len(pending), desc=what, unit="batch"
        ) as bar:
            for done in as_completed([pool.submit(run, batch) for batch in pending]):
                done.result()
                bar.update()
    finally:
        # After a fault the batches under way still finish and are kept.
        pool.shutdown(cancel_futures=True)
        for one in workers:
            one.close()


def _assemble(batches: list[dict], absorbers: list[str]) -> xr.Dataset:
    columns = witness.join([{k: v for k, v in b.items() if k not in _PHYSICS} for b in batches])
    columns["event_index"] = columns["event_index"].astype(np.int32)
    for name in ("energy_mev", "direction", "aperture_m2_sr_mev"):
        columns[name] = columns[name].astype(np.float32)
    dims = dict.fromkeys(columns, ("deposit",)) | dict.fromkeys(witness.PER_EVENT, ("event",))
    dims["direction"] = ("event", "xyz")
    ds = xr.Dataset({name: (dims[name], column) for name, column in columns.items()})
    for name, (unit, text) in _UNITS.items():
        ds[name].attrs = {"units": unit, "long_name": text}
    flags = np.arange(len(strata.SPECIES_SHARE), dtype=np.int8)
    ds["species"].attrs = {"flag_values": flags, "flag_meanings": " ".join(strata.SPECIES_SHARE)}
    ds["volume"].attrs = {
        "flag_values": np.arange(len(absorbers) + 1, dtype=np.int8),
        "flag_meanings": " ".join(["wafer", *absorbers]),
    }
    return ds


def _batch_file(folder: Path, batch: int) -> Path:
    return folder / f"batch-{batch:05d}.npz"


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    # The file appears under its name only when it is whole.
    partial = path.with_suffix(".partial")
    partial.write_bytes(geant4_worker.pack(**arrays))
    partial.replace(path)


def _read(path: Path) -> dict[str, np.ndarray]:
    return geant4_worker.unpack(path.read_bytes())
