"""The random numbers that a network turns into a background."""

from typing import NamedTuple

import numpy as np

from crab.generators.backend import keras, random_normal, random_uniform


class Latents(NamedTuple):
    """What a network is fed with.

    Attributes
    ----------
    n_gaussian : int
        Standard normal numbers.
    n_exponential : int
        Exponential numbers of mean 1: the logarithm of a power law, for sizes of rare hits.
    extra_samples : int or None
        None: one vector makes a whole window. Else there is a vector for each sample, and the
        network needs this many more samples than it gives.
    """

    n_gaussian: int
    n_exponential: int = 0
    extra_samples: int | None = None

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        return self.n_gaussian + self.n_exponential

    def draw(
        self,
        rng: np.random.Generator,
        *shape: int,
        rng_exponential: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Latents for generation.

        Parameters
        ----------
        rng : numpy.random.Generator
        *shape : int
            Windows, or samples.
        rng_exponential : numpy.random.Generator, optional
            A stream of their own for the exponential numbers: the first samples of a block then
            are the same however many are drawn.

        Returns
        -------
        ndarray of float32, shape (\\*shape, size)
        """
        gaussian = rng.standard_normal((*shape, self.n_gaussian), dtype=np.float32)
        if not self.n_exponential:
            return gaussian
        exponential = (rng_exponential or rng).standard_exponential(
            (*shape, self.n_exponential), dtype=np.float32
        )
        return np.concatenate([gaussian, exponential], axis=-1)

    def draw_inside(self, key, n_windows: int, window_samples: int):
        """Latents of one compiled training step.

        Parameters
        ----------
        key : tensor of int32, shape (2,)
        n_windows, window_samples : int

        Returns
        -------
        tensor of float32, shape (n_windows, size) or (n_windows, window_samples + extra, size)
        """
        shape = (n_windows,)
        if self.extra_samples is not None:
            shape = (n_windows, window_samples + self.extra_samples)
        gaussian = random_normal((*shape, self.n_gaussian), key)
        if not self.n_exponential:
            return gaussian
        uniform = random_uniform((*shape, self.n_exponential), key + np.int32([0, 1 << 20]))
        exponential = -keras.ops.log1p(-uniform)
        return keras.ops.concatenate([gaussian, exponential], axis=-1)
