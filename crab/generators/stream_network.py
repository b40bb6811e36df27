"""Networks of the streaming GAN: a convolutional generator that is told the conditions.

Noise enters at every sample. In units of each detector's core width, hits upwards,

    y(t, d) = level(c) * (g * w)(t, d) + bias(c, d) + sum_p h_p * [ common_p + direct_p ](t, d),
    x = s asinh(y / s),

with conditions c (`crab.physics.conditions`) and * a convolution in time. Gaussian numbers g and
their filters w are the continuum. A few hits on the wafer may come in every sample, one more on
each detector. A hit's size is a learned function of an exponential number, which the conditions
shift: that multiplies the rate of hits above every size alike. A hit on the wafer has a pattern
over the detectors, a learned function of two Gaussian numbers.

A hit comes anywhere between two samples, and near the Nyquist frequency the answer depends much on
where: a third Gaussian number says which of the phases p it belongs to. All phases and both kinds
of hits share one response, whose gain is learned by frequency: free values on a fine grid become
rough, and ring. It begins as the sharpest low-pass filter that the sampling allows.
"""

import numpy as np

from crab.generators.backend import keras
from crab.generators.gan import glorot
from crab.generators.latents import Latents
from crab.generators.shot_noise import Size

N_COMMON = 6  # hits on the wafer in one sample, at most
N_PHASES = 8
N_CONDITIONS = 2
_RESPONSE_SAMPLES = 48
_FILTER_SAMPLES = 33
_N_SHARED = 4  # Gaussian numbers of the continuum that detectors share
_ROLL_OFF = 0.1  # cycles per sample
_N_WAVES = 31  # cycles in the response's length: up to 1.25 times the Nyquist frequency
_BLOCK_SAMPLES = 16
_N_HIDDEN = 32


@keras.saving.register_keras_serializable(package="crab")
class Shift(keras.layers.Layer):
    """Adds a learned multiple of the conditions to every channel.

    Parameters
    ----------
    start : float
        Of the first condition, at the start of training.
    """

    def __init__(self, start: float, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, shape):
        n = shape[0][-1]
        first = np.zeros((N_CONDITIONS, n), np.float32)
        first[0] = self.start
        self.slope = self.add_weight(
            name="slope", shape=first.shape, initializer=keras.initializers.Constant(first)
        )

    def call(self, inputs):
        x, condition = inputs
        return x + keras.ops.matmul(condition, self.slope)[:, None, :]

    def get_config(self):
        return {**super().get_config(), "start": self.start}


@keras.saving.register_keras_serializable(package="crab")
class Level(keras.layers.Layer):
    """Multiplies every channel by the exponential of a learned multiple of the conditions."""

    def build(self, shape):
        self.slope = self.add_weight(
            name="slope", shape=(N_CONDITIONS, shape[0][-1]), initializer="zeros"
        )

    def call(self, inputs):
        x, condition = inputs
        return x * keras.ops.exp(keras.ops.matmul(condition, self.slope))[:, None, :]


@keras.saving.register_keras_serializable(package="crab")
class Colour(keras.layers.Layer):
    """Convolution of Gaussian numbers, (n, n_samples + 32, n_in) -> (n, n_samples, n_det).

    It begins as half the core width of each detector's own number, and as much of one that all
    share.
    """

    def __init__(self, n_det: int, **kwargs):
        super().__init__(**kwargs)
        self.n_det = n_det

    def build(self, shape):
        start = _first_filter(shape[-1], self.n_det)
        self.kernel = self.add_weight(
            name="kernel", shape=start.shape, initializer=keras.initializers.Constant(start)
        )
        self.bias = self.add_weight(name="bias", shape=(self.n_det,), initializer="zeros")

    def call(self, gaussian):
        return convolve(gaussian, self.kernel) + self.bias

    def compute_output_shape(self, shape):
        return shape[0], shape[1] and shape[1] - _FILTER_SAMPLES + 1, self.n_det

    def get_config(self):
        return {**super().get_config(), "n_det": self.n_det}


