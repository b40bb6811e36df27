"""Losses and steps against analytic values; stages, determinism, checkpoints."""

import json

import numpy as np
import pytest
from scipy.special import logit

from crab import params
from crab.errors import CrabError
from crab.generators import gan
from crab.generators.adversarial import METRICS, AdversarialPair, discriminator_loss, generator_loss
from crab.generators.backend import has_accelerator, keras
from crab.generators.training import GanTraining, mean_pair_correlation, schedule

SEED = 20320401
N = 8  # samples of the tiny networks below


def tiny_pair(settings, **changes):
    """Linear generator with a batch normalisation, and linear critic D(x) = a.x + c."""
    layers, init = keras.layers, keras.initializers
    z = keras.Input((gan.N_LATENT,))
    x = layers.Dense(N, kernel_initializer=init.GlorotUniform(seed=1))(z)
    x = layers.Reshape((N, 1))(layers.BatchNormalization()(x))
    w = keras.Input((N, 1))
    score = layers.Dense(1, kernel_initializer=init.GlorotUniform(seed=2))(layers.Flatten()(w))
    settings = settings.model_copy(update=changes)
    return AdversarialPair(keras.Model(z, x), keras.Model(w, score), settings)


def inputs(n=6, samples=N):
    rng = np.random.default_rng(5)
    real = rng.normal(1.0, 2.0, (n, samples, 1)).astype(np.float32)
    noise = rng.normal(0, 0.1, (2, n, samples, 1)).astype(np.float32)
    return real, gan.latents(rng, n), noise, rng.random((n, 1, 1), dtype=np.float32)


def snapshot(model):
    return [v.numpy().copy() for v in model.variables]


def moved(model, before):
    """For each variable, whether it differs from the snapshot."""
    return [
        not np.array_equal(v.numpy(), old) for v, old in zip(model.variables, before, strict=True)
    ]


def test_cross_entropy_values():
    """At scores of zero the losses are (1 + w) ln 2 and ln 2."""
    zero = np.zeros((4, 1), dtype=np.float32)
    found = float(discriminator_loss("binary_crossentropy", zero, zero, 0.5))
    assert found == pytest.approx(1.5 * np.log(2), rel=1e-6)
    found = float(generator_loss("binary_crossentropy", zero, 0.1))
    assert found == pytest.approx(np.log(2), rel=1e-6)


def test_best_responses():
    """Equal distributions: D = 1/(1 + w). Generator: D(G(z)) = 1 - smoothing is its minimum."""

    def is_minimum(loss, best):
        around = [float(loss(np.float32([[logit(best) + d]]))) for d in (-0.1, 0.0, 0.1)]
        return around[1] < min(around[0], around[2])

    kind = "binary_crossentropy"
    for weight in (0.5, 1.0):
        best = 1 / (1 + weight)
        assert is_minimum(lambda s, w=weight: discriminator_loss(kind, s, s, w), best)
    assert is_minimum(lambda s: generator_loss(kind, s, 0.1), 0.9)
    assert not is_minimum(lambda s: generator_loss(kind, s, 0.0), 0.9)


def test_wasserstein_step_is_the_analytic_one(settings):
    """For D(x) = a.x + c the critic's loss is a.(<fake> - <real>) + 10 (|a| - 1)^2.

    Its gradient is <fake> - <real> + 20 (|a| - 1) a/|a|, and one SGD step follows it (Gulrajani et
    al. 2017, arXiv:1704.00028, Eq. 3).
    """
    pair = tiny_pair(
        settings,
        loss="wasserstein",
        discriminator_optimizer="sgd",
        discriminator_learning_rate=0.01,
        synthetic_weight=1.0,
        gradient_penalty=10.0,
    )
    real, z, noise, mix = inputs()
    fake = np.asarray(pair.generator(z, training=True))
    a, c = (v.numpy() for v in pair.discriminator.trainable_variables)
    metrics = np.asarray(pair.discriminator_step(real, z, noise, mix))
    difference = ((fake + noise[1]).mean(0) - (real + noise[0]).mean(0)).reshape(N, 1)
    length = np.linalg.norm(a)
    loss = (a * difference).sum() + 10 * (length - 1) ** 2
    assert metrics[0] == pytest.approx(loss, rel=1e-4)
    gradient = difference + 20 * (length - 1) * a / length
    new_a, new_c = (v.numpy() for v in pair.discriminator.trainable_variables)
    np.testing.assert_allclose(new_a, a - 0.01 * gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new_c, c, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "nadam", "sgd"])
