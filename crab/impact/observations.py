"""Observations of litebird_sim as `crab.impact.inject` needs them, checked before any change."""

import warnings
from collections.abc import Callable

import numpy as np

from crab.errors import CrabError

# litebird_sim 0.18 writes flags as lengths of runs in their own type: 8 or 16 bits lose them.
FLAG_TYPE = np.int32
PER_KELVIN = {"K_CMB": 1.0, "mK_CMB": 1e3, "uK_CMB": 1e6}


def unpack(target, mission_start=None) -> tuple[list, Callable]:
    """Observations of a target, and what tells the absolute sample at which each begins.

    Parameters
    ----------
    target : litebird_sim.Simulation, litebird_sim.Observation or list of Observation
    mission_start : float or astropy.time.Time, optional
        See `crab.impact.inject.inject`.

    Returns
    -------
    observations : list
    origin : callable
        Observation -> absolute index of its first local sample.

    Raises
    ------
    CrabError
        For something else, or if the mission's start is not known; `origin` if an observation
        begins before it.
    """
    if hasattr(target, "observations"):
        observations = list(target.observations)
        mission_start = target.start_time if mission_start is None else mission_start
    else:
        observations = [target] if hasattr(target, "tod_list") else list(_iterable(target))
    for obs in observations:
        if not hasattr(obs, "tod_list"):
            raise CrabError(
                f"{type(obs).__name__}: allowed are a Simulation, an Observation or a list of "
                "observations of litebird_sim"
            )
    if mission_start is None and observations:
        mission_start = _own_start(observations)

    def origin(obs) -> int:
        # Of the global start, and the local one in samples: exact, whatever the split in time.
        since = obs.start_time_global
        if hasattr(since, "mjd") != hasattr(mission_start, "mjd"):
            raise CrabError(
                f"mission_start = {mission_start!r}: the observation starts at {since!r}: allowed "
                "are two numbers of seconds or two astropy times"
            )
        since = since - mission_start
        since_s = since.to_value("s") if hasattr(since, "to_value") else float(since)
        sample = round(since_s * obs.sampling_rate_hz) + int(obs.start_sample)
        if sample < 0:
            raise CrabError(
                f"mission_start = {mission_start}: the observation begins {-since_s:.6g} s before "
                "it: allowed are times at its start or before"
            )
        return sample

    return observations, origin


def component_of(obs, name: str, make: bool = False) -> float:
    """Check a TOD of an observation, or make it.

    Parameters
    ----------
    obs : litebird_sim.Observation
    name : str
    make : bool
        Make it if it is not there.

    Returns
    -------
    float
        Its unit, per K_CMB.

    Raises
    ------
    CrabError
        If it is not allocated, is no float array or has a unit other than a CMB temperature.
    """
    described = {str(tod.name): tod for tod in obs.tod_list}
    if name not in described:
        if not name.isidentifier() or hasattr(obs, name):
            raise CrabError(
                f"component = {name!r}: allowed are the TODs that are there "
                f"({', '.join(described)}), or a new name that the observation does not use"
            )
        if make:
            setattr(obs, name, np.zeros((obs.n_detectors, obs.n_samples), dtype=np.float32))
            describe(obs, name)
        return 1.0
    tod, shape = getattr(obs, name, None), (obs.n_detectors, obs.n_samples)
    if tod is None or tod.shape != shape or tod.dtype.kind != "f":
        found = "None" if tod is None else f"{tod.dtype} of shape {tod.shape}"
        raise CrabError(
            f"component = {name!r}: the observation has {found}: allowed are floats of "
            f"shape {shape} (create_observations with allocate_tod=True)"
        )
    unit = described[name].units
    unit = str(getattr(unit, "value", unit))
    if unit not in PER_KELVIN:
        raise CrabError(
            f"component = {name!r}: units = {unit!r}: allowed are {', '.join(PER_KELVIN)}"
        )
    return PER_KELVIN[unit]


def describe(target, name: str) -> None:
    """Add a TOD in K_CMB to the list that a simulation or an observation keeps of its own."""
    listed = getattr(target, "tod_list", None)
    if listed is None or name in {str(tod.name) for tod in listed}:
        return
    # Imported here because litebird_sim takes seconds to import.
    from litebird_sim import TodDescription, Units

    new = TodDescription(name, Units.K_CMB, np.float32, "cosmic-ray background")
    # A new list: litebird_sim shares one between observations, and with its defaults.
    target.tod_list = [*listed, new]


def check_flags(obs, value: int, make: bool = False) -> None:
    """Check ``local_flags`` of an observation, or make them.

    Raises
    ------
    CrabError
        If there are some of another shape, or of a type that cannot hold the value.
    """
    flags, shape = getattr(obs, "local_flags", None), (obs.n_detectors, obs.n_samples)
    if flags is None:
        flags = np.zeros(shape if make else (0, 0), dtype=FLAG_TYPE)
        if make:
            obs.local_flags = flags
    elif flags.shape != shape or flags.dtype.kind not in "uib":
        raise CrabError(
            f"local_flags: {flags.dtype} of shape {flags.shape}: allowed are integers of shape "
            f"{shape}"
        )
    most = 1 if flags.dtype.kind == "b" else np.iinfo(flags.dtype).max
    if not 0 < value <= most:
        raise CrabError(f"flag_value = {value}: allowed in {flags.dtype} flags are 1 to {most}")


def _iterable(target):
    try:
        return iter(target)
    except TypeError:
        raise CrabError(
            f"{type(target).__name__}: allowed are a Simulation, an Observation or a list of "
            "observations of litebird_sim"
        ) from None


def _own_start(observations: list):
    if not hasattr(observations[0].start_time_global, "mjd"):
        return 0.0
    if len(observations) > 1:
        raise CrabError(
            "mission_start = None: several observations with calendar times: give the simulation "
            "they belong to, or its start as mission_start="
        )
    warnings.warn(
        "the mission is taken to start with this observation; give mission_start= if it has others",
        stacklevel=4,
    )
    return observations[0].start_time_global
