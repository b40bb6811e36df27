"""The networks of the classifier two-sample test; they share nothing with any generator.

Both see all detectors of a window together, so that they can find wrong correlations:

* "resnet": one-dimensional convolutions with residual connections on the samples, whose
  amplitudes are compressed with asinh (linear within a core width, logarithmic beyond);
* "stft": two-dimensional convolutions on the logarithm of the short-time Fourier power.

Initial weights and the order of the windows come from seeds; one run gives the bytes of another.
"""

import functools
import os

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import signal

from crab import seeds

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras

_FILTERS = 16
_FRAME_SAMPLES = 64
_HOP_SAMPLES = 32
# Power below this, in core widths squared per bin, counts as none: far below detector noise.
_POWER_FLOOR = 1e-6
_LEARNING_RATE = 3e-3
# Samples of one detector in a batch and in a prediction: few calls, little memory.
_BATCH_SAMPLES = 16_384
_PREDICT_SAMPLES = 2**18
_PATIENCE = 4


def inputs(network: str, windows: np.ndarray) -> np.ndarray:
    """What a network is fed with.

    Parameters
    ----------
    network : {"resnet", "stft"}
    windows : ndarray, shape (n_detector, n_windows, window_samples)
        Standardised samples.

    Returns
    -------
    ndarray of float32
        Shape (n_windows, window_samples, n_detector) for "resnet", (n_windows, n_frames, 33,
        n_detector) for "stft".
    """
    if network == "resnet":
        return np.moveaxis(np.arcsinh(windows), 0, -1).astype(np.float32)
    # Windows that are shorter than a frame are one frame.
    size = min(_FRAME_SAMPLES, windows.shape[2])
    frames = sliding_window_view(windows, size, axis=2)[:, :, ::_HOP_SAMPLES]
    power = np.abs(np.fft.rfft(frames * signal.get_window("hann", size), _FRAME_SAMPLES)) ** 2
    return np.moveaxis(np.log(power + _POWER_FLOOR), 0, -1).astype(np.float32)


def decisions(
    network: str,
    x: np.ndarray,
    labels: np.ndarray,
    learn: np.ndarray,
    stop: np.ndarray,
    judge: np.ndarray,
    seed: int,
    epochs: int,
) -> np.ndarray:
    """Train a network on some windows and let it judge others.

    Parameters
    ----------
    network : {"resnet", "stft"}
    x : ndarray
        All windows as `inputs` gives them.
    labels : ndarray, shape (n_windows,)
        1 for generated, 0 for simulated.
    learn, stop, judge : ndarray of bool, shape (n_windows,)
        Windows that are learnt; on which the loss picks the best epoch and ends the training; that
        are judged.
    seed : int
        Of initial weights and shuffles.
    epochs : int
        At most so many times through the windows that are learnt.

    Returns
    -------
    ndarray, shape (n_judged,)
        High where the network says "generated".
    """
    model, optimizer_state = _compiled(network, x.shape[-1])
    rng = seeds.rng(seed, "network", network)
    model.set_weights([_initial(w.shape, rng) for w in model.weights])
    for variable, value in zip(model.optimizer.variables, optimizer_state, strict=True):
        variable.assign(value)
    # One scale for all detectors and one for each frequency, from what is learnt only.
    axes = tuple(range(x.ndim - 1)) if network == "resnet" else (0, 1)
    mean, std = x[learn].mean(axis=axes), x[learn].std(axis=axes)
    x = (x - mean) / np.where(std > 0, std, 1)

    indices = np.flatnonzero(learn)
    batch = max(8, _BATCH_SAMPLES // _samples(x))
    n_batches = max(1, round(indices.size / batch))
    best, best_loss, waited = model.get_weights(), np.inf, 0
    for _ in range(epochs):
        for chosen in np.array_split(rng.permutation(indices), n_batches):
            model.train_on_batch(x[chosen], labels[chosen, np.newaxis].astype(np.float32))
        loss = _cross_entropy(_logits(model, x[stop]), labels[stop])
        if loss < best_loss:
            best, best_loss, waited = model.get_weights(), loss, 0
        else:
            waited += 1
        if waited == _PATIENCE:
            break
    model.set_weights(best)
    return _logits(model, x[judge])


@functools.cache
def _compiled(network: str, n_detector: int) -> tuple[keras.Model, list[np.ndarray]]:
    """Network and the state of its optimiser at the start.

    Kept, since it takes longer to compile than to train on a short cube: any length of window
    goes through the same one.
    """
    model = {"resnet": _resnet, "stft": _stft}[network](n_detector)
    optimizer = keras.optimizers.Adam(_LEARNING_RATE)
    # XLA takes longer to compile these small networks than they run.
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    optimizer.build(model.trainable_variables)
    return model, [keras.ops.convert_to_numpy(v) for v in optimizer.variables]


def _resnet(n_detector: int) -> keras.Model:
    layers = keras.layers
    first = keras.Input((None, n_detector))
    x = layers.Conv1D(_FILTERS, 16, 4, padding="same", activation="relu")(first)
    for _ in range(2):
        y = layers.Conv1D(_FILTERS, 5, padding="same", activation="relu")(x)
        y = layers.Conv1D(_FILTERS, 5, padding="same")(y)
        x = layers.AveragePooling1D(2)(layers.Activation("relu")(layers.Add()([x, y])))
    # Averages for what fills a window, maxima for what is in it once.
    pooled = [layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)]
    return keras.Model(first, layers.Dense(1)(layers.Concatenate()(pooled)))


def _stft(n_detector: int) -> keras.Model:
    layers = keras.layers
    first = keras.Input((None, _FRAME_SAMPLES // 2 + 1, n_detector))
    x = first
    for filters, strides in ((_FILTERS, (1, 2)), (2 * _FILTERS, 2)):
        x = layers.Conv2D(filters, 3, strides, padding="same", activation="relu")(x)
    # Over time only: a feature is one of its frequency.
    x = layers.Reshape((-1, x.shape[2] * x.shape[3]))(x)
    pooled = [layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)]
    return keras.Model(first, layers.Dense(1)(layers.Concatenate()(pooled)))


def _initial(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Kernels after He et al. 2015 (arXiv:1502.01852), biases zero."""
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[:-1])))


def _samples(x: np.ndarray) -> int:
    """Samples in a window, for one detector."""
    return int(np.prod(x.shape[1:-1]))


def _logits(model: keras.Model, x: np.ndarray) -> np.ndarray:
    step = max(1, _PREDICT_SAMPLES // _samples(x))
    parts = [model.predict_on_batch(x[i : i + step]) for i in range(0, len(x), step)]
    return np.concatenate(parts)[:, 0].astype(np.float64)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))
