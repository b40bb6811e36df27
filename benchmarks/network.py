"""Training steps and generation of the networks. Needs the files of `make repro`.

The same code runs on TensorFlow or, with ``KERAS_BACKEND=jax``, on JAX and a GPU: rows say which.
"""

import tempfile
from pathlib import Path

from benchmarks.machine import seconds
from crab import io, params, paths
from crab.generators import base
from crab.generators.backend import NAME, has_accelerator
from crab.generators.training import Training

PROFILE, MISSION = "smoke", "litebird_lft"
_STEPS = 20
_SEEN_STEPS_PER_S = 11.0  # two cores, batch 64, TensorFlow


def rows(settings: params.Params) -> list[tuple]:
    """Steps per second of training, and generation over the length of the TOD."""
    environment = settings.training_environment
    train, validation = (
        io.open_tod(paths.tod(PROFILE, MISSION, environment, split))
        for split in ("train", "validation")
    )
    profile = settings.profiles[PROFILE]
    found = []
    device = f"{NAME}, {'accelerator' if has_accelerator() else 'CPU'}"
    for model, batch, stage in (
        ("gan_reference", 16, "gan"),
        ("gan_reference", 64, "gan"),
        ("gan_paired", 16, "generator_pretraining"),
        ("gan_paired", 16, "gan"),
        ("vae_gaussian", 16, "vae"),
    ):
        section = {**profile.train_gan, **profile.train_vae}[model]
        section = section.model_copy(update={"batch_size": batch})
        with tempfile.TemporaryDirectory() as folder:
            training = Training(
                section, train, validation, settings.seed, Path(folder) / f"{model}.keras"
            )
            recipe, arguments = training.recipe, training._inputs(stage, _STEPS)
            recipe.run(stage, *arguments)  # compiles
            per_step = seconds(lambda r=recipe, s=stage, a=arguments: r.run(s, *a), 3) / _STEPS
        seen = ("seen before", 1 / per_step / _SEEN_STEPS_PER_S) if batch == 64 else (None, None)
        what = f"{model}: {stage}, batch {batch}, {device}"
        found.append((what, 1 / per_step, "steps/s", *seen))
    for model in ("baseline_gaussian", "gan_reference", "gan_paired", "vae_gaussian"):
        generator = base.ready(model, PROFILE, MISSION, environment, settings)
        n_samples = 8192 * 8
        generator.sample(environment, 0, n_samples, 1)  # compiles
        spent = seconds(lambda g=generator, n=n_samples: g.sample(environment, 0, n, 1), 3)
        ratio = spent / (n_samples / train.attrs["sampling_rate_hz"])
        n_det = train.sizes["detector"]
        for what, value, goal, limit in (
            (f"{n_det} detectors", ratio, "requirement 1e-2", 1e-2),
            ("one detector", ratio / n_det, "requirement in production 1e-4", 1e-4),
        ):
            label = f"{model}: generation, {what}, {device}"
            found.append((label, value, "time / TOD length", goal, value / limit))
    return found
