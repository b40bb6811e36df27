"""The streaming GAN: analytic responses and rates, training, levels, and random access."""

import itertools

import numpy as np
import pytest

from crab import params
from crab.errors import CrabError
from crab.generators import stream_network, stream_targets
from crab.generators.backend import keras
from crab.generators.stream_game import ADVERSARIAL, STATISTICS
from crab.generators.stream_targets import StreamTargets
from crab.generators.stream_training import StreamTraining
from crab.generators.streaming_gan import StreamingGan
from crab.physics.conditions import fluxes_cm2, mean_flux_cm2
from crab.training_settings import TrainStreamNotebook
from tests.generators.conftest import SEED, shot_noise_cube

ENVIRONMENTS = ("solar_min_2009", "solar_max_2014")


def _settings(**changes) -> TrainStreamNotebook:
    values = {
        "accelerator": "optional",
        "environments": list(ENVIRONMENTS),
        "window_samples": 64,
        "batch_size": 4,
        "steps_per_epoch": 2,
        "statistics_epochs": 1,
        "gan_epochs": 1,
        "statistics_learning_rate": 3e-3,
        "generator_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "final_learning_rate": 0.1,
        "kernel_length": 3,
        "r1_r2_penalty": 1.0,
        "statistics_weight": 0.5,
        "ema_decay": 0.5,
        "stretch_sigma": 3.0,
    }
    return TrainStreamNotebook(**{**values, **changes})


