"""Deposits in a wafer that are too small and too many to be made one by one, as one process.

Campbell's theorem (Rice 1944, Bell Syst. Tech. J. 23, 282): a sum of independent events at rate r
with amplitudes A has the cumulants r <A>, r <A A'>, r <A A' A''>. The numbers drawn here have the
first two of all detectors, and the third along each principal direction, on the fine grid of twice
the output's rate, where they are white as the events are.
"""

from collections.abc import Callable

import numpy as np

from crab.generators.event_flux import Flux, interpolate
from crab.generators.event_response import WaferResponse
from crab.generators.fine_grid import PHASES, normal_blocks

_KEPT = 0.999  # share of the variance that the principal directions carry
_LARGEST_SKEWNESS = 2.7  # a square of a normal number has 8^(1/2)


class SmallEvents:
    """Small deposits of a wafer in some detectors.

    Parameters
    ----------
    response : WaferResponse
    tables : dict
        ``ln_flux``; ``quiet``, shape (2, n_orders, n_potentials), and ``solar``, shape
        (2, n_orders): rate times powers of the deposit (in eV), below and above the threshold;
        ``pattern``, shape (2, n_orders, cells, cells): share of each place.
    sample_s : float
        Between output samples.
    """

    def __init__(self, response: WaferResponse, tables: dict, sample_s: float):
        self.ln_flux = np.array(tables["ln_flux"])
        self.quiet, self.solar = np.array(tables["quiet"]), np.array(tables["solar"])
        pattern = np.array(tables["pattern"])
        n_cells = pattern.shape[-1]
        side = response.plate.side_mm
        middle = ((np.arange(n_cells) + 0.5) / n_cells - 0.5) * side
        x, y = (v.ravel() for v in np.meshgrid(middle, middle, indexing="ij"))
        flat = pattern.reshape(2, pattern.shape[1], -1)
        # W for 1 eV/s, deposits below and above the threshold.
        self._mean_w = flat[:, 0] @ response.plate.shapes(x, y) @ response.mean_w.T
        amplitude = response.amplitudes(x, y, np.ones(len(x))).astype(float)
        interval_s = sample_s / PHASES
        covariance = interval_s * (amplitude.T * flat[0, 1]) @ amplitude
        size, vectors = np.linalg.eigh(covariance)
        size, vectors = size[::-1], vectors[:, ::-1]
        kept = int(np.argmax(np.cumsum(size) >= _KEPT * size.sum())) + 1
        size, vectors = size[:kept], vectors[:, :kept]
        third = interval_s * flat[0, 2] @ (amplitude @ vectors) ** 3
        # For second and third moments of 1 eV^2/s and 1 eV^3/s.
        self._skewness = third / size**1.5
        self._mix = (np.sqrt(size) * vectors).astype(np.float32)
        # Places of the next block that this one feels.
        self._n_next = response.shapes.shape[1] - PHASES

    def moments(self, quiet_cm2: np.ndarray, solar_cm2: np.ndarray) -> np.ndarray:
        """Rate times powers of the deposit, shape (2, n_orders, n): below and above."""
        return self._quiet(quiet_cm2) + self.solar[:, :, None] * solar_cm2

    def _quiet(self, quiet_cm2) -> np.ndarray:
        table = np.moveaxis(self.quiet, 2, 0)
        return np.moveaxis(interpolate(np.log(quiet_cm2), self.ln_flux, table), 0, 2)

    def mean_w(self, flux: Flux) -> np.ndarray:
        """Mean of all deposits in the wafer over the environment's quiet span, shape (n_det,)."""
        first = self._quiet(flux.span_cm2)[:, 0].mean(axis=1)
        return first @ self._mean_w

    def places(self, moments, rng_of: Callable, length: int, n_places: int) -> np.ndarray:
        """The process on the fine grid.

        Parameters
        ----------
        moments : ndarray, shape (2, n_orders, n_bins)
            Of `moments` for the bins of the block.
        rng_of : callable
            0 or 1, for this block or the next one, to its generator of random numbers.
        length : int
            Samples of a block.
        n_places : int
            ``length * PHASES`` of them belong to the block, the others to the start of the next.

        Returns
        -------
        ndarray of float32, shape (n_components, n_places)
        """
        per_block = length * PHASES
        z = normal_blocks(rng_of, self._mix.shape[1], per_block, self._n_next, n_places)
        second, third = moments[0, 1], moments[0, 2]
        spread = second.mean() ** 1.5
        if spread > 0:
            bend = bent(self._skewness * third.mean() / spread).astype(np.float32)[:, None]
            squared = z * z
            squared -= 1
            squared *= bend
            z *= np.sqrt(1 - 2 * bend**2)
            z += squared
        each = per_block // len(second)
        index = np.minimum(np.arange(n_places) // each, len(second) - 1)
        z *= np.sqrt(second).astype(np.float32)[index]
        return self._mix @ z

    def level_w(self, moments: np.ndarray) -> np.ndarray:
        """Mean of the small deposits in each bin of a block, shape (n_det, n_bins)."""
        return np.outer(self._mean_w[0], moments[0, 0])


def bent(skewness: np.ndarray) -> np.ndarray:
    """Share b of g^2 - 1 in ``(1 - 2 b^2)^(1/2) g + b (g^2 - 1)``, g normal, for a skewness.

    Its skewness is 6 b - 4 b^3, at most 8^(1/2); its variance is 1.
    """
    limited = np.clip(skewness, -_LARGEST_SKEWNESS, _LARGEST_SKEWNESS)
    return np.sqrt(2) * np.sin(np.arcsin(limited / np.sqrt(8)) / 3)
