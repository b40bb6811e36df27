"""TOD cubes as files of other packages: observations of litebird_sim, statistics for TOAST."""

import json
import shutil
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr

from crab import params
from crab.errors import CrabError
from crab.impact import flagging
from crab.impact.observations import FLAG_TYPE
from crab.params import choose
from crab.physics import instrument, readout, sensors

# TOAST draws a glitch over this time, on a grid of its own (toast.ops.InjectCosmicRays).
_GLITCH_S = 0.15
_POINTS_PER_TIME_CONSTANT = 20
# A pulse ends where it is this small a part of the largest.
_PULSE_END = 1e-4
# TOAST draws pulses by a histogram of 30 bins, and gets NaN where a bin is empty.
_ROWS_PER_GAP, _MOST_ROWS = 100, 100_000
_INFO = ("wafer", "pixel", "channel", "net_ukrts", "bandcenter_ghz", "bandwidth_ghz")


def kelvin(cube: xr.Dataset, variable: str = "tod") -> xr.DataArray:
    """TOD or one of its parts in K_CMB, whatever the cube's convention: hits positive.

    Parameters
    ----------
    cube : xarray.Dataset
        With coordinate ``power_per_kelvin_w``, and ``joule_gain`` if in the joule convention.
    variable : str

    Returns
    -------
    xarray.DataArray
        float32.

    Raises
    ------
    CrabError
        If a coordinate is missing.
    """
    return readout.to_kelvin_cmb(_optical(cube, variable), variable)


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

    Returns
    -------
    list of pathlib.Path
        In the order of time. ``litebird_sim.read_list_of_observations`` reads them; the attributes
        of the cube are in each file's root attribute ``crab`` as JSON. A cube has no pointing, so
        that in the files is the identity: prepare your own.

    Raises
    ------
    CrabError
        If the folder exists, or the cube lacks what leads to K_CMB.
    """
    # Imported here because litebird_sim takes seconds to import.
    import litebird_sim as lbs

    n_time, rate_hz = cube.sizes["time"], float(cube.attrs["sampling_rate_hz"])
    if not 1 <= n_files <= n_time:
        raise CrabError(f"n_files = {n_files}: allowed are 1 to {n_time}, the number of samples")
    for name in variables:
        if name not in cube:
            raise CrabError(f"variables = {name!r}: the cube has {', '.join(map(str, cube))}")
    first = int(cube.attrs.get("start_sample", 0))
    tods = [
        lbs.TodDescription(name, lbs.Units.K_CMB, np.float32, str(cube[name].attrs["long_name"]))
        for name in variables
    ]
    detectors = [asdict(info) for info in _infos(cube, rate_hz)]
    edges = np.linspace(0, n_time, n_files + 1).astype(int).tolist()
    target = _Folder(folder)
    with target as partial:
        for index, (low, high) in enumerate(pairwise(edges)):
            obs = lbs.Observation(
                detectors=detectors,
                n_samples_global=high - low,
                start_time_global=_time(mission_start, (first + low) / rate_hz),
                sampling_rate_hz=rate_hz,
                tods=tods,
            )
            # The reader wants a pointing: a fixed one, as a cube has none.
            obs.pointing_provider = lbs.PointingProvider(lbs.RotQuaternion())
            for name in variables:
                getattr(obs, name)[:] = kelvin(cube.isel(time=slice(low, high)), name).values
            if flags:
                obs.local_flags = _flags(cube, variables[0], low, high, threshold_sigma)
            lbs.write_list_of_observations(
                [obs], partial, start_index=index, collective_mpi_call=False, gzip_compression=gzip
            )
        names = sorted(path.name for path in partial.iterdir())
        for name in names:
            _note(partial / name, cube)
    return [target.path / name for name in names]


def to_toast(
    cube: xr.Dataset,
    folder: str | Path,
    *,
    unit: str = "K_CMB",
    time_constant_s: float | None = None,
    threshold_sigma: float = 5.0,
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
        TOD cube. With the parts ``tod_wafer`` and ``tod_direct`` these are described; else pulses
        are what stands out of ``tod``, which then has the noise of the detectors in it.
    folder : path-like
        To make.
    unit : {"K_CMB", "W"}
        K_CMB needs no change of TOAST's ``conversion_factor``; W is absorbed optical power.
    time_constant_s : float, optional
        Of a direct hit. Default: that of the mission's sensor in params.yaml.
    threshold_sigma : float
        For a cube without parts.

    Returns
    -------
    pathlib.Path
        What to give TOAST as ``crfile``. The files are numbered in the order of the cube's
        detectors, which TOAST's have to be in.

    Raises
    ------
    CrabError
        If the folder exists or its name would confuse TOAST, for an unknown unit, or if the time
        constant is not known.
    """
    if unit not in ("K_CMB", "W"):
        raise CrabError(f"unit = {unit!r}: allowed are K_CMB, W")
    target = _Folder(folder)
    if "detector" in str(target.path):
        raise CrabError(
            f"{target.path}: TOAST replaces every 'detector' in this name: allowed are folders "
            "without that word in their path"
        )
    if time_constant_s is None:
        time_constant_s = _time_constant_s(cube)
    rate_hz = float(cube.attrs["sampling_rate_hz"])
    convert = kelvin if unit == "K_CMB" else lambda ds, name: _optical(ds, name)[name]
    quiet, glitch, inside = _parts(cube, convert, threshold_sigma)
    # All detectors have the same absorber: pulses are pooled, in watts.
    watts = cube["power_per_kelvin_w"].values if unit == "K_CMB" else np.ones(len(quiet))
    pulses = [
        pulse_integrals(row, rate_hz, where) for row, where in zip(glitch, inside, strict=True)
    ]
    pooled_j = np.concatenate([x * w for x, w in zip(pulses, watts, strict=True)])
    shape = (
        _GLITCH_S
        / time_constant_s
        * np.linspace(0, 1, round(_GLITCH_S * _POINTS_PER_TIME_CONSTANT / time_constant_s))
    )
    duration_s = max(1, round(_GLITCH_S * rate_hz)) / rate_hz
    peak = _without_gaps(pooled_j) / (duration_s * np.exp(-shape).mean())
    event_rate_hz = len(pooled_j) / (quiet.shape[0] * quiet.shape[1] / rate_hz)
    matrix = np.atleast_2d(np.ma.corrcoef(quiet)).filled(0.0)
    with target as partial:
        for index, name in enumerate(cube["detector"].values.tolist()):
            hits = np.zeros((len(peak), 3))
            hits[:, 1], hits[:, 2] = peak / watts[index], 1e3 * time_constant_s
            np.savez(
                partial / f"crab_det{index}.npz",
                low_noise=np.array([quiet[index].mean(), quiet[index].std()]),
                sampling_rate=np.array([_POINTS_PER_TIME_CONSTANT / time_constant_s]),
                direct_hits=hits,
                correlation_matrix=matrix,
                detector=np.array(str(name)),
                unit=np.array(unit),
                event_rate_hz=np.array(event_rate_hz),
            )
    return target.path / "crab_detector.npz"


