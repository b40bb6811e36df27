"""Training of the streaming GAN: statistics of several environments first, then a critic.

Nothing but TODs is needed. Every step takes windows of each environment, and generated ones with
the same conditions. The first stage fits spectra, cross-spectra and quantile curves of every
environment (`crab.generators.pretraining`), the second adds a critic with the paired loss. Windows
and latents of a step are addressed by its absolute number and each epoch ends in a checkpoint, from
which a run that was killed goes on. In the first stage it ends in the same weights as one that was
not; the many gradients of the critic are summed by TensorFlow in an order that depends on what the
process did before, and differ by rounding.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from crab import params, paths, seeds
from crab.errors import CrabError
from crab.generators import files
from crab.generators.normalise import Normalisation
from crab.generators.source import outline
from crab.generators.stream_game import ADVERSARIAL, METRICS, STATISTICS, StreamGame
from crab.generators.stream_levels import levels
from crab.generators.training import Training, _check_accelerator, _plain
from crab.io import content_hash, open_tod
from crab.physics.conditions import conditions, mean_flux_cm2
from crab.progress import tqdm
from crab.provenance import params_hash
from crab.training_settings import TrainStreamNotebook

ANY_ENVIRONMENT = "any"
# What the weights depend on.
_MODULES = (
    "adversarial",
    "backend",
    "gan",
    "latents",
    "normalise",
    "pretraining",
    "shot_noise",
    "stream_game",
    "stream_levels",
    "stream_network",
    "stream_targets",
    "stream_training",
    "training",
    "windows",
)
_SHARED = ("mission", "lis", "power_convention", "physics_list", "sampling_rate_hz")


class StreamTraining(Training):
    """One training of one streaming GAN; files and checkpoints are those of `Training`.

    Parameters
    ----------
    settings : TrainStreamNotebook
    cubes : list of xarray.Dataset
        Training cubes of one mission in different environments; only ``tod`` is looked at.
    skies : list of crab.params.Environment
        What each cube was made in.
    seed : int
        Seed of the run.
    path : path-like
        ``<model>.keras`` to be written by `save`. Checkpoints are in a folder beside it.

    Attributes
    ----------
    recipe : StreamGame
        Networks and their steps.
    normalisation : Normalisation
        Of all cubes together.
    finished : bool
        The file is there, made with these settings, data, seed and code.

    Raises
    ------
    CrabError
        If cubes do not match or are too short, a checkpoint cannot be read, or a GPU is required
        and there is none.
    """

    def __init__(
        self,
        settings: TrainStreamNotebook,
        cubes: Sequence[xr.Dataset],
        skies: Sequence[params.Environment],
        seed: int,
        path: str | Path,
    ):
        self.settings, self.seed, self.path = settings, seed, Path(path)
        _check(cubes, settings)
        self._labels = (str(cubes[0].attrs["mission"]), self.path.stem)
        self._record = {
            "training_data_hash": params_hash(*(content_hash(c[["tod"]]) for c in cubes)),
            "params_hash": params_hash(settings.model_dump(exclude={"accelerator"}), seed),
            "source_hash": source_digest(),
        }
        self._rows: list[dict] = []
        self._step = 0
        self.finished = self._is_finished()
        if self.finished:
            self._rows = pd.read_csv(self._history).to_dict("records")
        else:
            _check_accelerator(settings, self.path)
            self._prepare(cubes, skies)
            self._restore()

    @property
    def schedule(self) -> list[str]:
        """Stage of each epoch."""
        s = self.settings
        return [STATISTICS] * s.statistics_epochs + [ADVERSARIAL] * s.gan_epochs

    @property
    def history(self) -> pd.DataFrame:
        """One row for each epoch."""
        return pd.DataFrame(self._rows)

    def run(self, n_epochs: int | None = None) -> pd.DataFrame:
        """Train what is left, or the next epochs of it.

        Parameters
        ----------
        n_epochs : int, optional

        Returns
        -------
        pandas.DataFrame
            As `history`.

        Raises
        ------
        CrabError
            If a loss is no longer finite.
        """
        todo = self.schedule[len(self._rows) :][:n_epochs]
        n_steps = self.settings.steps_per_epoch
        if self.finished or not todo:
            return self.history
        with tqdm(total=len(todo) * n_steps, unit="step", desc=self.path.stem) as bar:
            for stage in todo:
                done = len(self._rows)
                values = self.recipe.run[stage](*self._inputs(done * n_steps, n_steps))
                means = values.astype(np.float64).mean(axis=0)
                if not np.isfinite(means).all():
                    raise CrabError(
                        f"epoch {done + 1} ({stage}): a loss is not finite: choose smaller "
                        "learning rates. The checkpoint of the epoch before is kept"
                    )
                row = {"epoch": done + 1, "stage": stage, "step": (done + 1) * n_steps}
                row |= dict.fromkeys(METRICS, np.nan)
                row |= dict(zip(METRICS, means.tolist(), strict=False))
                self._rows.append(row)
                self._save_checkpoint()
                bar.update(n_steps)
                bar.set_postfix({k: f"{v:.3f}" for k, v in row.items() if k in METRICS})
        return self.history

    def save(self) -> Path:
        """Write ``.keras``, ``.json`` and ``.history.csv``, and remove the checkpoint.

        Raises
        ------
        CrabError
            If epochs are left to train.
        """
        if self.finished:
            return self.path
        if len(self._rows) < len(self.schedule):
            raise CrabError(
                f"{self.path}: {len(self._rows)} of {len(self.schedule)} epochs are done: a model "
                "is written when training is complete"
            )
        network = self.recipe.network
        files.write_model(self.path, network, self.record(network))
        files.replace(self._history, self.history.to_csv(index=False).encode())
        self._checkpoint.unlink(missing_ok=True)
        if self._checkpoint.parent.is_dir() and not any(self._checkpoint.parent.iterdir()):
            self._checkpoint.parent.rmdir()
        return self.path

    def record(self, network) -> dict:
        """All that the sampler needs beside the network."""
        return {
            **self._facts,
            **self._record,
            "generator": self.path.stem,
            "environment": ANY_ENVIRONMENT,
            "normalisation": self.normalisation.to_dict(),
            "latents": self.recipe.latents._asdict(),
            "levels": self._levels(network),
            "condition_centre": self._centre.tolist(),
            "settings": self.settings.model_dump(),
            "seed": self.seed,
            "n_steps": len(self._rows) * self.settings.steps_per_epoch,
            "last_epoch": self._rows[-1] if self._rows else None,
        }

    def _prepare(self, cubes, skies) -> None:
        """Normalised data, conditions, networks."""
        s, first = self.settings, cubes[0]
        everything = xr.concat(
            [c["tod"].drop_vars("time") for c in cubes], "time", coords="minimal", compat="override"
        )
        together = xr.Dataset({"tod": everything}, attrs=first.attrs)
        self.normalisation = Normalisation.fit(together, s.stretch_sigma)
        values = self.normalisation.forward(together["tod"].values).T
        self._ends = np.cumsum([cube.sizes["time"] for cube in cubes])
        rate_hz = float(first.attrs["sampling_rate_hz"])
        told = [
            conditions(sky, (cube.attrs["start_sample"] + np.arange(cube.sizes["time"])) / rate_hz)
            for sky, cube in zip(skies, cubes, strict=True)
        ]
        # Half way between the quietest and the busiest; without a solar event, nothing.
        quiet = np.array([t[:, 0].mean() for t in told])
        self._centre = np.array([(quiet.min() + quiet.max()) / 2, 0.0])
        self._quiet = quiet - self._centre[0]
        self._facts = {
            **{key: _plain(first.attrs[key]) for key in _SHARED},
            "environments": [str(c.attrs["environment"]) for c in cubes],
            "phi_mv": [_plain(c.attrs["phi_mv"]) for c in cubes],
            "solar_events": any(bool(sky.solar_events) for sky in skies),
            "detectors": list(self.normalisation.detectors),
            "detector_table": _detector_table(first),
            "drift_w_per_flux": _drift(cubes, skies).tolist(),
        }
        self.recipe = StreamGame(
            s,
            np.split(values, self._ends[:-1]),
            [(t - self._centre).astype(np.float32) for t in told],
            self.normalisation,
            seeds.integer(self.seed, *self._labels, "weights"),
        )

    def _levels(self, network) -> dict:
        s, latents = self.settings, self.recipe.latents
        return levels(network, latents, s.stretch_sigma, self._quiet, self.seed, *self._labels)

    def _inputs(self, first: int, n_steps: int):
        """First samples of the windows of each environment, and keys, for each step."""
        s, starts, keys = self.settings, [], []
        begins = np.append(0, self._ends[:-1])
        for step in range(first, first + n_steps):
            rng = seeds.rng(self.seed, *self._labels, "training", "steps", block=step)
            places = [
                rng.integers(begin, end - s.window_samples + 1, size=s.batch_size)
                for begin, end in zip(begins, self._ends, strict=True)
            ]
            starts.append(np.concatenate(places))
            keys.append([rng.integers(2**31), 0])
        return np.array(starts, np.int32), np.array(keys, np.int32)

    def _is_finished(self) -> bool:
        if not all(p.is_file() for p in (self.path, self._history)):
            return False
        try:
            record = files.read_record(self.path)
        except CrabError:
            return False
        return all(record.get(key) == value for key, value in self._record.items())


def train_stream(
    name: str,
    profile: str,
    mission: str,
    settings: params.Params,
    *,
    seed: int | None = None,
    path: str | Path | None = None,
) -> Path:
    """Train a streaming GAN from the training cubes of a profile, and write it.

    Parameters
    ----------
    name : str
        Key of ``train_stream`` of the profile, and name of the file.
    profile, mission : str
    settings : crab.params.Params
    seed : int, optional
        Default: that of `settings`.
    path : path-like, optional
        Default: among the profile's models.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    CrabError
        If a name is unknown, a cube is missing, or training fails.
    """
    chosen = params.choose("profile", profile, settings.profiles)
    section = params.choose("model", name, chosen.train_stream)
    known = settings.environments
    skies = [params.choose("train_stream.environments", e, known) for e in section.environments]
    cubes = [open_tod(paths.tod(profile, mission, e, "train")) for e in section.environments]
    path = paths.model(profile, mission, name) if path is None else path
    training = StreamTraining(section, cubes, skies, settings.seed if seed is None else seed, path)
    training.run()
    return training.save()


def source_digest() -> str:
    """Hash of the code that trains this kind; comments, docstrings and layout do not count."""
    folder = Path(__file__).parent
    return params_hash(*(outline((folder / f"{name}.py").read_text()) for name in _MODULES))


def _detector_table(cube: xr.Dataset) -> dict:
    coords = cube.coords.to_dataset()
    return coords.drop_vars([n for n in coords.variables if "time" in coords[n].dims]).to_dict()


def _drift(cubes: Sequence[xr.Dataset], skies: Sequence[params.Environment]) -> np.ndarray:
    """Change of the mean power per quiet flux, W cm2 s, shape (n_det,).

    A cube is the power about its mean, and a TES tells that mean (``joule_power_w``). Zero where
    it is not told, or all environments are alike.
    """
    flux = np.array([mean_flux_cm2(sky) for sky in skies])
    if "joule_power_w" not in cubes[0].coords or np.ptp(flux) == 0:
        return np.zeros(cubes[0].sizes["detector"])
    return np.polyfit(flux, np.stack([c["joule_power_w"].values for c in cubes]), 1)[0]


def _check(cubes: Sequence[xr.Dataset], settings: TrainStreamNotebook) -> None:
    names = cubes[0]["detector"].values.tolist()
    for cube in cubes:
        what = f"training cube of {cube.attrs['environment']!r}"
        for key in _SHARED:
            if cube.attrs[key] != cubes[0].attrs[key]:
                raise CrabError(
                    f"{what}: {key} = {cube.attrs[key]!r}: that of "
                    f"{cubes[0].attrs['environment']!r} has {cubes[0].attrs[key]!r}"
                )
        if cube["detector"].values.tolist() != names:
            raise CrabError(f"{what}: its detectors are not those of the first cube, {names}")
        if cube.sizes["time"] < 2 * settings.window_samples:
            raise CrabError(
                f"{what}: it has {cube.sizes['time']} samples: needs at least two windows of "
                f"train_stream.window_samples = {settings.window_samples}"
            )
