"""Trained networks as generators: any part of a mission, the same however it is asked for.

Two kinds share the work. A *windowed* network turns one vector of latents into a window of fixed
length, for each detector alone or for all together; windows know nothing of each other. A
*streaming* network takes latents for every sample and has no seams. Both are computed in fixed
absolute blocks, so floats do not depend on what was asked for, and draw their latents from streams
addressed by mission, environment and absolute block.
"""

from pathlib import Path
from typing import Self

import numpy as np
import xarray as xr

from crab import seeds
from crab.generators import files, gan, shot_noise, vae
from crab.generators.latents import Latents
from crab.generators.requests import check_request, from_blocks

# Loading a network needs the layers of its own that this module registers.
_LAYERS = (gan.BatchDeviation, shot_noise.Size)


class Network:
    """A trained network that meets `crab.generators.base.Generator`.

    Attributes
    ----------
    name, record, detectors, windowed
        As in the protocol.
    model : keras.Model
    normalisation : crab.generators.normalise.Normalisation
    """

    # Windows and detectors that are computed together, and samples in a block of a streaming
    # network: a compromise between short requests and speed.
    group_windows = 16
    group_detectors = 16
    block_samples = 8192

    def __init__(self, model, record: dict, normalisation):
        self.model, self.record, self.normalisation = model, record, normalisation
        self.name = record["generator"]
        self.detectors = xr.Dataset.from_dict(record["detector_table"])
        self.latents = Latents(**record["latents"])
        self.windowed = self.latents.extra_samples is None
        self._alone = self.windowed and model.output_shape[-1] == 1 < len(record["detectors"])

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
        mission, environment, detectors : optional
            Checked against what the model was trained for.

        Raises
        ------
        CrabError
            If a file is missing, truncated or incomplete, or was trained for something else.
        """
        model, record, normalisation = files.read_model(path)
        files.check_record(record, path, mission, environment, detectors)
        return cls(model, record, normalisation)

    def sample(self, environment: str, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
        """TOD of any part of a mission.

        Parameters
        ----------
        environment : str
            Must be the one that the model was trained for.
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
            For another environment or a negative start or length.
        """
        check_request(self.name, self.record, environment, start_sample, n_samples)
        length, make = self.block_samples, self._block
        if self.windowed:
            length, make = self.group_windows * self.record["window_samples"], self._windows

        def block(index: int) -> np.ndarray:
            return self.normalisation.inverse(make(index, seed))

        n_detectors = len(self.record["detectors"])
        return from_blocks(block, length, n_detectors, start_sample, n_samples)

    def _windows(self, group: int, seed: int) -> np.ndarray:
        """All detectors of one group of windows."""
        first, n_det = group * self.group_windows, len(self.record["detectors"])
        blocks = range(first, first + self.group_windows)
        if not self._alone:
            z = [self.latents.draw(self._rng(seed, "latent", b)) for b in blocks]
            windows = np.asarray(self.model.predict_on_batch(np.stack(z)))
            return windows.reshape(-1, n_det).T
        rows = []
        for begin in range(0, n_det, self.group_detectors):
            z = [
                self.latents.draw(self._rng(seed, f"latent {name}", b))
                for name in self.record["detectors"][begin : begin + self.group_detectors]
                for b in blocks
            ]
            windows = np.asarray(self.model.predict_on_batch(np.stack(z)))
            rows.append(windows.reshape(-1, self.group_windows * windows.shape[1]))
        return np.concatenate(rows)

    def _block(self, block: int, seed: int) -> np.ndarray:
        """All detectors of one block; the latents at its end are those of the next one's start."""
        lengths = (self.block_samples, self.latents.extra_samples)
        parts = [
            self.latents.draw(
                self._rng(seed, "latent", b),
                n,
                rng_exponential=self._rng(seed, "exponential", b),
            )
            for b, n in zip((block, block + 1), lengths, strict=True)
        ]
        output = np.asarray(self.model.predict_on_batch(np.concatenate(parts)[None]))
        if self.record["output"] != "value":
            rng = self._rng(seed, "likelihood", block)
            output = vae.draw(output, self.record, self.normalisation, rng)
        return output[0].T

    def _rng(self, seed: int, stream: str, block: int) -> np.random.Generator:
        labels = (self.record["mission"], self.record["environment"], self.name, stream)
        return seeds.rng(seed, *labels, block=block)
