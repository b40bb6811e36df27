"""The reference networks against the published table."""

import numpy as np
import pytest

from crab.generators import gan
from crab.generators.backend import keras

# Cavallotto and Della Torre, "Extending Cosmic Ray Background using GANs", ML4ASTRO2 2024, slide
# "NN architecture": layer type, output shape without the batch, parameters.
GENERATOR = [
    ("Dense", (265,), 26765),
    ("Conv1DTranspose", (265, 8), 88),
    ("BatchNormalization", (265, 8), 32),
    ("Conv1DTranspose", (530, 16), 1296),
    ("BatchNormalization", (530, 16), 64),
    ("Conv1DTranspose", (1060, 32), 5152),
    ("BatchNormalization", (1060, 32), 128),
    ("SeparableConv1D", (1060, 1), 353),
    ("Rescaling", (1060, 1), 0),
]
DISCRIMINATOR = [
    ("Conv1D", (1060, 8), 168),
    ("LayerNormalization", (1060, 8), 16),
    ("Conv1D", (1060, 8), 648),
    ("LayerNormalization", (1060, 8), 16),
    ("Conv1D", (530, 16), 1296),
    ("LayerNormalization", (530, 16), 32),
    ("Conv1D", (106, 32), 5152),
    ("LayerNormalization", (106, 32), 64),
    ("Dense", (1,), 3393),
]


def rows(model):
    shapeless = ("InputLayer", "Reshape", "Flatten")  # no parameters; not in the published table
    return [
        (type(layer).__name__, tuple(layer.output.shape[1:]), layer.count_params())
        for layer in model.layers
        if type(layer).__name__ not in shapeless
    ]


def activations(model):
    return [layer.activation.__name__ for layer in model.layers if hasattr(layer, "activation")]


def test_generator_is_the_published_one():
    """Table of the ML4ASTRO2 slides: every row, and 33766 trainable parameters."""
    model = gan.generator()
    assert rows(model) == GENERATOR
    assert gan.n_trainable(model) == 33766
    assert model.input_shape == (None, 100)
    assert activations(model) == ["leaky_relu"] * 5


def test_discriminator_is_the_published_one():
    """Table of the ML4ASTRO2 slides: every row, and 10785 trainable parameters."""
    model = gan.discriminator()
    assert rows(model) == DISCRIMINATOR
    assert gan.n_trainable(model) == 10785
    assert activations(model) == ["leaky_relu"] * 4 + ["linear"]


def test_kernel_length_scales_every_kernel():
    generator, discriminator = gan.generator(kernel_length=6), gan.discriminator(kernel_length=6)
    assert [generator.get_layer(f"transposed_{i}").kernel_size for i in (1, 2, 3)] == [(6,)] * 3
    lengths = [discriminator.get_layer(f"convolution_{i}").kernel_size[0] for i in (1, 2, 3, 4)]
    assert lengths == [12, 6, 6, 6]
    assert generator.output_shape == (None, 1060, 1)


def test_last_layer_keeps_amplitudes():
    """The parameter-free last layer is one affine map: it cannot normalise a window."""
    layer = gan.generator(output_range=(-4.0, 9.0)).get_layer("normalization")
    x = np.random.default_rng(0).normal(size=(2, 1060, 1)).astype(np.float32)
    x[1] *= 50
    out = np.asarray(layer(x))
    np.testing.assert_allclose(out, x - 4, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "tanh"])
def test_output_range_is_reachable(activation):
    """Output starts near 0; a tanh's limits enclose the data, a (Leaky)ReLU's kink is at low."""
    low, high = -4.0, 9.0
    model = gan.generator(activation, output_range=(low, high))
    z = np.zeros((1, 100), dtype=np.float32)
    assert abs(float(np.mean(model(z)))) < 1.0
    layer = model.get_layer("normalization")
    ends = np.asarray(layer(np.array([[[-1.0]], [[0.0]], [[1.0]]], dtype=np.float32))).ravel()
    if activation == "tanh":
        assert ends[0] < low and ends[2] > high
    else:
        assert ends[1] == pytest.approx(low)


def test_initial_weights_depend_on_the_seed_only():
    first, again, other = (gan.generator(seed=s).get_weights() for s in (1, 1, 2))
    keras.utils.set_random_seed(99)
    reseeded = gan.generator(seed=1).get_weights()
    for a, b, c in zip(first, again, reseeded, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    assert not np.array_equal(first[0], other[0])


def test_more_channels_layers_and_latents():
    """Siblings of the reference: all detectors at once, deeper, with another latent size."""
    generator = gan.generator(n_latent=32, n_channels=12, extra_layers=1)
    assert generator.input_shape == (None, 32) and generator.output_shape == (None, 1060, 12)
    assert len(generator.layers) == len(gan.generator().layers) + 2
    discriminator = gan.discriminator(n_channels=12, extra_layers=1, minibatch_deviation=True)
    assert discriminator.input_shape == (None, 1060, 12)
    assert gan.n_trainable(discriminator) > gan.n_trainable(gan.discriminator())


def test_batch_deviation_sees_copies():
    """Copies differ by nothing over the batch; unit Gaussian noise by one standard deviation."""
    layer = gan.BatchDeviation()
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 7, 3)).astype(np.float32)
    assert np.asarray(layer(noise))[..., -1] == pytest.approx(1.0, abs=0.05)
    copies = np.repeat(noise[:1], 400, axis=0)
    assert np.asarray(layer(copies))[..., -1] == pytest.approx(0.0, abs=1e-3)
    np.testing.assert_array_equal(np.asarray(layer(noise))[..., :3], noise)
