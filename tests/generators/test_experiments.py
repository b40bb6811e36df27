"""A choice is checked before it costs anything, and its row says what it did."""

import numpy as np
import pandas as pd
import pytest

from crab import experiments, params
from crab.errors import CrabError
from crab.experiment_settings import (
    Choice,
    ExperimentsNotebook,
    IllAndCured,
    models,
    override,
    resolve,
)
from crab.generators import health, training

SEED = 20320401
QUANTITIES = list(experiments.QUANTITIES)
TINY = {
    "vae_gaussian": {"window_samples": 64, "batch_size": 2, "steps_per_epoch": 1, "epochs": 2},
    "gan_reference": {"batch_size": 2, "steps_per_epoch": 1, "gan_epochs": 1},
}


@pytest.fixture(scope="module")
def known():
    return models(params.load().profiles["smoke"])


def rows(values, base="base", other="other"):
    """Table of a base with the given spectra errors, and another choice with one training."""
    n = len(values)
    table = pd.DataFrame(
        {
            "choice": [base] * n + [other],
            "model": "gan_reference",
            "changes": ["none"] * n + ["x = 1"],
            "psd_error": [*values, 5.0],
        }
    )
    return table.assign(**{key: 1.0 for key in QUANTITIES if key != "psd_error"})


def test_overrides_are_validated_as_in_the_file(known):
    """The settings' own model is built anew: values get its types, and its rules hold."""
    choice = Choice(model="gan_reference", overrides={"kernel_length": 5, "label_smoothing": 0})
    found = resolve(choice, known, {"gan_reference": {"kernel_length": 7, "batch_size": 4}})
    assert (found.kernel_length, found.label_smoothing, found.batch_size) == (5, 0.0, 4)
    changed = {"kernel_length", "label_smoothing", "batch_size"}
    assert found.model_dump(exclude=changed) == known["gan_reference"].model_dump(exclude=changed)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"kernel": 5}, "wide.kernel = 5: .*'kernel_length'"),
        ({"kernel_length": 0}, "wide.kernel_length = 0: .*greater than or equal to 1"),
        ({"kernel_length": 5.5}, "wide.kernel_length = 5.5: .*integer"),
        ({"activation": "elu"}, "wide.activation = 'elu': .*'leaky_relu', 'relu' or 'tanh'"),
        ({"loss": "paired"}, "wide: train_gan.synthetic_weight = 0.5: allowed with loss = paired"),
    ],
)
def test_a_bad_override_is_one_clear_error(known, overrides, says):
    """Key, value and what is allowed."""
    with pytest.raises(CrabError, match=says) as caught:
        override(known["gan_reference"], overrides, "wide")
    assert "\n" not in str(caught.value)


def test_unknown_names_are_named(known):
    with pytest.raises(CrabError, match=r"choice\.model = 'gan': allowed are gan_clipped, "):
        resolve(Choice(model="gan"), known)
    pair = IllAndCured(ill=Choice(model="gan_reference"), cured=Choice(model="gan_reference"))
    with pytest.raises(CrabError, match="illnesses = 'cold': allowed are mode collapse, "):
        experiments.pairs({"cold": pair})
    section = {
        "common": {},
        "choices": {"a": Choice(model="gan_reference")},
        "n_seeds": 2,
        "illnesses": {},
        "stability_model": "gan_paired",
    }
    with pytest.raises(ValueError, match="base = 'b': allowed are a"):
        ExperimentsNotebook(**section, base="b")


def test_all_choices_are_checked_before_one_is_trained(
    known, train_cube, validation_cube, tmp_path
):
    choices = {
        "fine": Choice(model="vae_gaussian"),
        "bad": Choice(model="vae_gaussian", overrides={"n_latent": 0}),
    }
    seeds = {name: [SEED] for name in choices}
    cubes = (train_cube, validation_cube)
    with pytest.raises(CrabError, match=r"bad\.n_latent = 0"):
        experiments.table(choices, known, *cubes, seeds, tmp_path, TINY)
    assert not any(tmp_path.iterdir())


