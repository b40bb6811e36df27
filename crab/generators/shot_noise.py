"""Networks of the improved GAN: a fully convolutional generator in the shape of shot noise.

Noise enters at every sample, so nothing repeats and a TOD of any length has no seams. In units of
each detector's core width, hits upwards,

    y(t, d) = continuum + sum_j  r_j(d) * [ common(t, d) + direct(t, d) ] w_j(t, d),
    x = s asinh(y / s),

where * is a convolution in time. The continuum is a linear filter of Gaussian numbers plus a small
convolutional network. A hit's size is a learned piecewise-linear function of an exponential number
in the *stretched* units of x: its tail in y is then a power law. Common hits (on the wafer) share
their size between detectors through a learned pattern that depends on the latents; direct hits
belong to one detector. Two responses r_j, blended from hit to hit, stand for arrivals at any time
between two samples.
"""

import math

import numpy as np

from crab.generators.backend import keras
from crab.generators.gan import BatchDeviation, glorot
from crab.generators.latents import Latents

_N_COMMON = 4  # hits on the wafer in one sample, at most
_RESPONSE_SAMPLES = 24
_N_RESPONSES = 2
_KNOTS = (1.0, 2.0, 3.5, 5.0, 7.0, 9.0)  # of the size as a function of the exponential number
_CRITIC_FILTERS = (48, 64, 96, 128)


@keras.saving.register_keras_serializable(package="crab")
class Size(keras.layers.Layer):
    """Size of a hit: a continuous piecewise-linear function of an exponential number.

    Parameters
    ----------
    stretch_sigma, ceiling : float
        Scale of the stretch; the largest size, in stretched units.
    first : float
        Exponential number above which there are hits, at the start of training.
    """

    def __init__(self, stretch_sigma: float, ceiling: float, first: float, **kwargs):
        super().__init__(**kwargs)
        self.stretch_sigma, self.ceiling, self.first = stretch_sigma, ceiling, first

    def build(self, shape):
        n, knots = shape[-1], np.float32(_KNOTS)

        def start(values):
            return keras.initializers.Constant(np.tile(values[:, None], (1, n)))

        slopes = np.zeros(len(knots), np.float32)
        slopes[0] = 1.0
        self.knots = self.add_weight(name="knots", shape=(len(knots), n), initializer=start(knots))
        self.slopes = self.add_weight(
            name="slopes", shape=(len(knots), n), initializer=start(slopes)
        )
        self.offset = self.add_weight(
            name="offset", shape=(n,), initializer=keras.initializers.Constant(self.first - 1.0)
        )

    def call(self, exponential):
        ops, s = keras.ops, self.stretch_sigma
        size = -ops.relu(self.offset) * self.slopes[0]
        for k in range(len(_KNOTS)):
            size = size + self.slopes[k] * ops.relu(exponential - self.knots[k])
        # A soft end of the tail: beyond what training saw, sizes grow no more.
        size = self.ceiling - ops.softplus(self.ceiling - ops.relu(size))
        return s * ops.sinh(ops.relu(size) / s)

    def get_config(self):
        own = {"stretch_sigma": self.stretch_sigma, "ceiling": self.ceiling, "first": self.first}
        return {**super().get_config(), **own}


