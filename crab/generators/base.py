"""What every generator can do, and where to find them."""

from importlib import import_module
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import xarray as xr

from crab import params

# A new model is one file and one line here: name -> where its class is. Imported when asked for.
REGISTRY = {
    "gan_reference": "crab.generators.gan:GanReference",
}


class Generator(Protocol):
    """A trained model that makes TODs of the detectors it knows.

    Attributes
    ----------
    name : str
        Its key in the registry.
    record : dict
        Facts about it: at least mission, environment, detectors, sampling_rate_hz,
        power_convention.
    detectors : xarray.Dataset
        Its detectors, as `crab.schema.make_cube` takes them.
    windowed : bool
        True if it knows no correlation beyond blocks of ``record["window_samples"]``.
    """

    name: str
    record: dict
    detectors: xr.Dataset
    windowed: bool

    @classmethod
    def load(
        cls,
        path: str | Path,
        mission: str | None = None,
        environment: str | None = None,
        detectors: list[str] | None = None,
    ) -> Self:
        """Read a trained model and refuse one that was trained for something else."""
        ...

    def sample(self, environment: str, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
        """TOD of any part of a mission.

        Parameters
        ----------
        environment : str
            Name of the environment.
        start_sample : int
            Absolute index of the first sample, >= 0.
        n_samples : int
            Number of samples, >= 0.
        seed : int
            Seed of the run.

        Returns
        -------
        ndarray of float32, shape (n_det, n_samples)
            Power in W, bit-identical however a mission is cut into requests.
        """
        ...


def names() -> list[str]:
    """Names of all registered generators."""
    return sorted(REGISTRY)


def get(name: str) -> type[Generator]:
    """Class of a generator; its ``load`` reads a trained model.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    type

    Raises
    ------
    CrabError
        If no generator has this name, with the names that exist.
    """
    module, attribute = params.choose("generator", name, REGISTRY).split(":")
    return getattr(import_module(module), attribute)
