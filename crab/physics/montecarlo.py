"""Monte Carlo of the time-ordered data: from a deposit library to a TOD cube and its truth."""

from collections.abc import Iterator
from itertools import pairwise

import dask.array
import numpy as np
import xarray as xr

from crab import schema
from crab.errors import CrabError
from crab.params import Environment, Mission
from crab.physics import instrument, readout, sensors, spectra, wafer
from crab.physics import library as library_of
from crab.physics.simulator import Simulator
from crab.provenance import params_hash


def prepare(
    library: xr.Dataset,
    mission: Mission,
    environment: Environment,
    *,
    mission_name: str,
    environment_name: str,
    seed: int,
    split: str,
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
    if mission.geometry is None:
        raise CrabError(
            f"mission {mission_name}: it has no geometry and no sensor, so there is nothing to "
            "simulate; its cubes are imported (`crab import`)"
        )
    detectors = instrument.detectors(mission)
    library_of.check(library, detectors, mission, mission_name, split)
    if direct_hits not in ("linear", "nonlinear"):
        raise CrabError(f"direct_hits = {direct_hits!r}: allowed are linear, nonlinear")
    plate = None
    if mission.wafer_thermal is not None:
        plate = wafer.build(mission.geometry, mission.wafer_thermal)
    deposits = {
        name: library[name].values
        for name in ("event_index", "volume", "detector_index", "x_mm", "y_mm", "deposit_ev")
    }
    on_wafer = {name: values[deposits["volume"] == 0] for name, values in deposits.items()}
    n_events = library.sizes["event"]
    direct = library_of.hit_tables(deposits, on_wafer, n_events, len(detectors["detector"]))
    simulator = Simulator(
        library=library,
        detectors=detectors,
        environment=environment,
        plate=plate,
        sensor=sensors.build(mission, detectors, direct["deposit_ev"].max(initial=0), direct_hits),
        decimate=readout.decimator(mission.internal_rate_hz, mission.sampling_rate_hz),
        internal_rate_hz=mission.internal_rate_hz,
        stream=(seed, mission_name, environment_name, mission.instrument.wafer, split),
        kicks_k=np.empty((n_events, 0), np.float32)
        if plate is None
        else wafer.kicks_k(plate, on_wafer["event_index"], n_events, on_wafer),
        direct=direct,
    )
    # Made here once, not by several threads at a time.
    for name in ("mean_wafer_power_w", "cumulative_hz", *(["response"] if plate else [])):
        getattr(simulator, name)
    if not simulator.mean_rate_hz(0, 1) > 0:
        raise CrabError(f"environment {environment_name}: the library gives a hit rate of 0")
    return simulator


def simulate(
    library: xr.Dataset,
    mission: Mission,
    environment: Environment,
    *,
    duration_s: float,
    start_sample: int = 0,
    progress: bool = True,
    **options,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Simulate a TOD cube and its table of hits.

    Parameters
    ----------
    library, mission, environment
        See `prepare`.
    duration_s : float
        Rounded to whole samples of ``mission.sampling_rate_hz``.
    start_sample : int
        Absolute index of the first sample, >= 0. Overlapping stretches agree bit for bit.
    progress : bool
        Show a progress bar.
    **options
        ``mission_name``, ``environment_name``, ``seed``, ``split`` and ``direct_hits`` of
        `prepare`.

    Returns
    -------
    cube : xarray.Dataset
        TOD cube (`crab.schema`) with ``tod`` and its three parts in W. A TES gives the change of
        Joule power about its mean in this environment's quiet flux (coordinate
        ``joule_power_w``), so hits are negative; coordinates ``joule_gain`` and
        ``power_per_kelvin_w`` lead to optical power and to K_CMB (`crab.physics.readout`). A
        linear sensor gives optical-equivalent power: hits are positive.
    truth : xarray.Dataset
        One row per hit: ``time_s``, ``event`` (row of the library) and ``image`` (symmetry of the
        wafer it came in), ``species``, ``energy_mev``, ``deposit_ev`` (wafer), ``x_mm``, ``y_mm``
        (its centroid; NaN for a hit that leaves nothing in the wafer), ``detector_index`` and
        ``absorber`` of the largest deposit in an absorber (-1 for none), ``direct_deposit_ev``
        there, and ``n_detectors`` whose absorbers the event hit.

    Raises
    ------
    CrabError
        As `prepare`, or for a duration below one sample or a negative start.
    """
    n_samples = _n_samples(mission, duration_s, start_sample)
    simulator = prepare(library, mission, environment, **options)
    parts = simulator.samples(start_sample, n_samples, progress)
    attrs = _attrs(simulator, mission, start_sample, n_samples, **options)
    rate_hz = mission.sampling_rate_hz
    cube = schema.make_cube(parts, _detector_table(simulator), rate_hz, attrs, start_sample)
    stop_s = (start_sample + n_samples) / rate_hz
    return cube, _truth(simulator, start_sample / rate_hz, stop_s, attrs)


def lazy_cube(
    library: xr.Dataset,
    mission: Mission,
    environment: Environment,
    *,
    duration_s: float,
    start_sample: int = 0,
    **options,
) -> xr.Dataset:
    """The cube of `simulate`, bit for bit, computed chunk by chunk when it is asked for.

    Parameters
    ----------
    library, mission, environment, duration_s, start_sample, **options
        See `simulate`.

    Returns
    -------
    xarray.Dataset
        On dask, in the simulator's own chunks of about 5 minutes: memory holds a few of them.
        `crab.io.write_zarr` writes it.

    Raises
    ------
    CrabError
        As `simulate`.
    """
    n_samples = _n_samples(mission, duration_s, start_sample)
    simulator = prepare(library, mission, environment, **options)
    names = ("tod", *schema.PARTS)
    n_detectors, length = simulator.detectors.sizes["detector"], simulator.chunk_samples
    stop = start_sample + n_samples
    edges = [start_sample, *range((start_sample // length + 1) * length, stop, length), stop]

    def chunk(block_info: dict) -> np.ndarray:
        low, high = block_info[None]["array-location"][-1]
        parts = simulator.samples(start_sample + low, high - low)
        return np.stack([parts[name] for name in names])

    attrs = _attrs(simulator, mission, start_sample, n_samples, **options)
    # A name of its own, else dask would read the whole simulator to make one.
    name = params_hash(attrs, start_sample, n_samples)
    stack = dask.array.map_blocks(
        chunk,
        name=f"simulate-{name}",
        chunks=((len(names),), (n_detectors,), tuple(np.diff(edges).tolist())),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )
    parts = {name: stack[index] for index, name in enumerate(names)}
    detectors = _detector_table(simulator)
    return schema.make_cube(parts, detectors, mission.sampling_rate_hz, attrs, start_sample)


def truth_by_pieces(
    library: xr.Dataset,
    mission: Mission,
    environment: Environment,
    *,
    duration_s: float,
    start_sample: int = 0,
    piece_s: float = 3600.0,
    **options,
) -> Iterator[xr.Dataset]:
    """The table of hits of `simulate`, piece by piece: for stretches longer than memory.

    Parameters
    ----------
    library, mission, environment, duration_s, start_sample, **options
        See `simulate`.
    piece_s : float
        Length of a piece.

    Yields
    ------
    xarray.Dataset
        Rows of one piece, with the attributes of the whole.
    """
    n_samples = _n_samples(mission, duration_s, start_sample)
    simulator = prepare(library, mission, environment, **options)
    attrs = _attrs(simulator, mission, start_sample, n_samples, **options)
    start_s, stop_s = (
        sample / mission.sampling_rate_hz for sample in (start_sample, start_sample + n_samples)
    )
    edges_s = np.append(np.arange(start_s, stop_s, piece_s), stop_s)
    for low_s, high_s in pairwise(edges_s):
        yield _truth(simulator, low_s, high_s, attrs)


def _truth(simulator: Simulator, start_s: float, stop_s: float, attrs: dict) -> xr.Dataset:
    truth = simulator.truth(start_s, stop_s)
    truth.attrs = {**attrs, "title": "Cosmic-ray hits behind a TOD cube"}
    truth.attrs["Conventions"] = schema.CONVENTIONS
    return truth


def _n_samples(mission: Mission, duration_s: float, start_sample: int) -> int:
    n_samples = round(duration_s * mission.sampling_rate_hz) if np.isfinite(duration_s) else 0
    if n_samples < 1 or start_sample < 0:
        raise CrabError(
            f"duration_s = {duration_s:g}, start_sample = {start_sample}: allowed are durations of "
            f"at least one sample (1/{mission.sampling_rate_hz:g} s) and starts >= 0"
        )
    return n_samples


def _attrs(
    simulator: Simulator,
    mission: Mission,
    start_sample: int,
    n_samples: int,
    *,
    mission_name: str,
    environment_name: str,
    seed: int,
    split: str,
    direct_hits: str = "nonlinear",
) -> dict:
    environment = simulator.environment
    ends_s = (start_sample + np.array([0, n_samples])) / mission.sampling_rate_hz
    phi_mv = spectra.phi_at(environment, ends_s)
    return {
        "mission": mission_name,
        "environment": environment_name,
        "phi_mv": environment.phi_mv,
        "phi_start_mv": float(phi_mv[0]),
        "phi_stop_mv": float(phi_mv[1]),
        "lis": environment.lis,
        "seed": seed,
        "split": split,
        "power_convention": simulator.sensor.power_convention,
        "physics_list": simulator.library.attrs["physics_list"],
        # How much a mission is simulated of does not change what it is.
        "params_hash": params_hash(
            mission.model_dump(mode="json", exclude={"effort"}),
            environment,
            simulator.library.attrs["params_hash"],
            direct_hits,
        ),
        "internal_rate_hz": mission.internal_rate_hz,
        "direct_hits": direct_hits,
        "hit_rate_hz": simulator.mean_rate_hz(*ends_s),
    }


def _detector_table(simulator: Simulator) -> xr.Dataset:
    sensor = simulator.sensor
    power = {"units": "W K-1", "long_name": "optical power per kelvin of CMB temperature"}
    table = simulator.detectors.assign_coords(
        power_per_kelvin_w=("detector", sensor.noise["power_per_kelvin"].values, power)
    )
    if sensor.power_convention == "joule":
        rest_w = sensor.rest_power_w + simulator.mean_wafer_power_w
        table = table.assign_coords(joule_power_w=("detector", rest_w), joule_gain=sensor.gain)
        table["joule_gain"].attrs["long_name"] = "Joule power per optical power"
    return table