def pulse_integrals(
    tod: np.ndarray, sampling_rate_hz: float, inside: np.ndarray | None = None
) -> np.ndarray:
    """Integral over time of each pulse.

    Parameters
    ----------
    tod : ndarray, shape (n_samples,)
        Zero between pulses.
    sampling_rate_hz : float
    inside : ndarray of bool, shape (n_samples,), optional
        Where the pulses are; default: where ``tod`` is not negligible.

    Returns
    -------
    ndarray, shape (n_pulses,)
        In the unit of ``tod`` times s; positive pulses only, as filters ring.
    """
    tod = np.asarray(tod, dtype=float)
    if inside is None:
        inside = np.abs(tod) > _PULSE_END * np.abs(tod).max(initial=0.0)
    edges = np.diff(np.concatenate([[0], inside.view(np.int8), [0]]))
    total = np.concatenate([[0.0], np.cumsum(np.where(inside, tod, 0.0))])
    sums = total[np.flatnonzero(edges == -1)] - total[np.flatnonzero(edges == 1)]
    return sums[sums > 0] / sampling_rate_hz


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

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.partial.rename(self.path)
        else:
            shutil.rmtree(self.partial, ignore_errors=True)


def _optical(cube: xr.Dataset, variable: str) -> xr.Dataset:
    ds = cube[[variable]].assign_attrs(cube.attrs)
    if cube.attrs["power_convention"] == "joule":
        ds = readout.to_optical_equivalent(ds)
    return ds


def _parts(cube: xr.Dataset, convert, threshold_sigma: float):
    """Quiet part, glitches, and where these are if it has to be told."""
    if "tod_wafer" in cube and "tod_direct" in cube:
        quiet, glitch = (convert(cube, name).values for name in ("tod_wafer", "tod_direct"))
        quiet = np.ma.masked_array(quiet.astype(float), np.zeros(quiet.shape, bool))
        return quiet, glitch, [None] * len(glitch)
    tod = convert(cube, "tod").values.astype(float)
    start = int(cube.attrs.get("start_sample", 0))
    mask, _ = flagging.flag(tod, threshold_sigma, start_sample=start)
    quiet = np.ma.masked_array(tod, mask)
    level = np.ma.median(quiet, axis=1).filled(0.0)[:, None]
    return quiet, np.where(mask, tod - level, 0.0), mask


def _without_gaps(values: np.ndarray) -> np.ndarray:
    """Sorted values and, between each and the next, evenly spaced ones."""
    if len(values) < 2:
        return values
    n_rows = min(_ROWS_PER_GAP * (len(values) - 1) + 1, _MOST_ROWS)
    at = np.linspace(0, len(values) - 1, n_rows)
    return np.interp(at, np.arange(len(values)), np.sort(values))


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


def _flags(cube: xr.Dataset, name: str, low: int, high: int, threshold: float) -> np.ndarray:
    """Flags of a stretch of a cube that do not depend on where it was cut."""
    first = int(cube.attrs.get("start_sample", 0))
    begin, end = flagging.reach(first + low, first + high)
    begin, end = max(begin - first, 0), min(end - first, cube.sizes["time"])
    tod = cube[name].isel(time=slice(begin, end)).values
    mask, _ = flagging.flag(tod, threshold, start_sample=first + begin)
    return mask[:, low - begin : high - begin].astype(FLAG_TYPE)


def _time(mission_start, since_s: float):
    if not hasattr(mission_start, "mjd"):
        return float(mission_start) + since_s
    from astropy.time import TimeDelta

    return mission_start + TimeDelta(since_s, format="sec")


def _note(path: Path, cube: xr.Dataset) -> None:
    import h5py

    facts = {key: getattr(value, "item", lambda v=value: v)() for key, value in cube.attrs.items()}
    with h5py.File(path, "a") as file:
        file.attrs["crab"] = json.dumps(facts, sort_keys=True, default=str)
