"""Read and write cubes and tables: validated, atomic, and the same bytes for the same data."""

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import h5netcdf
import h5py
import numpy as np
import xarray as xr
from xarray.backends import H5NetCDFStore

from crab import ledger, sample_times, schema
from crab.errors import CrabError

_ROWS = 2**20  # rows in a chunk of a table
# As in the metadata of Zarr v3: most of what imports this module never needs zarr.
COMPRESSOR = {"name": "blosc", "configuration": {"cname": "lz4", "shuffle": "shuffle"}}
_COMPRESSION = {"zlib": True, "complevel": 4, "shuffle": True}


def write(ds: xr.Dataset, path: str | Path) -> Path:
    """Write a cube or a table as NetCDF4.

    The file appears under its name only when it is whole, so a full disk or a kill leaves an older
    file untouched.

    Parameters
    ----------
    ds : xarray.Dataset
        Validated by `schema.validate` if it holds a ``tod``.
    path : path-like

    Returns
    -------
    pathlib.Path

    Raises
    ------
    CrabError
        If the cube is not valid or the disk is full.
    """
    path = Path(path)
    if "tod" in ds:
        schema.validate(ds, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    encoding = {
        name: dict(_COMPRESSION)
        for name, variable in ds.variables.items()
        if variable.dtype.kind in "fiub" and variable.ndim
    }
    # Made in memory: a full disk then is one plain error and no half-closed HDF5 file.
    content = _image(ds, encoding)
    try:
        with partial.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CrabError(
            f"{path}: could not be written: no space left on the disk ({_free(path)} free, "
            f"{len(content) / 1e6:.1f} MB needed); the file that was there before, if any, is "
            "unchanged. Free some space and repeat"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_zarr(ds: xr.Dataset, path: str | Path, progress: bool = True) -> Path:
    """Write a cube as Zarr v3, chunk by chunk: memory holds a few chunks, not the cube.

    The folder appears under its name only when it is whole.

    Parameters
    ----------
    ds : xarray.Dataset
        TOD cube on dask, such as `crab.physics.montecarlo.lazy_cube` gives.
    path : path-like
        Folder that does not exist yet.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    CrabError
        If the cube is not valid, is not on dask, or the folder exists.
    """
    path = Path(path)
    schema.validate(ds, str(path))
    if ds["tod"].chunks is None:
        raise CrabError(f"{path}: the cube is in memory: allowed here are cubes on dask")
    partial = _new_folder(path)
    # Chunks of one size, as Zarr wants them; a stretch may begin inside a chunk of the simulator.
    ds = ds.chunk({"detector": -1, "time": max(ds["tod"].chunks[-1])})
    times = sample_times.rule(ds)
    if times is not None:
        # Times that follow a rule are not written; `open_tod` knows them again.
        ds = ds.drop_vars("time").assign_attrs(start_sample=times.first)
    ds = with_plain_words(ds)
    encoding = {name: {"compressors": COMPRESSOR} for name in ds.data_vars}
    from tqdm.dask import TqdmCallback

    with TqdmCallback(desc=path.name, disable=not progress):
        ds.to_zarr(partial, zarr_format=3, encoding=encoding, consolidated=False)
    partial.rename(path)
    return path


def with_plain_words(ds: xr.Dataset) -> xr.Dataset:
    """Coordinates with words as Zarr v3 wants them: it has a stable form for any length only."""
    words = {n: ds[n].load().astype(object) for n in ds.coords if ds[n].dtype.kind == "U"}
    return ds.assign_coords(words)


def write_table_zarr(pieces: Iterable[xr.Dataset], path: str | Path) -> Path:
    """Write a table that comes in pieces as Zarr v3, each appended to those before.

    The folder appears under its name only when it is whole.

    Parameters
    ----------
    pieces : iterable of xarray.Dataset
        Tables of one dimension.
    path : path-like
        Folder that does not exist yet.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    CrabError
        If the folder exists.
    """
    path = Path(path)
    partial = _new_folder(path)
    for number, piece in enumerate(pieces):
        (dim,) = piece.dims
        if number == 0:
            chunks = {name: {"chunks": (_ROWS,)} for name in piece.data_vars}
            piece.to_zarr(partial, zarr_format=3, encoding=chunks, consolidated=False)
        else:
            piece.to_zarr(partial, append_dim=dim, zarr_format=3, consolidated=False)
    partial.rename(path)
    return path


def _new_folder(path: Path) -> Path:
    if path.exists():
        raise CrabError(f"{path}: exists already: give another name, or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    return partial


def open_tod(path: str | Path) -> xr.Dataset:
    """Read and validate a TOD cube.

    Parameters
    ----------
    path : path-like
        NetCDF4 file written by `write`, or by anyone who follows the schema; or a Zarr folder.

    Returns
    -------
    xarray.Dataset
        ``tod`` float32 in W; in memory from a NetCDF4 file, on dask from a Zarr folder.

    Raises
    ------
    CrabError
        If the file is missing, truncated, not finished, or no valid cube.
    """
    path = Path(path)
    ledger.refuse_unfinished(path)
    if path.is_dir():
        try:
            ds = xr.open_zarr(path, consolidated=False)
            words = {
                n: ds[n].copy(data=np.array(ds[n].values.tolist(), dtype=str))
                for n in ds.coords
                if ds[n].dtype.kind in "OT"
            }
            ds = ds.assign_coords(words)
            if "time" not in ds.coords and {"start_sample", "sampling_rate_hz"} <= set(ds.attrs):
                rule = (ds.attrs["start_sample"], ds.sizes["time"], ds.attrs["sampling_rate_hz"])
                ds = ds.assign_coords(sample_times.coordinates(*rule))
            return schema.validate(ds, str(path))
        except (OSError, ValueError, KeyError) as error:
            raise CrabError(f"{path}: not a readable Zarr folder ({error})") from error
    return schema.validate(open_table(path), str(path))


def open_table(path: str | Path) -> xr.Dataset:
    """Read a deposit library or a truth table into memory.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    CrabError
        If the file is missing or truncated.
    """
    path = Path(path)
    if not path.is_file():
        raise CrabError(f"{path}: no such file; `dvc repro` builds it, `dvc pull` may fetch it")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as ds:
            return ds.load()
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise CrabError(
            f"{path}: not a readable NetCDF4 file ({error}); it may be truncated: delete it and "
            "run `dvc repro`"
        ) from error


def content_hash(ds: xr.Dataset) -> str:
    """SHA-256 of the values of a dataset, whatever the file's layout.

    Parameters
    ----------
    ds : xarray.Dataset

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(map(str, ds.variables)):
        values = np.ascontiguousarray(ds[name].values)
        if values.dtype.kind in "OUT":
            values = np.char.encode(values.astype(str), "utf-8")
        digest.update(f"{name}{values.dtype}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _image(ds: xr.Dataset, encoding: dict) -> memoryview:
    # HDF5 stamps the time on a file's root group unless its creation properties say not to, and
    # neither xarray nor h5netcdf passes those on: so the empty file is made with h5py.
    h5p = h5py.h5p
    creation = h5p.create(h5p.FILE_CREATE)
    order = h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED
    creation.set_link_creation_order(order)
    creation.set_attr_creation_order(order)
    creation.set_obj_track_times(False)
    image = io.BytesIO()
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_LATEST)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, image)
    with h5py.File(h5py.h5f.create(b"image", h5py.h5f.ACC_TRUNC, creation, access)) as empty:
        with h5netcdf.File(empty, "a") as target:
            ds.dump_to_store(H5NetCDFStore(target), encoding=encoding)
    return image.getbuffer()


def _free(path: Path) -> str:
    stat = os.statvfs(path.parent)
    return f"{stat.f_bavail * stat.f_frsize / 1e6:.0f} MB"
