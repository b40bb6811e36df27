"""Training of a network: data, epochs, checkpoints, history. What a step does is a recipe's.

A recipe (`crab.generators.adversarial.Game`, `crab.generators.vae.Autoencoder`) has networks,
optimizers, a schedule of stages and a compiled step for each. The five stages of the reference GAN
are called by name:

1. ``run("pretraining")``: the discriminator, for a few epochs, against the untrained generator;
2. ``recipe.join()``: generator and pre-trained discriminator in a row;
3. ``run("gan", "extra_discriminator")``: both networks, epoch by epoch, and in it
4. extra steps of the discriminator alone after each epoch, if asked for;
5. generation: `crab.generators.network.Network`.

Every step draws its windows, latents and noise from streams addressed by the absolute step, and
each epoch ends in a checkpoint. A run that was killed goes on from there and ends in the same
bytes as one that was not.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from crab import params, paths, seeds
from crab.errors import CrabError
from crab.generators import files, health, source, windows
from crab.generators.adversarial import Game
from crab.generators.backend import NAME as BACKEND
from crab.generators.backend import has_accelerator, keras
from crab.generators.normalise import Normalisation
from crab.generators.vae import Autoencoder
from crab.io import content_hash, open_tod
from crab.progress import tqdm
from crab.provenance import params_hash
from crab.training_settings import TrainGanNotebook, TrainVaeNotebook

_N_HELD_OUT = 128
_COPIED = ("mission", "environment", "phi_mv", "lis", "power_convention", "physics_list")
_RECIPES = {TrainGanNotebook: Game, TrainVaeNotebook: Autoencoder}


class TrainingData(NamedTuple):
    """What a recipe learns from and is watched with.

    Attributes
    ----------
    normalisation : Normalisation
    values : ndarray of float32, shape (n_samples, n_det)
        Normalised training cube.
    held_out, seen : ndarray of float32, shape (n, window_samples, 1 or n_det)
        Windows of the validation and of the training cube, in network units.
    """

    normalisation: Normalisation
    values: np.ndarray
    held_out: np.ndarray
    seen: np.ndarray


class Training:
    """One training of one network.

    Parameters
    ----------
    settings : crab.params.TrainGanNotebook or crab.params.TrainVaeNotebook
    train, validation : xarray.Dataset
        Cubes of the same mission, environment and detectors. Only the first is learned from,
        normalisation included.
    seed : int
        Seed of the run.
    path : path-like
        ``<model>.keras`` to be written by `save`. Checkpoints are in a folder beside it.

    Attributes
    ----------
    recipe : Game or Autoencoder
    data : TrainingData
    n_resumed : int
        Epochs taken over from a checkpoint, or from a finished model (then all).
    finished : bool
        The file is there, made with these settings, data, seed and code.

    Raises
    ------
    CrabError
        If the cubes are too short or do not match each other, or a checkpoint cannot be read.
    """

    def __init__(
        self,
        settings: TrainGanNotebook | TrainVaeNotebook,
        train: xr.Dataset,
        validation: xr.Dataset,
        seed: int,
        path: str | Path,
    ):
        self.settings, self.seed, self.path = settings, seed, Path(path)
        _check(train, validation)
        normalisation = Normalisation.fit(train, settings.stretch_sigma)
        self._labels = (train.attrs["mission"], train.attrs["environment"], self.path.stem)
        alone = getattr(settings, "architecture", None) == "reference"
        values, held_out = (
            normalisation.forward(cube["tod"].values) for cube in (train, validation)
        )
        n, n_max = settings.window_samples, _N_HELD_OUT
        self.data = TrainingData(
            normalisation,
            np.ascontiguousarray(values.T),
            windows.spread(held_out, n, n_max, alone),
            windows.spread(values, n, n_max, alone),
        )
        self._record = {
            **{key: _plain(train.attrs[key]) for key in _COPIED},
            "sampling_rate_hz": float(train.attrs["sampling_rate_hz"]),
            "detectors": list(normalisation.detectors),
            "detector_table": train.coords.to_dataset().drop_vars("time").to_dict(),
            "normalisation": normalisation.to_dict(),
            "training_data_hash": content_hash(train[["tod"]]),
            "params_hash": params_hash(settings.model_dump(exclude={"accelerator"}), seed),
            "source_hash": source.digest(),
        }
        self._rows: list[dict] = []
        self._step = 0
        self.finished = self._is_finished()
        if self.finished:
            self._rows = pd.read_csv(self._history).to_dict("records")
        else:
            _check_accelerator(settings, self.path)
        self.recipe = _RECIPES[type(settings)](
            settings, self.data, seeds.integer(seed, *self._labels, "weights")
        )
        self._n_steps = sum(n for _, n in self.recipe.schedule)
        if self.finished:
            self._take_over()
        else:
            self._restore()
        self.n_resumed = len(self._rows)

    def run(self, *stages: str, n_epochs: int | None = None) -> pd.DataFrame:
        """Train: the next epochs of the schedule, as long as they belong to these stages.

        Parameters
        ----------
        *stages : str
            Default: all.
        n_epochs : int, optional
            Stop after so many (extra steps count as one); default: all that are left.

        Returns
        -------
        pandas.DataFrame
            As `history`.

        Raises
        ------
        CrabError
            If a loss is no longer finite.
        """
        todo = []
        for stage, n_steps in self.recipe.schedule[len(self._rows) :]:
            if (stages and stage not in stages) or len(todo) == n_epochs:
                break
            todo.append((stage, n_steps))
        if not todo:
            return self.history
        with tqdm(total=sum(n for _, n in todo), unit="step") as bar:
            for stage, n_steps in todo:
                bar.set_description(f"{self.path.stem} {stage}")
                row = self._epoch(stage, n_steps)
                self._rows.append(row)
                bar.update(n_steps)
                self._save_checkpoint()
                shown = (k for k in self.recipe.metrics if row[k] is not None)
                bar.set_postfix({k: f"{row[k]:.3f}" for k in shown})
                self._warn(bar)
        return self.history

    @property
    def history(self) -> pd.DataFrame:
        """One row for each epoch: losses, and the numbers of `crab.generators.health`."""
        table = pd.DataFrame(self._rows)
        return table.astype({m: float for m in self.recipe.metrics if m in table})

    def save(self) -> Path:
        """Write ``.keras``, ``.json`` and ``.history.csv``, and remove the checkpoint.

        Raises
        ------
        CrabError
            If epochs are left to train.
        """
        if self.finished:
            return self.path
        if len(self._rows) < len(self.recipe.schedule):
            raise CrabError(
                f"{self.path}: {len(self._rows)} of {len(self.recipe.schedule)} epochs are done: a "
                "model is written when training is complete"
            )
        record = {
            **self._record,
            **self.recipe.record(),
            "generator": self.path.stem,
            "settings": self.settings.model_dump(),
            "seed": self.seed,
            "n_steps": self._step,
            "last_epoch": self._rows[-1],
        }
        files.write_network(self._other, getattr(self.recipe, self.recipe.other))
        files.write_model(self.path, self.recipe.network, record)
        table = self.history.to_csv(index=False)
        files.replace(self._history, table.encode())
        self._checkpoint.unlink(missing_ok=True)
        if self._checkpoint.parent.is_dir() and not any(self._checkpoint.parent.iterdir()):
            self._checkpoint.parent.rmdir()
        return self.path

    def _epoch(self, stage: str, n_steps: int) -> dict:
        names = self.recipe.metrics
        metrics = self.recipe.run(stage, *self._inputs(stage, n_steps)).astype(np.float64)
        means = metrics.mean(axis=0)
        # A stage fills the metrics that it knows.
        known = means[~np.isnan(metrics).all(axis=0)] if stage == "generator_pretraining" else means
        if not np.isfinite(known).all():
            raise CrabError(
                f"epoch {len(self._rows) + 1} ({stage}): a loss is not finite: choose smaller "
                "learning rates. The checkpoint of the epoch before is kept"
            )
        row = {"epoch": len(self._rows) + 1, "stage": stage, "step": self._step}
        row |= dict.fromkeys(names)
        row |= {
            name: float(value)
            for name, value in zip(names, means, strict=False)
            if np.isfinite(value)
        }
        return row | self.recipe.monitor(self._rng("monitor", 0))

    def _inputs(self, stage: str, n_steps: int) -> tuple[np.ndarray, ...]:
        """Places of the windows, keys and the done part of the training, for each step."""
        size = (self.recipe.n_crops(stage), self.settings.batch_size)
        n_samples, n_det = self.data.values.shape
        start, channel, key = [], [], []
        for step in range(self._step, self._step + n_steps):
            rng = self._rng("steps", step)
            start.append(rng.integers(n_samples - self.settings.window_samples + 1, size=size))
            channel.append(rng.integers(n_det, size=size))
            key.append([rng.integers(2**31), 0])
        done = np.arange(self._step, self._step + n_steps) / self._n_steps
        self._step += n_steps
        places = (np.array(x, dtype=np.int32) for x in (start, channel, key))
        return *places, done.astype(np.float32)

    def _warn(self, bar) -> None:
        found = health.diagnose(self.history)
        for row in found[found["ill"]].itertuples():
            # Once, when it begins.
            if row.first_epoch == len(self._rows) - 1:
                bar.write(
                    f"{self.path.stem}: warning, {row.illness}: {row.quantity} = {row.value:.3g} "
                    f"({row.limit} in two epochs): {row.meaning}"
                )

    def _rng(self, stream: str, step: int) -> np.random.Generator:
        return seeds.rng(self.seed, *self._labels, "training", stream, block=step)

    def _is_finished(self) -> bool:
        if not all(p.is_file() for p in (self.path, self._other, self._history)):
            return False
        try:
            record = files.read_record(self.path)
        except CrabError:
            return False
        keys = ("training_data_hash", "params_hash", "source_hash")
        return all(record.get(key) == self._record[key] for key in keys)

    def _take_over(self) -> None:
        """Weights of a finished model, as its files have them."""
        load = keras.saving.load_model
        self.recipe.take_over(load(self.path, compile=False).get_weights())
        other = load(self._other, compile=False)
        getattr(self.recipe, self.recipe.other).set_weights(other.get_weights())

    @property
    def _history(self) -> Path:
        return self.path.with_suffix(".history.csv")

    @property
    def _other(self) -> Path:
        """The network that is kept beside the model."""
        return self.path.with_suffix(f".{_RECIPES[type(self.settings)].other}.keras")

    @property
    def _checkpoint(self) -> Path:
        # Other settings, data, seed, code or backend: another file, so none resumes from it.
        fingerprint = params_hash(self._record, BACKEND)
        return self.path.with_name(f".checkpoint-{self.path.stem}") / f"{fingerprint}.npz"

    def _save_checkpoint(self) -> None:
        arrays = {f"v{i}": np.asarray(v) for i, v in enumerate(self.recipe.variables)}
        content = io.BytesIO()
        np.savez(content, state=json.dumps({"step": self._step, "rows": self._rows}), **arrays)
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        files.replace(self._checkpoint, content.getvalue())

    def _restore(self) -> None:
        if not self._checkpoint.is_file():
            return
        try:
            with np.load(self._checkpoint) as saved:
                state = json.loads(str(saved["state"]))
                values = [saved[f"v{i}"] for i in range(len(self.recipe.variables))]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CrabError(
                f"{self._checkpoint}: not a readable checkpoint ({error}): delete it to start anew"
            ) from error
        for variable, value in zip(self.recipe.variables, values, strict=True):
            variable.assign(value)
        self._step, self._rows = state["step"], state["rows"]


def train(
    model: str,
    profile: str,
    mission: str,
    environment: str,
    settings: params.Params,
    *,
    seed: int | None = None,
    name: str | None = None,
) -> Path:
    """Train a network from the files of a profile, and write it.

    Parameters
    ----------
    model : str
        Key of ``train_vae`` or ``train_gan`` of the profile.
    profile, mission, environment : str
    settings : crab.params.Params
    seed : int, optional
        Default: that of `settings`.
    name : str, optional
        Name of the file; default: the model's.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    CrabError
        If a name is unknown, a cube is missing, or training fails.
    """
    chosen = params.choose("profile", profile, settings.profiles)
    section = params.choose("model", model, {**chosen.train_vae, **chosen.train_gan})
    cubes = (open_tod(paths.tod(profile, mission, environment, s)) for s in paths.SPLITS[:2])
    path = paths.model(profile, mission, name or model)
    training = Training(section, *cubes, settings.seed if seed is None else seed, path)
    training.run()
    return training.save()


def _check_accelerator(settings, path: Path) -> None:
    if settings.accelerator == "required" and not has_accelerator():
        raise CrabError(
            f"{path}: accelerator = 'required', no network made with these settings, data and code "
            "is there, and Keras sees no GPU here: fetch it with `dvc pull`, or train it with "
            "`crab train` where there is a GPU (KERAS_BACKEND=jax will do) and bring data/models "
            "back, or allow hours on this machine with 'optional' in params.yaml"
        )


def _check(train: xr.Dataset, validation: xr.Dataset) -> None:
    for key in (*_COPIED, "sampling_rate_hz"):
        if train.attrs[key] != validation.attrs[key]:
            raise CrabError(
                f"validation cube: {key} = {validation.attrs[key]!r}: the training cube has "
                f"{train.attrs[key]!r}"
            )
    expected, found = (ds["detector"].values.astype(str).tolist() for ds in (train, validation))
    if expected != found:
        raise CrabError(f"validation cube: detectors {found}: the training cube has {expected}")


def _plain(value):
    return value.item() if hasattr(value, "item") else value
