"""Windows of a cube for training: random crops by absolute step, and a fixed held-out set."""

import numpy as np

from crab.errors import CrabError
from crab.generators.backend import keras


def crop(data, start, channel, window_samples: int):
    """Windows of a cube, inside a compiled step.

    Parameters
    ----------
    data : tensor of float32, shape (n_samples, n_det)
        Normalised training cube.
    start : tensor of int32, shape (n,)
        First sample of each window.
    channel : tensor of int32, shape (n,), or None
        Detector of each window; None for all detectors together.
    window_samples : int

    Returns
    -------
    tensor of float32, shape (n, window_samples, 1 or n_det)
    """
    ops = keras.ops
    index = ops.expand_dims(start, 1) + ops.arange(window_samples, dtype="int32")
    if channel is None:
        return ops.take(data, index, axis=0)
    flat = index * data.shape[1] + ops.expand_dims(channel, 1)
    return ops.expand_dims(ops.take(ops.reshape(data, (-1,)), flat), -1)


def spread(values: np.ndarray, window_samples: int, n_max: int, alone: bool) -> np.ndarray:
    """Windows of a cube that do not overlap, taken evenly from it.

    Parameters
    ----------
    values : ndarray of float32, shape (n_det, n_samples)
        Normalised with the training cube's normalisation.
    window_samples : int
    n_max : int
        At most this many.
    alone : bool
        Windows of one detector each, taken evenly from all; else of all detectors together.

    Returns
    -------
    ndarray of float32, shape (n, window_samples, 1 or n_det)

    Raises
    ------
    CrabError
        If the cube is shorter than one window.
    """
    n_det, n_samples = values.shape
    n_windows = n_samples // window_samples
    if n_windows == 0:
        raise CrabError(f"cube has {n_samples} samples: needs at least {window_samples}")
    windows = values[:, : n_windows * window_samples].reshape(n_det, n_windows, window_samples)
    if alone:
        windows = windows.reshape(-1, window_samples)[..., None]
    else:
        windows = np.moveaxis(windows, 0, -1)
    chosen = np.linspace(0, len(windows) - 1, min(n_max, len(windows))).round().astype(int)
    return np.ascontiguousarray(windows[chosen])
