"""Losses and steps against analytic values; stages, determinism, checkpoints."""

import json

import numpy as np
import pytest
from scipy.special import logit

from crab import params
from crab.errors import CrabError
from crab.generators import adversarial
from crab.generators.adversarial import METRICS, Game, discriminator_loss, generator_loss, schedule
from crab.generators.backend import has_accelerator, keras
from crab.generators.latents import Latents
from crab.generators.normalise import Normalisation
from crab.generators.training import Training, TrainingData

SEED = 20320401
N = 8  # samples of the tiny networks below
N_LATENT = 5


def inputs(n_steps=1, n_crops=1, n=6, n_samples=200):
    """Places, channels, keys and progress of some steps."""
    rng = np.random.default_rng(5)
    places = [rng.integers(high, size=(n_steps, n_crops, n)) for high in (n_samples, 2)]
    key = [[7 + k, 0] for k in range(n_steps)]
    done = np.zeros(n_steps, np.float32)
    return *(np.array(x, dtype=np.int32) for x in (*places, key)), done


@pytest.fixture
def tiny_game(settings, monkeypatch):
    """Game of a linear generator with a batch normalisation and a linear critic D(x) = a.x + c."""

    def make(**changes):
        layers, init = keras.layers, keras.initializers
        z = keras.Input((N_LATENT,))
        x = layers.Dense(N, kernel_initializer=init.GlorotUniform(seed=1))(z)
        x = layers.Reshape((N, 1))(layers.BatchNormalization()(x))
        w = keras.Input((N, 1))
        score = layers.Dense(1, kernel_initializer=init.GlorotUniform(seed=2))(layers.Flatten()(w))
        pair = keras.Model(z, x), keras.Model(w, score), Latents(N_LATENT)
        monkeypatch.setattr(adversarial, "networks", lambda *a: pair)
        values = np.random.default_rng(3).normal(1.0, 2.0, (300, 2)).astype(np.float32)
        data = TrainingData(None, values, None, None)
        common = {"window_samples": N, "discriminator_updates": 1}
        return Game(settings.model_copy(update={**common, **changes}), data, 1)

    return make


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


def batch(game, arguments, step=0, k=0):
    """What a step sees: windows, latents, noise, mixing numbers."""
    data = keras.ops.convert_to_tensor(game.data.values)
    each = [x[step] for x in arguments]
    return [np.asarray(x) for x in game._batch(data, *each, k)]


def test_wasserstein_step_is_the_analytic_one(tiny_game):
    """For D(x) = a.x + c the critic's loss is a.(<fake> - <real>) + 10 (|a| - 1)^2.

    Its gradient is <fake> - <real> + 20 (|a| - 1) a/|a|, and one SGD step follows it (Gulrajani et
    al. 2017, arXiv:1704.00028, Eq. 3).
    """
    game = tiny_game(
        loss="wasserstein",
        discriminator_optimizer="sgd",
        discriminator_learning_rate=0.01,
        synthetic_weight=1.0,
        gradient_penalty=10.0,
    )
    arguments = inputs()
    real, z, noise, _ = batch(game, arguments)
    fake = np.asarray(game.generator(z, training=True))
    a, c = (v.numpy() for v in game.discriminator.trainable_variables)
    metrics = game.run("pretraining", *arguments)[0]
    difference = ((fake + noise[1]).mean(0) - (real + noise[0]).mean(0)).reshape(N, 1)
    length = np.linalg.norm(a)
    loss = (a * difference).sum() + 10 * (length - 1) ** 2
    assert metrics[0] == pytest.approx(loss, rel=1e-4)
    gradient = difference + 20 * (length - 1) * a / length
    new_a, new_c = (v.numpy() for v in game.discriminator.trainable_variables)
    np.testing.assert_allclose(new_a, a - 0.01 * gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new_c, c, atol=1e-6)


