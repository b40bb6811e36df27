"""What does a choice of training do? Short trainings that differ in one setting.

All trainings of one model and seed see the same windows, latents and initial weights wherever
shapes allow, so that what differs between two rows is the choice and not the draw.
"""

from pathlib import Path

import pandas as pd
import xarray as xr

from crab import generators
from crab.errors import CrabError
from crab.experiment_settings import Choice, IllAndCured, TrainingSettings, resolve
from crab.generators import health
from crab.generators.training import Training
from crab.progress import tqdm
from crab.provenance import params_hash

# They judge the generator; no discriminator has a say in them.
QUANTITIES = (
    "psd_error",
    "amplitude_error",
    "coverage_ratio",
    "separability",
    "generated_pair_correlation",
    "held_out_pair_correlation",
)
_N_LAST = 2


def train(
    settings: TrainingSettings,
    model: str,
    train_cube: xr.Dataset,
    validation_cube: xr.Dataset,
    seed: int,
    folder: str | Path,
) -> pd.DataFrame:
    """Train a network, or read it if it was.

    Parameters
    ----------
    settings : TrainGanNotebook or TrainVaeNotebook
    model : str
        Names the file and the streams of random numbers.
    train_cube, validation_cube : xarray.Dataset
    seed : int
    folder : path-like
        Each training has a folder of its own in it, made from its settings, data and seed.

    Returns
    -------
    pandas.DataFrame
        History, one row for each epoch.

    Raises
    ------
    CrabError
        As `Training`.
    """
    path = path_of(settings, model, train_cube, seed, folder)
    training = Training(settings, train_cube, validation_cube, seed, path)
    training.run()
    training.save()
    # From the file in any case: the same bits from a training and from one that is read back.
    return pd.read_csv(path.with_suffix(".history.csv"))


def path_of(settings: TrainingSettings, model: str, train_cube, seed: int, folder) -> Path:
    """File of a training: equal trainings under different names share it."""
    key = params_hash(settings, train_cube.sizes["time"], seed)
    return Path(folder) / key / f"{model}.keras"


def histories(
    choices: dict[str, Choice],
    known: dict[str, TrainingSettings],
    train_cube: xr.Dataset,
    validation_cube: xr.Dataset,
    seeds: dict[str, list[int]],
    folder: str | Path,
    common: dict | None = None,
) -> dict[tuple[str, int], pd.DataFrame]:
    """Train many choices.

    Parameters
    ----------
    choices : dict of str to Choice
    known, common
        As in `crab.experiment_settings.resolve`.
    train_cube, validation_cube : xarray.Dataset
    seeds : dict of str to list of int
        Seeds of each choice.
    folder : path-like

    Returns
    -------
    dict of (str, int) to pandas.DataFrame
        History by choice and seed.

    Raises
    ------
    CrabError
        For a bad choice, before anything is trained, or as `Training`.
    """
    # All are checked first: the last one's mistake shall not cost the time of the others.
    settings = {name: resolve(c, known, common, name) for name, c in choices.items()}
    todo = [(name, seed) for name in choices for seed in seeds[name]]
    done = {}
    for name, seed in (bar := tqdm(todo, unit="training")):
        bar.set_description(f"{name}, seed {seed}")
        choice = choices[name]
        part = shorten(train_cube, choice.train_duration_s, name)
        done[name, seed] = train(settings[name], choice.model, part, validation_cube, seed, folder)
    return done


def run(
    choice: Choice,
    known: dict[str, TrainingSettings],
    train_cube: xr.Dataset,
    validation_cube: xr.Dataset,
    seed: int,
    folder: str | Path,
    *,
    name: str = "choice",
    common: dict | None = None,
) -> dict:
    """Train one choice.

    Parameters
    ----------
    choice, known, train_cube, validation_cube, seed, folder, name, common
        As in `histories`.

    Returns
    -------
    dict
        One row of `table`.

    Raises
    ------
    CrabError
        As `histories`.
    """
    seeds = {name: [seed]}
    cubes = (train_cube, validation_cube)
    found = histories({name: choice}, known, *cubes, seeds, folder, common)
    return row(name, choice, seed, found[name, seed])


