"""The reference networks of Cavallotto and Della Torre (ML4ASTRO2, Catania, 2024).

Layers, shapes and parameters are those of their table "NN architecture": 33 766 trainable
parameters in the generator and 10 785 in the discriminator. One network serves one detector at a
time: 100 Gaussian latents become one window of 1060 samples. With more channels the same layers
make, and judge, all detectors at once.

Their table ends the generator with ``lambda_1 (Normalization)``, which has no parameters and whose
formula is not given. A normalisation of each window would lose its amplitude. Here the layer is a
fixed affine map, the same for all windows, from the range of the last activation to the range of
the normalised training data; `crab.generators.normalise`, stored with the model, leads on to W.
"""

import numpy as np

from crab import seeds
from crab.generators.backend import keras
from crab.generators.latents import Latents
from crab.training_settings import REFERENCE_WINDOW

_DENSE_UNITS = 265
_GENERATOR_LAYERS = ((8, 1), (16, 2), (32, 2))  # filters, stride
_DISCRIMINATOR_LAYERS = ((8, 2, 1), (8, 1, 1), (16, 1, 2), (32, 1, 5))  # filters, kernels, stride
# A LeakyReLU's kink sits where the training data begin; a tanh needs some room at its ends.
_TANH_MARGIN = 1.05


def generator(
    activation: str = "leaky_relu",
    kernel_length: int = 10,
    output_range: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    *,
    n_latent: int = 100,
    n_channels: int = 1,
    extra_layers: int = 0,
) -> keras.Model:
    """Generator network.

    Parameters
    ----------
    activation : {"leaky_relu", "relu", "tanh"}
        Of every layer; the reference has "leaky_relu" (slope 0.2).
    kernel_length : int
        Samples; the reference has 10.
    output_range : (float, float)
        Where the normalised training data begin and end.
    seed : int
        Seed of the initial weights.
    n_latent, n_channels, extra_layers : int
        Latents, detectors, and convolutions of stride 1 before the last; the reference has 100, 1
        and 0.

    Returns
    -------
    keras.Model
        (n, n_latent) -> (n, 1060, n_channels).
    """
    low, high = output_range
    if activation == "tanh":
        scale, offset = _TANH_MARGIN * (high - low) / 2, (high + low) / 2
        bias = -offset / scale
    else:
        # Typical output is zero from the start, on the side of the kink that is not squeezed.
        scale, offset, bias = 1.0, low, -low
    layers = keras.layers
    common = {"padding": "same", "activation": activation}
    latent = keras.Input((n_latent,), name="latent")
    x = layers.Dense(
        _DENSE_UNITS, activation, kernel_initializer=glorot(seed, "dense"), name="dense"
    )(latent)
    x = layers.Reshape((_DENSE_UNITS, 1), name="reshape")(x)
    extra = ((_GENERATOR_LAYERS[-1][0], 1),) * extra_layers
    for i, (n_filters, stride) in enumerate((*_GENERATOR_LAYERS, *extra), 1):
        name = f"transposed_{i}"
        x = layers.Conv1DTranspose(
            n_filters,
            kernel_length,
            stride,
            kernel_initializer=glorot(seed, name),
            name=name,
            **common,
        )(x)
        # Moving averages that follow within tens of steps: generation uses them.
        x = layers.BatchNormalization(momentum=0.9, name=f"batch_normalization_{i}")(x)
    x = layers.SeparableConv1D(
        n_channels,
        kernel_length,
        depthwise_initializer=glorot(seed, "depthwise"),
        pointwise_initializer=glorot(seed, "pointwise"),
        bias_initializer=keras.initializers.Constant(bias),
        name="separable",
        **common,
    )(x)
    x = layers.Rescaling(scale, offset, name="normalization")(x)
    return keras.Model(latent, x, name="generator")


def discriminator(
    activation: str = "leaky_relu",
    kernel_length: int = 10,
    seed: int = 0,
    *,
    n_channels: int = 1,
    extra_layers: int = 0,
    minibatch_deviation: bool = False,
) -> keras.Model:
    """Discriminator network (critic, with a Wasserstein loss).

    Parameters
    ----------
    activation, kernel_length, seed, n_channels, extra_layers
        As in `generator`; the first layer's kernel is twice as long.
    minibatch_deviation : bool
        Show the last layer how much the windows of a batch differ (`BatchDeviation`).

    Returns
    -------
    keras.Model
        (n, 1060, n_channels) -> (n, 1), a logit: the cross-entropy includes the sigmoid.
    """
    layers = keras.layers
    window = keras.Input((REFERENCE_WINDOW, n_channels), name="window")
    x = window
    extra = ((_DISCRIMINATOR_LAYERS[-1][0], 1, 1),) * extra_layers
    for i, (n_filters, n_kernels, stride) in enumerate((*_DISCRIMINATOR_LAYERS, *extra), 1):
        name = f"convolution_{i}"
        x = layers.Conv1D(
            n_filters,
            n_kernels * kernel_length,
            stride,
            padding="same",
            activation=activation,
            kernel_initializer=glorot(seed, name),
            name=name,
        )(x)
        x = layers.LayerNormalization(name=f"layer_normalization_{i}")(x)
    if minibatch_deviation:
        x = BatchDeviation(name="batch_deviation")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(1, kernel_initializer=glorot(seed, "score"), name="score")(x)
    return keras.Model(window, x, name="discriminator")


def latents(n: int = 100) -> Latents:
    """What the reference generator is fed with: one Gaussian vector for a whole window."""
    return Latents(n)


@keras.saving.register_keras_serializable(package="crab")
class BatchDeviation(keras.layers.Layer):
    """One more channel: how much the features differ over the batch.

    A collapsed generator's windows do not differ (Karras et al. 2018, arXiv:1710.10196, section 3).
    """

    def call(self, x):
        ops = keras.ops
        spread = ops.sqrt(ops.var(x, axis=0, keepdims=True) + 1e-8)
        spread = ops.mean(spread, axis=2, keepdims=True)
        return ops.concatenate([x, ops.zeros_like(x[:, :, :1]) + spread], axis=2)

    def compute_output_shape(self, shape):
        return (*shape[:2], shape[2] + 1)


def layer_table(model: keras.Model) -> list[dict]:
    """Rows (layer, type, output shape, parameters) of a network, input left out."""
    return [
        {
            "layer": layer.name,
            "type": type(layer).__name__,
            "output_shape": str(tuple(layer.output.shape)),
            "parameters": layer.count_params(),
        }
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    ]


def n_trainable(model: keras.Model) -> int:
    """Number of trainable parameters."""
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def glorot(seed: int, layer: str) -> keras.initializers.Initializer:
    """Initial weights of one layer."""
    # Each layer has its own seed: no global random state, no dependence on the order of building.
    return keras.initializers.GlorotUniform(seed=seeds.integer(seed, "initial weights", layer))
