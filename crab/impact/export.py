"""TOD cubes as files of other packages: observations of litebird_sim, statistics for TOAST."""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr

from crab import params
from crab.errors import CrabError
from crab.impact.cubes import check_dims, first_sample, flags_of, kelvin, optical, pieces, samples
from crab.impact.observations import FLAG_TYPE
from crab.impact.toast_statistics import PULSE_END, Moments, Pulses, without_gaps
from crab.params import choose
from crab.physics import instrument, sensors
from crab.progress import tqdm

# TOAST draws a glitch over this time, on a grid of its own (toast.ops.InjectCosmicRays).
_GLITCH_S = 0.15
_POINTS_PER_TIME_CONSTANT = 20
_INFO = ("wafer", "pixel", "channel", "net_ukrts", "bandcenter_ghz", "bandwidth_ghz")


def to_litebird_sim(
    cube: xr.Dataset,
    folder: str | Path,
    *,
    mission_start=0.0,
    n_files: int = 1,
    variables: tuple[str, ...] = ("tod",),
    flags: bool = True,
    threshold_sigma: float = 5.0,
    gzip: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Write a cube as observations of litebird_sim, one file each, by its own writer.

    Parameters
    ----------
    cube : xarray.Dataset
        TOD cube; on dask, memory holds one file's samples.
    folder : path-like
        To make.
    mission_start : float or astropy.time.Time
        Time of the mission's sample 0: in seconds, or on the calendar.
    n_files : int
        Observations to cut the cube into.
    variables : tuple of str
        TODs of the cube that become TODs of the observations, in K_CMB.
    flags : bool
        Write ``local_flags`` (1 for a glitch) of the first variable, see `crab.impact.flagging`.
    threshold_sigma : float
        Usual are 3 to 5.
    gzip : bool
        Compress.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of pathlib.Path
        In the order of time. ``litebird_sim.read_list_of_observations`` reads them; the attributes
        of the cube are in each file's root attribute ``crab`` as JSON. A cube has no pointing, so
        that in the files is the identity: prepare your own.

    Raises
    ------
    CrabError
        If the folder exists, the cube lacks what leads to K_CMB or has several realisations,
        a sample is NaN or infinite, or the disk is full. Nothing is left behind.
    """
    # Imported here because litebird_sim takes seconds to import.
    import litebird_sim as lbs

    n_time, rate_hz = cube.sizes["time"], float(cube.attrs["sampling_rate_hz"])
    if not 1 <= n_files <= n_time:
        raise CrabError(f"n_files = {n_files}: allowed are 1 to {n_time}, the number of samples")
    for name in variables:
        if name not in cube:
            raise CrabError(f"variables = {name!r}: the cube has {', '.join(map(str, cube))}")
    check_dims(cube)
    first = first_sample(cube)
    tods = [
        lbs.TodDescription(name, lbs.Units.K_CMB, np.float32, str(cube[name].attrs["long_name"]))
        for name in variables
    ]
    detectors = [asdict(info) for info in _infos(cube, rate_hz)]
    edges = np.linspace(0, n_time, n_files + 1).astype(int).tolist()
    target, files = _Folder(folder), []
    bar = tqdm(desc="export", unit="sample", unit_scale=True, total=n_time, disable=not progress)
    with target as partial, bar:
        for low, high in pairwise(edges):
            obs = lbs.Observation(
                detectors=detectors,
                n_samples_global=high - low,
                start_time_global=_time(mission_start, (first + low) / rate_hz),
                sampling_rate_hz=rate_hz,
                tods=tods,
            )
            # The reader wants a pointing: a fixed one, as a cube has none.
            obs.pointing_provider = lbs.PointingProvider(lbs.RotQuaternion())
            if flags:
                obs.local_flags = np.empty((obs.n_detectors, high - low), dtype=FLAG_TYPE)
            for begin, end in pieces(first, low, high):
                inside = slice(begin - low, end - low)
                for name in variables:
                    getattr(obs, name)[:, inside] = samples(cube, name, begin, end, kelvin)
                if flags:
                    mask = flags_of(cube, variables[0], begin, end, threshold_sigma)
                    obs.local_flags[:, inside] = mask
                bar.update(end - begin)
            (file,) = lbs.write_list_of_observations(
                [obs],
                partial,
                start_index=len(files),
                collective_mpi_call=False,
                gzip_compression=gzip,
            )
            _note(file, cube.attrs | {"start_sample": first + low})
            files.append(target.path / file.name)
    return files


def to_toast(
    cube: xr.Dataset,
    folder: str | Path,
    *,
    unit: str = "K_CMB",
    time_constant_s: float | None = None,
    threshold_sigma: float = 5.0,
    progress: bool = True,
) -> Path:
    """Write what TOAST's ``InjectCosmicRays`` draws from: one ``.npz`` for each detector.

    Each holds ``low_noise`` (mean and standard deviation of the wafer's part),
    ``correlation_matrix`` (of the wafer's parts), ``direct_hits`` (a row ``C1, C2, tau`` for each
    pulse, ``C1 + C2 exp(-t/tau)`` with tau in ms, and others in between: pulses of all detectors
    make one distribution) and ``sampling_rate`` (Hz, of TOAST's own grid for a pulse); besides,
    for people, ``detector``, ``unit`` and ``event_rate_hz``. A pulse keeps its integral over time
    at the cube's sampling rate. TOAST draws white noise and fresh pulses from these: spectrum and
    waveform of the background are lost, see ``docs/inject.md``.

    Parameters
    ----------
    cube : xarray.Dataset
        TOD cube; on dask, memory holds pieces of it, and the pulses' integrals. With the parts
        ``tod_wafer`` and ``tod_direct`` these are described; else pulses are what stands out of
        ``tod`` (see `crab.impact.flagging`), which then has the noise of the detectors in it.
    folder : path-like
        To make.
    unit : {"K_CMB", "W"}
        K_CMB needs no change of TOAST's ``conversion_factor``; W is absorbed optical power.
    time_constant_s : float, optional
        Of a direct hit. Default: that of the mission's sensor in params.yaml.
    threshold_sigma : float
        For a cube without parts.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pathlib.Path
        What to give TOAST as ``crfile``. The files are numbered in the order of the cube's
        detectors, which TOAST's have to be in.

    Raises
    ------
    CrabError
        If the folder exists or its name would confuse TOAST, for an unknown unit, if the time
        constant is not known, the cube has several realisations, a sample is NaN or infinite, or
        the disk is full. Nothing is left behind.
    """
    if unit not in ("K_CMB", "W"):
        raise CrabError(f"unit = {unit!r}: allowed are K_CMB, W")
    target = _Folder(folder)
    if "detector" in str(target.path):
        raise CrabError(
            f"{target.path}: TOAST replaces every 'detector' in this name: allowed are folders "
            "without that word in their path"
        )
    check_dims(cube)
    if time_constant_s is None:
        time_constant_s = _time_constant_s(cube)
    rate_hz = float(cube.attrs["sampling_rate_hz"])
    convert = kelvin if unit == "K_CMB" else lambda ds, name: optical(ds, name)[name]
    moments, pulses = _statistics(cube, convert, threshold_sigma, progress)
    # All detectors have the same absorber: pulses are pooled, in watts.
    n_detectors = cube.sizes["detector"]
    watts = cube["power_per_kelvin_w"].values if unit == "K_CMB" else np.ones(n_detectors)
    pooled_j = np.concatenate([x * w for x, w in zip(pulses.integrals(), watts, strict=True)])
    shape = (
        _GLITCH_S
        / time_constant_s
        * np.linspace(0, 1, round(_GLITCH_S * _POINTS_PER_TIME_CONSTANT / time_constant_s))
    )
    duration_s = max(1, round(_GLITCH_S * rate_hz)) / rate_hz
    peak = without_gaps(pooled_j) / (duration_s * np.exp(-shape).mean())
    event_rate_hz = len(pooled_j) / (n_detectors * cube.sizes["time"] / rate_hz)
    mean, deviation, matrix = moments.mean(), moments.deviation(), moments.correlation()
    with target as partial:
        for index, name in enumerate(cube["detector"].values.tolist()):
            hits = np.zeros((len(peak), 3))
            hits[:, 1], hits[:, 2] = peak / watts[index], 1e3 * time_constant_s
            np.savez(
                partial / f"crab_det{index}.npz",
                low_noise=np.array([mean[index], deviation[index]]),
                sampling_rate=np.array([_POINTS_PER_TIME_CONSTANT / time_constant_s]),
                direct_hits=hits,
                correlation_matrix=matrix,
                detector=np.array(str(name)),
                unit=np.array(unit),
                event_rate_hz=np.array(event_rate_hz),
            )
    return target.path / "crab_detector.npz"


class _Folder:
    """A folder that appears under its name only when it is whole."""

    def __init__(self, folder: str | Path):
        self.path = Path(folder).resolve()
        self.partial = self.path.with_name(f".{self.path.name}.partial")
        if self.path.exists():
            raise CrabError(f"{folder}: exists already: give another name, or remove it first")

    def __enter__(self) -> Path:
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        return self.partial

    def __exit__(self, kind, error, _) -> None:
        if kind is None:
            self.partial.rename(self.path)
            return
        shutil.rmtree(self.partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CrabError(
                f"{self.path}: no space left on the disk; nothing was kept: free some space, or "
                "write a shorter stretch"
            ) from error


def _statistics(
    cube: xr.Dataset, convert: Callable, threshold_sigma: float, progress: bool
) -> tuple[Moments, Pulses]:
    """Moments of the quiet part, and the glitches."""
    n_detectors, n_time = cube.sizes["detector"], cube.sizes["time"]
    moments = Moments(n_detectors)
    pulses = Pulses(n_detectors, float(cube.attrs["sampling_rate_hz"]))
    parts = list(pieces(first_sample(cube), 0, n_time))
    bar = {"unit": "piece", "disable": not progress}
    if "tod_wafer" in cube and "tod_direct" in cube:
        largest = np.zeros(n_detectors)
        for low, high in tqdm(parts, desc="largest pulses", **bar):
            direct = samples(cube, "tod_direct", low, high, convert)
            largest = np.maximum(largest, np.abs(direct).max(axis=1))
        for low, high in tqdm(parts, desc="statistics", **bar):
            quiet = samples(cube, "tod_wafer", low, high, convert)
            direct = samples(cube, "tod_direct", low, high, convert)
            moments.add(quiet, np.ones(quiet.shape, dtype=bool))
            pulses.add(direct, np.abs(direct) > PULSE_END * largest[:, None])
        return moments, pulses
    for low, high in tqdm(parts, desc="statistics", **bar):
        tod = samples(cube, "tod", low, high, convert)
        mask = flags_of(cube, "tod", low, high, threshold_sigma)
        moments.add(tod, ~mask)
        # Of the piece, as the level of the background changes over hours.
        level = [
            np.median(row[~own]) if not own.all() else 0.0
            for row, own in zip(tod, mask, strict=True)
        ]
        pulses.add(np.where(mask, tod - np.array(level)[:, None], 0.0), mask)
    return moments, pulses


def _time_constant_s(cube: xr.Dataset) -> float:
    missions = params.load().missions
    craft = choose("mission", str(cube.attrs["mission"]), missions)
    if craft.geometry is None:
        raise CrabError(
            f"time_constant_s = None: mission {cube.attrs['mission']} has no sensor: give it"
        )
    # Of small signals: a deposit of 1 eV is one.
    return sensors.build(craft, instrument.detectors(craft), 1.0, "linear").time_constant_s


def _infos(cube: xr.Dataset, rate_hz: float) -> list:
    from litebird_sim import DetectorInfo

    for key in ("bandcenter_ghz", "bandwidth_ghz"):
        if key not in cube.coords or not (cube[key] > 0).all():
            raise CrabError(
                f"coordinate {key!r}: litebird_sim cannot read files without bands: allowed are "
                "numbers > 0 for each detector"
            )
    known = [name for name in (*_INFO, "pol_angle_rad") if name in cube.coords]
    return [
        DetectorInfo(
            name=str(name),
            sampling_rate_hz=rate_hz,
            **{key: cube[key].values[index].item() for key in known},
        )
        for index, name in enumerate(cube["detector"].values)
    ]


def _time(mission_start, since_s: float):
    if not hasattr(mission_start, "mjd"):
        return float(mission_start) + since_s
    from astropy.time import TimeDelta

    return mission_start + TimeDelta(since_s, format="sec")


def _note(path: Path, attrs: dict) -> None:
    import h5py

    facts = {key: getattr(value, "item", lambda v=value: v)() for key, value in attrs.items()}
    with h5py.File(path, "a") as file:
        file.attrs["crab"] = json.dumps(facts, sort_keys=True, default=str)
