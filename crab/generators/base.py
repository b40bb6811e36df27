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
    "monte_carlo": "crab.generators.monte_carlo:MonteCarlo",
}
# What models are judged by, and so none of them.
_NO_MODELS = ("monte_carlo",)


class Generator(Protocol):
    """What makes TODs of the detectors it knows: a trained model, or the Monte Carlo.

    Some have more: ``background``, which is `sample` without the noise of the detectors;
    ``block_samples``, computed together; ``with_detectors``, the same on other detectors.

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

    # A network has `load`; a baseline has ``fit(train, ...)`` instead, and nothing on disk; the
    # Monte Carlo has ``ready(profile, mission, environment, settings)``.
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
    """Names of all registered models, in alphabetical order; the Monte Carlo is none."""
    return sorted(set(REGISTRY) - set(_NO_MODELS))


def get(name: str) -> type[Generator]:
    """Class of a generator; its ``load`` reads a trained model.

    Parameters
    ----------
    name : str
        One of `names`, or ``"monte_carlo"``.

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
    name: str,
    profile: str,
    mission: str,
    environment: str,
    settings: params.Params | None = None,
) -> Generator:
    """Generator that can be asked for samples: read, or fitted if it is a baseline.

    Parameters
    ----------
    name : str
        One of `names`, or ``"monte_carlo"``.
    profile, mission, environment : str
        Whose model, training cube or deposit library.
    settings : crab.params.Params, optional
        Default: params.yaml.

    Returns
    -------
    Generator

    Raises
    ------
    CrabError
        If a file is missing or does not fit.
    """
    kind = get(name)
    settings = settings or params.load()
    if hasattr(kind, "ready"):
        return kind.ready(profile, mission, environment, settings)
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
