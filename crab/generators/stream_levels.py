"""Mean of what a streaming generator makes, by condition: a steady background has none.

A TOD is the power about its mean, so in a steady environment its mean is zero, whatever the
conditions. Training enforces that where it has cubes; between them rates grow exponentially with
the conditions while a learned offset is linear. What is left is measured here, with the same
random numbers for all conditions, and taken off.
"""

from collections.abc import Sequence

import numpy as np

from crab import seeds
from crab.generators.backend import keras
from crab.generators.latents import Latents

_N_CONDITIONS = 17
_BEYOND = 0.6  # of the logarithm of the flux, below and above what was learned
_N_BLOCKS = 32
_BLOCK_SAMPLES = 4096


def levels(
    model: keras.Model,
    latents: Latents,
    stretch_sigma: float,
    learned: Sequence[float],
    seed: int,
    *labels: str,
) -> dict[str, list]:
    """How far the mean leaves the straight line through those of the learned conditions.

    Parameters
    ----------
    model : keras.Model
        Generator; see `crab.generators.stream_network.generator`.
    latents : Latents
    stretch_sigma : float
    learned : sequence of float
        First condition of each training environment, about its centre.
    seed : int
    *labels : str
        Of the random stream.

    Returns
    -------
    dict
        ``condition``, length n, and ``mean``, shape (n, n_det), in core widths; zero throughout if
        only one condition was learned.
    """
    condition = np.linspace(min(learned) - _BEYOND, max(learned) + _BEYOND, _N_CONDITIONS)
    condition = np.unique(np.append(condition, learned))
    total = 0.0
    for block in range(_N_BLOCKS):
        rng = seeds.rng(seed, *labels, "levels", block=block)
        z = latents.draw(rng, _BLOCK_SAMPLES + latents.extra_samples)
        found = []
        for value in condition:
            told = np.array([[value, 0.0]], dtype=np.float32)
            x = np.asarray(model.predict_on_batch([z[None], told]), dtype=np.float64)
            found.append(stretch_sigma * np.sinh(x[0] / stretch_sigma).mean(axis=0))
        total = total + np.array(found) / _N_BLOCKS
    ends = [int(np.searchsorted(condition, f(learned))) for f in (min, max)]
    if ends[0] == ends[1]:
        return {"condition": condition.tolist(), "mean": np.zeros_like(total).tolist()}
    (x0, x1), (y0, y1) = condition[ends], total[ends]
    line = y0 + (y1 - y0) * ((condition - x0) / (x1 - x0))[:, None]
    return {"condition": condition.tolist(), "mean": (total - line).tolist()}
