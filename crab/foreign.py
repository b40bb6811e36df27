"""Files of other simulations, read as a mapping says."""

import difflib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import xarray as xr

from crab.errors import CrabError
from crab.mapping import TIME_UNITS_S, Mapping

FORMATS = {".npz": "npz", ".nc": "netcdf", ".nc4": "netcdf", ".h5": "hdf5", ".hdf5": "hdf5"}
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Stretch:
    """One file: samples as they are stored, ``(detector, time)``, and what it says of them."""

    source: str
    arrays: dict[str, np.ndarray]
    unit: str | None
    names: list[str]
    rate_hz: float | None = None
    time_s: np.ndarray | None = None
    time_resolution_s: float = 0.0
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def n_time(self) -> int:
        return self.arrays["tod"].shape[1]


def read(path: str | Path, mapping: Mapping) -> Stretch:
    """Read one file.

    Parameters
    ----------
    path : path-like
    mapping : Mapping

    Returns
    -------
    Stretch

    Raises
    ------
    CrabError
        If the file is missing, empty or truncated, lacks what the mapping names, or its data are
        no numbers or have other dimensions.
    """
    path = Path(path)
    kind = mapping.format or FORMATS.get(path.suffix.lower())
    if kind is None:
        raise CrabError(
            f"{path}: format = null: needs one of npz, netcdf, hdf5, litebird_sim in the mapping, "
            f"for its name ends in none of {', '.join(FORMATS)}"
        )
    reader = _read_observation if kind == "litebird_sim" else _read_arrays
    return reader(path, kind, mapping)


def fetch(path: Path, kind: str, names: Iterable[str]) -> dict[str, tuple[np.ndarray, dict]]:
    """Datasets of a file by name, each with its attributes.

    Parameters
    ----------
    path : pathlib.Path
    kind : {"npz", "netcdf", "hdf5", "litebird_sim"}
    names : iterable of str
        In HDF5 a path such as ``run1/tod``.

    Raises
    ------
    CrabError
        If the file cannot be read, or has no such dataset (with those that it has).
    """
    if not path.is_file():
        raise CrabError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise CrabError(f"{path}: the file is empty (0 bytes)")
    try:
        if kind == "npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: (file[_known(name, file.files, path)], {}) for name in names}
        if kind == "netcdf":
            with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as ds:
                found = {name: ds[_known(name, ds.variables, path)] for name in names}
                # A packed variable keeps its unit; xarray moves nothing else away.
                return {name: (v.values, dict(v.attrs)) for name, v in found.items()}
        with h5py.File(path) as file:
            known = []
            file.visititems(lambda name, item: known.append(name) if _is_data(item) else None)
            found = {name: file[_known(name.strip("/"), known, path)] for name in names}
            return {name: (item[()], dict(item.attrs)) for name, item in found.items()}
    except (*_UNREADABLE, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise CrabError(f"{path}: holds Python objects: save names as text arrays") from None
        raise CrabError(
            f"{path}: not a readable {kind} file ({error}); it may be truncated, or of another "
            "format"
        ) from error


def joined(stretches: list[Stretch], name: str) -> np.ndarray:
    """One variable of all files, shape (n_detector, n_time)."""
    arrays = [one.arrays[name] for one in stretches]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)


def placer(stretches: list[Stretch]) -> Callable[[int], str]:
    """Names a sample of the joined files by file, index in it, and time if it has one."""
    ends = np.cumsum([one.n_time for one in stretches])

    def place(index: int) -> str:
        file = int(np.searchsorted(ends, index, side="right"))
        one, inside = stretches[file], index - (ends[file] - stretches[file].n_time)
        when = "" if one.time_s is None else f" (t = {one.time_s[inside]:.8g} s)"
        return f"{one.source}, sample {inside}{when}"

    return place


def _read_arrays(path: Path, kind: str, mapping: Mapping) -> Stretch:
    wanted = {"tod": mapping.data, **mapping.parts}
    columns = {k: v for k, v in mapping.columns.items() if isinstance(v, str)}
    others = list(columns.values())
    others += [mapping.time.name] if mapping.time else []
    others += [mapping.detectors] if isinstance(mapping.detectors, str) else []
    found = fetch(path, kind, dict.fromkeys([*wanted.values(), *others]))
    arrays = {key: _oriented(found[name][0], path, name, mapping) for key, name in wanted.items()}
    for key, name in wanted.items():
        if arrays[key].shape != arrays["tod"].shape:
            raise CrabError(
                f"{path}: {name}: {arrays[key].shape} samples by detector and time: {mapping.data} "
                f"has {arrays['tod'].shape}"
            )
    n_detector, n_time = arrays["tod"].shape
    names = mapping.detectors
    if names is None:
        raise CrabError(
            f"{path}: detectors = null: needs the names in the mapping, or the dataset with them"
        )
    if isinstance(names, str):
        names = _texts(found[names][0])
    if len(names) != n_detector:
        hint = "; dims may be the other way round" if len(names) == n_time else ""
        raise CrabError(
            f"{path}: {mapping.data} has {n_detector} detectors and {n_time} samples by dims = "
            f"{mapping.dims}, but detectors names {len(names)}{hint}"
        )
    time_s, resolution_s = None, 0.0
    if mapping.time is not None:
        values, attrs = found[mapping.time.name]
        time_s, resolution_s = _clock(values, attrs, path, mapping, n_time)
    unit = found[mapping.data][1].get("units", found[mapping.data][1].get("unit"))
    unit = None if unit is None else _texts(np.atleast_1d(unit))[0]
    values = {key: np.asarray(found[name][0]) for key, name in columns.items()}
    rate = mapping.sampling_rate_hz
    return Stretch(path.name, arrays, unit, names, rate, time_s, resolution_s, values)


