"""Search for settings of a training: an Optuna study that can be broken off and gone on with.

What is minimised is `objective`, on validation windows: the test cube stays unseen, and the
discriminator's loss, which says how the game stands and not how good the windows are, has no say.
Every trial's draws come from a stream addressed by the number of trials finished before it, so a
study that was killed ends like one that was not. A killed trial's training goes on from its last
epoch.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import optuna
import pandas as pd

from crab import params, paths, seeds
from crab.errors import CrabError
from crab.experiment_settings import Axis, SearchSpace, TrainingSettings, models, override
from crab.experiments import path_of
from crab.generators import source
from crab.generators.training import Training
from crab.io import content_hash, open_tod
from crab.progress import tqdm
from crab.provenance import params_hash

PARTS = ("psd_error", "amplitude_error", "separability")
# Trials drawn at random before the sampler models them, and before any is broken off.
N_RANDOM = 5
# Epochs of a trial that are never broken off: all are poor at the start.
N_PATIENT = 2
_N_LAST = 2
_FINISHED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)


class Found(NamedTuple):
    """What a search has come to.

    Attributes
    ----------
    trials : pandas.DataFrame
        One row for each finished trial: ``trial, state, objective, epochs``, `PARTS` and the
        settings tried.
    best : dict
        Overrides of the best complete trial; empty if there is none.
    csv : pathlib.Path
        Where `trials` was written.
    """

    trials: pd.DataFrame
    best: dict
    csv: Path


def objective(history: pd.DataFrame) -> float:
    """How far the generator is from the Monte Carlo, zero at best.

    ``psd_error + amplitude_error + 2 (separability - 1/2)``, means over the last two epochs: three
    numbers that are zero for a perfect generator and of order one for a poor one.

    Parameters
    ----------
    history : pandas.DataFrame
        Of a training, with the columns of `crab.generators.health.of_windows`.

    Returns
    -------
    float
    """
    psd, amplitude, separability = history[list(PARTS)].tail(_N_LAST).mean()
    return float(psd + amplitude + 2 * (separability - 0.5))


def search(
    model: str,
    profile: str,
    mission: str,
    environment: str,
    n_trials: int,
    settings: params.Params,
    space: SearchSpace,
    *,
    seed: int | None = None,
) -> Found:
    """Search until a study has so many finished trials.

    Parameters
    ----------
    model : str
        Key of ``train_gan`` or ``train_vae`` of the profile.
    profile, mission, environment : str
    n_trials : int
        In all: those that the study has already count.
    settings : crab.params.Params
    space : SearchSpace
    seed : int, optional
        Default: that of `settings`.

    Returns
    -------
    Found
        Also written to ``search-<model>.csv`` beside the study, ``search-<model>.db``.

    Raises
    ------
    CrabError
        If a name is unknown, a cube is missing, the space has a key or a value that the model's
        settings do not allow, or the study cannot be read.
    """
    chosen = params.choose("profile", profile, settings.profiles)
    base = params.choose("model", model, models(chosen))
    train, validation = (
        open_tod(paths.tod(profile, mission, environment, s)) for s in paths.SPLITS[:2]
    )
    target = paths.model(profile, mission, model).with_name(f"search-{model}.db")
    seed = settings.seed if seed is None else seed
    return run(base, space, train, validation, n_trials, seed, target, model)


def run(
    base: TrainingSettings,
    space: SearchSpace,
    train,
    validation,
    n_trials: int,
    seed: int,
    path: str | Path,
    model: str,
) -> Found:
    """As `search`, for cubes and settings at hand.

    Parameters
    ----------
    base : TrainGanNotebook or TrainVaeNotebook
    space : SearchSpace
    train, validation : xarray.Dataset
    n_trials, seed : int
    path : path-like
        SQLite file of the study; other settings, data, code or seeds are another study in it.
    model : str

    Returns
    -------
    Found

    Raises
    ------
    CrabError
        As `search`.
    """
    path = Path(path)
    if n_trials < 1:
        raise CrabError(f"n_trials = {n_trials}: allowed are integers >= 1")
    base = check(base, space, f"search.{model}")
    path.parent.mkdir(parents=True, exist_ok=True)
    data = [content_hash(cube[["tod"]]) for cube in (train, validation)]
    study = _study(path, params_hash(base, space, *data, seed, source.digest()))
    with tqdm(total=n_trials, unit="trial", desc=f"search {model}") as bar:
        while (n_done := len(_finished(study))) < n_trials:
            bar.update(n_done - bar.n)
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=N_RANDOM, seed=seeds.integer(seed, "search", model, n_done)
            )
            folder = path.with_suffix("") / study.study_name
            _trial(study, base, space, train, validation, seed, folder, model)
        bar.update(n_trials - bar.n)
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    return _result(study, space, path.with_suffix(".csv"))


def check(base: TrainingSettings, space: SearchSpace, name: str) -> TrainingSettings:
    """Settings that all trials share; refuses a space that leads outside what is allowed.

    Parameters
    ----------
    base : TrainGanNotebook or TrainVaeNotebook
    space : SearchSpace
    name : str
        What errors call it.

    Returns
    -------
    The same kind as `base`.

    Raises
    ------
    CrabError
        For an unknown key, or an end of a range or a choice that is not allowed.
    """
    base = override(base, space.common, f"{name}.common")
    for key, axis in space.space.items():
        for value in axis.ends:
            # One that only another choice forbids is found, and left, by its trial.
            override(base, {key: value}, f"{name}.space")
    return base


def _study(path: Path, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{path}",
            study_name=name,
            direction="minimize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(N_RANDOM, N_PATIENT),
        )
    except Exception as error:
        # SQLAlchemy has many: a file that is no database, one of a newer Optuna, a locked one.
        first = str(error).splitlines()[0]
        raise CrabError(
            f"{path}: not a readable study ({first}): move it away to begin anew"
        ) from error
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        # Killed with its process.
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _finished(study: optuna.Study) -> list:
    return study.get_trials(deepcopy=False, states=_FINISHED)


def _trial(study, base, space, train, validation, seed, folder, model) -> None:
    trial = study.ask()
    values = {
        key: _suggest(trial, key, axis, getattr(base, key)) for key, axis in space.space.items()
    }
    try:
        settings = override(base, values, f"trial {trial.number}")
    except CrabError as error:
        _close(study, trial, None, f"not allowed: {error}", 0)
        return
    path = path_of(settings, model, train, seed, folder)
    training = Training(settings, train, validation, seed, path)
    history, why = training.history, ""
    while len(history) < len(training.recipe.schedule) and not why:
        try:
            history = training.run(n_epochs=1)
        except CrabError as error:
            why = f"diverged: {error}"
            break
        trial.report(objective(history), len(history))
        why = "hopeless" if trial.should_prune() else ""
    shutil.rmtree(path.parent, ignore_errors=True)
    _close(study, trial, None if why else objective(history), why, len(history), history)


def _close(study, trial, value, why: str, n_epochs: int, history=None) -> None:
    trial.set_user_attr("why", why)
    trial.set_user_attr("epochs", n_epochs)
    if n_epochs:
        means = history[list(PARTS)].tail(_N_LAST).mean()
        trial.set_user_attr("parts", {key: float(means[key]) for key in PARTS})
        trial.set_user_attr("objective", objective(history))
    state = optuna.trial.TrialState.PRUNED if value is None else None
    study.tell(trial, value, state=state)


def _suggest(trial, key: str, axis: Axis, now):
    if axis.choices:
        return trial.suggest_categorical(key, axis.choices)
    if isinstance(now, int):
        return trial.suggest_int(key, axis.low, axis.high, log=axis.log)
    return trial.suggest_float(key, axis.low, axis.high, log=axis.log)


def _result(study: optuna.Study, space: SearchSpace, target: Path) -> Found:
    complete, rows = optuna.trial.TrialState.COMPLETE, []
    finished = _finished(study)
    for k, trial in enumerate(finished):
        known = trial.user_attrs
        rows.append(
            {
                "trial": k,
                "state": "complete" if trial.state == complete else known["why"].split(":")[0],
                "objective": known.get("objective", float("nan")),
                "epochs": known["epochs"],
                **{key: known.get("parts", {}).get(key, float("nan")) for key in PARTS},
                **{key: trial.params[key] for key in space.space},
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(target, index=False)
    best = [t for t in finished if t.state == complete]
    overrides = min(best, key=lambda t: t.value).params if best else {}
    return Found(table, dict(overrides), target)