def test_paired_step_with_penalties_is_the_analytic_one(tiny_game):
    """For D(x) = a.x + c: loss <softplus(a.(fake - real))>, penalties gamma/2 (|a|^2 + |a|^2).

    Jolicoeur-Martineau 2018, arXiv:1807.00734; R1 and R2 of a linear critic are its squared slope
    on either kind of window (Mescheder et al. 2018, arXiv:1801.04406, Eq. 9).
    """
    game = tiny_game(
        loss="paired",
        discriminator_optimizer="sgd",
        discriminator_learning_rate=0.01,
        synthetic_weight=1.0,
        label_smoothing=0.0,
        r1_r2_penalty=0.3,
    )
    arguments = inputs()
    real, z, noise, _ = batch(game, arguments)
    fake = np.asarray(game.generator(z, training=True))
    a = game.discriminator.trainable_variables[0].numpy()
    metrics = game.run("pretraining", *arguments)[0]
    difference = ((fake + noise[1]) - (real + noise[0])).reshape(len(z), N)
    score = difference @ a
    loss = np.logaddexp(0, score).mean() + 0.3 / 2 * 2 * (a**2).sum()
    assert metrics[0] == pytest.approx(loss, rel=1e-4)
    gradient = (difference / (1 + np.exp(-score))).mean(0)[:, None] + 0.3 * 2 * a
    new_a = game.discriminator.trainable_variables[0].numpy()
    np.testing.assert_allclose(new_a, a - 0.01 * gradient, rtol=1e-4, atol=1e-5)


def test_clipped_critic_stays_within_its_limit(tiny_game):
    """Arjovsky et al. 2017, arXiv:1701.07875, Algorithm 1."""
    game = tiny_game(loss="wasserstein", synthetic_weight=1.0, weight_clip=0.05)
    game.run("pretraining", *inputs())
    assert np.abs(game.discriminator.trainable_variables[0].numpy()).max() <= 0.05


def test_averaged_weights_follow_the_generator(tiny_game):
    """One step with decay d: average = d old + (1 - d) new."""
    game = tiny_game(ema_decay=0.75)
    old = game.generator.trainable_variables[0].numpy()
    game.run("gan", *inputs())
    new = game.generator.trainable_variables[0].numpy()
    kept = game.network.trainable_variables[0].numpy()
    assert not np.array_equal(old, new)
    np.testing.assert_allclose(kept, 0.75 * old + 0.25 * new, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "nadam", "sgd"])
def test_each_step_moves_its_own_networks_only(tiny_game, optimizer):
    """Also the batch normalisation's moving averages stay when only the discriminator learns."""
    game = tiny_game(
        generator_optimizer=optimizer, discriminator_optimizer=optimizer, discriminator_updates=2
    )
    before = snapshot(game.generator), snapshot(game.discriminator)
    game.run("pretraining", *inputs(n_crops=2))
    assert not any(moved(game.generator, before[0]))
    assert all(moved(game.discriminator, before[1]))
    before = snapshot(game.generator), snapshot(game.discriminator)
    assert game.join().count_params() == sum(
        m.count_params() for m in (game.generator, game.discriminator)
    )
    game.run("gan", *inputs(n_crops=2))
    # The bias before a batch normalisation has no effect: its gradient is zero.
    paths = [v.path for v in game.generator.variables]
    for path, has_moved in zip(paths, moved(game.generator, before[0]), strict=True):
        assert has_moved or ("dense" in path and "bias" in path)
    assert all(moved(game.discriminator, before[1]))


