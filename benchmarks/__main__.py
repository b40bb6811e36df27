"""Speed of the chain on this machine: `make bench` writes reports/tables/benchmarks.csv.

Times are wall-clock of one process on all cores, medians of repeats where a repeat is cheap. The
machine's own speed is measured in the same run, and ratios are what to quote. Needs the files of
`make repro`.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from crab import generators, io, params, paths
from crab.generators.training import GanTraining
from crab.physics import instrument, montecarlo, spectra, transport

PROFILE, MISSION = "smoke", "litebird_lft"
COLUMNS = ("what", "value", "unit", "reference", "ratio")
# Published Monte Carlo of 12 LFT bolometers: 10 minutes of CPU for 20 s of TOD.
PUBLISHED_MONTE_CARLO = 30.0


def seconds(call, repeats: int = 1) -> float:
    """Median wall-clock time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def machine() -> list[tuple]:
    """Matrix product and memory copy, float32: what the machine gives right now."""
    a = np.random.default_rng(0).standard_normal((2048, 2048), dtype=np.float32)
    a @ a
    gflops = 2 * 2048**3 / seconds(lambda: a @ a, 9) / 1e9
    big = np.ones(2**27, dtype=np.float32)
    copy = 2 * big.nbytes / seconds(big.copy, 5) / 1e9
    return [
        ("machine: sgemm 2048", gflops, "GFLOP/s", None, None),
        ("machine: memory copy", copy, "GB/s", None, None),
    ]


def monte_carlo(settings: params.Params, environment: str) -> list[tuple]:
    """Cost of one second of TOD for the mission's detectors, by stage, over the TOD's length."""
    mission, profile = settings.missions[MISSION], settings.profiles[PROFILE]
    detectors = instrument.detectors(mission)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        library = transport.build_library(
            MISSION,
            mission.geometry,
            detectors,
            "test",
            profile.deposits,
            settings.environments,
            settings.seed + 1,
            Path(folder),
        )
        transport_s = time.perf_counter() - start
    rate_hz = spectra.event_rates_hz(library, settings.environments[environment]).sum()
    n_events = library.sizes["event"]
    duration_s = 1800.0

    def simulate():
        montecarlo.simulate(
            library,
            mission,
            settings.environments[environment],
            mission_name=MISSION,
            environment_name=environment,
            duration_s=duration_s,
            seed=settings.seed,
            split="test",
            internal_rate_hz=profile.simulate_tod.internal_rate_hz,
            direct_hits=profile.simulate_tod.direct_hits,
            progress=False,
        )

    detector_chain = seconds(simulate) / duration_s
    # Every arrival a new Geant4 event, as many as arrive in a second.
    fresh = transport_s / n_events * rate_hz
    published = ("published: 12 bolometers, 30 x", PUBLISHED_MONTE_CARLO)
    rows = [("Monte Carlo: Geant4", n_events / transport_s, "hit events/s", None, None)]
    for what, value in (
        ("Monte Carlo: Geant4, every arrival a new event", fresh),
        ("Monte Carlo: wafer, TES, noise, readout", detector_chain),
        ("Monte Carlo: sum", fresh + detector_chain),
    ):
        rows.append((what, value, "time / TOD length", published[0], value / published[1]))
    return rows


def network(settings: params.Params, environment: str) -> list[tuple]:
    """Training steps and generation of the reference GAN."""
    train, validation = (
        io.open_tod(paths.tod(PROFILE, MISSION, environment, split))
        for split in ("train", "validation")
    )
    chosen = settings.profiles[PROFILE].train_gan
    steps = 40
    chosen = chosen.model_copy(
        update={"discriminator_pretraining_epochs": 0, "gan_epochs": 4, "steps_per_epoch": steps}
    )
    with tempfile.TemporaryDirectory() as folder:
        training = GanTraining(
            chosen, train, validation, settings.seed, Path(folder) / "gan_reference.keras"
        )
        training.build_gan()
        training.train(1)  # compiles
        per_epoch = seconds(lambda: training.train(1), 3)
    model = generators.get("gan_reference").load(paths.model(PROFILE, MISSION, "gan_reference"))
    n_samples = 1060 * 64
    model.sample(environment, 0, 1060, 1)  # compiles
    sample_s = seconds(lambda: model.sample(environment, 0, n_samples, 1), 3)
    length_s = n_samples / train.attrs["sampling_rate_hz"]
    n_det = train.sizes["detector"]
    batch = chosen.batch_size
    return [
        (f"GAN: training, batch {batch}", steps / per_epoch, "steps/s", None, None),
        (
            f"GAN: generation, {n_det} detectors",
            sample_s / length_s,
            "time / TOD length",
            "requirement 1e-2",
            sample_s / length_s / 1e-2,
        ),
        (
            "GAN: generation, one detector",
            sample_s / length_s / n_det,
            "time / TOD length",
            "requirement in production 1e-4",
            sample_s / length_s / n_det / 1e-4,
        ),
    ]


def main() -> None:
    settings = params.load()
    environment = settings.training_environment
    rows = machine() + monte_carlo(settings, environment) + network(settings, environment)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    target = paths.root() / "reports" / "tables" / "benchmarks.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(target, index=False)
    print(frame.to_string(index=False, float_format=lambda v: f"{v:.4g}"))
    print(target.relative_to(paths.root()))


if __name__ == "__main__":
    main()