def test_trained_once_and_the_same_again(known, train_cube, validation_cube, tmp_path, monkeypatch):
    """Two seeds differ; a finished training is read back; another folder gives the same bytes."""
    choices = {
        "base": Choice(model="vae_gaussian"),
        "short": Choice(model="vae_gaussian", train_duration_s=60.0),
    }
    seeds = {"base": [1, 2], "short": [1]}
    given = (known, train_cube, validation_cube)
    first = experiments.table(choices, *given, seeds, tmp_path / "a", TINY)
    assert first["choice"].tolist() == ["base", "base", "short"]
    assert first["seed"].tolist() == [1, 2, 1]
    assert first["n_steps"].tolist() == [2, 2, 2]
    assert first["changes"].tolist() == ["none", "none", "train_duration_s = 60.0"]
    assert first["psd_error"].nunique() == 3
    assert np.isfinite(first[QUANTITIES]).all(axis=None)
    choice = choices["base"]
    anew = experiments.run(choice, *given, 2, tmp_path / "b", name="base", common=TINY)
    pd.testing.assert_frame_equal(pd.DataFrame([anew]), first.iloc[[1]].reset_index(drop=True))

    def forbidden(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(training.Training, "_epoch", forbidden)
    again = experiments.table(choices, *given, seeds, tmp_path / "a", TINY)
    pd.testing.assert_frame_equal(again, first, check_exact=True)


def test_row_is_the_mean_of_the_last_epochs():
    """Three epochs with 9, 1, 3: the mean of the last two is 2. Speed is not in it."""
    columns = {key: [9.0, 1.0, 3.0] for key in QUANTITIES}
    history = pd.DataFrame({"epoch": [1, 2, 3], "step": [5, 10, 15], **columns})
    choice = Choice(model="vae_gaussian", overrides={"n_latent": 4, "kl_weight": 0.1})
    found = experiments.row("small", choice, 7, history)
    assert [found[key] for key in QUANTITIES] == [2.0] * len(QUANTITIES)
    assert found["changes"] == "n_latent = 4, kl_weight = 0.1"
    assert (found["n_steps"], found["seed"]) == (15, 7)
    # amplitude_error is beyond its limit of 0.5, coverage_ratio not below its own.
    assert found["illnesses"] == "amplitude lost"
    assert set(found) == {"choice", "model", "changes", "seed", "n_steps", "illnesses", *QUANTITIES}


def test_spread_and_effect_against_hand_computed_values():
    """Base 1, 2, 3: mean 2, spread 1. Another training at 5: 3 over sqrt(1 + 1/3)."""
    table = rows([1.0, 2.0, 3.0])
    spread = experiments.seed_spread(table, "base").set_index("quantity")
    assert spread.loc["psd_error", ["mean", "spread"]].tolist() == [2.0, 1.0]
    found = experiments.effects(table, "base")
    assert found["choice"].tolist() == ["base", "other"]
    assert np.isnan(found.loc[0, "psd_error_effect"])
    assert found.loc[1, "psd_error_effect"] == pytest.approx(3 / np.sqrt(4 / 3), rel=1e-12)
    with pytest.raises(CrabError, match="1 trainings: a spread needs at least 2"):
        experiments.seed_spread(rows([1.0]), "base")


def test_effect_is_for_choices_of_the_same_model():
    table = rows([1.0, 3.0])
    table.loc[2, "model"] = "vae_gaussian"
    assert experiments.effects(table, "base")["psd_error_effect"].isna().all()


def test_verdicts_on_histories_made_by_hand():
    """Ill at its end, ill for a while, never ill; a cure that is ill itself does not help."""
    choice = Choice(model="gan_reference")
    names = list(health.RULES)[:3]
    wanted = dict.fromkeys(names, IllAndCured(ill=choice, cured=choice))
    assert list(experiments.pairs(wanted))[:2] == [f"{names[0]}: ill", f"{names[0]}: cured"]

    def history(name, *ills):
        column, limit, side, _ = health.RULES[name]
        bad, good = (limit / 2, limit * 2) if side == "<" else (limit * 2, limit / 2)
        return pd.DataFrame({"epoch": [1, 2, 3], column: [bad if x else good for x in ills]})

    found = {
        (f"{names[0]}: ill", 1): history(names[0], 1, 1, 1),
        (f"{names[0]}: cured", 1): history(names[0], 1, 1, 0),
        (f"{names[1]}: ill", 1): history(names[1], 1, 1, 0),
        (f"{names[1]}: cured", 1): history(names[1], 0, 1, 1),
        (f"{names[2]}: ill", 1): history(names[2], 0, 1, 0),
        (f"{names[2]}: cured", 1): history(names[2], 0, 0, 0),
    }
    table = experiments.verdicts(wanted, found, 1)
    assert table["illness"].tolist() == names
    assert table["provoked"].tolist() == [True, True, False]
    assert table["helped"].tolist() == [True, False, False]


def test_generated_like_a_cube(known, train_cube, validation_cube, tmp_path):
    """As long as the other, its attributes and detectors, and the same for the same seed."""
    settings = resolve(Choice(model="vae_gaussian"), known, TINY)
    given = (settings, "vae_gaussian", train_cube)
    experiments.train(*given, validation_cube, SEED, tmp_path)
    path = experiments.path_of(*given, SEED, tmp_path)
    cube = experiments.generate_like(path, validation_cube, SEED)
    assert cube["tod"].shape == validation_cube["tod"].shape
    assert cube["tod"].dtype == np.float32
    assert list(cube.data_vars) == ["tod"]
    assert not np.array_equal(cube["tod"], validation_cube["tod"])
    again = experiments.generate_like(path, validation_cube, SEED)
    assert np.array_equal(cube["tod"], again["tod"])


def test_a_part_that_is_too_long_is_refused(train_cube):
    with pytest.raises(CrabError, match=r"short\.train_duration_s = 1000\.0: allowed are"):
        experiments.shorten(train_cube, 1000.0, "short")
    assert experiments.shorten(train_cube, 100.0, "short").sizes["time"] == 1910