def test_reference_networks_move_and_the_discriminator_learns(settings):
    """Twelve steps against an untrained generator beat the loss (1 + w) ln 2 of a blind one."""
    changes = {"discriminator_learning_rate": 2e-3, "discriminator_updates": 1}
    values = np.random.default_rng(3).normal(1.0, 2.0, (3000, 2)).astype(np.float32)
    to_units = Normalisation(("a", "b"), np.zeros(2), np.ones(2), 1, 3.0, -3.0, 20.0)
    data = TrainingData(to_units, values, None, None)
    game = Game(settings.model_copy(update=changes), data, 1)
    before = snapshot(game.generator), snapshot(game.discriminator)
    losses = game.run("pretraining", *inputs(12, n=8, n_samples=1900))[:, 0]
    assert losses[-1] < 0.5 * 1.5 * np.log(2) < losses[0]
    assert not any(moved(game.generator, before[0]))
    assert all(moved(game.discriminator, before[1]))
    before = snapshot(game.generator), snapshot(game.discriminator)
    metrics = game.run("gan", *inputs(n=8, n_samples=1900))[0]
    assert metrics.shape == (len(METRICS),) and np.isfinite(metrics).all()
    assert all(moved(game.generator, before[0]))
    assert all(moved(game.discriminator, before[1]))


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
    training = Training(settings, train_cube, validation_cube, SEED, path)
    run = training.recipe.run

    def killed(stage, *arguments):
        if len(training.history) == 3:
            raise KeyboardInterrupt
        return run(stage, *arguments)

    monkeypatch.setattr(training.recipe, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        training.run()
    folder = tmp_path / ".checkpoint-gan_reference"
    assert len(list(folder.iterdir())) == 1
    with pytest.raises(CrabError, match="3 of 5 epochs are done"):
        training.save()

    resumed = Training(settings, train_cube, validation_cube, SEED, path)
    assert resumed.n_resumed == 3
    resumed.run("gan", n_epochs=1)
    resumed.run()
    resumed.save()
    assert not folder.exists()
    for suffix in (".keras", ".discriminator.keras", ".json", ".history.csv"):
        assert path.with_suffix(suffix).read_bytes() == trained.with_suffix(suffix).read_bytes()


def test_finished_network_is_taken_over(trained, settings, train_cube, validation_cube):
    """Same settings, data, seed and code: nothing is trained again, not even without a GPU."""
    kept = {p: p.read_bytes() for p in trained.parent.iterdir()}
    wanted = settings.model_copy(update={"accelerator": "required"})
    training = Training(wanted, train_cube, validation_cube, SEED, trained)
    assert training.finished and training.n_resumed == 5
    assert training.run()["step"].iloc[-1] == 2 + 2 * (2 + 1)
    saved = keras.saving.load_model(trained, compile=False)
    for ours, theirs in zip(training.recipe.network.weights, saved.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    training.save()
    assert {p: p.read_bytes() for p in trained.parent.iterdir()} == kept
    assert not Training(settings, train_cube, validation_cube, SEED + 1, trained).finished


def test_stages_are_trained_in_order(settings, train_cube, validation_cube, tmp_path):
    training = Training(settings, train_cube, validation_cube, SEED, tmp_path / "gan.keras")
    assert training.run("gan").empty
    assert training.run("pretraining")["stage"].tolist() == ["pretraining"]
    assert training.run("gan", n_epochs=1)["stage"].tolist() == ["pretraining", "gan"]


def test_checkpoint_of_other_settings_or_broken_is_not_used(
    settings, train_cube, validation_cube, tmp_path
):
    path = tmp_path / "gan_reference.keras"
    cubes = (train_cube, validation_cube)
    Training(settings, *cubes, SEED, path).run("pretraining")
    assert Training(settings, *cubes, SEED, path).n_resumed == 1
    other = settings.model_copy(update={"label_smoothing": 0.2})
    assert Training(other, *cubes, SEED, path).n_resumed == 0
    assert Training(settings, *cubes, SEED + 1, path).n_resumed == 0
    (checkpoint,) = (tmp_path / ".checkpoint-gan_reference").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CrabError, match=f"{checkpoint}: not a readable checkpoint.*delete it"):
        Training(settings, *cubes, SEED, path)


def test_loss_that_is_not_finite_stops_the_run(settings, train_cube, validation_cube, tmp_path):
    training = Training(settings, train_cube, validation_cube, SEED, tmp_path / "gan.keras")
    training.recipe.run = lambda *inputs: np.full((2, 5), np.nan)
    with pytest.raises(CrabError, match=r"epoch 1 \(pretraining\): a loss is not finite"):
        training.run()


def test_record_and_history(trained, train_cube, settings):
    record = json.loads(trained.with_suffix(".json").read_text())
    assert record["mission"] == "litebird_lft"
    assert record["environment"] == "litebird_2032"
    assert record["detectors"] == train_cube["detector"].values.tolist()
    assert record["settings"] == settings.model_dump()
    # 2 pre-training steps, then twice 2 of the game and 1 extra.
    assert record["n_steps"] == 2 + 2 * (2 + 1)
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
        Training(settings, train_cube, other, SEED, path)
    foreign = validation_cube.assign_attrs(mission="planck_hfi")
    with pytest.raises(CrabError, match="validation cube: mission = 'planck_hfi'"):
        Training(settings, train_cube, foreign, SEED, path)
    with pytest.raises(CrabError, match="validation cube: detectors"):
        Training(settings, train_cube, validation_cube.isel(detector=[0, 2]), SEED, path)


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


def test_required_accelerator_is_asked_for(settings, train_cube, validation_cube, tmp_path):
    """A laptop must not silently start hours of training."""
    wanted = settings.model_copy(update={"accelerator": "required"})
    path = tmp_path / "gan_reference.keras"
    if has_accelerator():
        Training(wanted, train_cube, validation_cube, SEED, path)
        return
    with pytest.raises(CrabError, match=r"accelerator = 'required'.*dvc pull"):
        Training(wanted, train_cube, validation_cube, SEED, path)