def _training(path, **changes) -> StreamTraining:
    cubes = []
    for k, name in enumerate(ENVIRONMENTS):
        cube = shot_noise_cube("train", seed=k + 1)
        cube.attrs["environment"] = name
        n_det = cube.sizes["detector"]
        # The Joule power is less where there is more heat.
        cube = cube.assign_coords(joule_power_w=("detector", np.full(n_det, 7e-13 + 1e-16 * k)))
        cubes.append(cube)
    known = params.load().environments
    return StreamTraining(_settings(**changes), cubes, [known[e] for e in ENVIRONMENTS], SEED, path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Path of a network trained without interruption."""
    training = _training(tmp_path_factory.mktemp("stream") / "stream_gan.keras")
    training.run()
    return training.save()


@pytest.fixture(scope="module")
def loaded(trained):
    generator = StreamingGan.load(trained, "litebird_lft", "litebird_2032")
    generator.block_samples = 256
    return generator


@pytest.mark.parametrize("phase", [0.0, 0.375, 0.5])
def test_a_hit_between_samples_is_a_raised_cosine_pulse(phase):
    """sinc(x) cos(pi b x)/(1 - 4 b^2 x^2), b = 0.1 (Proakis, Digital Communications, Eq. 9.2-26)

    Gains at multiples of 1/48 cycles per sample make it the sum of pulses 48 samples apart, of
    which the response is one period.
    """
    layer = stream_network.Response()
    hits = np.zeros((1, 120, 1, 2), np.float32)
    hits[0, 60, 0] = 1.0, 2.0
    answer = np.asarray(layer([hits, np.full((1, 120, 1), phase, np.float32)]))[0]
    # Sample n of the answer is sample n + length/2 - 1 of what was given.
    x = np.arange(len(answer)) + (120 - len(answer) + 1) / 2 - 60 - phase
    expected = _raised_cosine(x[:, None] + 48 * np.arange(-40, 41)).sum(axis=1)
    near = np.abs(x) < 23.5  # the response ends there
    assert np.allclose(answer[near, 0], expected[near], atol=1e-4)
    assert (answer[np.abs(x) > 24.5] == 0).all()
    assert np.allclose(answer[:, 1], 2 * answer[:, 0], rtol=1e-6, atol=1e-6)


def _raised_cosine(x):
    return np.sinc(x) * np.cos(0.1 * np.pi * x) / (1 - (0.2 * x) ** 2 + 1e-12)


@pytest.mark.parametrize("n_samples", [48, 63, 64, 65, 150])
def test_convolution_in_blocks_is_the_sum_that_defines_it(n_samples):
    """y_t = sum_l x_(t+l) k_l, in float64"""
    rng = np.random.default_rng(4)
    x, kernel = rng.standard_normal((2, 3, n_samples, 5)), rng.standard_normal((48, 5, 2))
    answer = stream_network.convolve(x.astype(np.float32), kernel.astype(np.float32))
    n = n_samples - 47
    assert answer.shape == (2, 3, n, 2)
    expected = sum(x[..., i : i + n, :] @ kernel[i] for i in range(48))
    assert np.allclose(answer, expected, atol=1e-4)


def test_conditions_multiply_the_rate_of_hits_above_every_size():
    """P(e > k) = exp(-k), so a shift c of e multiplies rates by exp(c)"""
    layer = stream_network.Shift(1.0)
    e = np.random.default_rng(1).standard_exponential((2, 400_000, 1)).astype(np.float32)
    told = np.array([[0.0, 0.0], [0.5, 0.0]], np.float32)
    shifted = np.asarray(layer([e, told]))
    for k in (1.0, 2.0, 4.0):
        quiet, busy = (shifted > k).sum(axis=(1, 2))
        error = np.hypot(quiet**-0.5, busy**-0.5)
        assert busy / quiet == pytest.approx(np.exp(0.5), rel=4 * error)


def test_targets_know_how_many_detectors_a_hit_is_seen_in():
    """Same margins, spectra and pairs in the mean, but hits in one detector instead of all"""
    rng = np.random.default_rng(2)
    together = rng.standard_normal((6400, 4)).astype(np.float32)
    together[::20] += 8.0
    apart = rng.standard_normal((6400, 4)).astype(np.float32)
    for d in range(4):
        apart[5 * d :: 20, d] += 8.0
    training_scale = StreamTargets(together, _Flat(), 64)
    windows = [x[:6400].reshape(-1, 64, 4) for x in (together, apart)]
    same, other = (float(training_scale.quantile_loss(w)) for w in windows)
    # Of the very cube, the extremes stand a part of a rank beside the medians of a batch.
    assert 5 * same < 0.3 < other


def test_the_largest_of_a_batch_is_compared_with_its_median():
    """P(u_max < u) = u^n, so the median of the largest of n even numbers is 2^(-1/n)"""
    n, n_all = 6400, 600_000
    (place,) = stream_targets.places(np.array([n - 1]), n, n_all)
    assert 1 - (place + 0.5) / n_all == pytest.approx(1 - 2 ** (-1 / n), rel=0.02)


class _Flat:
    stretch_sigma = 0.0


def test_schedule_and_history(trained):
    training = _training(trained)
    assert training.finished
    assert training.schedule == [STATISTICS, ADVERSARIAL]
    history = training.history
    assert list(history["stage"]) == [STATISTICS, ADVERSARIAL]
    assert np.isfinite(history["statistics_loss"]).all()
    assert history["critic_loss"].notna().tolist() == [False, True]


def test_a_killed_training_ends_in_the_same_weights(tmp_path):
    """Of the first stage; of the second, TensorFlow sums gradients in an order of its own"""
    changes = {"statistics_epochs": 2, "gan_epochs": 0}
    (tmp_path / "whole").mkdir()
    whole = _training(tmp_path / "whole" / "stream_gan.keras", **changes)
    whole.run()
    expected = whole.save()
    path = tmp_path / "stream_gan.keras"
    _training(path, **changes).run(n_epochs=1)
    second = _training(path, **changes)
    assert len(second.history) == 1
    second.run()
    second.save()
    ours, theirs = (keras.saving.load_model(p, compile=False) for p in (path, expected))
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert (one == other).all()
    history = ".history.csv"
    assert path.with_suffix(history).read_bytes() == expected.with_suffix(history).read_bytes()
    assert not list(tmp_path.glob(".checkpoint*"))


def test_other_settings_are_trained_anew(trained):
    assert not _training(trained, stretch_sigma=2.0).finished


def test_any_part_is_the_same_however_it_is_asked_for(loaded):
    whole = loaded.sample("litebird_2032", 100, 900, 7)
    assert whole.dtype == np.float32 and np.isfinite(whole).all()
    edges = [100, 101, 300, 512, 700, 1000]
    for low, high in reversed(list(itertools.pairwise(edges))):
        part = loaded.sample("litebird_2032", low, high - low, 7)
        assert (part == whole[:, low - 100 : high - 100]).all()
    assert (loaded.sample("litebird_2032", 100, 900, 8) != whole).mean() > 0.99
    assert (loaded.sample("solar_min_2009", 100, 900, 7) != whole).mean() > 0.99


def test_blocks_join_without_a_seam(loaded):
    """The same latents in one long block give the same samples: no block knows its border."""
    known = params.load().environments["solar_min_2009"]
    assert not known.phi_nodes
    pieces = loaded.sample("solar_min_2009", 0, 512, 7)
    z = [loaded._latents("solar_min_2009", b, 7) for b in (0, 1)]
    z = np.concatenate([z[0][:256], z[1]])
    told = np.array([[np.log(mean_flux_cm2(known)), 0.0]]) - loaded.record["condition_centre"]
    x = np.asarray(loaded.model.predict_on_batch([z[None], told.astype(np.float32)]))[0].T
    tod_w = loaded.normalisation.inverse(x) - loaded._level_w(told[0, 0])[:, None]
    scale = loaded.normalisation.scale_w[:, None]
    assert np.allclose(pieces / scale, tod_w / scale, atol=2e-3)


def test_drift_of_the_mean_follows_the_flux(loaded):
    """joule_power_w is linear in the quiet flux by two environments; a TOD is about its mean"""
    known = params.load().environments
    flux = [mean_flux_cm2(known[e]) for e in ENVIRONMENTS]
    slope = np.array(loaded.record["drift_w_per_flux"])
    assert np.allclose(slope, 1e-16 / (flux[1] - flux[0]), rtol=1e-6)
    # At the start of its years LiteBIRD has more particles than in their mean.
    excess = fluxes_cm2(known["litebird_2032"], [0.0])[0][0] - mean_flux_cm2(known["litebird_2032"])
    assert excess > 0.5


def test_levels_are_zero_where_there_were_cubes(loaded):
    table = loaded.record["levels"]
    known = params.load().environments
    for name in ENVIRONMENTS:
        c = np.log(mean_flux_cm2(known[name])) - loaded.record["condition_centre"][0]
        assert np.abs(loaded._level_w(c) / loaded.normalisation.scale_w).max() < 1e-3
    assert len(table["condition"]) == len(table["mean"])


def test_networks_of_other_backends_are_the_same_file(trained, loaded):
    """A saved network gives what the loaded one gives, with its own layers"""
    again = keras.saving.load_model(trained, compile=False)
    z = loaded._latents("solar_min_2009", 0, 1)[None]
    told = np.zeros((1, 2), np.float32)
    assert (again.predict_on_batch([z, told]) == loaded.model.predict_on_batch([z, told])).all()


def test_errors(loaded, trained, tmp_path):
    with pytest.raises(CrabError, match=r"solar_event_2032.*quiet environments"):
        loaded.sample("solar_event_2032", 0, 10, 1)
    with pytest.raises(CrabError, match="environment = 'nowhere'"):
        loaded.sample("nowhere", 0, 10, 1)
    with pytest.raises(CrabError, match="start_sample = -1"):
        loaded.sample("litebird_2032", -1, 10, 1)
    with pytest.raises(CrabError, match="planck_hfi"):
        StreamingGan.load(trained, "planck_hfi")
    half = _training(tmp_path / "half.keras")
    half.run(n_epochs=1)
    with pytest.raises(CrabError, match="1 of 2 epochs"):
        half.save()
