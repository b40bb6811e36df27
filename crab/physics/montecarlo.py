"""Monte Carlo of the time-ordered data: from a deposit library to a TOD cube and its truth."""

import numpy as np
import xarray as xr

from crab import schema
from crab.errors import CrabError
from crab.params import Environment, Mission
from crab.physics import instrument, readout, spectra, tes, wafer
from crab.physics.simulator import Simulator
from crab.provenance import params_hash

_ROUNDING_MM = 1e-3


def prepare(
    library: xr.Dataset,
    mission: Mission,
    environment: Environment,
    *,
    mission_name: str,
    environment_name: str,
    seed: int,
    split: str,
    internal_rate_hz: float = 156.25,
    direct_hits: str = "nonlinear",
) -> Simulator:
    """Set up a simulation.

    Parameters
    ----------
    library : xarray.Dataset
        Deposit library of this mission and split.
    mission : Mission
    environment : Environment
    mission_name, environment_name : str
        Their keys in params.yaml.
    seed : int
    split : {"train", "validation", "test"}
    internal_rate_hz : float
        Sampling rate of the physics, before filter and decimation.
    direct_hits : {"nonlinear", "linear"}
        Pulse of a hit on a TES: from the full equations, or small-signal.

    Returns
    -------
    Simulator

    Raises
    ------
    CrabError
        If the library belongs to another mission, split or set of detectors, or is empty.
    """
    detectors = instrument.detectors(mission)
    _check_library(library, detectors, mission, mission_name, split)
    if direct_hits not in ("linear", "nonlinear"):
        raise CrabError(f"direct_hits = {direct_hits!r}: allowed are linear, nonlinear")
    rates_hz = spectra.event_rates_hz(library, environment)
    if not rates_hz.sum() > 0:
        raise CrabError(f"environment {environment_name}: the library gives a hit rate of 0")
    plate = wafer.build(mission.geometry, mission.wafer_thermal)
    point = tes.operating_point(mission.tes, mission.wafer_thermal.bath_temperature_k)
    deposits = {
        name: library[name].values
        for name in ("event_index", "volume", "detector_index", "x_mm", "y_mm", "deposit_ev")
    }
    on_wafer = {name: values[deposits["volume"] == 0] for name, values in deposits.items()}
    n_events = library.sizes["event"]
    direct = _direct_table(deposits, on_wafer, n_events, len(detectors["detector"]))
    largest = direct["deposit_ev"].max(initial=0.0)
    return Simulator(
        library=library,
        detectors=detectors,
        rates_hz=rates_hz,
        plate=plate,
        point=point,
        pulses=tes.pulse_table(point, largest, linear=direct_hits == "linear"),
        noise=readout.noise_equivalent_power(mission.tes, point, detectors),
        decimate=readout.decimator(internal_rate_hz, mission.sampling_rate_hz),
        internal_rate_hz=internal_rate_hz,
        stream=(seed, mission_name, environment_name, mission.wafer, split),
        kicks_k=wafer.kicks_k(plate, on_wafer["event_index"], n_events, on_wafer),
        direct=direct,
    )


