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
where: a third Gaussian number says which of the phases p it belongs to. All phases share one
response, learned on a finer grid; it begins as the sharpest low-pass filter that the sampling
allows.
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
_ROLL_OFF = 0.1
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
class Response(keras.layers.Layer):
    """Answer to hits between samples, the same for all detectors.

    Takes hits (n, n_samples, n_hits, n_det) and their phases (n, n_samples, n_hits) in [0, 1];
    gives (n, n_samples - length + 1, n_det).
    """

    def build(self, shape):
        n = _RESPONSE_SAMPLES * N_PHASES + 1
        self.fine = self.add_weight(
            name="fine", shape=(n,), initializer=keras.initializers.Constant(_low_pass(n))
        )
        sample, phase = np.ogrid[:_RESPONSE_SAMPLES, : N_PHASES + 1]
        self.index = ((_RESPONSE_SAMPLES - 1 - sample) * N_PHASES + N_PHASES - phase).astype(int)

    def call(self, inputs):
        hits, phase = inputs
        ops = keras.ops
        # Shares of the two neighbouring phases.
        place = np.arange(N_PHASES + 1, dtype=np.float32)
        share = ops.relu(1 - ops.abs(N_PHASES * phase[..., None] - place))
        parts = ops.einsum("ntkd,ntkp->ndtp", hits, share)
        n_det, n_samples = hits.shape[-1], ops.shape(parts)[2]
        parts = ops.reshape(parts, (-1, n_samples, N_PHASES + 1))
        kernel = ops.take(self.fine, self.index)[..., None]
        answer = ops.conv(parts, kernel, padding="valid")
        answer = ops.reshape(answer, (-1, n_det, ops.shape(answer)[1]))
        return ops.transpose(answer, (0, 2, 1))

    def compute_output_shape(self, shape):
        n, n_samples, _, n_det = shape[0]
        return n, n_samples and n_samples - _RESPONSE_SAMPLES + 1, n_det


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

    colour = layers.Conv1D(n_det, _FILTER_SAMPLES, padding="valid", name="colour")
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
    common = Response(name="response")([ops.expand_dims(size, -1) * pattern, phase])
    size = Size(stretch_sigma, ceiling, 4.0, name="direct_size")(shifted[:, :, N_COMMON:])
    # Hits on detectors are so rare that they may share the phases of those on the wafer.
    owner = np.arange(n_det) % N_COMMON
    single = np.eye(N_COMMON, dtype=np.float32)[:, owner]
    direct = ops.expand_dims(size, 2) * single[None, None]
    direct = Response(name="direct_response")([direct, phase])

    y = quiet + common + direct
    model = keras.Model(
        [z, condition], stretch_sigma * ops.arcsinh(y / stretch_sigma), name="generator"
    )
    model.get_layer("colour").set_weights([_first_filter(n_own, n_det), np.zeros(n_det)])
    return model, latents


def _first_filter(n_in: int, n_det: int) -> np.ndarray:
    """Half the core width of each detector's own, and as much that all share."""
    weights = np.zeros((_FILTER_SAMPLES, n_in, n_det), dtype=np.float32)
    middle = _FILTER_SAMPLES // 2
    for d in range(n_det):
        weights[middle, d, d] = weights[middle, n_det, d] = 0.5
    return weights


def _low_pass(n: int) -> np.ndarray:
    """Raised-cosine filter with its half amplitude at the Nyquist frequency, on the fine grid."""
    x = (np.arange(n) - n // 2) / N_PHASES
    edge = 2 * _ROLL_OFF * x
    turn = np.where(np.abs(np.abs(edge) - 1) < 1e-9, np.pi / 4, 0.0)
    safe = np.where(turn > 0, 0.5, edge)
    turn = np.where(turn > 0, turn, np.cos(np.pi * safe / 2) / (1 - safe**2))
    return (np.sinc(x) * turn).astype(np.float32)
