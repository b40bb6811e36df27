"""Shared by all tests: quiet TensorFlow, no widgets, and a small valid cube."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")

import numpy as np
import pytest
import xarray as xr

from crab import schema


def make_detectors(n: int = 3) -> xr.Dataset:
    """Detector table of `n` detectors, two a pixel."""
    index = np.arange(n)
    return xr.Dataset(
        coords={
            "detector": [f"det_{i:02d}" for i in index],
            "wafer": ("detector", ["L01"] * n),
            "pixel": ("detector", index // 2),
            "channel": ("detector", ["L4-140"] * n),
            "x_mm": ("detector", 3.0 * index),
            "y_mm": ("detector", np.zeros(n)),
            "pol_angle_rad": ("detector", np.zeros(n)),
            "net_ukrts": ("detector", np.full(n, 38.4)),
        }
    )


def make_attrs(**changes) -> dict:
    """Attributes that a cube needs besides those that `schema.make_cube` fills in."""
    return {
        "mission": "litebird_lft",
        "environment": "litebird_2032",
        "phi_mv": 600.0,
        "lis": "helmod_2017",
        "seed": 1,
        "split": "test",
        "power_convention": "joule",
        "physics_list": "none: white noise of a test",
        "params_hash": "0" * 12,
        **changes,
    }


@pytest.fixture
def cube() -> xr.Dataset:
    """White noise of 1 fW in 3 detectors, 500 samples at 19.1 Hz."""
    noise = np.random.default_rng(5).standard_normal((3, 500)) * 1e-15
    return schema.make_cube({"tod": noise}, make_detectors(), 19.1, make_attrs())
