"""Faults of somebody else's TOD, found and explained; each function returns one line a fault."""

import difflib
from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy import stats

from crab.foreign import Stretch, placer
from crab.mapping import UNITS, Mapping
from crab.params import Environment

RATE_TOLERANCE = 1e-4
# A factor of 1000 either way of LiteBIRD's rms of about 0.3 fW (public thesis notebook), and the
# same in K_CMB by 0.184 pW/K (public sensitivity code); notebook 03 compares us with both.
LEVELS = {"W": (3e-19, 3e-13), "K_CMB": (1.6e-6, 1.6)}
_STEP_TOLERANCE = 0.02  # of a sample, between neighbours
_DRIFT_TOLERANCE = 0.1  # of a sample, over a whole axis
_LISTED = 3


def names(found: list[str], wanted: list[str], where: str, owner: str) -> list[str]:
    """Detectors listed twice, unknown, or left out.

    Parameters
    ----------
    found, wanted : list of str
        Names in the file, and those of the mission.
    where, owner : str
        File and mission, for the messages.
    """
    faults = []
    repeated = sorted({n for n in found if found.count(n) > 1})
    if repeated:
        faults.append(f"{where}: detector {_some(repeated)} appears more than once")
    unknown = [n for n in dict.fromkeys(found) if n not in wanted]
    for name in unknown[:_LISTED]:
        near = difflib.get_close_matches(name, wanted, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {_some(wanted)}"
        faults.append(f"{where}: detector {name!r} is unknown to {owner}: {hint}")
    if len(unknown) > _LISTED:
        faults.append(f"{where}: {len(unknown) - _LISTED} more detectors are unknown to {owner}")
    absent = [n for n in wanted if n not in found]
    if absent and not unknown:
        faults.append(
            f"{where}: {len(absent)} of the {len(wanted)} detectors of {owner} are absent: "
            f"{_some(absent)}; list only yours in its instrument"
        )
    return faults


def convention(unit: str | None, given: str | None, table: xr.Dataset, mission: str) -> list[str]:
    """A power convention that is not given, or does not fit the unit.

    Parameters
    ----------
    unit : str or None
        Key of `crab.mapping.UNITS`.
    given : str or None
        The mapping's ``power_convention``.
    table : xarray.Dataset
        Detectors; a TOD in K_CMB needs coordinate ``power_per_kelvin_w``.
    mission : str
    """
    if unit is None:
        return []
    if not unit.endswith("K_CMB"):
        if given is not None:
            return []
        return [
            "mapping: power_convention = null: needs joule (Joule power: hits negative) or "
            "optical_equivalent (absorbed power that would look the same: hits positive)"
        ]
    found = []
    if given == "joule":
        found.append(
            f"mapping: power_convention = 'joule': allowed for a TOD in {unit} is "
            "optical_equivalent: only optical power converts to a temperature of the sky"
        )
    if "power_per_kelvin_w" not in table.coords:
        found.append(
            f"mapping: columns.power_per_kelvin_w [W/K_CMB]: missing: a TOD in {unit} needs it, a "
            f"number or one for each detector: mission {mission} has no sensor to derive it from"
        )
    return found


def physics(mapping: Mapping, sky: Environment, environment: str) -> list[str]:
    """Modulation or LIS other than the environment's."""
    return [
        f"mapping: {key} = {getattr(mapping, key)!r}: environment {environment} has "
        f"{getattr(sky, key)!r}: describe yours under environments in params.yaml"
        for key in ("phi_mv", "lis")
        if getattr(mapping, key) not in (None, getattr(sky, key))
    ]


def unit(stretches: list[Stretch], mapping: Mapping) -> tuple[str | None, list[str], list[str]]:
    """Unit of the samples.

    Returns
    -------
    unit : str or None
    notes : list of str
        Where the mapping overrules a file.
    faults : list of str
    """
    stated = {one.source: one.unit for one in stretches}
    units = set(stated.values())
    if mapping.unit is not None:
        other = sorted(str(u) for u in units - {None, mapping.unit})
        notes = [f"unit {mapping.unit} by the mapping, {o!r} by the file" for o in other]
        return mapping.unit, notes, []
    listed = ", ".join(f"{source}: unit = {found!r}" for source, found in stated.items())
    if len(units) > 1:
        return None, [], [f"{listed}: mixed units: import files of one unit"]
    if units <= set(UNITS):
        return units.pop(), [], []
    return None, [], [f"{listed}: set unit in the mapping; allowed are {', '.join(UNITS)}"]


def clock(stretches: list[Stretch], mapping: Mapping, mission_hz: float, mission: str) -> list[str]:
    """Sampling rates and times, of each file and of all joined."""
    first, found, rates = stretches[0], [], []
    for one in stretches:
        rate_hz, slack = one.rate_hz, 0.0
        if one.time_s is not None:
            axis_hz, faulty = steps(one.time_s, one.time_resolution_s, placer([one]))
            if faulty:
                found += faulty
                continue
            slack = 2 * one.time_resolution_s / np.ptp(one.time_s)
            if rate_hz and abs(axis_hz / rate_hz - 1) > max(RATE_TOLERANCE, slack):
                found.append(
                    f"{one.source}: sampling_rate_hz = {rate_hz:g}: its times have {axis_hz:.6g} Hz"
                )
            rate_hz = axis_hz
        elif rate_hz is None:
            return ["mapping: sampling_rate_hz: missing: needs it, or time (a time axis)"]
        rates.append((one.source, rate_hz, slack))
    for source, rate_hz, slack in rates[1:]:
        if abs(rate_hz / rates[0][1] - 1) > max(RATE_TOLERANCE, slack + rates[0][2]):
            found.append(
                f"{source}: mixed sampling rates: {rate_hz:.6g} Hz here, {rates[0][1]:.6g} Hz in "
                f"{rates[0][0]}: resample to one rate"
            )
    if found:
        return found
    found = rate(rates[0][1], mission_hz, rates[0][2], first.source, f"mission {mission}")
    if len(stretches) > 1 and first.time_s is not None:
        whole_s = np.concatenate([one.time_s for one in stretches])
        coarse = max(one.time_resolution_s for one in stretches)
        found += steps(whole_s, coarse, placer(stretches))[1]
    return found


def steps(
    time_s: np.ndarray, resolution_s: float, place: Callable[[int], str]
) -> tuple[float | None, list[str]]:
    """Gaps, overlaps and mixed rates of a time axis.

    Parameters
    ----------
    time_s : ndarray, shape (n_time,)
    resolution_s : float
        Of the numbers as stored.
    place : callable
        Names a sample by its index.

    Returns
    -------
    rate_hz : float or None
        Mean rate, if the axis is even.
    faults : list of str
    """
    if time_s.size < 2:
        return None, [f"{place(0)}: one time gives no sampling rate: set sampling_rate_hz"]
    if not np.isfinite(time_s).all():
        bad = int(np.flatnonzero(~np.isfinite(time_s))[0])
        return None, [f"{place(bad)}: time is {time_s[bad]}: allowed are numbers"]
    step_s = np.diff(time_s)
    mean_s = abs(time_s[-1] - time_s[0]) / (time_s.size - 1)
    if 4 * resolution_s > mean_s:
        return None, [
            f"{place(0)}: times are stored to {resolution_s:.2g} s, too coarse for steps of "
            f"{mean_s:.3g} s: store them as float64, or from the start of the data"
        ]
    usual_s = float(np.median(step_s))
    if not usual_s > 0:
        return None, [f"{place(0)}: times do not increase: the median step is {usual_s:g} s"]
    tolerance = _STEP_TOLERANCE + 2 * resolution_s / usual_s
    ratio = step_s / usual_s
    odd = np.abs(ratio - 1) > tolerance
    run = odd[:-1] & odd[1:]
    if run.sum() > 1:
        first = int(np.flatnonzero(run)[0])
        other_hz = 1 / np.median(step_s[first : first + 10])
        return None, [
            f"{place(first)}: mixed sampling rates: {1 / usual_s:.6g} Hz for most samples, "
            f"{other_hz:.6g} Hz here: resample to one rate"
        ]
    if odd.any():
        return None, _breaks(ratio, odd, usual_s, place)
    rate_hz = (time_s.size - 1) / (time_s[-1] - time_s[0])
    drift = np.abs((time_s - time_s[0]) * rate_hz - np.arange(time_s.size))
    if drift.max() > _DRIFT_TOLERANCE + 2 * resolution_s * rate_hz:
        worst = int(drift.argmax())
        halves = [(worst) / (time_s[worst] - time_s[0])]
        halves.append((time_s.size - 1 - worst) / (time_s[-1] - time_s[worst]))
        return None, [
            f"{place(worst)}: mixed sampling rates: {halves[0]:.6g} Hz before, {halves[1]:.6g} Hz "
            f"after; samples are off an even grid by up to {drift[worst]:.2g}: resample to one rate"
        ]
    return float(rate_hz), []


def rate(rate_hz: float, mission_hz: float, slack: float, where: str, owner: str) -> list[str]:
    """A sampling rate that is not the mission's."""
    if abs(rate_hz / mission_hz - 1) <= max(RATE_TOLERANCE, slack):
        return []
    return [
        f"{where}: sampling rate = {rate_hz:.6g} Hz: {owner} has {mission_hz:g} Hz (equal within "
        f"{RATE_TOLERANCE:g}): resample with an anti-alias filter (scipy.signal.resample_poly), or "
        "describe a mission of that rate in params.yaml"
    ]


def finite(
    values: np.ndarray,
    detectors: list[str],
    interpolate: bool,
    where: str,
    place: Callable[[int], str],
) -> list[str]:
    """NaN and infinities.

    Parameters
    ----------
    values : ndarray, shape (n_detector, n_time)
    detectors : list of str
    interpolate : bool
        NaN are no fault, as long as a detector has other samples.
    where : str
        Name of the variable.
    place : callable
        Names a sample by its index.
    """
    if values.dtype.kind != "f":
        return []
    faults = []
    kinds = {"NaN": np.isnan(values), "infinite": np.isinf(values)}
    for kind, bad in kinds.items():
        if not bad.any():
            continue
        if kind == "NaN" and interpolate:
            whole = [d for d, row in zip(detectors, bad, strict=True) if row.all()]
            if whole:
                faults.append(f"{where}: detector {_some(whole)} is all NaN: leave it out")
            continue
        row, sample = (int(i) for i in np.argwhere(bad)[0])
        cure = "; nan: interpolate fills them in linearly" if kind == "NaN" else ""
        faults.append(
            f"{where}: {int(bad.sum())} samples of {int(bad.any(axis=1).sum())} detectors are "
            f"{kind}, the first of detector {detectors[row]} at {place(sample)}{cure}"
        )
    return faults


def level(
    values: np.ndarray, unit: str, detectors: list[str], accept: bool, where: str
) -> list[str]:
    """Dead detectors, large offsets, and a scale so unusual that the unit must be wrong.

    Parameters
    ----------
    values : ndarray, shape (n_detector, n_time)
        As stored, finite.
    unit : str
        Key of `crab.mapping.UNITS`.
    detectors : list of str
    accept : bool
        Any scale is right.
    where : str
    """
    middle = np.median(values, axis=1)
    width = stats.median_abs_deviation(values.astype(np.float64), axis=1, scale="normal")
    dead = [d for d, w in zip(detectors, width, strict=True) if not w > 0]
    if dead:
        return [
            f"{where}: detector {_some(dead)}: more than half of the samples are equal, so it has "
            "no core width, which every later stage divides by: leave it out, or add its noise"
        ]
    base = "K_CMB" if unit.endswith("K_CMB") else "W"
    low, high = LEVELS[base]
    outside = (width * UNITS[unit] < low) | (width * UNITS[unit] > high)
    if outside.any() and not accept:
        row = int(outside.argmax())
        fitting = [
            u
            for u, factor in UNITS.items()
            if low <= width[row] * factor <= high and u.endswith("K_CMB") == (base == "K_CMB")
        ]
        hint = f"; as {' or '.join(fitting)} it would fit" if fitting else ""
        return [
            f"{where}: unit = {unit!r}: samples of detector {detectors[row]} scatter by "
            f"{width[row]:.3g} {unit}: typical are {low / UNITS[unit]:g} to {high / UNITS[unit]:g} "
            f"{unit}, so the unit seems wrong{hint} (level: accept, if it is right)"
        ]
    # Cubes are float32: what a large offset leaves of the signal is rounding.
    swamped = np.spacing(np.abs(middle).astype(np.float32)) > 0.01 * width
    if swamped.any():
        row = int(swamped.argmax())
        return [
            f"{where}: detector {detectors[row]} scatters by {width[row]:.3g} {unit} about "
            f"{middle[row]:.3g} {unit}, beyond what float32 holds: take the operating point off"
        ]
    return []


def _breaks(
    ratio: np.ndarray, odd: np.ndarray, usual_s: float, place: Callable[[int], str]
) -> list[str]:
    faults = []
    gaps = np.flatnonzero(odd & (ratio > 1))
    missing = np.maximum(np.round(ratio[gaps] - 1), 1).astype(int)
    for index, n in list(zip(gaps, missing, strict=True))[:_LISTED]:
        if ratio[index] < 1.5:
            faults.append(f"{place(int(index))}: the next step is {ratio[index]:.3g} of a sample")
            continue
        faults.append(
            f"{place(int(index))}: gap: {n} samples ({n * usual_s:.4g} s) are missing after it: "
            "fill them, or import the longest stretch without gaps"
        )
    if len(gaps) > _LISTED:
        faults.append(f"{len(gaps)} gaps in all, {missing.sum()} samples missing")
    overlaps = np.flatnonzero(odd & (ratio < 1))
    for index in overlaps[:_LISTED]:
        n = max(1, round(1 - ratio[index]))
        faults.append(
            f"{place(int(index))}: overlap: the next sample is {n} samples too early: drop the "
            "repeated ones, or give the files in the order of time"
        )
    if len(overlaps) > _LISTED:
        faults.append(f"{len(overlaps)} overlaps in all")
    return faults


def _some(listed: list[str]) -> str:
    rest = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + rest