def table(
    choices: dict[str, Choice],
    known: dict[str, TrainingSettings],
    train_cube: xr.Dataset,
    validation_cube: xr.Dataset,
    seeds: dict[str, list[int]],
    folder: str | Path,
    common: dict | None = None,
) -> pd.DataFrame:
    """Train many choices: `row` of each, in the order given.

    Parameters
    ----------
    choices, known, train_cube, validation_cube, seeds, folder, common
        As in `histories`.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    CrabError
        As `histories`.
    """
    found = histories(choices, known, train_cube, validation_cube, seeds, folder, common)
    return pd.DataFrame([row(n, choices[n], seed, h) for (n, seed), h in found.items()])


def row(name: str, choice: Choice, seed: int, history: pd.DataFrame) -> dict:
    """What a training came to.

    Parameters
    ----------
    name : str
    choice : Choice
    seed : int
    history : pandas.DataFrame
        As `train` returns it.

    Returns
    -------
    dict
        ``choice, model, changes, seed, n_steps``, the mean of each of `QUANTITIES` over the last
        two epochs, and ``illnesses``: what `crab.generators.health.diagnose` finds, or "none".
    """
    changes = dict(choice.overrides)
    if choice.train_duration_s:
        changes["train_duration_s"] = choice.train_duration_s
    found = health.diagnose(history)
    last = history[list(QUANTITIES)].tail(_N_LAST).mean()
    return {
        "choice": name,
        "model": choice.model,
        "changes": ", ".join(f"{k} = {v}" for k, v in changes.items()) or "none",
        "seed": seed,
        "n_steps": int(history["step"].iloc[-1]),
        **{key: float(value) for key, value in last.items()},
        "illnesses": ", ".join(found.loc[found["ill"], "illness"]) or "none",
    }


def seed_spread(rows: pd.DataFrame, base: str) -> pd.DataFrame:
    """Mean and spread of the base choice over its seeds.

    Parameters
    ----------
    rows : pandas.DataFrame
        As `table` returns it.
    base : str
        A choice with two seeds or more.

    Returns
    -------
    pandas.DataFrame
        Columns ``quantity, mean, spread``; the spread is the sample standard deviation.

    Raises
    ------
    CrabError
        If there are fewer.
    """
    chosen = rows.loc[rows["choice"] == base, list(QUANTITIES)]
    if len(chosen) < 2:
        raise CrabError(f"base = {base!r}: {len(chosen)} trainings: a spread needs at least 2")
    spread = {"mean": chosen.mean(), "spread": chosen.std(ddof=1)}
    return pd.DataFrame(spread).rename_axis("quantity").reset_index()


def effects(rows: pd.DataFrame, base: str) -> pd.DataFrame:
    """What each choice changed, in units of what the seed alone changes.

    Parameters
    ----------
    rows : pandas.DataFrame
        As `table` returns it.
    base : str

    Returns
    -------
    pandas.DataFrame
        One row for each choice, the best spectrum first: means over its seeds of `QUANTITIES`;
        and ``<quantity>_effect`` for the first four: the difference from the base over the spread
        of the difference of two trainings that differ in their seed alone. NaN for other models
        than the base's.
    """
    spread = seed_spread(rows, base).set_index("quantity")
    keys = ["choice", "model", "changes"]
    means = rows.groupby(keys, sort=False)[list(QUANTITIES)].mean().reset_index()
    counts = rows.groupby(keys, sort=False).size().to_numpy()
    n_base = counts[(means["choice"] == base).argmax()]
    same = means["model"] == means.loc[means["choice"] == base, "model"].iloc[0]
    for key in QUANTITIES[:4]:
        error = spread.loc[key, "spread"] * (1 / counts + 1 / n_base) ** 0.5
        difference = means[key] - spread.loc[key, "mean"]
        means[f"{key}_effect"] = (difference / error).where(same & (means["choice"] != base))
    return means.sort_values("psd_error", kind="stable", ignore_index=True)


