"""Windows of a cube for training: random crops by absolute step, and a fixed held-out set."""

import numpy as np

from crab import seeds
from crab.errors import CrabError

WINDOW_SAMPLES = 1060


class Crops:
    """Random windows of one detector each, the same for the same step.

    Parameters
    ----------
    values : ndarray of float32, shape (n_det, n_samples)
        Normalised training cube.
    seed : int
        Seed of the run.
    *labels : str
        Stream, see `crab.seeds.rng`.

    Raises
    ------
    CrabError
        If the cube is shorter than one window.
    """

    def __init__(self, values: np.ndarray, seed: int, *labels: str):
        if values.shape[1] < WINDOW_SAMPLES:
            raise CrabError(
                f"training cube has {values.shape[1]} samples: needs at least {WINDOW_SAMPLES}"
            )
        self._windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW_SAMPLES, axis=1)
        self._seed = seed
        self._labels = labels

    def batch(self, step: int, size: int) -> np.ndarray:
        """Windows of one training step.

        Parameters
        ----------
        step : int
            Absolute step.
        size : int
            Number of windows.

        Returns
        -------
        ndarray of float32, shape (size, WINDOW_SAMPLES, 1)
        """
        rng = seeds.rng(self._seed, *self._labels, block=step)
        n_det, n_starts, _ = self._windows.shape
        detector = rng.integers(n_det, size=size)
        start = rng.integers(n_starts, size=size)
        return np.ascontiguousarray(self._windows[detector, start])[..., None]


def held_out(values: np.ndarray, n_max: int) -> np.ndarray:
    """Windows of a validation cube that do not overlap, taken evenly from all detectors.

    Parameters
    ----------
    values : ndarray of float32, shape (n_det, n_samples)
        Normalised with the training cube's normalisation.
    n_max : int
        At most this many.

    Returns
    -------
    ndarray of float32, shape (n, WINDOW_SAMPLES, 1)

    Raises
    ------
    CrabError
        If the cube is shorter than one window.
    """
    n_samples = values.shape[1]
    n_windows = n_samples // WINDOW_SAMPLES
    if n_windows == 0:
        raise CrabError(f"validation cube has {n_samples} samples: needs at least {WINDOW_SAMPLES}")
    windows = values[:, : n_windows * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)
    chosen = np.linspace(0, len(windows) - 1, min(n_max, len(windows))).round().astype(int)
    return windows[chosen][..., None]
