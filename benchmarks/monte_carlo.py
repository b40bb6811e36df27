"""Cost of one second of simulated TOD, by stage, for 12 detectors and for a whole wafer.

Solar minimum, the environment with most hits. *Fresh* means that Geant4 makes as many events as the
arrivals of that second use up: each event once in each of its images. Because events are drawn by
their rates, what counts is the effective number of a library, (sum of rates)^2 over the sum of
their squares, not how many it holds.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import seconds
from crab import params
from crab.physics import instrument, montecarlo, spectra, transport

PROFILE, MISSION, ENVIRONMENT = "smoke", "litebird_lft", "solar_min_2009"
# Published Monte Carlo of 12 LFT bolometers: 10 minutes of CPU for 20 s of TOD.
PUBLISHED = ("published: 12 bolometers, 30 x", 30.0)
GOALS = {12: 0.05, 216: 0.5}
DURATION_S = 1800.0
N_IMAGES = 8
_MEMORY = """
import pathlib, re, sys
from crab import params, io
from crab.physics import montecarlo
settings = params.load()
library = io.open_table(sys.argv[1])
cube = montecarlo.lazy_cube(library, settings.missions[{mission!r}],
    settings.environments[{environment!r}], duration_s=float(sys.argv[2]),
    mission_name={mission!r}, environment_name={environment!r}, seed=1, split="test")
io.write_zarr(cube, sys.argv[3], progress=False)
# The peak of this program alone: what getrusage says includes the one that started it.
status = pathlib.Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024)
"""


def rows(settings: params.Params) -> list[tuple]:
    """Both sizes, and the memory that an hour and a day of TOD take."""
    subset = settings.missions[MISSION]
    whole = subset.model_copy(
        update={"instrument": subset.instrument.model_copy(update={"detectors": None})}
    )
    out = []
    with tempfile.TemporaryDirectory() as folder:
        for mission in (subset, whole):
            made, library = _chain(settings, mission, Path(folder))
            out += made
            if mission is subset:
                out += _memory(library, Path(folder))
    return out


def _chain(settings: params.Params, mission: params.Mission, folder: Path):
    environment = settings.environments[ENVIRONMENT]
    detectors = instrument.detectors(mission)
    n_detectors = detectors.sizes["detector"]
    who = f"Monte Carlo, {n_detectors} detectors"
    options = settings.profiles[PROFILE].deposits
    # Each aim point needs some primaries of every species.
    n_aimed = max(options.n_aimed_primaries, 200 * n_detectors)
    options = options.model_copy(update={"n_aimed_primaries": n_aimed})
    start = time.perf_counter()
    library = transport.build_library(
        f"{MISSION}-{n_detectors}",
        mission.geometry,
        detectors,
        "test",
        options,
        settings.environments,
        settings.seed + 1,
        folder,
    )
    transport_s = time.perf_counter() - start
    library.attrs["mission"] = MISSION
    rates_hz = spectra.event_rates_hz(library, environment)
    on_wafer = np.isin(library["stratum"].values, (-1, 0))
    # Seconds of TOD until the library is used up, for the wafer's events and for aimed ones.
    until_s = []
    for own, images in ((on_wafer, N_IMAGES), (~on_wafer, 1)):
        effective = rates_hz[own].sum() ** 2 / (rates_hz[own] ** 2).sum()
        until_s.append(images * effective / rates_hz[own].sum())
    fresh = transport_s / min(until_s)

    simulator = montecarlo.prepare(
        library,
        mission,
        environment,
        mission_name=MISSION,
        environment_name=ENVIRONMENT,
        seed=settings.seed,
        split="test",
    )
    n = round(600 * simulator.internal_rate_hz)
    time_s, event, image = simulator.arrivals(0, 600)
    parts = {name: np.zeros((n_detectors, n)) for name in ("tod_wafer", "tod_direct")}
    padded = np.zeros((n_detectors, 30 * simulator.decimate.down + 2 * simulator.decimate.halo))
    decimated_s = 30 * simulator.decimate.down / simulator.internal_rate_hz
    simulator.samples(0, 10)  # tables and caches
    stages = {
        "arrivals": seconds(lambda: simulator.arrivals(0, 600), 3) / 600,
        "wafer heat": seconds(lambda: simulator._wafer(time_s, event, image, n), 3) / 600,
        "direct hits": seconds(lambda: simulator._add_hits(parts, time_s, event, n), 3) / 600,
        "noise": seconds(lambda: simulator._noise(0, n), 3) / 600,
        "filter and decimation, 3 parts": 3
        * seconds(lambda: simulator.decimate(padded), 3)
        / decimated_s,
    }
    n_samples = round(DURATION_S * mission.sampling_rate_hz)
    chain = seconds(lambda: simulator.samples(0, n_samples)) / DURATION_S
    unit = "time / TOD length"
    made = [
        (f"{who}: Geant4", library.sizes["event"] / transport_s, "hit events/s", None, None),
        (f"{who}: hits", rates_hz.sum(), "1/s", None, None),
        (f"{who}: wafer events used up after", until_s[0], "s of TOD", None, None),
        (f"{who}: aimed events used up after", until_s[1], "s of TOD", None, None),
        (f"{who}: Geant4, fresh events", fresh, unit, PUBLISHED[0], fresh / PUBLISHED[1]),
    ]
    made += [(f"{who}: {name}, one core", cost, unit, None, None) for name, cost in stages.items()]
    total = fresh + chain
    made += [
        (f"{who}: all after Geant4, all cores", chain, unit, PUBLISHED[0], chain / PUBLISHED[1]),
        (f"{who}: sum", total, unit, PUBLISHED[0], total / PUBLISHED[1]),
        (
            f"{who}: sum against the goal",
            total,
            unit,
            f"goal {GOALS[n_detectors]:g}",
            total / GOALS[n_detectors],
        ),
    ]
    return made, library


def _memory(library, folder: Path) -> list[tuple]:
    from crab import io

    path = io.write(library, folder / "library.nc")
    code = _MEMORY.format(mission=MISSION, environment=ENVIRONMENT)
    peak_mb = {}
    for hours in (1, 24):
        target = folder / f"{hours}.zarr"
        command = [sys.executable, "-c", code, str(path), str(3600 * hours), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak_mb[hours] = float(done.stdout)
    return [
        ("Monte Carlo, 12 detectors: peak memory for an hour", peak_mb[1], "MB", None, None),
        (
            "Monte Carlo, 12 detectors: peak memory for a day",
            peak_mb[24],
            "MB",
            "an hour's",
            peak_mb[24] / peak_mb[1],
        ),
    ]