def pairs(illnesses: dict[str, IllAndCured]) -> dict[str, Choice]:
    """Illness and cure as choices that `histories` can train: ``"<illness>: ill"``.

    Parameters
    ----------
    illnesses : dict of str to IllAndCured

    Returns
    -------
    dict of str to Choice

    Raises
    ------
    CrabError
        For an illness that `crab.generators.health` does not know.
    """
    for name in illnesses:
        if name not in health.RULES:
            raise CrabError(f"illnesses = {name!r}: allowed are {', '.join(health.RULES)}")
    return {
        f"{name}: {state}": getattr(pair, state)
        for name, pair in illnesses.items()
        for state in ("ill", "cured")
    }


def verdicts(
    illnesses: dict[str, IllAndCured], found: dict[tuple[str, int], pd.DataFrame], seed: int
) -> pd.DataFrame:
    """Whether each illness was provoked, and whether its cure helped.

    Parameters
    ----------
    illnesses : dict of str to IllAndCured
    found : dict of (str, int) to pandas.DataFrame
        Of `histories`, for `pairs`.
    seed : int

    Returns
    -------
    pandas.DataFrame
        Columns ``illness, quantity, limit, ill, cured, provoked, helped``: the quantity at the end
        of both trainings, whether the first was ill at its end or in two epochs before, and whether
        it was and the second is not at its end.
    """
    records = []
    for name in illnesses:
        ill, cured = (
            health.diagnose(found[f"{name}: {state}", seed]).set_index("illness").loc[name]
            for state in ("ill", "cured")
        )
        provoked = bool(pd.notna(ill["first_epoch"]))
        helped = provoked and not bool(cured["ill"])
        values = (ill["quantity"], ill["limit"], ill["value"], cured["value"])
        records.append((name, *values, provoked, helped))
    columns = ["illness", "quantity", "limit", "ill", "cured", "provoked", "helped"]
    return pd.DataFrame(records, columns=columns)


def generate_like(path: str | Path, cube: xr.Dataset, seed: int) -> xr.Dataset:
    """A cube from a trained network, as long as another one.

    Parameters
    ----------
    path : path-like
        ``<model>.keras``.
    cube : xarray.Dataset
        Same mission, environment and detectors.
    seed : int

    Returns
    -------
    xarray.Dataset
        `cube` with its ``tod`` generated, and no parts.

    Raises
    ------
    CrabError
        If the network is missing or was made for something else.
    """
    names = (cube.attrs["mission"], cube.attrs["environment"])
    detectors = cube["detector"].values.astype(str).tolist()
    # What a model is called in the registry does not matter: all networks load in one way.
    network = generators.get("gan_reference").load(path, *names, detectors)
    values = network.sample(names[1], 0, cube.sizes["time"], seed)
    return cube[["tod"]].copy(data={"tod": values})


def shorten(cube: xr.Dataset, duration_s: float | None, name: str) -> xr.Dataset:
    """The first part of a cube.

    Parameters
    ----------
    cube : xarray.Dataset
    duration_s : float or None
        None for all.
    name : str
        What an error calls it.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    CrabError
        If the cube is not that long.
    """
    if duration_s is None:
        return cube
    n_samples = round(duration_s * cube.attrs["sampling_rate_hz"])
    if n_samples > cube.sizes["time"]:
        have_s = cube.sizes["time"] / cube.attrs["sampling_rate_hz"]
        raise CrabError(
            f"{name}.train_duration_s = {duration_s}: allowed are lengths up to {have_s:g}"
        )
    return cube.isel(time=slice(0, n_samples))
