"""Training of the reference GAN in the five stages of its authors, each called by name.

1. `GanTraining.pretrain_discriminator`: a few epochs against the untrained generator.
2. `GanTraining.build_gan`: generator and pre-trained discriminator in one step.
3. `GanTraining.train`: both networks, epoch by epoch, and in it
4. extra steps of the discriminator alone after each epoch, if asked for;
5. generation: `crab.generators.gan.GanReference`.

Every step draws its windows, latents and noise from streams addressed by the absolute step, and
each epoch ends in a checkpoint. A run that was killed goes on from there and ends in the same
bytes as one that was not.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from crab import seeds
from crab.errors import CrabError
from crab.generators import files, gan, windows
from crab.generators.adversarial import METRICS, AdversarialPair, discriminator_loss
from crab.generators.backend import NAME as BACKEND
from crab.generators.backend import has_accelerator, keras
from crab.generators.normalise import Normalisation
from crab.io import content_hash
from crab.params import TrainGanNotebook
from crab.progress import tqdm
from crab.provenance import params_hash

PRETRAINING, ADVERSARIAL, EXTRA = "pretraining", "gan", "extra_discriminator"
_N_HELD_OUT = 128
_N_MONITOR = 64
_COPIED = ("mission", "environment", "phi_mv", "lis", "power_convention", "physics_list")


def schedule(settings: TrainGanNotebook) -> list[tuple[str, int]]:
    """(stage, number of steps) of each epoch of a whole training, in order."""
    epochs = [(PRETRAINING, settings.steps_per_epoch)] * settings.discriminator_pretraining_epochs
    for _ in range(settings.gan_epochs):
        epochs.append((ADVERSARIAL, settings.steps_per_epoch))
        if settings.extra_discriminator_steps:
            epochs.append((EXTRA, settings.extra_discriminator_steps))
    return epochs


class GanTraining:
    """One training of the reference GAN.

    Parameters
    ----------
    settings : crab.params.TrainGanNotebook
    train, validation : xarray.Dataset
        Cubes of the same mission, environment and detectors. Only the first is learned from,
        normalisation included.
    seed : int
        Seed of the run.
    path : path-like
        ``<model>.keras`` to be written by `save`. Checkpoints are in a folder beside it.

    Attributes
    ----------
    generator, discriminator : keras.Model
    normalisation : Normalisation
    held_out : ndarray of float32, shape (n, 1060, 1)
        Validation windows in network units.
    n_resumed : int
        Epochs taken over from a checkpoint.

    Raises
    ------
    CrabError
        If the cubes are too short or do not match each other, or a checkpoint cannot be read.
    """

    def __init__(
        self,
        settings: TrainGanNotebook,
        train: xr.Dataset,
        validation: xr.Dataset,
        seed: int,
        path: str | Path,
    ):
        self.settings, self.seed, self.path = settings, seed, Path(path)
        _check_accelerator(settings)
        _check(train, validation)
        self.normalisation = Normalisation.fit(train, settings.stretch_sigma)
        self._labels = (train.attrs["mission"], train.attrs["environment"], self.path.stem)
        self._crops = windows.Crops(
            self.normalisation.forward(train["tod"].values), seed, *self._labels, "crops"
        )
        held_out = self.normalisation.forward(validation["tod"].values)
        self.held_out = windows.held_out(held_out, _N_HELD_OUT)
        # Of one detector: windows of two detectors at the same time are correlated by physics.
        alone = windows.held_out(held_out[:1], _N_MONITOR)
        self._held_out_pair_correlation = mean_pair_correlation(alone[..., 0])
        self._record = {
            **{key: _plain(train.attrs[key]) for key in _COPIED},
            "sampling_rate_hz": float(train.attrs["sampling_rate_hz"]),
            "detectors": list(self.normalisation.detectors),
            "detector_table": train.coords.to_dataset().drop_vars("time").to_dict(),
            "normalisation": self.normalisation.to_dict(),
            "training_data_hash": content_hash(train),
            "params_hash": params_hash(settings, seed),
        }
        weights = seeds.integer(seed, *self._labels, "weights")
        shape = (settings.activation, settings.kernel_length)
        output_range = (self.normalisation.floor, self.normalisation.ceiling)
        self.generator = gan.generator(*shape, output_range, weights)
        self.discriminator = gan.discriminator(*shape, weights)
        self._pair = AdversarialPair(self.generator, self.discriminator, settings)
        self._schedule = schedule(settings)
        self._monitor = gan.latents(self._rng("monitor", 0), _N_MONITOR)
        self._rows: list[dict] = []
        self._step = 0
        self._restore()
        self.n_resumed = len(self._rows)

    def pretrain_discriminator(self) -> pd.DataFrame:
        """Stage 1: teach the discriminator what measured TODs look like.

        Returns
        -------
        pandas.DataFrame
            As `history`.
        """
        self._run({PRETRAINING})
        return self.history

    def build_gan(self) -> keras.Model:
        """Stage 2: join the generator and the pre-trained discriminator.

        Raises
        ------
        CrabError
            If stage 1 is not done.
        """
        if len(self._rows) < self.settings.discriminator_pretraining_epochs:
            raise CrabError("build_gan: the discriminator is not pre-trained: call it first")
        return self._pair.join()

    def train(self, n_epochs: int | None = None) -> pd.DataFrame:
        """Stages 3 and 4: train both networks.

        Parameters
        ----------
        n_epochs : int, optional
            Stop after so many (extra steps count as one); default: all that are left.

        Returns
        -------
        pandas.DataFrame
            As `history`.

        Raises
        ------
        CrabError
            If stage 2 is not done, or a loss is no longer finite.
        """
        if self._pair.gan_step is None:
            raise CrabError("train: the networks are not joined: call build_gan first")
        self._run({ADVERSARIAL, EXTRA}, n_epochs)
        return self.history

    @property
    def history(self) -> pd.DataFrame:
        """One row for each epoch: losses, accuracies, responses, state of the generator."""
        return pd.DataFrame(self._rows).astype({"generator_loss": float})

    def generate(self, n_windows: int) -> np.ndarray:
        """Windows of the generator as it is now, from latents that training never uses.

        Returns
        -------
        ndarray of float32, shape (n_windows, 1060)
            Network units.
        """
        z = gan.latents(self._rng("inspection", 0), n_windows)
        return self.generator.predict(z, batch_size=_N_MONITOR, verbose=0)[..., 0]

    def save(self) -> Path:
        """Write ``.keras``, ``.json`` and ``.history.csv``, and remove the checkpoint.

        Raises
        ------
        CrabError
            If epochs are left to train.
        """
        if len(self._rows) < len(self._schedule):
            raise CrabError(
                f"{self.path}: {len(self._rows)} of {len(self._schedule)} epochs are done: a model "
                "is written when training is complete"
            )
        record = {
            **self._record,
            "generator": self.path.stem,
            "settings": self.settings.model_dump(),
            "seed": self.seed,
            "window_samples": windows.WINDOW_SAMPLES,
            "n_latent": gan.N_LATENT,
            "n_steps": self._step,
            "last_epoch": self._rows[-1],
        }
        files.write_model(self.path, self.generator, record)
        table = self.history.to_csv(index=False)
        files.replace(self.path.with_suffix(".history.csv"), table.encode())
        self._checkpoint.unlink(missing_ok=True)
        if self._checkpoint.parent.is_dir() and not any(self._checkpoint.parent.iterdir()):
            self._checkpoint.parent.rmdir()
        return self.path

    def _run(self, stages: set[str], n_epochs: int | None = None) -> None:
        todo = [e for e in self._schedule[len(self._rows) :] if e[0] in stages][:n_epochs]
        if not todo:
            return
        with tqdm(total=sum(n for _, n in todo), unit="step") as bar:
            for stage, n_steps in todo:
                bar.set_description(stage)
                row = self._epoch(stage, n_steps, bar)
                self._rows.append(row)
                self._save_checkpoint()
                bar.set_postfix({k: f"{row[k]:.3f}" for k in METRICS if row[k] is not None})

    def _epoch(self, stage: str, n_steps: int, bar) -> dict:
        metrics = []
        for _ in range(n_steps):
            if stage == ADVERSARIAL:
                for _ in range(self.settings.discriminator_updates - 1):
                    self._pair.discriminator_step(*self._inputs())
                metrics.append(np.asarray(self._pair.gan_step(*self._inputs())))
            else:
                metrics.append(np.asarray(self._pair.discriminator_step(*self._inputs())))
            bar.update()
        means = np.mean(metrics, axis=0, dtype=np.float64)
        if not np.isfinite(means).all():
            raise CrabError(
                f"epoch {len(self._rows) + 1} ({stage}): a loss is not finite: choose smaller "
                "learning rates. The checkpoint of the epoch before is kept"
            )
        row = {"epoch": len(self._rows) + 1, "stage": stage, "step": self._step}
        row |= dict.fromkeys(METRICS)
        row |= {name: float(value) for name, value in zip(METRICS, means, strict=False)}
        return row | self._validate()

    def _validate(self) -> dict:
        """Discriminator on held-out windows, and signs of mode collapse in the generator."""
        fake = np.asarray(self.generator.predict_on_batch(self._monitor))
        real_score = self.discriminator.predict_on_batch(self.held_out)
        fake_score = self.discriminator.predict_on_batch(fake)
        s, real = self.settings, self.held_out
        loss = discriminator_loss(s.loss, real_score, fake_score, s.synthetic_weight)
        threshold = self._pair.threshold(real_score, fake_score)
        return {
            "validation_loss": float(loss),
            "validation_accuracy_real": float(np.mean(np.asarray(real_score > threshold))),
            "response_validation": float(np.mean(self._pair.response(real_score))),
            "generated_std": float(fake.std()),
            "held_out_std": float(real.std()),
            "generated_skewness": float(stats.skew(fake, axis=None)),
            "held_out_skewness": float(stats.skew(real, axis=None)),
            "generated_pair_correlation": mean_pair_correlation(fake[..., 0]),
            "held_out_pair_correlation": self._held_out_pair_correlation,
        }

    def _inputs(self) -> tuple[np.ndarray, ...]:
        """Windows, latents, input noise and mixing numbers of the next step."""
        n, step, sigma = self.settings.batch_size, self._step, self.settings.input_noise_sigma
        self._step += 1
        noise = np.zeros((2, n, 1, 1), dtype=np.float32)
        if sigma:
            shape = (2, n, windows.WINDOW_SAMPLES, 1)
            noise = self._rng("noise", step).standard_normal(shape, dtype=np.float32)
            noise *= np.float32(sigma)
        z = gan.latents(self._rng("latent", step), n)
        mix = self._rng("mix", step).random((n, 1, 1), dtype=np.float32)
        return self._crops.batch(step, n), z, noise, mix

    def _rng(self, stream: str, step: int) -> np.random.Generator:
        return seeds.rng(self.seed, *self._labels, "training", stream, block=step)

    @property
    def _checkpoint(self) -> Path:
        # Other settings, data, seed or backend: another file, so none resumes from the wrong one.
        fingerprint = params_hash(self._record, BACKEND)
        return self.path.with_name(f".checkpoint-{self.path.stem}") / f"{fingerprint}.npz"

    def _save_checkpoint(self) -> None:
        arrays = {f"v{i}": np.asarray(v) for i, v in enumerate(self._pair.variables)}
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
                values = [saved[f"v{i}"] for i in range(len(self._pair.variables))]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CrabError(
                f"{self._checkpoint}: not a readable checkpoint ({error}): delete it to start anew"
            ) from error
        for variable, value in zip(self._pair.variables, values, strict=True):
            variable.assign(value)
        self._step, self._rows = state["step"], state["rows"]


def mean_pair_correlation(values: np.ndarray) -> float:
    """Mean \\|r\\| (Pearson) over all pairs of windows: near 1 after a mode collapse.

    Parameters
    ----------
    values : ndarray, shape (n, n_samples)

    Returns
    -------
    float
    """
    matrix = np.corrcoef(values)
    return float(np.abs(matrix[np.triu_indices(len(values), 1)]).mean())


def _check_accelerator(settings: TrainGanNotebook) -> None:
    if settings.accelerator == "required" and not has_accelerator():
        raise CrabError(
            "train_gan.accelerator = 'required', and Keras sees no GPU here: train where there is "
            "one (KERAS_BACKEND=jax will do) and bring data/models back, `dvc pull` the network, "
            "or allow hours on this machine with 'optional' in params.yaml"
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
