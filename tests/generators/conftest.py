"""Small cubes of filtered shot noise, in W, for all tests of generators."""

import numpy as np
import pytest
import xarray as xr
from scipy.signal import lfilter

from crab import params, schema

SAMPLING_RATE_HZ = 19.1
SEED = 20320401


def shot_noise_cube(split: str, n_det: int = 3, n_samples: int = 4000, seed: int = 1) -> xr.Dataset:
    """Poisson hits through an exponential of 0.2 s (negative Joule power) and white noise."""
    rng = np.random.default_rng(seed)
    decay = np.exp(-1 / (0.2 * SAMPLING_RATE_HZ))
    hits = rng.poisson(10.0, (n_det, n_samples)) + 300.0 * (rng.random((n_det, n_samples)) < 1e-3)
    scale_w = 1e-17 * (1 + np.arange(n_det))[:, None]
    tod = -scale_w * (lfilter([1.0], [1.0, -decay], hits) - 10 / (1 - decay))
    tod += rng.normal(0, 3e-17, tod.shape)
    names = [f"det_{i}" for i in range(n_det)]
    values = {
        "wafer": ["L01"] * n_det,
        "pixel": np.arange(n_det),
        "channel": ["L1-100"] * n_det,
        "x_mm": np.arange(n_det, dtype=float),
        "y_mm": np.zeros(n_det),
        "pol_angle_rad": np.zeros(n_det),
        "net_ukrts": np.full(n_det, 50.0),
    }
    coords = {"detector": names, **{k: ("detector", v) for k, v in values.items()}}
    attrs = {
        "mission": "litebird_lft",
        "environment": "litebird_2032",
        "phi_mv": 619.0,
        "lis": "helmod_2017",
        "seed": seed,
        "split": split,
        "power_convention": "joule",
        "physics_list": "shot noise",
        "params_hash": "000000000000",
    }
    return schema.make_cube({"tod": tod}, xr.Dataset(coords=coords), SAMPLING_RATE_HZ, attrs)


@pytest.fixture(scope="session")
def train_cube() -> xr.Dataset:
    return shot_noise_cube("train", seed=1)


@pytest.fixture(scope="session")
def validation_cube() -> xr.Dataset:
    return shot_noise_cube("validation", seed=2)


@pytest.fixture(scope="session")
def settings() -> params.TrainGanNotebook:
    """The smoke profile's settings, cut down to seconds."""
    smoke = params.load().profiles["smoke"].train_gan["gan_reference"]
    return smoke.model_copy(
        update={
            "batch_size": 4,
            "steps_per_epoch": 2,
            "discriminator_pretraining_epochs": 1,
            "gan_epochs": 2,
            "discriminator_updates": 2,
            "extra_discriminator_steps": 1,
        }
    )


@pytest.fixture(scope="session")
def trained(train_cube, validation_cube, settings, tmp_path_factory):
    """Path of a model trained without interruption."""
    from crab.generators.training import Training

    path = tmp_path_factory.mktemp("model") / "gan_reference.keras"
    training = Training(settings, train_cube, validation_cube, SEED, path)
    training.run()
    return training.save()
