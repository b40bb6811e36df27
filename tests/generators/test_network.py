"""Trained networks as generators: files, random access, no seams."""

import itertools
import json
import shutil

import numpy as np
import pytest

from crab import generators, params, schema, seeds
from crab.errors import CrabError
from crab.generators import base, files, gan
from crab.generators.backend import keras
from crab.generators.network import Network
from crab.generators.training import Training

SEED = 20320401


@pytest.fixture(
    scope="module",
    params=[
        "gan_reference",
        "gan_multichannel",
        "gan_paired",
        "vae_gaussian",
        "vae_bernoulli_1",
        "vae_bernoulli_2",
    ],
)
def path(request, trained, train_cube, validation_cube, tmp_path_factory):
    """One trained model of each kind."""
    name = request.param
    if name == "gan_reference":
        return trained
    smoke = params.load().profiles["smoke"]
    short = {"batch_size": 4, "steps_per_epoch": 2}
    if name in smoke.train_vae:
        section = smoke.train_vae[name].model_copy(update={"epochs": 1, **short})
    else:
        n = {"generator_pretraining_epochs": int(name == "gan_paired"), "gan_epochs": 1}
        n["discriminator_pretraining_epochs"] = 0
        section = smoke.train_gan[name].model_copy(update={**n, **short})
    made = tmp_path_factory.mktemp("model") / f"{name}.keras"
    training = Training(section, train_cube, validation_cube, SEED, made)
    training.run()
    return training.save()


@pytest.fixture(scope="module")
def model(trained):
    return generators.get("gan_reference").load(trained)


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the model's files, to be spoilt."""
    for suffix in (".keras", ".json"):
        shutil.copy(trained.with_suffix(suffix), tmp_path)
    return tmp_path / trained.name


def test_any_cut_gives_the_same_bits(path):
    """Requests that begin, end and cross anywhere, in any order, after a fresh load."""
    model = Network.load(path)
    length = model.group_windows * 1060 if model.windowed else model.block_samples
    start, n = length - 1500, 3300
    whole = model.sample("litebird_2032", start, n, SEED)
    assert whole.shape == (3, n) and whole.dtype == np.float32
    fresh = Network.load(path)
    cuts = [0, 1, 440, 1500, 1501, 2561, n]
    parts = {
        a: fresh.sample("litebird_2032", start + a, b - a, SEED)
        for a, b in reversed(list(itertools.pairwise(cuts)))
    }
    np.testing.assert_array_equal(np.concatenate([parts[a] for a in cuts[:-1]], axis=1), whole)
    assert model.sample("litebird_2032", 5, 0, SEED).shape == (3, 0)


def test_streaming_network_has_no_seams(path):
    """Where two blocks meet, the step from one sample to the next is like any other.

    A generator that is stationary has the same law of steps everywhere; at 200 seams the mean
    square of the steps is that of all others within 5 standard errors.
    """
    model = Network.load(path)
    if model.windowed:
        pytest.skip("a windowed network has seams")
    model.block_samples = 64
    tod = model.sample("litebird_2032", 0, 64 * 200, SEED).astype(float)
    z = model.normalisation.forward(tod)
    step = np.diff(z, axis=1) ** 2
    seams = np.arange(63, step.shape[1], 64)
    inside = np.delete(step, seams, axis=1)
    at = step[:, seams].mean(axis=0)
    assert abs(at.mean() - inside.mean()) < 5 * at.std() / np.sqrt(at.size)


def test_samples_are_the_networks_windows_in_watts(model):
    """Window b is G(z_b) taken back to W, with z_b from its own stream (here in another batch)."""
    for index, detector in enumerate(model.record["detectors"]):
        labels = ("litebird_lft", "litebird_2032", "gan_reference", f"latent {detector}")
        z = gan.latents().draw(seeds.rng(SEED, *labels, block=33), 1)
        u = np.asarray(model.model(z))[0, :, 0]
        s = model.normalisation.stretch_sigma
        u = s * np.sinh(u.astype(float) / s) if s else u
        scale = model.normalisation.scale_w[index]
        expected = model.normalisation.location_w[index] - scale * u
        found = model.sample("litebird_2032", 33 * 1060, 1060, SEED)[index]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * scale)


def test_sizes_of_groups_change_rounding_only(model, trained):
    """More detectors than fit in one call, fewer windows in a group: the same TOD."""
    other = Network.load(trained)
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
        Network.load(trained, **asked)
    assert str(trained) in str(caught.value)


def test_broken_files_are_refused(copy):
    source = copy.with_suffix(".json")
    record = json.loads(source.read_text())
    for key in ("normalisation", "detectors"):
        source.write_text(json.dumps({k: v for k, v in record.items() if k != key}))
        with pytest.raises(CrabError, match=f"{source}: '{key}' is missing"):
            Network.load(copy)
    del record["normalisation"]["scale_w"]
    source.write_text(json.dumps(record))
    with pytest.raises(CrabError, match=r"normalisation.scale_w is missing.*train"):
        Network.load(copy)
    source.write_text("{")
    with pytest.raises(CrabError, match="not valid JSON"):
        Network.load(copy)
    source.unlink()
    with pytest.raises(CrabError, match=f"{source}: no such file"):
        Network.load(copy)


def test_truncated_or_foreign_network_is_refused(copy):
    content = copy.read_bytes()
    copy.write_bytes(content[:-1000])
    with pytest.raises(CrabError, match=f"{copy}: not a whole .keras file"):
        Network.load(copy)
    files.write_model(copy.with_name("other.keras"), gan.generator(), {})
    shutil.move(copy.with_name("other.keras"), copy)
    with pytest.raises(CrabError, match="not of the same training"):
        Network.load(copy)
    copy.unlink()
    with pytest.raises(CrabError, match=f"{copy}: no such file.*dvc repro"):
        Network.load(copy)


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
    z = gan.latents().draw(np.random.default_rng(0), 2)
    np.testing.assert_array_equal(np.asarray(loaded(z)), np.asarray(gan.generator(seed=3)(z)))


def test_registry():
    assert "gan_reference" in generators.names()
    for name in generators.names():
        kind = generators.get(name)
        assert hasattr(kind, "load") != hasattr(kind, "fit")
    settings = params.load()
    for profile in settings.profiles.values():
        trained_here = {*profile.train_vae, *profile.train_gan}
        trained_here |= {*profile.train_events, *profile.train_stream}
        assert trained_here == {n for n in generators.names() if not n.startswith("baseline")}
        assert set(profile.compare.generators) <= set(generators.names())
    with pytest.raises(CrabError, match=r"generator = 'gan_referense': allowed are.*did you mean"):
        generators.get("gan_referense")
    # What the models are compared with is no model.
    assert set(base.REGISTRY) == {*generators.names(), "monte_carlo"}
    assert "monte_carlo" not in generators.names()
