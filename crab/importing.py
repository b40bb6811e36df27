"""Bring your own Monte Carlo: TODs of other simulations as cubes that every later stage accepts.

A mapping (`crab.mapping.Mapping`) says how the files are laid out; what is wrong with them is found
by `crab.faults` and told all at once. Nothing is resampled, reordered in time or dropped.
"""

import hashlib
from pathlib import Path

import numpy as np
import xarray as xr

from crab import faults, foreign, io, params, paths, provenance, schema
from crab import mapping as layout
from crab.errors import CrabError
from crab.foreign import Stretch
from crab.mapping import UNITS, Mapping
from crab.params import Mission, Params
from crab.physics import instrument, readout

_TRUTH_NEEDS = ("time_s", "deposit_ev", "detector_index", "direct_deposit_ev")
_TRUTH_UNITS = {"time_s": "s", "energy_mev": "MeV", "deposit_ev": "eV", "direct_deposit_ev": "eV"}
_TRUTH_UNITS |= {"x_mm": "mm", "y_mm": "mm"}
_TEXT_COLUMNS = ("wafer", "channel")


def read(
    files: str | Path | list[str | Path],
    mapping: str | Path | dict | Mapping,
    mission: str,
    environment: str,
    split: str,
    *,
    settings: Params | None = None,
    detectors: xr.Dataset | None = None,
) -> xr.Dataset:
    """Read others' TODs as a TOD cube.

    Parameters
    ----------
    files : path-like or list of path-like
        In the order of time; they are joined.
    mapping : path-like, dict or Mapping
        See `crab.mapping.Mapping`.
    mission, environment : str
        Keys of params.yaml.
    split : {"train", "validation", "test"}
    settings : Params, optional
        Default: the project's own.
    detectors : xarray.Dataset, optional
        Table with coordinates `schema.DETECTOR_COORDS`. Default: the mission's.

    Returns
    -------
    xarray.Dataset
        Valid TOD cube: ``tod`` and the parts that the mapping names in W, detectors in the order
        of the mission. Attribute ``history`` tells what was done to the samples, ``seed`` is -1 if
        the mapping gives none: unknown.

    Raises
    ------
    CrabError
        One line for each fault that was found.
    """
    return read_with_truth(
        files, mapping, mission, environment, split, settings=settings, detectors=detectors
    )[0]


def read_with_truth(
    files: str | Path | list[str | Path],
    mapping: str | Path | dict | Mapping,
    mission: str,
    environment: str,
    split: str,
    *,
    settings: Params | None = None,
    detectors: xr.Dataset | None = None,
) -> tuple[xr.Dataset, xr.Dataset | None]:
    """As `read`, with the truth table, or None if the mapping names none."""
    mapping = layout.load(mapping)
    settings = settings or params.load()
    craft = params.choose("mission", mission, settings.missions)
    sky = params.choose("environment", environment, settings.environments)
    params.choose("split", split, dict.fromkeys(paths.SPLITS))
    files = [files] if isinstance(files, str | Path) else list(files)
    stretches, found = [], []
    for file in files:
        try:
            stretches.append(foreign.read(file, mapping))
        except CrabError as error:
            found.append(str(error))
    table = instrument.detectors(craft) if detectors is None else detectors
    if stretches:
        unit, history, more = faults.unit(stretches, mapping)
        table, order, most = _table(stretches, mapping, craft, table, mission)
        found += more + most
        found += faults.convention(unit, mapping.power_convention, table, mission)
        found += faults.physics(mapping, sky, environment)
        found += faults.clock(stretches, mapping, craft.sampling_rate_hz, mission)
        if all(one.names == stretches[0].names for one in stretches):
            for name in stretches[0].arrays:
                found += _sample_faults(stretches, name, unit, mapping)
    truth = None
    if stretches and order and mapping.truth is not None:
        try:
            truth = _truth(mapping, stretches, craft.sampling_rate_hz, order)
        except CrabError as error:
            found.append(str(error))
    if found:
        raise CrabError("\n".join(found))

    factor = np.full(table.sizes["detector"], UNITS[unit])
    convention = mapping.power_convention
    if unit.endswith("K_CMB"):
        factor, convention = factor * table["power_per_kelvin_w"].values, "optical_equivalent"
    parts = {name: foreign.joined(stretches, name)[order] for name in stretches[0].arrays}
    n_filled = sum(int(np.isnan(v).sum()) for v in parts.values() if v.dtype.kind == "f")
    if n_filled:
        history.append(f"{n_filled} NaN samples interpolated linearly")
    attrs = {
        "title": "Time-ordered data of another simulation",
        "mission": mission,
        "environment": environment,
        "phi_mv": sky.phi_mv,
        "lis": sky.lis,
        "seed": mapping.seed,
        "split": split,
        "power_convention": convention,
        "physics_list": mapping.physics_list,
        "params_hash": provenance.params_hash(craft, sky, mapping.model_dump(exclude={"truth"})),
        "history": "; ".join(["imported", *history]),
    }
    if mapping.source:
        attrs["source"] = mapping.source
    watts = {name: _to_watts(values, factor) for name, values in parts.items()}
    cube = schema.make_cube(watts, table, craft.sampling_rate_hz, attrs, mapping.start_sample)
    if truth is not None:
        truth.attrs = {**cube.attrs, "title": "Cosmic-ray hits behind a TOD cube"}
    return cube, truth


