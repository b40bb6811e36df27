"""A small project of its own: our params.yaml, and a training cube of white noise."""

import shutil
from pathlib import Path

import numpy as np

from crab import io, paths, schema
from tests.conftest import make_attrs, make_detectors

NAMES = {"mission": "litebird_lft", "environment": "litebird_2032"}
GENERATOR = "baseline_gaussian"
BLOCK = 16 * 1024  # samples that it computes together
RATE_HZ = 19.1


def make(folder: Path, scale: float = 1.0) -> Path:
    """Project in which `GENERATOR` can be fitted in a moment."""
    text = (paths.root() / "params.yaml").read_text()
    # Quick: tables of the full equations take seconds.
    text = text.replace("direct_hits: nonlinear", "direct_hits: linear")
    (folder / "params.yaml").write_text(text)
    shutil.copy(paths.root() / "dvc.yaml", folder)
    train(folder, scale)
    return folder


def train(folder: Path, scale: float = 1.0) -> None:
    """Write the training cube."""
    noise = np.random.default_rng(3).standard_normal((3, 4096)) * scale * 1e-16
    cube = schema.make_cube({"tod": noise}, make_detectors(), RATE_HZ, make_attrs(split="train"))
    io.write(cube, folder / "data" / "tod" / "smoke" / "litebird_lft-litebird_2032-train.nc")


def seconds(blocks: float) -> float:
    """Duration of so many blocks."""
    return blocks * BLOCK / RATE_HZ
