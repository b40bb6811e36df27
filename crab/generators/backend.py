"""The only place that knows which library computes gradients, and that imports it.

Everything else is Keras. A step is written once: networks that are differentiated are called with
explicit values (``stateless_call``), variables are assigned as usual. TensorFlow runs that as it
is; on JAX `compile_step` maps every variable into a pure function and writes the results back.
"""

import os
from contextlib import contextmanager


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

__all__ = ["NAME", "compile_step", "has_accelerator", "keras", "value_and_grad"]


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


def compile_step(step, variables):
    """Compile a step that reads and assigns variables.

    Parameters
    ----------
    step : callable
        Arrays in, tensors out.
    variables : list of keras.Variable
        All that the step reads or assigns.

    Returns
    -------
    callable
        Same arguments and results as `step`.
    """
    if NAME == "tensorflow":
        return tf.function(step, autograph=False)

    @jax.jit
    def pure(values, *inputs):
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            results = step(*inputs)
            values = [scope.get_current_value(v) for v in variables]
        return results, values

    def run(*inputs):
        results, values = pure([v.value for v in variables], *inputs)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return results

    return run
