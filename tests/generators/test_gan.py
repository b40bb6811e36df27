"""The reference networks against the published table, and the trained generator's TODs."""

import itertools
import json
import shutil

import numpy as np
import pytest

from crab import generators, schema, seeds
from crab.errors import CrabError
from crab.generators import base, files, gan
from crab.generators.backend import keras

SEED = 20320401

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


# --- the trained model -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(trained):
    return generators.get("gan_reference").load(trained)


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the model's files, to be spoilt."""
    for suffix in (".keras", ".json"):
        shutil.copy(trained.with_suffix(suffix), tmp_path)
    return tmp_path / trained.name


def test_any_cut_gives_the_same_bits(model, trained):
    """Requests that begin, end and cross anywhere, in any order, after a fresh load."""
    group = model.group_windows * 1060
    start, n = group - 1500, 3300
    whole = model.sample("litebird_2032", start, n, SEED)
    assert whole.shape == (3, n) and whole.dtype == np.float32
    fresh = generators.get("gan_reference").load(trained)
    cuts = [0, 1, 440, 1500, 1501, 2561, n]
    parts = {
        a: fresh.sample("litebird_2032", start + a, b - a, SEED)
        for a, b in reversed(list(itertools.pairwise(cuts)))
    }
    np.testing.assert_array_equal(np.concatenate([parts[a] for a in cuts[:-1]], axis=1), whole)
    assert model.sample("litebird_2032", 5, 0, SEED).shape == (3, 0)


def test_samples_are_the_networks_windows_in_watts(model):
    """Window b is G(z_b) taken back to W, with z_b from its own stream (here in another batch)."""
    for index, detector in enumerate(model.record["detectors"]):
        labels = ("litebird_lft", "litebird_2032", detector, "latent")
        z = gan.latents(seeds.rng(SEED, *labels, block=33))[None]
        u = np.asarray(model.model(z))[0, :, 0]
        s = model.normalisation.stretch_sigma
        u = s * np.sinh(u.astype(float) / s) if s else u
        scale = model.normalisation.scale_w[index]
        expected = model.normalisation.location_w[index] - scale * u
        found = model.sample("litebird_2032", 33 * 1060, 1060, SEED)[index]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * scale)


def test_sizes_of_groups_change_rounding_only(model, trained):
    """More detectors than fit in one call, fewer windows in a group: the same TOD."""
    other = gan.GanReference.load(trained)
    other.group_detectors, other.group_windows = 2, 3
    found = other.sample("litebird_2032", 2500, 3000, SEED)
    expected = model.sample("litebird_2032", 2500, 3000, SEED)
    scale = model.normalisation.scale_w.min()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * scale)


def test_windows_detectors_and_seeds_differ(model):
    def unit(seed):
        tod = model.sample("litebird_2032", 0, 2 * 1060, seed).astype(float)
        return (tod - model.normalisation.location_w[:, None]) / model.normalisation.scale_w[
            :, None
        ]

    first = unit(SEED)
    assert not np.allclose(first[0, :1060], first[0, 1060:])
    assert not np.allclose(first[0], first[1])
    assert not np.allclose(first, unit(SEED + 1))


def test_samples_make_a_valid_cube(model, train_cube):
    """With the model's own detector table; coordinates are those of the training cube."""
    tod = model.sample("litebird_2032", 0, 50, SEED)
    attrs = {key: train_cube.attrs[key] for key in schema.REQUIRED_ATTRS}
    cube = schema.make_cube({"tod": tod}, model.detectors, 19.1, attrs)
    for name in set(train_cube.coords) - {"time"}:
        np.testing.assert_array_equal(cube[name], train_cube[name])


def test_bad_requests_are_refused(model):
    with pytest.raises(CrabError, match=r"solar_min_2009.*trained for 'litebird_2032'"):
        model.sample("solar_min_2009", 0, 10, SEED)
    with pytest.raises(CrabError, match="start_sample = -1"):
        model.sample("litebird_2032", -1, 10, SEED)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mission": "planck_hfi"}, "mission = 'planck_hfi' was asked for.*'litebird_lft'"),
        ({"environment": "solar_max_2014"}, "environment = 'solar_max_2014' was asked for"),
        ({"detectors": ["det_0", "det_1"]}, "2 detectors were asked for.*for 3 .'det_2'"),
        ({"detectors": ["det_1", "det_0", "det_2"]}, "the order differs"),
    ],
)
def test_model_for_something_else_is_refused(trained, asked, message):
    with pytest.raises(CrabError, match=message) as caught:
        gan.GanReference.load(trained, **asked)
    assert str(trained) in str(caught.value)


def test_broken_files_are_refused(copy):
    source = copy.with_suffix(".json")
    record = json.loads(source.read_text())
    for key in ("normalisation", "detectors"):
        source.write_text(json.dumps({k: v for k, v in record.items() if k != key}))
        with pytest.raises(CrabError, match=f"{source}: '{key}' is missing"):
            gan.GanReference.load(copy)
    del record["normalisation"]["scale_w"]
    source.write_text(json.dumps(record))
    with pytest.raises(CrabError, match=r"normalisation.scale_w is missing.*train"):
        gan.GanReference.load(copy)
    source.write_text("{")
    with pytest.raises(CrabError, match="not valid JSON"):
        gan.GanReference.load(copy)
    source.unlink()
    with pytest.raises(CrabError, match=f"{source}: no such file"):
        gan.GanReference.load(copy)


def test_truncated_or_foreign_network_is_refused(copy):
    content = copy.read_bytes()
    copy.write_bytes(content[:-1000])
    with pytest.raises(CrabError, match=f"{copy}: not a whole .keras file"):
        gan.GanReference.load(copy)
    files.write_model(copy.with_name("other.keras"), gan.generator(), {})
    shutil.move(copy.with_name("other.keras"), copy)
    with pytest.raises(CrabError, match="not of the same training"):
        gan.GanReference.load(copy)
    copy.unlink()
    with pytest.raises(CrabError, match=f"{copy}: no such file.*dvc repro"):
        gan.GanReference.load(copy)


def test_bytes_do_not_depend_on_memory_or_time(tmp_path):
    """Keras writes addresses of objects: another process, here another policy, has others."""
    policy = keras.config.dtype_policy()
    written = []
    try:
        for name in ("a", "b"):
            keras.config.set_dtype_policy(keras.DTypePolicy("float32"))
            path = tmp_path / f"{name}.keras"
            files.write_model(path, gan.generator(seed=3), {})
            written.append((path.read_bytes(), keras.config.dtype_policy()))
    finally:
        keras.config.set_dtype_policy(policy)
    assert written[0][1] is not written[1][1]
    assert written[0][0] == written[1][0]
    loaded = keras.saving.load_model(path)
    z = gan.latents(np.random.default_rng(0), 2)
    np.testing.assert_array_equal(np.asarray(loaded(z)), np.asarray(gan.generator(seed=3)(z)))


def test_registry():
    assert "gan_reference" in generators.names()
    for name in generators.names():
        assert generators.get(name).name == name
    with pytest.raises(CrabError, match=r"generator = 'gan_referense': allowed are.*did you mean"):
        generators.get("gan_referense")
    assert set(base.REGISTRY) == set(generators.names())
