"""What a discriminator looks at: its score, shared out over the samples of a window.

Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365): with a baseline b and the
gradient of the score D averaged over the straight way from b to the window x,

    g = integral_0^1 dD/dx (b + alpha (x - b)) d alpha,        a = (x - b) g,

the attributions a of all samples add up to D(x) - D(b) (completeness). By Parseval's theorem so
do their parts by frequency, Re(X* G) / n.
"""

import numpy as np

from crab.generators.backend import keras, value_and_grad
from crab.generators.gan import BatchDeviation

_N_STEPS = 48
_WINDOWS = 4  # at a time, each at all nodes


def saliency(discriminator, windows: np.ndarray, baseline=0.0, n_steps: int = _N_STEPS):
    """Attribution of every sample: positive where it speaks for a measured window.

    Parameters
    ----------
    discriminator : keras.Model
        (n, window_samples, n_channels) -> (n, 1). Each window on its own: see `each_alone`.
    windows : ndarray of float32, shape (n, window_samples, n_channels)
        Network units.
    baseline : float or ndarray
        Where the way begins. Zero is every detector at its median.
    n_steps : int
        Nodes (Gauss-Legendre) of the integral. Scores of piecewise-linear networks have kinks on
        the way; completeness says whether the nodes are enough.

    Returns
    -------
    ndarray of float64, shape of `windows`
        Sums over a window to its score minus the baseline's.
    """
    gradient = mean_gradient(discriminator, windows, baseline, n_steps)
    return (np.asarray(windows, dtype=np.float64) - baseline) * gradient


def mean_gradient(discriminator, windows: np.ndarray, baseline=0.0, n_steps: int = _N_STEPS):
    """Gradient of the score, averaged over the way from the baseline; see `saliency`.

    Returns
    -------
    ndarray of float64, shape of `windows`
    """
    node, weight = np.polynomial.legendre.leggauss(n_steps)
    # In sqrt(alpha): with a layer normalisation scores are steep near a constant baseline.
    root = (node + 1) / 2
    alpha, weight = root**2, weight * root

    def total(x):
        return keras.ops.sum(discriminator(x, training=False)), 0.0

    windows = np.asarray(windows, dtype=np.float32)
    start = np.broadcast_to(np.float32(baseline), windows.shape)
    found = np.zeros(windows.shape)
    for first in range(0, len(windows), _WINDOWS):
        part = slice(first, first + _WINDOWS)
        step = windows[part] - start[part]
        x = start[part] + np.multiply.outer(alpha.astype(np.float32), step)
        batch = keras.ops.convert_to_tensor(x.reshape(-1, *windows.shape[1:]))
        gradient = keras.ops.convert_to_numpy(value_and_grad(total, batch)[1])
        found[part] = np.tensordot(weight, gradient.reshape(x.shape).astype(float), 1)
    return found


def by_frequency(difference: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Attributions by frequency.

    Parameters
    ----------
    difference : ndarray, shape (n, window_samples, n_channels)
        Windows minus baseline.
    gradient : ndarray, same shape
        Of `mean_gradient`.

    Returns
    -------
    ndarray, shape (n, window_samples // 2 + 1, n_channels)
        At the frequencies of `numpy.fft.rfftfreq`. Sums to the same as the attributions.
    """
    n = difference.shape[1]
    product = np.conj(np.fft.rfft(difference, axis=1)) * np.fft.rfft(gradient, axis=1)
    both_sides = np.full(product.shape[1], 2.0)
    both_sides[0] = 1.0
    if n % 2 == 0:
        both_sides[-1] = 1.0
    return product.real * both_sides[:, None] / n


def each_alone(discriminator, batch: np.ndarray):
    """The same discriminator, each window judged on its own.

    A `BatchDeviation` makes a score depend on the other windows of its batch. It is replaced by
    what it says of one batch.

    Parameters
    ----------
    discriminator : keras.Model
    batch : ndarray of float32, shape (n, window_samples, n_channels)

    Returns
    -------
    keras.Model
        Gives the windows of `batch` the scores that they have in it. The discriminator itself if
        it has no such layer.
    """
    if not any(isinstance(layer, BatchDeviation) for layer in discriminator.layers):
        return discriminator

    def copy(layer):
        if not isinstance(layer, BatchDeviation):
            return layer.__class__.from_config(layer.get_config())
        to_here = keras.Model(discriminator.input, layer.output)
        seen = keras.ops.convert_to_numpy(to_here(np.asarray(batch, np.float32), training=False))
        return _Known(seen[:1, :, -1:], name=layer.name)

    model = keras.models.clone_model(discriminator, clone_function=copy)
    model.set_weights(discriminator.get_weights())
    return model


def groups(measured: np.ndarray, generated: np.ndarray, threshold: float, n: int) -> dict:
    """Windows to look at, by what they are and what they are called.

    Parameters
    ----------
    measured, generated : ndarray, shape (n_windows,) or (n_windows, 1)
        Scores of held-out and of generated windows.
    threshold : float
        A score above it calls a window measured.
    n : int
        At most this many of each.

    Returns
    -------
    dict of str to (str, ndarray of int)
        For ``measured``, ``generated``: which of the two arrays, and the windows that are called
        right, nearest to their median score first. For ``measured called generated``, ``generated
        called measured``: likewise, the most wrong first; empty if there is none.
    """
    scores = {"measured": np.ravel(measured), "generated": np.ravel(generated)}
    called = {kind: score > threshold for kind, score in scores.items()}
    found = {}
    for kind, right in (("measured", called["measured"]), ("generated", ~called["generated"])):
        index = np.flatnonzero(right)
        away = np.abs(scores[kind][index] - np.median(scores[kind][index])) if index.size else index
        found[kind] = kind, index[np.argsort(away, kind="stable")][:n]
    for kind, other in (("measured", "generated"), ("generated", "measured")):
        wrong = ~called[kind] if kind == "measured" else called[kind]
        index = np.flatnonzero(wrong)
        order = np.argsort(-np.abs(scores[kind][index] - threshold), kind="stable")
        found[f"{kind} called {other}"] = kind, index[order][:n]
    return found


class _Known(keras.layers.Layer):
    """One more channel with known values."""

    def __init__(self, values: np.ndarray, **kwargs):
        super().__init__(**kwargs)
        self._known = values

    def call(self, x):
        ops = keras.ops
        return ops.concatenate([x, ops.zeros_like(x[:, :, :1]) + self._known], axis=2)

    def compute_output_shape(self, shape):
        return (*shape[:2], shape[2] + 1)
