"""The streaming GAN as a generator: any environment, any part of a mission, without seams."""

from pathlib import Path
from typing import Self

import numpy as np
import xarray as xr

from crab import params, seeds
from crab.errors import CrabError
from crab.generators import files, gan, shot_noise, stream_network
from crab.generators.latents import Latents
from crab.generators.requests import check_request, from_blocks
from crab.params import Environment
from crab.physics.conditions import conditions, fluxes_cm2, mean_flux_cm2

# Loading a network needs the layers of its own that these modules register.
_LAYERS = (gan.BatchDeviation, shot_noise.Size, stream_network.Response)


class StreamingGan:
    """A trained streaming GAN that meets `crab.generators.base.Generator`.

    Attributes
    ----------
    name, record, detectors, windowed
        As in the protocol; ``record["environments"]`` are those that it was trained in.
    model : keras.Model
    normalisation : crab.generators.normalise.Normalisation
    """

    # Samples of a block: a compromise between short requests and speed.
    block_samples = 8192
    windowed = False

    def __init__(self, model, record: dict, normalisation):
        self.model, self.record, self.normalisation = model, record, normalisation
        self.name = record["generator"]
        self.detectors = xr.Dataset.from_dict(record["detector_table"])
        self.latents = Latents(**record["latents"])
        self.environments: dict[str, Environment] | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        mission: str | None = None,
        environment: str | None = None,
        detectors: list[str] | None = None,
    ) -> Self:
        """Read a trained model.

        Parameters
        ----------
        path : path-like
            ``<model>.keras``; its ``.json`` is beside it.
        mission, detectors : optional
            Checked against what the model was trained for.
        environment : str, optional
            Any of params.yaml.

        Raises
        ------
        CrabError
            If a file is missing, truncated or incomplete, was trained for something else, or the
            environment is not known.
        """
        model, record, normalisation = files.read_model(path)
        files.check_record(record, path, mission, None, detectors)
        generator = cls(model, record, normalisation)
        if environment is not None:
            generator._environment(environment)
        return generator

    def sample(self, environment: str, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
        """TOD of any part of a mission.

        Parameters
        ----------
        environment : str
            Any of params.yaml. Its conditions are followed from block to block.
        start_sample : int
            Absolute index of the first sample, >= 0.
        n_samples : int
            Number of samples, >= 0.
        seed : int
            Seed of the run.

        Returns
        -------
        ndarray of float32, shape (n_det, n_samples)
            Power in W.

        Raises
        ------
        CrabError
            For an unknown environment or a negative start or length.
        """
        sky = self._environment(environment)
        check_request(self.name, {"environment": environment}, environment, start_sample, n_samples)

        drift = np.array(self.record["drift_w_per_flux"])

        def block(index: int) -> np.ndarray:
            middle_s = (index + 0.5) * self.block_samples / self.record["sampling_rate_hz"]
            told = conditions(sky, [middle_s]) - self.record["condition_centre"]
            z = self._latents(environment, index, seed)
            output = self.model.predict_on_batch([z[None], told.astype(np.float32)])
            tod_w = self.normalisation.inverse(np.asarray(output)[0].T)
            tod_w -= self._level_w(told[0, 0])[:, None]
            # The mean that is taken off belongs to the whole span, not to this time.
            excess = fluxes_cm2(sky, [middle_s])[0][0] - mean_flux_cm2(sky)
            return tod_w + (drift * excess).astype(np.float32)[:, None]

        n_detectors = len(self.record["detectors"])
        return from_blocks(block, self.block_samples, n_detectors, start_sample, n_samples)

    def _level_w(self, condition: float) -> np.ndarray:
        """Mean that a steady background of this condition would have, shape (n_det,)."""
        table, scale = self.record["levels"], self.normalisation
        mean = [
            np.interp(condition, table["condition"], m) for m in zip(*table["mean"], strict=True)
        ]
        return (scale.sign * scale.scale_w * mean).astype(np.float32)

    def _latents(self, environment: str, block: int, seed: int) -> np.ndarray:
        """Those of a block; at its end they are those of the next one's start."""
        lengths = (self.block_samples, self.latents.extra_samples)

        def rng(stream: str, block: int) -> np.random.Generator:
            labels = (self.record["mission"], environment, self.name, stream)
            return seeds.rng(seed, *labels, block=block)

        parts = [
            self.latents.draw(rng("latent", b), n, rng_exponential=rng("exponential", b))
            for b, n in zip((block, block + 1), lengths, strict=True)
        ]
        return np.concatenate(parts)

    def _environment(self, name: str) -> Environment:
        if self.environments is None:
            self.environments = params.load().environments
        sky = params.choose("environment", name, self.environments)
        if sky.solar_events and not self.record["solar_events"]:
            raise CrabError(
                f"environment = {name!r}: it has a solar event, and this {self.name} was trained "
                "without any: allowed are quiet environments"
            )
        return sky