def _read_observation(path: Path, kind: str, mapping: Mapping) -> Stretch:
    # Imported here because litebird_sim takes seconds to import.
    from litebird_sim.io import read_one_observation

    wanted = {"tod": mapping.data, **mapping.parts}
    columns = {k: v for k, v in mapping.columns.items() if isinstance(v, str)}
    found = fetch(path, kind, dict.fromkeys([*wanted.values(), *columns.values()]))
    attrs = found[mapping.data][1]
    absent = [k for k in ("detectors", "sampling_rate_hz", "start_time") if k not in attrs]
    if absent:
        raise CrabError(
            f"{path}: {mapping.data}: attribute {absent[0]!r} is missing, so litebird_sim did not "
            "write it; format = hdf5 reads any HDF5"
        )
    try:
        observation = read_one_observation(
            path,
            limit_mpi_rank=False,
            tod_dtype=np.float64,
            read_quaternions_if_present=False,
            read_global_flags_if_present=False,
            read_local_flags_if_present=False,
            tod_fields=list(wanted.values()),
        )
    except (*_UNREADABLE, AssertionError) as error:
        raise CrabError(
            f"{path}: litebird_sim cannot read it ({error!r}); format = hdf5 may"
        ) from error
    arrays = {key: np.asarray(getattr(observation, name)) for key, name in wanted.items()}
    names = mapping.detectors
    if names is None:
        # The file holds them in the order of its rows; the observation may hold just its own.
        names = [str(entry.get("name")) for entry in json.loads(attrs["detectors"])]
    if isinstance(names, str) or len(names) != len(arrays["tod"]):
        raise CrabError(
            f"{path}: detectors = {names!r}: allowed with format = litebird_sim are null (the "
            f"file's own) or {len(arrays['tod'])} names"
        )
    start = observation.start_time
    start_s = start.mjd * TIME_UNITS_S["day"] if hasattr(start, "mjd") else float(start)
    rate_hz = float(observation.sampling_rate_hz)
    time_s = start_s + np.arange(arrays["tod"].shape[1]) / rate_hz
    values = {key: np.asarray(found[name][0]) for key, name in columns.items()}
    unit = attrs.get("units")
    resolution_s = float(np.spacing(np.abs(start_s)))
    return Stretch(path.name, arrays, unit, names, rate_hz, time_s, resolution_s, values)


def _oriented(values: np.ndarray, path: Path, name: str, mapping: Mapping) -> np.ndarray:
    if values.dtype.kind not in "fiu":
        raise CrabError(f"{path}: {name}: type {values.dtype}: allowed are real numbers")
    if values.ndim != len(mapping.dims):
        raise CrabError(
            f"{path}: {name}: shape {values.shape}: dims = {mapping.dims} needs {len(mapping.dims)}"
        )
    if 0 in values.shape:
        raise CrabError(f"{path}: {name}: shape {values.shape}: it holds no samples")
    if "realisation" in mapping.dims:
        axis, index = mapping.dims.index("realisation"), mapping.realisation
        n = values.shape[axis]
        if (index is None and n > 1) or (index or 0) >= n:
            raise CrabError(
                f"{path}: realisation = {index}: a cube holds one of the {n} of {name}: allowed "
                f"are 0 to {n - 1}"
            )
        values = np.take(values, index or 0, axis=axis)
    order = [d for d in mapping.dims if d != "realisation"]
    return values if order == ["detector", "time"] else values.T


def _clock(
    values: np.ndarray, attrs: dict, path: Path, mapping: Mapping, n_time: int
) -> tuple[np.ndarray, float]:
    axis = mapping.time
    if values.shape != (n_time,) or values.dtype.kind not in "fiu":
        raise CrabError(
            f"{path}: {axis.name}: shape {values.shape} of type {values.dtype}: needs one number "
            f"for each of the {n_time} samples by dims = {mapping.dims}"
        )
    unit = axis.unit
    if unit is None:
        stated = str(attrs.get("units", "")).split(" since ")[0]
        long = {"seconds": "s", "second": "s", "days": "day", "hours": "h", "minutes": "min"}
        unit = long.get(stated, stated)
    if unit not in TIME_UNITS_S:
        raise CrabError(
            f"{path}: {axis.name}: unit = {unit!r}: set time.unit in the mapping; allowed are "
            + ", ".join(TIME_UNITS_S)
        )
    coarse = values.dtype.kind == "f"
    resolution = np.spacing(np.abs(values).max()) if coarse else 1.0
    return values.astype(np.float64) * TIME_UNITS_S[unit], float(resolution) * TIME_UNITS_S[unit]


def _texts(values: np.ndarray) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in np.asarray(values).ravel()]


def _is_data(item) -> bool:
    return isinstance(item, h5py.Dataset)


def _known(name: str, known: Iterable[str], path: Path) -> str:
    known = [str(k) for k in known]
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise CrabError(f"{path}: no dataset {name!r}: it has {', '.join(known) or 'none'}{hint}")