@keras.saving.register_keras_serializable(package="crab")
class Response(keras.layers.Layer):
    """Answer to hits between samples, the same for all detectors.

    Takes hits (n, n_samples, n_hits, n_det) and their phases (n, n_samples, n_hits) in [0, 1];
    gives (n, n_samples - length + 1, n_det). The weights are its gain at frequencies up to a little
    above the Nyquist frequency, in phase and out of phase: beyond, nothing may pass.
    """

    def build(self, shape):
        start, self.waves = _low_pass(), _waves()
        self.gain = self.add_weight(
            name="gain", shape=start.shape, initializer=keras.initializers.Constant(start)
        )
        sample, phase = np.ogrid[:_RESPONSE_SAMPLES, : N_PHASES + 1]
        self.index = ((_RESPONSE_SAMPLES - 1 - sample) * N_PHASES + N_PHASES - phase).astype(int)

    def call(self, inputs):
        hits, phase = inputs
        ops = keras.ops
        # Shares of the two neighbouring phases.
        place = np.arange(N_PHASES + 1, dtype=np.float32)
        share = ops.relu(1 - ops.abs(N_PHASES * phase[..., None] - place))
        parts = sum(hits[:, :, k, :, None] * share[:, :, k, None, :] for k in range(hits.shape[2]))
        fine = ops.matmul(self.waves, self.gain)
        kernel = ops.take(fine, self.index)[..., None]
        answer = convolve(ops.transpose(parts, (0, 2, 1, 3)), kernel)
        return ops.transpose(answer[..., 0], (0, 2, 1))

    def compute_output_shape(self, shape):
        n, n_samples, _, n_det = shape[0]
        return n, n_samples and n_samples - _RESPONSE_SAMPLES + 1, n_det


def convolve(x, kernel):
    """Convolution in time (``y_t = sum_l x_{t+l} k_l``) as one large matrix product.

    A block of samples goes at once into all blocks of the answer that it reaches. Convolutions of
    so few channels leave the matrix units of an accelerator idle.

    Parameters
    ----------
    x : tensor, shape (..., n_samples, n_in)
    kernel : tensor, shape (length, n_in, n_out)

    Returns
    -------
    tensor, shape (..., n_samples - length + 1, n_out)
    """
    ops, s = keras.ops, _BLOCK_SAMPLES
    length, n_in, n_out = kernel.shape
    reach = (length + s - 2) // s + 1
    lead, n = x.shape[1:-2], ops.shape(x)[-2] - length + 1
    n_blocks = reach - 1 + (n + s - 1) // s
    none = ((0, 0),) * (len(x.shape) - 2)
    x = ops.pad(x, (*none, (0, reach * s - length), (0, 0)))[..., : n_blocks * s, :]
    x = ops.reshape(x, (-1, *lead, n_blocks, s * n_in))
    given, back, place = np.ogrid[:s, :reach, :s]
    tap = given - place + back * s
    tap = np.where((tap >= 0) & (tap < length), tap, length)
    blocks = ops.take(ops.pad(kernel, ((0, 1), (0, 0), (0, 0))), tap, axis=0)
    blocks = ops.reshape(ops.transpose(blocks, (0, 3, 1, 2, 4)), (s * n_in, reach * s * n_out))
    y = ops.matmul(x, blocks)
    y = sum(
        y[..., j : n_blocks - reach + 1 + j, j * s * n_out : (j + 1) * s * n_out]
        for j in range(reach)
    )
    return ops.reshape(y, (-1, *lead, (n_blocks - reach + 1) * s, n_out))[..., :n, :]