def save(
    cube: xr.Dataset, truth: xr.Dataset | None, profile: str, *, force: bool = False, **facts
) -> list[Path]:
    """Write an imported cube and its truth where later stages look for them.

    Parameters
    ----------
    cube, truth : xarray.Dataset
        Of `read_with_truth`.
    profile : str
    force : bool
        Files of that name are kept as ``<name>.replaced``, the older of them numbered.
    **facts
        For the provenance file.

    Returns
    -------
    list of pathlib.Path
        Files written, the cube first.

    Raises
    ------
    CrabError
        If there is such a cube or truth table already, without `force`.
    """
    key = (profile, *(cube.attrs[k] for k in ("mission", "environment", "split")))
    targets = (paths.tod(*key), paths.hits(*key))
    older = [path for path in targets if path.exists()]
    if older and not force:
        raise CrabError(
            f"{older[0]}: exists: --force moves it and its truth table aside (to *.replaced)"
        )
    # A truth table left behind would be taken for that of the new cube.
    record = targets[0].with_name(targets[0].name + ".prov.json")
    moved = {path: _free_name(path) for path in (*targets, record) if path.exists()}
    for path, aside in moved.items():
        path.rename(aside)
    written = []
    try:
        written.append(io.write(cube, targets[0]))
        if truth is not None:
            written.append(io.write(truth, targets[1]))
    except CrabError:
        for path in written:
            path.unlink()
        for path, aside in moved.items():
            aside.rename(path)
        raise
    provenance.write(targets[0], **facts)
    return written


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _table(
    stretches: list[Stretch], mapping: Mapping, craft: Mission, table: xr.Dataset, mission: str
) -> tuple[xr.Dataset, list[int], list[str]]:
    """Detector table with the mapping's columns, the row of each in the file, and faults."""
    first = stretches[0]
    wanted = table["detector"].values.astype(str).tolist()
    found = faults.names(first.names, wanted, first.source, f"mission {mission}")
    found += [
        f"{other.source}: its detectors, or their order, are not those of {first.source}"
        for other in stretches[1:]
        if other.names != first.names
    ]
    if found:
        return table, [], found
    order = [first.names.index(name) for name in wanted]
    for key, given in mapping.columns.items():
        values = first.columns.get(key, np.asarray(given))
        if values.ndim and values.shape != (len(order),):
            found.append(
                f"mapping: columns.{key}: shape {values.shape}: allowed are one value, or "
                f"{len(order)} in the file's order of detectors"
            )
        elif (values.dtype.kind in "fiu") == (key in _TEXT_COLUMNS):
            kind = "text" if key in _TEXT_COLUMNS else "numbers"
            found.append(f"mapping: columns.{key} = {values.tolist()!r}: allowed is {kind}")
        else:
            values = values[order] if values.ndim else np.full(len(order), values)
            dtype = np.int32 if key == "pixel" else str if key in _TEXT_COLUMNS else float
            table = table.assign_coords({key: ("detector", values.astype(dtype))})
    bands = {"bandcenter_ghz", "bandwidth_ghz"} <= set(table.coords)
    if "power_per_kelvin_w" not in table.coords and craft.sensor is not None and bands:
        slope = readout.power_per_kelvin_w(
            table["bandcenter_ghz"].values,
            table["bandwidth_ghz"].values,
            craft.sensor.optical_efficiency,
        )
        table = table.assign_coords(power_per_kelvin_w=("detector", slope))
    if "power_per_kelvin_w" in table.coords:
        table["power_per_kelvin_w"].attrs.update(
            units="W K-1", long_name="optical power per kelvin of CMB temperature"
        )
    return table, order, found


