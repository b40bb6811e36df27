"""Training steps and generation of the reference GAN. Needs the files of `make repro`."""

import tempfile
from pathlib import Path

from benchmarks.machine import seconds
from crab import generators, io, params, paths
from crab.generators.training import GanTraining

PROFILE, MISSION = "smoke", "litebird_lft"


def rows(settings: params.Params) -> list[tuple]:
    """Steps per second, and generation over the length of the TOD."""
    environment = settings.training_environment
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
