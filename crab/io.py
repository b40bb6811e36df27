"""Read and write cubes and tables: validated, atomic, and the same bytes for the same data."""

import errno
import hashlib
import io
import os
from pathlib import Path

import h5netcdf
import h5py
import numpy as np
import xarray as xr
from xarray.backends import H5NetCDFStore

from crab import schema
from crab.errors import CrabError

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


def open_tod(path: str | Path) -> xr.Dataset:
    """Read and validate a TOD cube.

    Parameters
    ----------
    path : path-like
        NetCDF4 file written by `write`, or by anyone who follows the schema.

    Returns
    -------
    xarray.Dataset
        In memory; ``tod`` float32 in W.

    Raises
    ------
    CrabError
        If the file is missing, truncated, or no valid cube.
    """
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
