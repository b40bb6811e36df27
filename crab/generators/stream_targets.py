"""What a streaming generator's batch shall look like: the targets of one environment.

Beside those of `crab.generators.pretraining`, which weigh the far tails as much as the bulk, the
bulk of every quantile curve evenly, and three more series: differences between two detectors, near
and far, and the detectors of each sample in order of size. The last is how many detectors a hit is
seen in.
"""

import numpy as np

from crab.generators.backend import keras
from crab.generators.pretraining import Targets

_N_EVEN = 64
_EVEN_WEIGHT = 4.0


class StreamTargets(Targets):
    """Targets of one environment; parameters as of `crab.generators.pretraining.Targets`."""

    def quantile_loss(self, windows):
        """Mean distance of quantile curves in core widths: far into the tails, and in the bulk."""
        ops = keras.ops
        total = 0.0
        for name, series in self._series(windows).items():
            flat, scale = self._curves[name]
            ours = ops.sort(ops.reshape(series, (-1, flat.shape[1])), axis=0)
            for rank, weight in _ranks(ours.shape[0]):
                place = places(rank, ours.shape[0], len(flat))
                low = np.clip(np.floor(place).astype(int), 0, len(flat) - 2)
                part = np.clip(place - low, 0, 1)[:, None]
                theirs = ((1 - part) * flat[low] + part * flat[low + 1]).astype(np.float32)
                difference = ops.abs(ops.take(ours, rank, axis=0) - theirs)
                total = total + weight * ops.mean(difference / scale.astype(np.float32))
        return total

    def _series(self, windows) -> dict:
        ops, n_det = keras.ops, windows.shape[2]
        far = max(1, n_det // 3)
        return {
            **super()._series(windows),
            "neighbours": windows - ops.roll(windows, 1, axis=2),
            "distant": windows - ops.roll(windows, far, axis=2),
            "ordered": ops.sort(windows, axis=2),
        }


def places(rank: np.ndarray, n: int, n_all: int) -> np.ndarray:
    """Where the medians of order statistics of n values stand among `n_all` sorted ones.

    The least mean distance is that to a median, here by Benard's formula (rank + 0.7)/(n + 0.4).
    At the mean, 0.5 instead of 0.7, the largest of a batch would be pushed too far.
    """
    return (rank + 0.7) / (n + 0.4) * n_all - 0.5


def _ranks(n: int) -> list[tuple[np.ndarray, float]]:
    """Ranks evenly spaced in the logarithm of both tails, and in the bulk; with their weights."""
    tail = np.geomspace(1, n // 2, 80)
    far = np.unique(np.concatenate([tail - 1, n - tail]).round().astype(int))
    even = ((np.arange(_N_EVEN) + 0.5) / _N_EVEN * n).astype(int)
    return [(far, 1.0), (even, _EVEN_WEIGHT)]