def simulate(
    library: xr.Dataset,
    mission: Mission,
    environment: Environment,
    *,
    mission_name: str,
    environment_name: str,
    duration_s: float,
    seed: int,
    split: str,
    internal_rate_hz: float = 156.25,
    direct_hits: str = "nonlinear",
    start_sample: int = 0,
    progress: bool = True,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Simulate a TOD cube and its table of hits.

    Parameters
    ----------
    library, mission, environment, mission_name, environment_name, seed, split
        See `prepare`.
    duration_s : float
        Rounded to whole samples of ``mission.sampling_rate_hz``.
    internal_rate_hz, direct_hits
        See `prepare`.
    start_sample : int
        Absolute index of the first sample, >= 0. Overlapping stretches agree bit for bit.
    progress : bool
        Show a progress bar.

    Returns
    -------
    cube : xarray.Dataset
        TOD cube (`crab.schema`) with ``tod`` and its three parts in W: change of Joule power
        about its mean in this environment's steady flux (coordinate ``joule_power_w``), so hits
        are negative. Coordinates ``joule_gain`` and ``power_per_kelvin_w`` lead to optical power
        and to K_CMB (`crab.physics.readout`).
    truth : xarray.Dataset
        One row per hit: ``time_s``, ``event`` (row of the library), ``species``, ``energy_mev``,
        ``deposit_ev`` (wafer), ``x_mm``, ``y_mm`` (its centroid; NaN for a hit that leaves nothing
        in the wafer), ``detector_index`` (the TES hit hardest, -1 for none) and
        ``direct_deposit_ev`` there.

    Raises
    ------
    CrabError
        As `prepare`, or for a duration below one sample or a negative start.
    """
    n_samples = round(duration_s * mission.sampling_rate_hz)
    if n_samples < 1 or start_sample < 0:
        raise CrabError(
            f"duration_s = {duration_s:g}, start_sample = {start_sample}: allowed are durations of "
            f"at least one sample (1/{mission.sampling_rate_hz:g} s) and starts >= 0"
        )
    simulator = prepare(
        library,
        mission,
        environment,
        mission_name=mission_name,
        environment_name=environment_name,
        seed=seed,
        split=split,
        internal_rate_hz=internal_rate_hz,
        direct_hits=direct_hits,
    )
    attrs = {
        "mission": mission_name,
        "environment": environment_name,
        "phi_mv": environment.phi_mv,
        "lis": environment.lis,
        "seed": seed,
        "split": split,
        "power_convention": "joule",
        "physics_list": library.attrs["physics_list"],
        "params_hash": params_hash(
            mission, environment, library.attrs["params_hash"], internal_rate_hz, direct_hits
        ),
        "internal_rate_hz": internal_rate_hz,
        "direct_hits": direct_hits,
        "hit_rate_hz": float(simulator.rates_hz.sum()),
    }
    detectors = simulator.detectors.assign_coords(
        joule_power_w=("detector", simulator.point.joule_power_w + simulator.mean_wafer_power_w),
        joule_gain=simulator.point.joule_gain,
        power_per_kelvin_w=(
            "detector",
            simulator.noise["power_per_kelvin"].values,
            {"units": "W K-1", "long_name": "optical power per kelvin of CMB temperature"},
        ),
    )
    detectors["joule_gain"].attrs["long_name"] = "Joule power per optical power"
    parts = simulator.samples(start_sample, n_samples, progress)
    cube = schema.make_cube(parts, detectors, mission.sampling_rate_hz, attrs, start_sample)
    rate = mission.sampling_rate_hz
    truth = simulator.truth(start_sample / rate, (start_sample + n_samples) / rate)
    truth.attrs = {**attrs, "title": "Cosmic-ray hits behind a TOD cube"}
    truth.attrs["Conventions"] = schema.CONVENTIONS
    return cube, truth


def _direct_table(deposits: dict, on_wafer: dict, n_events: int, n_detectors: int) -> dict:
    """Direct hits sorted by event and detector, and the event columns of the truth table."""
    on_tes = deposits["volume"] == 1
    pair = deposits["event_index"][on_tes].astype(np.int64) * n_detectors
    pair, place = np.unique(pair + deposits["detector_index"][on_tes], return_inverse=True)
    deposit_ev = np.bincount(place, deposits["deposit_ev"][on_tes], len(pair))
    event, detector = pair // n_detectors, pair % n_detectors

    hardest = np.full(n_events, -1, dtype=np.int16)
    most_ev = np.zeros(n_events, dtype=np.float32)
    order = np.argsort(deposit_ev, kind="stable")  # the largest is written last
    hardest[event[order]] = detector[order]
    most_ev[event[order]] = deposit_ev[order]

    where, energy = on_wafer["event_index"], on_wafer["deposit_ev"].astype(float)
    total = np.bincount(where, energy, n_events)
    weight = np.maximum(total, np.finfo(float).tiny)
    columns = {"deposit_ev": total.astype(np.float32)}
    for axis in ("x_mm", "y_mm"):
        moment = np.bincount(where, energy * on_wafer[axis], n_events)
        columns[axis] = np.where(total > 0, moment / weight, np.nan).astype(np.float32)
    columns |= {"detector_index": hardest, "direct_deposit_ev": most_ev}
    starts = np.searchsorted(event, np.arange(n_events + 1))
    return {"starts": starts, "detector": detector, "deposit_ev": deposit_ev, "events": columns}


def _check_library(
    library: xr.Dataset, detectors: xr.Dataset, mission: Mission, mission_name: str, split: str
) -> None:
    for key in ("mission", "split", "physics_list", "params_hash"):
        if key not in library.attrs:
            raise CrabError(f"deposit library: attribute {key!r} is missing")
    for key, wanted in (("mission", mission_name), ("split", split)):
        if library.attrs[key] != wanted:
            raise CrabError(
                f"deposit library: {key} = {library.attrs[key]!r}: allowed here is {wanted!r}"
            )
    # Where the deposits lie tells for which wafer and detectors the library was made.
    on_tes = library["volume"].values == 1
    index = library["detector_index"].values[on_tes].astype(int)
    n_detectors = detectors.sizes["detector"]
    if index.max(initial=-1) >= n_detectors:
        raise CrabError(
            f"deposit library: it has hits in {index.max() + 1} detectors: allowed here are "
            f"{n_detectors}; build it again for the detectors of {mission_name}"
        )
    for axis in ("x_mm", "y_mm"):
        at = library[axis].values.astype(float)
        off = np.abs(at[on_tes] - detectors[axis].values[index])
        if off.max(initial=0.0) > mission.geometry.tes_side_mm / 2 + _ROUNDING_MM:
            worst = detectors["detector"].values[index[off.argmax()]]
            raise CrabError(
                f"deposit library: a hit in detector {worst} has {axis} = "
                f"{at[on_tes][off.argmax()]:.2f}, but the detector is at "
                f"{float(detectors[axis].sel(detector=worst)):.2f}: the library was made for other "
                f"detectors or another geometry; build it again for {mission_name}"
            )
        half = mission.geometry.wafer_side_mm / 2
        if np.abs(at).max(initial=0.0) > half + _ROUNDING_MM:
            raise CrabError(
                f"deposit library: {axis} reaches {np.abs(at).max():.2f}: allowed are positions "
                f"on the wafer, up to {half:g} mm from its centre"
            )