def test_each_step_moves_its_own_networks_only(settings, optimizer):
    """Also the batch normalisation's moving averages stay when only the discriminator learns."""
    pair = tiny_pair(settings, generator_optimizer=optimizer, discriminator_optimizer=optimizer)
    before = snapshot(pair.generator), snapshot(pair.discriminator)
    pair.discriminator_step(*inputs())
    assert not any(moved(pair.generator, before[0]))
    assert all(moved(pair.discriminator, before[1]))
    before = snapshot(pair.generator), snapshot(pair.discriminator)
    assert pair.join().count_params() == sum(
        m.count_params() for m in (pair.generator, pair.discriminator)
    )
    pair.gan_step(*inputs())
    # The bias before a batch normalisation has no effect: its gradient is zero.
    paths = [v.path for v in pair.generator.variables]
    for path, has_moved in zip(paths, moved(pair.generator, before[0]), strict=True):
        assert has_moved or ("dense" in path and "bias" in path)
    assert all(moved(pair.discriminator, before[1]))


def test_reference_networks_move_and_the_discriminator_learns(settings):
    """Twelve steps against an untrained generator beat the loss (1 + w) ln 2 of a blind one."""
    changes = {"discriminator_optimizer": "adam", "discriminator_learning_rate": 2e-3}
    pair = AdversarialPair(
        gan.generator(output_range=(-3.0, 20.0), seed=1),
        gan.discriminator(seed=1),
        settings.model_copy(update=changes),
    )
    before = snapshot(pair.generator), snapshot(pair.discriminator)
    losses = [np.asarray(pair.discriminator_step(*inputs(8, 1060)))[0] for _ in range(12)]
    assert losses[-1] < 0.5 * 1.5 * np.log(2) < losses[0]
    assert not any(moved(pair.generator, before[0]))
    assert all(moved(pair.discriminator, before[1]))
    before = snapshot(pair.generator), snapshot(pair.discriminator)
    pair.join()
    metrics = np.asarray(pair.gan_step(*inputs(8, 1060)))
    assert metrics.shape == (len(METRICS),) and np.isfinite(metrics).all()
    assert all(moved(pair.generator, before[0]))
    assert all(moved(pair.discriminator, before[1]))


def test_schedule(settings):
    assert schedule(settings) == [
        ("pretraining", 2),
        ("gan", 2),
        ("extra_discriminator", 1),
        ("gan", 2),
        ("extra_discriminator", 1),
    ]


def test_killed_and_resumed_run_gives_the_same_bytes(
    trained, settings, train_cube, validation_cube, tmp_path, monkeypatch
):
    """A run broken off within an epoch, then resumed, against one without interruption."""
    path = tmp_path / trained.name
    training = GanTraining(settings, train_cube, validation_cube, SEED, path)
    training.pretrain_discriminator()
    training.build_gan()
    draw = training._inputs

    def killed():
        if training._step == 8:
            raise KeyboardInterrupt
        return draw()

    monkeypatch.setattr(training, "_inputs", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train()
    folder = tmp_path / ".checkpoint-gan_reference"
    assert len(list(folder.iterdir())) == 1
    with pytest.raises(CrabError, match="3 of 5 epochs are done"):
        training.save()

    resumed = GanTraining(settings, train_cube, validation_cube, SEED, path)
    assert resumed.n_resumed == 3
    resumed.pretrain_discriminator()
    resumed.build_gan()
    resumed.train()
    resumed.save()
    assert not folder.exists()
    for suffix in (".keras", ".json", ".history.csv"):
        assert path.with_suffix(suffix).read_bytes() == trained.with_suffix(suffix).read_bytes()


def test_checkpoint_of_other_settings_or_broken_is_not_used(
    settings, train_cube, validation_cube, tmp_path
):
    path = tmp_path / "gan_reference.keras"
    args = (train_cube, validation_cube, SEED, path)
    first = GanTraining(settings, *args)
    with pytest.raises(CrabError, match="not pre-trained"):
        first.build_gan()
    with pytest.raises(CrabError, match="call build_gan first"):
        first.train()
    first.pretrain_discriminator()
    assert GanTraining(settings, *args).n_resumed == 1
    other = settings.model_copy(update={"label_smoothing": 0.2})
    assert GanTraining(other, *args).n_resumed == 0
    assert GanTraining(settings, train_cube, validation_cube, SEED + 1, path).n_resumed == 0
    (checkpoint,) = (tmp_path / ".checkpoint-gan_reference").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CrabError, match=f"{checkpoint}: not a readable checkpoint.*delete it"):
        GanTraining(settings, *args)


