"""The background of any detectors by name, for any stretch of a mission, in K_CMB."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from crab import params
from crab.errors import CrabError
from crab.impact import sources
from crab.impact.sources import Source


@dataclass(frozen=True)
class Group:
    """Detectors on one wafer: their places in the caller's list and in the generator's."""

    source: Source
    rows: list[int]
    picks: list[int]


def background(
    names: Iterable[str],
    environment: str,
    start_sample: int,
    n_samples: int,
    *,
    seed: int | None = None,
    generator=None,
    mission: str | Iterable[str] | None = None,
    profile: str = "smoke",
    realisation: int = 0,
    stand_ins: Mapping[str, str] | None = None,
    wafers: Iterable[str] | None = None,
    sampling_rate_hz: float | None = None,
) -> xr.DataArray:
    """Background of any detectors for any stretch of a mission: what `inject` adds, as an array.

    Parameters
    ----------
    names : iterable of str
        Detectors.
    environment : str
    start_sample, n_samples : int
        Absolute first sample and number of samples, both >= 0.
    seed, generator, mission, profile, realisation, stand_ins
        As in `inject`. Give a generator that is ready (`crab.generators.base.ready`) to call this
        many times: one by name is read anew each time.
    wafers : iterable of str, optional
        Wafer of each detector; needed for stand-ins.
    sampling_rate_hz : float, optional
        Of your data: refused if it is not that of the background.

    Returns
    -------
    xarray.DataArray
        ``(detector, time)``, float32 in K_CMB, hits positive; ``time`` in s since the mission's
        start; attribute ``detector_noise``.

    Raises
    ------
    CrabError
        As `inject`.
    """
    names = [str(name) for name in names]
    if not names:
        raise CrabError("names = []: name at least one detector")
    wafers = None if wafers is None else list(wafers)
    if wafers is not None and len(wafers) != len(names):
        raise CrabError(f"wafers: {len(wafers)} are given: allowed is one a detector, {len(names)}")
    seed = params.load().seed if seed is None else seed
    for key, value in (("start_sample", start_sample), ("n_samples", n_samples)):
        if value < 0:
            raise CrabError(f"{key} = {value}: allowed are integers >= 0")
    found = sources.find(
        sorted({(stand_ins or {}).get(name, name) for name in names}),
        environment=environment,
        generator=generator,
        mission=mission,
        profile=profile,
    )
    groups = route(names, found, stand_ins, wafers)
    rates_hz = sorted({check_rate(group.source, sampling_rate_hz) for group in groups})
    if len(rates_hz) > 1:
        raise CrabError(
            f"sampling rates of the background: {', '.join(f'{r:g}' for r in rates_hz)} Hz: "
            "allowed is one: ask for the detectors of each mission alone"
        )
    out = np.empty((len(names), n_samples), dtype=np.float32)
    for group in groups:
        values = group.source.kelvin(environment, start_sample, n_samples, seed, realisation)
        out[group.rows] = values[group.picks]
    time_s = (start_sample + np.arange(n_samples)) / rates_hz[0]
    coords = {"detector": names, "time": ("time", time_s, {"units": "s"})}
    attrs = {"units": "K_CMB", "detector_noise": noise_text(groups), "environment": environment}
    return xr.DataArray(out, coords, ("detector", "time"), "background", attrs)


def route(
    names: list[str],
    found: list,
    stand_ins: Mapping[str, str] | None = None,
    wafers: Iterable | None = None,
) -> list[Group]:
    """Which generator makes which detector.

    Parameters
    ----------
    names : list of str
    found : list of Generator
    stand_ins : mapping of str to str, optional
    wafers : iterable of str, optional
        Of each detector.

    Returns
    -------
    list of Group

    Raises
    ------
    CrabError
        If no generator knows a detector, a stand-in's wafer is not known, or one detector of a
        wafer would stand in for two.
    """
    stand_ins, wafers = dict(stand_ins or {}), None if wafers is None else list(wafers)
    known = {}
    for kind in found:
        for row, name in enumerate(kind.detectors["detector"].values.tolist()):
            known.setdefault(name, (kind, row))
    unknown = [name for name in names if stand_ins.get(name, name) not in known]
    if unknown:
        raise CrabError(
            f"{len(unknown)} detectors are not known to the generator: {', '.join(unknown)}; "
            f"allowed are {', '.join(known)}; others can stand in for yours: stand_ins="
        )
    groups: dict[tuple, Group] = {}
    for index, name in enumerate(names):
        kind, row = known[stand_ins.get(name, name)]
        wafer = str(kind.detectors["wafer"].values[row])
        if stand_ins.get(name, name) != name:
            wafer = None if wafers is None else wafers[index]
            if not isinstance(wafer, str) or not wafer:
                raise CrabError(
                    f"detector {name!r}: wafer = {wafer!r}: a stand-in needs to know the wafer "
                    "that it stands on, as wafers are independent"
                )
        group = groups.setdefault((id(kind), wafer), Group(Source(kind, str(wafer)), [], []))
        if row in group.picks:
            twin = names[group.rows[group.picks.index(row)]]
            raise CrabError(
                f"detectors {twin!r} and {name!r} of wafer {wafer} would both get the background "
                f"of {known_name(kind, row)!r}: allowed is one of a wafer"
            )
        group.rows.append(index)
        group.picks.append(row)
    return list(groups.values())


def known_name(generator, row: int) -> str:
    """Name of a generator's detector."""
    return str(generator.detectors["detector"].values[row])


def check_rate(source: Source, sampling_rate_hz: float | None) -> float:
    """Refuse data that are sampled at another rate than the background."""
    rate = source.sampling_rate_hz
    # Over a mission of 2e9 samples the two clocks must not come apart by a sample.
    if sampling_rate_hz is not None and not math.isclose(sampling_rate_hz, rate, rel_tol=1e-10):
        raise CrabError(
            f"sampling_rate_hz = {sampling_rate_hz:.12g}: the background of mission "
            f"{source.generator.record['mission']} has {rate:.12g}, and resampling would change "
            f"its glitches: simulate at {rate:.12g}, or set sampling_rate_hz of the mission in "
            "params.yaml and make its models again"
        )
    return rate


def noise_text(groups: list[Group]) -> str:
    """What a record says of the detectors' noise."""
    kinds = {group.source.has_noise for group in groups}
    return {(True,): "included", (False,): "left out"}.get(tuple(kinds), "included in some")