def generator(
    n_det: int, stretch_sigma: float, ceiling: float, seed: int = 0
) -> tuple[keras.Model, Latents]:
    """Generator network.

    Parameters
    ----------
    n_det : int
    stretch_sigma, ceiling : float
        As in `crab.generators.shot_noise.Size`.
    seed : int
        Seed of the initial weights.

    Returns
    -------
    keras.Model
        Latents (n, n_samples + extra, n_latent) and conditions (n, `N_CONDITIONS`) ->
        (n, n_samples, n_det), in network units.
    Latents
    """
    layers, ops = keras.layers, keras.ops
    n_own = n_det + _N_SHARED
    extra = _RESPONSE_SAMPLES - 1
    latents = Latents(n_own + 3 * N_COMMON, N_COMMON + n_det, extra)
    z = keras.Input((None, latents.size), name="latent")
    condition = keras.Input((N_CONDITIONS,), name="condition")
    gaussian, rest = z[:, :, :n_own], z[:, :, n_own : latents.n_gaussian]
    exponential = z[:, :, latents.n_gaussian :]

    colour = Colour(n_det, name="colour")
    before = (extra + 1 - _FILTER_SAMPLES) // 2
    after = extra + 1 - _FILTER_SAMPLES - before
    quiet = colour(gaussian[:, before:-after])
    quiet = Shift(0.0, name="bias")([Level(name="level")([quiet, condition]), condition])

    marks = layers.Reshape((-1, N_COMMON, 3))(rest)
    x = marks[..., :2]
    for k in range(2):
        start = glorot(seed, f"pattern_{k}")
        x = layers.Dense(_N_HIDDEN, "silu", kernel_initializer=start, name=f"pattern_{k}")(x)
    x = layers.Dense(n_det, kernel_initializer=glorot(seed, "pattern"), name="pattern")(x)
    pattern = ops.exp(2 * ops.tanh(x))
    # The normal distribution turns a Gaussian number into an even one.
    phase = (1 + ops.erf(marks[..., 2] * np.float32(np.sqrt(0.5)))) / 2

    shifted = Shift(1.0, name="rate")([exponential, condition])
    size = Size(stretch_sigma, ceiling, 2.0, name="common_size")(shifted[:, :, :N_COMMON])
    hits = ops.expand_dims(size, -1) * pattern
    size = Size(stretch_sigma, ceiling, 4.0, name="direct_size")(shifted[:, :, N_COMMON:])
    # Hits on detectors are so rare that they may share the phases of those on the wafer.
    owner = np.arange(n_det) % N_COMMON
    single = np.eye(N_COMMON, dtype=np.float32)[:, owner]
    hits = hits + ops.expand_dims(size, 2) * single[None, None]

    y = quiet + Response(name="response")([hits, phase])
    x = stretch_sigma * ops.arcsinh(y / stretch_sigma)
    return keras.Model([z, condition], x, name="generator"), latents


def _first_filter(n_in: int, n_det: int) -> np.ndarray:
    """Half the core width of each detector's own, and as much that all share."""
    weights = np.zeros((_FILTER_SAMPLES, n_in, n_det), dtype=np.float32)
    middle = _FILTER_SAMPLES // 2
    for d in range(n_det):
        weights[middle, d, d] = weights[middle, n_det, d] = 0.5
    return weights


def _low_pass() -> np.ndarray:
    """Raised cosine with its half amplitude at the Nyquist frequency; nothing out of phase."""
    cycles = np.arange(_N_WAVES) / _RESPONSE_SAMPLES
    edge = np.clip((cycles - 0.5) / _ROLL_OFF + 0.5, 0.0, 1.0)
    gain = (1 + np.cos(np.pi * edge)) / 2
    return np.concatenate([gain, np.zeros(_N_WAVES - 1)]).astype(np.float32)


def _waves() -> np.ndarray:
    """What each gain adds to the response on the fine grid, shape (n_fine, 2 `_N_WAVES` - 1)."""
    n = _RESPONSE_SAMPLES * N_PHASES + 1
    k = np.arange(_N_WAVES)
    angle = 2 * np.pi * ((np.arange(n) - n // 2) / N_PHASES)[:, None] * k / _RESPONSE_SAMPLES
    both = np.where(k > 0, 2, 1) / _RESPONSE_SAMPLES
    waves = np.concatenate([both * np.cos(angle), (both * np.sin(angle))[:, 1:]], axis=1)
    return waves.astype(np.float32)