def test_loss_that_is_not_finite_stops_the_run(settings, train_cube, validation_cube, tmp_path):
    path = tmp_path / "gan_reference.keras"
    training = GanTraining(settings, train_cube, validation_cube, SEED, path)
    training._pair.discriminator_step = lambda *inputs: np.full(5, np.nan)
    with pytest.raises(CrabError, match=r"epoch 1 \(pretraining\): a loss is not finite"):
        training.pretrain_discriminator()


def test_record_and_history(trained, train_cube, settings):
    record = json.loads(trained.with_suffix(".json").read_text())
    assert record["mission"] == "litebird_lft"
    assert record["environment"] == "litebird_2032"
    assert record["detectors"] == train_cube["detector"].values.tolist()
    assert record["settings"] == settings.model_dump()
    # 2 pre-training steps, then twice 2 x 2 (two discriminator updates each) and 1 extra.
    assert record["n_steps"] == 2 + 2 * (2 * 2 + 1)
    lines = trained.with_suffix(".history.csv").read_text().splitlines()
    assert len(lines) == 1 + 5
    assert set(METRICS) < set(lines[0].split(","))
    columns = dict(zip(lines[0].split(","), lines[2].split(","), strict=True))
    for name in ("response_real", "response_fake", "response_validation", "accuracy_real"):
        assert 0 <= float(columns[name]) <= 1


def test_cubes_that_do_not_match_are_refused(settings, train_cube, validation_cube, tmp_path):
    path = tmp_path / "gan_reference.keras"
    other = validation_cube.assign_attrs(environment="solar_min_2009")
    with pytest.raises(CrabError, match="validation cube: environment = 'solar_min_2009'"):
        GanTraining(settings, train_cube, other, SEED, path)
    foreign = validation_cube.assign_attrs(mission="planck_hfi")
    with pytest.raises(CrabError, match="validation cube: mission = 'planck_hfi'"):
        GanTraining(settings, train_cube, foreign, SEED, path)
    with pytest.raises(CrabError, match="validation cube: detectors"):
        GanTraining(settings, train_cube, validation_cube.isel(detector=[0, 2]), SEED, path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("synthetic_weight", 0.5), ("label_smoothing", 0.1), ("gradient_penalty", 0.0)],
)
def test_wasserstein_refuses_what_belongs_to_labels(settings, key, value):
    right = {"synthetic_weight": 1.0, "label_smoothing": 0.0, "gradient_penalty": 10.0}
    values = {**settings.model_dump(), "loss": "wasserstein", **right}
    assert params.TrainGanNotebook(**values).loss == "wasserstein"
    with pytest.raises(ValueError, match=f"train_gan.{key} = {value}"):
        params.TrainGanNotebook(**{**values, key: value})


def test_pair_correlation_sees_a_collapse():
    """Independent white windows: <|r|> = sqrt(2 / (pi n)); copies of one window: 1."""
    rng = np.random.default_rng(0)
    white = rng.normal(size=(60, 1060))
    assert mean_pair_correlation(white) == pytest.approx(np.sqrt(2 / np.pi / 1060), rel=0.1)
    same = white[:1] + 1e-3 * rng.normal(size=(20, 1060))
    assert mean_pair_correlation(same) > 0.999


def test_required_accelerator_is_asked_for(settings, train_cube, validation_cube, tmp_path):
    """A laptop must not silently start hours of training."""
    wanted = settings.model_copy(update={"accelerator": "required"})
    path = tmp_path / "gan_reference.keras"
    if has_accelerator():
        GanTraining(wanted, train_cube, validation_cube, SEED, path)
        return
    with pytest.raises(CrabError, match=r"accelerator = 'required'.*dvc pull"):
        GanTraining(wanted, train_cube, validation_cube, SEED, path)