def _sample_faults(
    stretches: list[Stretch], name: str, unit: str | None, mapping: Mapping
) -> list[str]:
    """NaN, infinities and, for the whole TOD, its level."""
    interpolate, found, place = mapping.nan == "interpolate", [], foreign.placer(stretches)
    values = foreign.joined(stretches, name)
    label = mapping.data if name == "tod" else mapping.parts[name]
    found = faults.finite(values, stretches[0].names, interpolate, label, place)
    if found or name != "tod" or unit is None:
        return found
    if values.dtype.kind == "f" and np.isnan(values).any():
        values = _filled(values)
    accept = mapping.level == "accept"
    return faults.level(values, unit, stretches[0].names, accept, label)


def _truth(
    mapping: Mapping, stretches: list[Stretch], rate_hz: float, order: list[int]
) -> xr.Dataset:
    """Truth table on the cube's clock, its detectors by their place in the cube."""
    path, names = Path(mapping.truth.file), mapping.truth.columns
    kind = foreign.FORMATS.get(path.suffix.lower(), "hdf5")
    wanted = {key: names.get(key, key) for key in (*_TRUTH_NEEDS, *names)}
    fetched = foreign.fetch(path, kind, dict.fromkeys(wanted.values()))
    columns = {key: fetched[name][0] for key, name in wanted.items()}
    n_hits = columns["time_s"].size
    for key, values in columns.items():
        if values.shape != (n_hits,) or values.dtype.kind not in "fiu":
            raise CrabError(
                f"{path}: {wanted[key]}: shape {values.shape} of type {values.dtype}: needs "
                f"{n_hits} numbers, one for each hit"
            )
        if key in _TRUTH_NEEDS and not np.isfinite(values).all():
            raise CrabError(f"{path}: {wanted[key]}: NaN or infinite: allowed are numbers")
    index = columns["detector_index"].astype(int)
    if index.min(initial=-1) < -1 or index.max(initial=-1) >= len(order):
        raise CrabError(
            f"{path}: {wanted['detector_index']} = {index.min()} to {index.max()}: allowed are -1 "
            f"(none) to {len(order) - 1}, in the order of the file's detectors"
        )
    # A file without times starts at zero of the truth's clock.
    clock_s = stretches[0].time_s
    since_s = columns["time_s"].astype(float) - (0.0 if clock_s is None else clock_s[0])
    duration_s = sum(one.n_time for one in stretches) / rate_hz
    outside = (since_s < -1 / rate_hz) | (since_s > duration_s)
    if outside.any():
        raise CrabError(
            f"{path}: {wanted['time_s']}: {int(outside.sum())} of {n_hits} hits are outside the "
            f"{duration_s:.4g} s of the TOD: give times in s on the clock of its samples"
        )
    place = np.append(np.argsort(order), -1)  # index -1 stays -1
    columns["time_s"] = since_s + mapping.start_sample / rate_hz
    columns["detector_index"] = place[index].astype(np.int16)
    by_time = np.argsort(since_s, kind="stable")
    truth = xr.Dataset({key: ("hit", values[by_time]) for key, values in columns.items()})
    for key in set(truth) & set(_TRUTH_UNITS):
        truth[key].attrs["units"] = _TRUTH_UNITS[key]
    return truth


def _to_watts(values: np.ndarray, factor: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f" and np.isnan(values).any():
        values = _filled(values)
    out = np.empty(values.shape, dtype=np.float32)
    for row, (samples, scale) in enumerate(zip(values, factor, strict=True)):
        out[row] = samples.astype(np.float64) * scale
    return out


def _filled(values: np.ndarray) -> np.ndarray:
    out = values.astype(np.float64)
    index = np.arange(out.shape[1])
    for row in out:
        bad = np.isnan(row)
        row[bad] = np.interp(index[bad], index[~bad], row[~bad])
    return out


def _free_name(path: Path) -> Path:
    aside, n = path.with_name(f"{path.name}.replaced"), 1
    while aside.exists():
        n += 1
        aside = path.with_name(f"{path.name}.replaced-{n}")
    return aside
