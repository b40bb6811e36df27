"""The only place that knows which library computes gradients, and that imports it.

Everything else is Keras. A step is written once: networks that are differentiated are called with
explicit values (``stateless_call``), variables are assigned as usual. TensorFlow runs that as it
is; on JAX `compile_steps` maps every variable into a pure function and writes the results back.
"""

import os
from contextlib import contextmanager

import numpy as np


@contextmanager
def _silent_stderr():
    """Send file descriptor 2 to nowhere; Python exceptions still rise."""
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(nowhere)
        os.close(saved)


# TensorFlow's C++ side greets with notes on CPU and CUDA. The variable stops some of them; the
# others come before its log is set up and ignore every variable.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _silent_stderr():
    import keras

    NAME = keras.backend.backend()
    if NAME == "tensorflow":
        import tensorflow as tf
    elif NAME == "jax":
        import jax
    else:
        raise ImportError(f"KERAS_BACKEND = {NAME!r}: CRAB's networks know 'tensorflow' and 'jax'")

__all__ = [
    "NAME",
    "compile_steps",
    "has_accelerator",
    "keras",
    "random_normal",
    "random_uniform",
    "value_and_grad",
]


def has_accelerator() -> bool:
    """Whether the library computes on a GPU or a TPU here."""
    if NAME == "jax":
        return jax.default_backend() != "cpu"
    return bool(tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"))


def value_and_grad(function, values):
    """Value of a function and its gradient, inside a compiled step.

    Parameters
    ----------
    function : callable
        ``function(values) -> (scalar, auxiliary)``.
    values : tensor or list of tensors

    Returns
    -------
    ((scalar, auxiliary), gradient)
        The gradient has the structure of `values`.
    """
    if NAME == "jax":
        return jax.value_and_grad(function, has_aux=True)(values)
    with tf.GradientTape() as tape:
        tape.watch(values)
        value, auxiliary = function(values)
    return (value, auxiliary), tape.gradient(value, values)


def random_normal(shape, key):
    """Standard normal numbers inside a compiled step.

    Parameters
    ----------
    shape : tuple of int
    key : tensor of int32, shape (2,)
        Counter-based: the same key gives the same numbers, on one kind of device.

    Returns
    -------
    tensor of float32
    """
    if NAME == "jax":
        return jax.random.normal(_jax_key(key), shape)
    return tf.random.stateless_normal(shape, key)


def random_uniform(shape, key):
    """Numbers in [0, 1); see `random_normal`."""
    if NAME == "jax":
        return jax.random.uniform(_jax_key(key), shape)
    return tf.random.stateless_uniform(shape, key)


def compile_steps(step, variables, data):
    """Compile a training step, and a loop over it.

    Parameters
    ----------
    step : callable
        ``step(data, *inputs) -> tensor``; reads and assigns `variables`.
    variables : list of keras.Variable
        All that the step reads or assigns.
    data : ndarray
        What every step reads; stays on the device.

    Returns
    -------
    callable
        ``run(*inputs) -> ndarray``: inputs stacked along a first axis, one step for each; results
        stacked likewise. TensorFlow calls one step after the other, JAX runs them as one loop.
    """
    data = keras.ops.convert_to_tensor(data)
    if NAME == "tensorflow":
        one = tf.function(step, autograph=False)

        def run(*inputs):
            return np.stack([one(data, *each).numpy() for each in zip(*inputs, strict=True)])

        return run

    @jax.jit
    def loop(values, data, inputs):
        def body(values, each):
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping) as scope:
                result = step(data, *each)
                values = [scope.get_current_value(v) for v in variables]
            return values, result

        return jax.lax.scan(body, values, inputs)

    def run_loop(*inputs):
        values, results = loop([v.value for v in variables], data, inputs)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return np.asarray(results)

    return run_loop


def _jax_key(key):
    return jax.random.fold_in(jax.random.key(key[0]), key[1])
