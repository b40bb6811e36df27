"""Marks of an event from a conditional generative network whose likelihood is exact.

An autoregressive neural spline flow (Durkan et al. 2019, arXiv:1906.04032). Each mark is first
mapped to a nearly normal number by the distribution of all draws (`Scale`: quantiles, continued by
a power law beyond the last of them, up to a hard bound). Then, given the kind of the event, what
flux it comes from and the marks before it, a small network gives the rational-quadratic spline
that maps it to a normal number cut off at `crab.generators.splines.BOUND`. Solar particles, whose
deposits are so much softer, have scales of their own.
"""

import numpy as np

from crab import seeds
from crab.generators.backend import compile_steps, keras, value_and_grad
from crab.generators.splines import Scale, inverse_spline, spline
from crab.progress import tqdm

_LOG_ROOT_2_PI = 0.5 * float(np.log(2 * np.pi))


@keras.saving.register_keras_serializable("crab")
class First(keras.layers.Layer):
    """The first ``n`` numbers of its input: what comes before a mark."""

    def __init__(self, n: int, **options):
        super().__init__(**options)
        self.n = n

    def call(self, x):
        """Shape (..., m) to (..., n)."""
        return x[..., : self.n]

    def compute_output_shape(self, input_shape):
        """See `call`."""
        return (*input_shape[:-1], self.n)

    def get_config(self):
        """What `__init__` takes."""
        return {**super().get_config(), "n": self.n}


def build(n_context: int, n_marks: int, units: int, layers: int, n_bins: int, seed: int):
    """Network of all marks' splines.

    Parameters
    ----------
    n_context : int
        Numbers that say what is asked for; those before each mark follow them.
    n_marks, units, layers, n_bins : int
    seed : int

    Returns
    -------
    keras.Model
        Input of shape (n, n_context + n_marks): context, then numbers of the marks, 0 where there
        is none. Output of shape (n, n_marks, 3 n_bins - 1). It starts as the identity.
    """
    whole = keras.Input((n_context + n_marks,), name="context_and_marks")
    outputs = []
    for mark in range(n_marks):
        x = First(n_context + mark, name=f"before_{mark}")(whole)
        for layer in range(layers):
            glorot = keras.initializers.GlorotUniform(seeds.integer(seed, "marks", mark, layer))
            x = keras.layers.Dense(
                units, "leaky_relu", kernel_initializer=glorot, name=f"mark_{mark}_{layer}"
            )(x)
        outputs.append(
            keras.layers.Dense(3 * n_bins - 1, kernel_initializer="zeros", name=f"mark_{mark}_out")(
                x
            )
        )
    stacked = keras.layers.Concatenate(name="all")(outputs) if n_marks > 1 else outputs[0]
    stacked = keras.layers.Reshape((n_marks, 3 * n_bins - 1), name="splines")(stacked)
    return keras.Model(whole, stacked, name="marks")


def train(model, inputs: np.ndarray, present: np.ndarray, settings, seed: int) -> np.ndarray:
    """Maximum likelihood.

    Parameters
    ----------
    model : keras.Model
        Of `build`; trained in place.
    inputs : ndarray of float32, shape (n, n_context + n_marks)
    present : ndarray of bool, shape (n, n_marks)
    settings : crab.streaming_settings.TrainEventsNotebook
    seed : int

    Returns
    -------
    ndarray, shape (steps,)
        Mean negative log likelihood of each batch, in units of the nearly normal numbers.
    """
    ops = keras.ops
    n_marks = present.shape[1]
    n_context = inputs.shape[1] - n_marks
    data = np.concatenate([inputs, present.astype(np.float32)], axis=1)
    rate = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, settings.steps, alpha=0.01
    )
    optimizer = keras.optimizers.Adam(rate)
    trainable = model.trainable_variables
    optimizer.build(trainable)

    def step(data, rows):
        batch = ops.take(data, rows, axis=0)
        x, weight = batch[:, : n_context + n_marks], batch[:, n_context + n_marks :]

        def loss(values):
            parameters, _ = model.stateless_call(values, [], x)
            flat = ops.reshape(parameters, (-1, parameters.shape[2]))
            u, log_slope = spline(flat, ops.reshape(x[:, n_context:], (-1,)), ops)
            each = 0.5 * u * u + _LOG_ROOT_2_PI - log_slope
            return ops.sum(each * ops.reshape(weight, (-1,))) / x.shape[0], ()

        values = [ops.convert_to_tensor(v.value) for v in trainable]
        (value, _), gradient = value_and_grad(loss, values)
        optimizer.apply(gradient, trainable)
        return value

    run = compile_steps(step, [*trainable, *optimizer.variables], data)
    losses = []
    size = settings.batch_size
    for first in tqdm(range(0, settings.steps, 50), desc="marks", unit="50 steps"):
        rng = seeds.rng(seed, "marks", "batches", block=first)
        n = min(50, settings.steps - first)
        losses.append(run(rng.integers(0, len(data), (n, size), dtype=np.int32)))
    return np.concatenate(losses)


class Sampler:
    """A trained network of marks in plain arrays, to draw from.

    Parameters
    ----------
    model : keras.Model
        Of `build`.
    scales : list of Scale
    solar : list of Scale, optional
        For events whose second number of the context is not 0; default: the same.
    """

    def __init__(self, model, scales: list[Scale], solar: list[Scale] | None = None):
        self.scales, self.solar = scales, solar
        layers = {}
        for layer in model.layers:
            if layer.name.startswith("mark_"):
                _, mark, _ = layer.name.split("_")
                kernel, bias = (np.asarray(w.value, np.float32) for w in layer.weights)
                layers.setdefault(int(mark), []).append((kernel, bias))
        self._layers = [layers[mark] for mark in range(len(scales))]

    def parameters(self, mark: int, x: np.ndarray) -> np.ndarray:
        """Spline of one mark for inputs of shape (n, n_context + mark), in Fortran's order."""
        # Events side by side in memory: what is done to each number is then done to many at once.
        x = x.T
        for weights, shift in self._layers[mark][:-1]:
            x = weights.T @ x
            x += shift[:, None]
            np.maximum(x, np.float32(0.2) * x, out=x)
        kernel, bias = self._layers[mark][-1]
        x = kernel.T @ x
        x += bias[:, None]
        return x.T

    def draw(self, context: np.ndarray, present: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Marks of events.

        Parameters
        ----------
        context : ndarray of float32, shape (n, n_context)
        present : ndarray of bool, shape (n, n_marks)
        normal : ndarray of float32, shape (n, n_marks)
            Standard normal numbers.

        Returns
        -------
        ndarray of float32, shape (n, n_marks)
            0 where there is none.
        """
        n_context, n_marks = context.shape[1], present.shape[1]
        x = np.zeros((n_context + n_marks, len(context)), dtype=np.float32)
        x[:n_context] = context.T
        marks = np.zeros((len(context), n_marks), dtype=np.float32)
        for mark in range(n_marks):
            own = np.flatnonzero(present[:, mark])
            if not len(own):
                continue
            before = np.take(x[: n_context + mark], own, axis=1)
            z = inverse_spline(self.parameters(mark, before.T), normal[own, mark])
            x[n_context + mark, own] = z
            marks[own, mark] = self.scales[mark].inverse(z)
            if self.solar is not None:
                other = np.flatnonzero(before[1])
                if len(other):
                    marks[own[other], mark] = self.solar[mark].inverse(z[other])
        return marks
