"""What every generator can do, and where to find them."""

from importlib import import_module
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import xarray as xr

from crab import params, paths
from crab.io import open_tod

# A new model is one file and one line here: name -> where its class is. Imported when asked for.
REGISTRY = {
    "baseline_gaussian": "crab.generators.baselines:GaussianBaseline",
    "baseline_phase": "crab.generators.baselines:PhaseBaseline",
    "baseline_bootstrap": "crab.generators.baselines:BootstrapBaseline",
    "baseline_events": "crab.generators.resampling:EventBaseline",
    **dict.fromkeys(
        (
            "vae_gaussian",
            "vae_bernoulli_1",
            "vae_bernoulli_2",
            "gan_reference",
            "gan_wasserstein",
            "gan_clipped",
            "gan_multichannel",
            "gan_paired",
        ),
        "crab.generators.network:Network",
    ),
    "stream_gan": "crab.generators.streaming_gan:StreamingGan",
    "stream_events": "crab.generators.marked:MarkedEvents",
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

    # A network has `load`; a baseline has ``fit(train, ...)`` instead, and nothing on disk.
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


def ready(
    name: str, profile: str, mission: str, environment: str, settings: params.Params
) -> Generator:
    """Generator that can be asked for samples: a network read, or a baseline fitted.

    Parameters
    ----------
    name : str
        One of `names`.
    profile, mission, environment : str
        Whose model or training cube.
    settings : crab.params.Params
        A baseline of events needs the mission and the environment.

    Returns
    -------
    Generator

    Raises
    ------
    CrabError
        If a file is missing or does not fit.
    """
    kind = get(name)
    if hasattr(kind, "load"):
        return kind.load(paths.model(profile, mission, name), mission, environment)
    train = open_tod(paths.tod(profile, mission, environment, "train"))
    if not kind.needs_library:
        return kind.fit(train)
    return kind.fit(
        train,
        paths.deposits(profile, mission, "train"),
        params.choose("mission", mission, settings.missions),
        params.choose("environment", environment, settings.environments),
    )