def generator(
    n_det: int,
    n_gaussian: int,
    kernel_length: int,
    extra_layers: int,
    stretch_sigma: float,
    ceiling: float,
    seed: int = 0,
) -> tuple[keras.Model, Latents]:
    """Generator network.

    Parameters
    ----------
    n_det : int
    n_gaussian : int
        Gaussian numbers for each sample; at least n_det + 1, or detectors cannot differ.
    kernel_length : int
        Of the continuum's small network, in samples.
    extra_layers : int
        Further layers of that network.
    stretch_sigma, ceiling : float
        As in `Size`.
    seed : int
        Seed of the initial weights.

    Returns
    -------
    keras.Model
        (n, n_samples + extra, n_latent) -> (n, n_samples, n_det), in network units.
    Latents
    """
    layers, ops = keras.layers, keras.ops
    halo = _RESPONSE_SAMPLES - 1
    deep = 2 + extra_layers
    extra = max(halo, deep * (kernel_length - 1))
    latents = Latents(max(n_gaussian, n_det + 1), _N_COMMON + n_det, extra)
    z = keras.Input((None, latents.size), name="latent")
    gaussian, exponential = z[:, :, : latents.n_gaussian], z[:, :, latents.n_gaussian :]

    def conv(x, n, length, name, **options):
        start = glorot(seed, name)
        return layers.Conv1D(
            n, length, padding="valid", kernel_initializer=start, name=name, **options
        )(x)

    def last(x, length):
        """Drop what is too early: all parts end at the same sample."""
        return x[:, length:] if length else x

    # Continuum: independent of each other at first, in every detector, and one common part.
    linear = layers.Conv1D(n_det, extra + 1, padding="valid", name="linear")(gaussian)
    x = z
    for k in range(deep):
        x = conv(x, 32, kernel_length, f"continuum_{k}", activation="leaky_relu")
    small = layers.Dense(n_det, kernel_initializer="zeros", name="continuum")(x)
    y = linear + last(small, extra - deep * (kernel_length - 1))

    # Hits. The pattern over the detectors and the blend of responses come from the latents.
    marks = layers.Dense(32, "leaky_relu", kernel_initializer=glorot(seed, "marks"), name="marks")(
        gaussian
    )
    size = Size(stretch_sigma, ceiling, 2.0, name="common_size")(exponential[:, :, :_N_COMMON])
    pattern = layers.Dense(
        _N_COMMON * n_det, kernel_initializer=glorot(seed, "pattern"), name="pattern"
    )(marks)
    pattern = ops.exp(2 * ops.tanh(layers.Reshape((-1, _N_COMMON, n_det))(pattern)))
    common = ops.sum(ops.expand_dims(size, -1) * pattern, axis=2)
    direct = Size(stretch_sigma, ceiling, 4.0, name="direct_size")(exponential[:, :, _N_COMMON:])
    blend = layers.Dense(n_det, "sigmoid", kernel_initializer=glorot(seed, "blend"), name="blend")(
        marks
    )
    hits = common + direct
    for k, part in enumerate((hits * blend, hits * (1 - blend))):
        response = layers.DepthwiseConv1D(
            _RESPONSE_SAMPLES,
            padding="valid",
            use_bias=False,
            name=f"response_{k}",
        )(part)
        y = y + last(response, extra - halo)
    x = stretch_sigma * ops.arcsinh(y / stretch_sigma)
    model = keras.Model(z, x, name="generator")
    start = _first_filter(extra + 1, latents.n_gaussian, n_det)
    model.get_layer("linear").set_weights([start, np.zeros(n_det, np.float32)])
    for k in range(_N_RESPONSES):
        model.get_layer(f"response_{k}").set_weights([_first_response(k, n_det)])
    return model, latents


def critic(
    n_det: int,
    window_samples: int,
    kernel_length: int,
    extra_layers: int,
    minibatch_deviation: bool,
    seed: int = 0,
) -> keras.Model:
    """Critic of windows of all detectors: residual convolutions, no normalisation.

    Parameters
    ----------
    n_det, window_samples, kernel_length, extra_layers, seed
        As in `generator`.
    minibatch_deviation : bool
        As in `crab.generators.gan.discriminator`.

    Returns
    -------
    keras.Model
        (n, window_samples, n_det) -> (n, 1)
    """
    layers = keras.layers
    window = keras.Input((window_samples, n_det), name="window")
    # Beside the detectors, what they have in common: correlation is then seen at once.
    mean = keras.ops.mean(window, axis=2, keepdims=True)
    x = keras.ops.concatenate([window - mean, mean], axis=2)

    def conv(x, n, length, name, stride=1):
        start = glorot(seed, name)
        return layers.Conv1D(
            n, length, stride, padding="same", kernel_initializer=start, name=name
        )(x)

    x = conv(x, _CRITIC_FILTERS[0], 1, "first")
    for k, n in enumerate(_CRITIC_FILTERS):
        for m in range(1 + extra_layers):
            name = f"block_{k}_{m}"
            inner = conv(layers.LeakyReLU(0.2)(x), x.shape[2], kernel_length, f"{name}_a")
            inner = conv(layers.LeakyReLU(0.2)(inner), x.shape[2], kernel_length, f"{name}_b")
            x = x + inner / math.sqrt(len(_CRITIC_FILTERS))
        x = layers.AveragePooling1D(2)(x)
        x = conv(x, n, 1, f"widen_{k}")
    if minibatch_deviation:
        x = BatchDeviation(name="batch_deviation")(x)
    x = layers.LeakyReLU(0.2)(conv(x, _CRITIC_FILTERS[-1], 3, "last"))
    mean = layers.GlobalAveragePooling1D()(x)
    largest = layers.GlobalMaxPooling1D()(x)
    x = layers.Concatenate()([mean, largest])
    x = layers.Dense(1, kernel_initializer=glorot(seed, "score"), name="score")(x)
    return keras.Model(window, x, name="discriminator")


def _first_filter(length: int, n_in: int, n_det: int) -> np.ndarray:
    """Unit variance, correlation 1/2: the last Gaussian number is common to all."""
    weights = np.zeros((length, n_in, n_det), dtype=np.float32)
    middle = length // 2
    for d in range(n_det):
        weights[middle, d, d] = weights[middle, n_in - 1, d] = np.sqrt(0.5)
    return weights


def _first_response(k: int, n_det: int) -> np.ndarray:
    """A peak in the middle, the second one sample later."""
    response = np.zeros((_RESPONSE_SAMPLES, n_det, 1), dtype=np.float32)
    middle = _RESPONSE_SAMPLES // 2 + k
    response[middle : middle + 3] = np.float32([1.0, 0.3, 0.1])[:, None, None]
    return response
