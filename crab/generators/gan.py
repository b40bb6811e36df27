"""The reference GAN of Cavallotto and Della Torre (ML4ASTRO2, Catania, 2024).

Layers, shapes and parameters are those of their table "NN architecture": 33 766 trainable
parameters in the generator and 10 785 in the discriminator. One network serves one detector at a
time: 100 Gaussian latents become one window of 1060 samples.

Their table ends the generator with ``lambda_1 (Normalization)``, which has no parameters and whose
formula is not given. A normalisation of each window would lose its amplitude. Here the layer is a
fixed affine map, the same for all windows, from the range of the last activation to the range of
the normalised training data; `crab.generators.normalise`, stored with the model, leads on to W.
"""

from pathlib import Path
from typing import Self

import numpy as np
import xarray as xr

from crab import seeds
from crab.errors import CrabError
from crab.generators import files
from crab.generators.backend import keras
from crab.generators.windows import WINDOW_SAMPLES

N_LATENT = 100
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

    Returns
    -------
    keras.Model
        (n, 100) -> (n, 1060, 1).
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
    latent = keras.Input((N_LATENT,), name="latent")
    x = layers.Dense(
        _DENSE_UNITS, activation, kernel_initializer=_glorot(seed, "dense"), name="dense"
    )(latent)
    x = layers.Reshape((_DENSE_UNITS, 1), name="reshape")(x)
    for i, (n_filters, stride) in enumerate(_GENERATOR_LAYERS, 1):
        name = f"transposed_{i}"
        x = layers.Conv1DTranspose(
            n_filters,
            kernel_length,
            stride,
            kernel_initializer=_glorot(seed, name),
            name=name,
            **common,
        )(x)
        # Moving averages that follow within tens of steps: generation uses them.
        x = layers.BatchNormalization(momentum=0.9, name=f"batch_normalization_{i}")(x)
    x = layers.SeparableConv1D(
        1,
        kernel_length,
        depthwise_initializer=_glorot(seed, "depthwise"),
        pointwise_initializer=_glorot(seed, "pointwise"),
        bias_initializer=keras.initializers.Constant(bias),
        name="separable",
        **common,
    )(x)
    x = layers.Rescaling(scale, offset, name="normalization")(x)
    return keras.Model(latent, x, name="generator")


def discriminator(
    activation: str = "leaky_relu", kernel_length: int = 10, seed: int = 0
) -> keras.Model:
    """Discriminator network (critic, with a Wasserstein loss).

    Parameters
    ----------
    activation, kernel_length, seed
        As in `generator`; the first layer's kernel is twice as long.

    Returns
    -------
    keras.Model
        (n, 1060, 1) -> (n, 1), a logit: the cross-entropy includes the sigmoid.
    """
    layers = keras.layers
    window = keras.Input((WINDOW_SAMPLES, 1), name="window")
    x = window
    for i, (n_filters, n_kernels, stride) in enumerate(_DISCRIMINATOR_LAYERS, 1):
        name = f"convolution_{i}"
        x = layers.Conv1D(
            n_filters,
            n_kernels * kernel_length,
            stride,
            padding="same",
            activation=activation,
            kernel_initializer=_glorot(seed, name),
            name=name,
        )(x)
        x = layers.LayerNormalization(name=f"layer_normalization_{i}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(1, kernel_initializer=_glorot(seed, "score"), name="score")(x)
    return keras.Model(window, x, name="discriminator")


def latents(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Standard normal latents, float32, shape (\\*shape, 100)."""
    return rng.standard_normal((*shape, N_LATENT), dtype=np.float32)


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


class GanReference:
    """Trained reference GAN: the windowed model of `crab.generators.base.Generator`.

    Windows of 1060 samples sit at fixed places of the mission and are independent of each other
    and of other detectors, so correlation across seams and between detectors is absent.
    """

    name = "gan_reference"
    windowed = True
    # Windows are computed in fixed groups of neighbours and detectors: floats then do not depend
    # on what was asked for. Sizes are a compromise between short requests and speed.
    group_windows = 16
    group_detectors = 16

    def __init__(self, model: keras.Model, record: dict, normalisation):
        self.model = model
        self.record = record
        self.normalisation = normalisation
        self.detectors = xr.Dataset.from_dict(record["detector_table"])

    @classmethod
    def load(
        cls,
        path: str | Path,
        mission: str | None = None,
        environment: str | None = None,
        detectors: list[str] | None = None,
    ) -> Self:
        """Read a trained model.

        Parameters
        ----------
        path : path-like
            ``<model>.keras``; its ``.json`` is beside it.
        mission, environment, detectors : optional
            Checked against what the model was trained for.

        Raises
        ------
        CrabError
            If a file is missing, truncated or incomplete, or was trained for something else.
        """
        model, record, normalisation = files.read_model(path)
        if record["generator"] != cls.name:
            raise CrabError(f"{path}: a model {record['generator']!r}: needs {cls.name!r}")
        files.check_record(record, path, mission, environment, detectors)
        return cls(model, record, normalisation)

    def sample(self, environment: str, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
        """TOD of any part of a mission.

        Parameters
        ----------
        environment : str
            Must be the one that the model was trained for.
        start_sample : int
            Absolute index of the first sample, >= 0.
        n_samples : int
            Number of samples, >= 0.
        seed : int
            Seed of the run.

        Returns
        -------
        ndarray of float32, shape (n_det, n_samples)
            Power in W.

        Raises
        ------
        CrabError
            For another environment or a negative start or length.
        """
        if environment != self.record["environment"]:
            raise CrabError(
                f"environment = {environment!r}: this {self.name} was trained for "
                f"{self.record['environment']!r}; train one for {environment!r}"
            )
        for key, value in (("start_sample", start_sample), ("n_samples", n_samples)):
            if value < 0:
                raise CrabError(f"{key} = {value}: allowed are integers >= 0")
        detectors = self.record["detectors"]
        if n_samples == 0:
            return np.empty((len(detectors), 0), dtype=np.float32)
        group_samples = self.group_windows * WINDOW_SAMPLES
        first = start_sample // group_samples
        last = (start_sample + n_samples - 1) // group_samples
        groups = [self._group(g, seed) for g in range(first, last + 1)]
        values = np.concatenate(groups, axis=1)
        begin = start_sample - first * group_samples
        return self.normalisation.inverse(values[:, begin : begin + n_samples])

    def _group(self, group: int, seed: int) -> np.ndarray:
        """All detectors of one group of windows, shape (n_det, group_windows * 1060)."""
        mission, environment = self.record["mission"], self.record["environment"]
        first = group * self.group_windows
        rows = []
        for begin in range(0, len(self.record["detectors"]), self.group_detectors):
            z = [
                latents(seeds.rng(seed, mission, environment, name, "latent", block=block))
                for name in self.record["detectors"][begin : begin + self.group_detectors]
                for block in range(first, first + self.group_windows)
            ]
            windows = np.asarray(self.model.predict_on_batch(np.stack(z)))
            rows.append(windows.reshape(-1, self.group_windows * WINDOW_SAMPLES))
        return np.concatenate(rows)


def _glorot(seed: int, layer: str) -> keras.initializers.Initializer:
    # Each layer has its own seed: no global random state, no dependence on the order of building.
    return keras.initializers.GlorotUniform(seed=seeds.integer(seed, "initial weights", layer))
