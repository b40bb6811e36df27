"""A study goes on where it was broken off, and repeats itself."""

import optuna
import pandas as pd
import pytest

from crab import params, search
from crab.errors import CrabError
from crab.experiment_settings import Axis, SearchSpace, models
from crab.generators import training

SEED = 20320401
SPACE = SearchSpace(
    common={"window_samples": 64, "batch_size": 2, "steps_per_epoch": 1, "epochs": 2},
    space={
        "learning_rate": Axis(low=1e-4, high=1e-2, log=True),
        "n_latent": Axis(low=2, high=4),
        "activation": Axis(choices=["relu", "tanh"]),
    },
)


@pytest.fixture(scope="module")
def base():
    return models(params.load().profiles["smoke"])["vae_gaussian"]


@pytest.fixture(scope="module")
def whole(base, train_cube, validation_cube, tmp_path_factory):
    """Three trials in one go."""
    path = tmp_path_factory.mktemp("whole") / "search.db"
    return search.run(base, SPACE, train_cube, validation_cube, 3, SEED, path, "vae_gaussian")


def test_objective_is_zero_at_best_and_the_sum_of_its_parts():
    """psd + amplitude + 2 (separability - 1/2), means over the last two epochs: here 0.2 + 0.1 + 1
    for a generator that a single feature gives away, and an epoch before them has no say."""
    best = pd.DataFrame({"psd_error": [0.0], "amplitude_error": [0.0], "separability": [0.5]})
    assert search.objective(best) == 0
    poor = pd.DataFrame(
        {
            "psd_error": [9.0, 0.1, 0.3],
            "amplitude_error": [9.0, 0.0, 0.2],
            "separability": [0.5, 1.0, 1.0],
        }
    )
    assert search.objective(poor) == pytest.approx(1.3, rel=1e-12)


def test_a_killed_study_ends_as_one_that_was_not(
    base, train_cube, validation_cube, whole, tmp_path, monkeypatch
):
    """Killed in the second trial's second epoch; the same command again gives the same table."""
    path = tmp_path / "search.db"
    given = (base, SPACE, train_cube, validation_cube, 3, SEED, path, "vae_gaussian")
    epoch, calls = training.Training._epoch, []

    def killed(self, *args):
        calls.append(self.path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return epoch(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            search.run(*given)
    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_epoch", killed)
        again = search.run(*given)
    pd.testing.assert_frame_equal(again.trials, whole.trials)
    assert again.best == whole.best
    # Six epochs in all, and the one that was broken off: its first epoch was not trained again.
    assert len(calls) == 3 * 2 + 1
    storage = f"sqlite:///{path}"
    (name,) = optuna.get_all_study_names(storage)
    states = [t.state.name for t in optuna.load_study(study_name=name, storage=storage).trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["search.csv", "search.db"]


def test_goes_on_with_the_same_study(base, train_cube, validation_cube, whole, monkeypatch):
    """Three trials are there: the same command trains nothing, and the best of them is the best."""

    def forbidden(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(training.Training, "_epoch", forbidden)
    path = whole.csv.with_suffix(".db")
    again = search.run(base, SPACE, train_cube, validation_cube, 3, SEED, path, "vae_gaussian")
    pd.testing.assert_frame_equal(again.trials, whole.trials)
    complete = whole.trials[whole.trials["state"] == "complete"]
    row = complete.loc[complete["objective"].idxmin()]
    assert whole.best == {key: row[key] for key in SPACE.space}
    pd.testing.assert_frame_equal(pd.read_csv(whole.csv), whole.trials)
    for key, axis in (("learning_rate", (1e-4, 1e-2)), ("n_latent", (2, 4))):
        assert whole.trials[key].between(*axis).all()
    assert whole.trials["n_latent"].dtype == int


def test_diverging_and_forbidden_trials_are_set_aside(
    base, train_cube, validation_cube, tmp_path, monkeypatch
):
    """A loss that is not finite ends a trial, not the study; it is never the best."""

    def diverges(self, *args):
        raise CrabError("a loss is not finite")

    monkeypatch.setattr(training.Training, "_epoch", diverges)
    path = tmp_path / "search.db"
    found = search.run(base, SPACE, train_cube, validation_cube, 1, SEED, path, "vae_gaussian")
    assert found.trials["state"].tolist() == ["diverged"]
    assert found.best == {}


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"lerning_rate": Axis(low=1e-4, high=1)}, "lerning_rate = 0.0001.*'learning_rate'"),
        ({"kl_warm_up": Axis(low=0.5, high=1.0)}, "kl_warm_up = 1.0: .*less than 1"),
        ({"activation": Axis(choices=["relu", "elu"])}, "activation = 'elu': .*'tanh'"),
        ({"n_latent": Axis(low=1.5, high=4)}, "n_latent = 1.5: .*integer"),
    ],
)
def test_a_bad_space_is_one_clear_error(base, space, says):
    """Key, value and what is allowed, before anything is trained."""
    with pytest.raises(CrabError, match=says) as caught:
        search.check(base, SearchSpace(common={}, space=space), "search.vae_gaussian")
    assert str(caught.value).startswith("search.vae_gaussian.space.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "axis",
    [{}, {"low": 1}, {"low": 1, "high": 1}, {"low": 0, "high": 1, "log": True}, {"choices": []}],
)
def test_an_axis_is_a_range_or_a_list(axis):
    with pytest.raises(ValueError, match="allowed"):
        Axis(**axis)


def test_a_file_that_is_no_study_is_named(base, train_cube, validation_cube, tmp_path):
    path = tmp_path / "search.db"
    path.write_text("no database")
    with pytest.raises(CrabError, match=r"search\.db: not a readable study"):
        search.run(base, SPACE, train_cube, validation_cube, 1, SEED, path, "vae_gaussian")
