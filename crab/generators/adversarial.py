"""Two networks against each other: losses, penalties, and the training steps of a GAN."""

import math

import numpy as np

from crab import seeds
from crab.generators import gan, health, pretraining, shot_noise
from crab.generators.backend import (
    compile_steps,
    keras,
    random_normal,
    random_uniform,
    value_and_grad,
)
from crab.generators.windows import crop
from crab.training_settings import TrainGanNotebook

GENERATOR_PRETRAINING = "generator_pretraining"
PRETRAINING, ADVERSARIAL, EXTRA = "pretraining", "gan", "extra_discriminator"
METRICS = (
    "discriminator_loss",
    "accuracy_real",
    "accuracy_fake",
    "response_real",
    "response_fake",
    "generator_loss",
)


def discriminator_loss(loss: str, real, fake, synthetic_weight: float = 1.0):
    """Loss of the discriminator from its scores.

    Parameters
    ----------
    loss : {"binary_crossentropy", "wasserstein", "paired"}
        "paired" is the relativistic loss of Jolicoeur-Martineau (arXiv:1807.00734): only the
        difference between a measured and a generated window counts.
    real, fake : tensor
        Scores (logits) of measured and generated windows.
    synthetic_weight : float
        Weight of the generated windows. With cross-entropy and equal distributions the best
        discriminator answers 1 / (1 + synthetic_weight).

    Returns
    -------
    scalar tensor
    """
    ops = keras.ops
    if loss == "wasserstein":
        return synthetic_weight * ops.mean(fake) - ops.mean(real)
    if loss == "paired":
        return ops.mean(ops.softplus(fake - real))
    return ops.mean(ops.softplus(-real)) + synthetic_weight * ops.mean(ops.softplus(fake))


def generator_loss(loss: str, fake, label_smoothing: float = 0.0, real=None):
    """Loss of the generator from the discriminator's scores.

    Parameters
    ----------
    loss, fake
        As in `discriminator_loss`.
    label_smoothing : float
        The cross-entropy's target is 1 - label_smoothing.
    real : tensor, optional
        Scores of measured windows; the paired loss needs them.

    Returns
    -------
    scalar tensor
    """
    ops = keras.ops
    if loss == "wasserstein":
        return -ops.mean(fake)
    if loss == "paired":
        return ops.mean(ops.softplus(real - fake))
    return ops.mean(ops.softplus(fake) - (1 - label_smoothing) * fake)


def schedule(settings: TrainGanNotebook) -> list[tuple[str, int]]:
    """(stage, number of steps) of each epoch of a whole training, in order."""
    s = settings
    epochs = [(GENERATOR_PRETRAINING, s.steps_per_epoch)] * s.generator_pretraining_epochs
    if s.gan_epochs:
        epochs += [(PRETRAINING, s.steps_per_epoch)] * s.discriminator_pretraining_epochs
    for _ in range(s.gan_epochs):
        epochs.append((ADVERSARIAL, s.steps_per_epoch))
        if s.extra_discriminator_steps:
            epochs.append((EXTRA, s.extra_discriminator_steps))
    return epochs


class Game:
    """Generator, discriminator, their optimizers, and compiled training steps.

    A Keras model that was compiled while its discriminator was not trainable leaves that
    discriminator untrained for good, so nothing here is compiled by Keras or frozen: each step
    says itself which variables it moves.

    Parameters
    ----------
    settings : crab.params.TrainGanNotebook
    data : crab.generators.training.TrainingData
    seed : int
        For the initial weights.

    Attributes
    ----------
    generator, discriminator : keras.Model
    variables : list of keras.Variable
        The whole state: both networks, their optimizers, the averaged weights.
    schedule : list of (str, int)
        Stage and number of steps of each epoch.
    metrics : tuple of str
        What a step returns; a step of the discriminator alone leaves out the last.
    """

    metrics = METRICS
    other = "discriminator"

    def __init__(self, settings: TrainGanNotebook, data, seed: int):
        s = self.settings = settings
        self.data, self.schedule = data, schedule(settings)
        self.generator, self.discriminator, self.latents = networks(settings, data, seed)
        self.alone = s.architecture == "reference"
        n_pretraining = s.generator_pretraining_epochs * s.steps_per_epoch
        n_gan = s.gan_epochs * s.steps_per_epoch
        n_alone = sum(n for stage, n in self.schedule if stage in (PRETRAINING, EXTRA))
        n_discriminator = (n_gan + n_alone) * s.discriminator_updates
        trainable = self.generator.trainable_variables
        self._optimizer_g = _optimizer(s, "generator", n_gan, trainable)
        self._optimizer_d = _optimizer(
            s, "discriminator", n_discriminator, self.discriminator.trainable_variables
        )
        rate = keras.optimizers.schedules.CosineDecay(
            pretraining.LEARNING_RATE, max(n_pretraining, 1), alpha=0.01
        )
        self._optimizer_p = keras.optimizers.Adam(rate, beta_2=0.99)
        self._averaged = [keras.Variable(v.numpy(), trainable=False) for v in trainable]
        self.variables = [
            *self.generator.variables,
            *self.discriminator.variables,
            *self._optimizer_g.variables,
            *self._optimizer_d.variables,
            *self._averaged,
        ]
        if n_pretraining:
            self._optimizer_p.build(trainable)
            self.variables += self._optimizer_p.variables
        if n_pretraining or s.statistics_weight:
            self._targets = pretraining.Targets(data.values, data.normalisation, s.window_samples)
        steps = {
            GENERATOR_PRETRAINING: self._pretrain_generator,
            PRETRAINING: self._update_discriminator,
            EXTRA: self._update_discriminator,
            ADVERSARIAL: self._update_both,
        }
        used = {stage for stage, _ in self.schedule}
        compiled = {f: compile_steps(f, self.variables, data.values) for f in set(steps.values())}
        self._run = {stage: compiled[steps[stage]] for stage in used}

    def n_crops(self, stage: str) -> int:
        """Batches of windows that one step of a stage takes."""
        return 1 if stage == GENERATOR_PRETRAINING else self.settings.discriminator_updates

    def run(self, stage: str, *inputs: np.ndarray) -> np.ndarray:
        """Steps of a stage.

        Parameters
        ----------
        stage : str
        *inputs : ndarray
            For each step: first samples and detectors of the windows, (n_steps, n_crops, batch)
            int32 each, keys (n_steps, 2) int32, and the done part of the training (n_steps,).

        Returns
        -------
        ndarray, shape (n_steps, n_metrics)
        """
        values = self._run[stage](*inputs)
        if stage == GENERATOR_PRETRAINING:
            empty = np.full((len(values), len(METRICS)), np.nan)
            empty[:, -1] = values[:, 0]
            return empty
        return values

    def join(self) -> keras.Model:
        """The two networks in a row."""
        return keras.Sequential([self.generator, self.discriminator], name="gan")

    @property
    def network(self) -> keras.Model:
        """What is saved: the generator, with averaged weights if there are any."""
        if not self.settings.ema_decay:
            return self.generator
        model = keras.models.clone_model(self.generator)
        model.set_weights(self.generator.get_weights())
        for variable, value in zip(model.trainable_variables, self._averaged, strict=True):
            # A copy: JAX may give the memory of a network that predicts to something else.
            variable.assign(value.numpy())
        return model

    def take_over(self, weights: list[np.ndarray]) -> None:
        """Weights of a finished `network`."""
        self.generator.set_weights(weights)
        for kept, new in zip(self._averaged, self.generator.trainable_variables, strict=True):
            kept.assign(new.numpy())

    def record(self) -> dict:
        """What the sampler has to know about the network."""
        return {
            "latents": self.latents._asdict(),
            "window_samples": self.settings.window_samples,
            "output": "value",
        }

    def monitor(self, rng: np.random.Generator) -> dict[str, float]:
        """Both networks on held-out windows: see `crab.generators.health`.

        Parameters
        ----------
        rng : numpy.random.Generator
            The same for every epoch.
        """
        real, seen = self.data.held_out, self.data.seen
        shape = (len(real),)
        if self.latents.extra_samples is not None:
            shape += (self.settings.window_samples + self.latents.extra_samples,)
        fake = np.asarray(self.network.predict_on_batch(self.latents.draw(rng, *shape)))
        scores = [np.asarray(self.discriminator(w, training=False)) for w in (real, fake, seen)]
        s = self.settings
        loss = discriminator_loss(s.loss, *scores[:2], s.synthetic_weight)
        threshold = self.threshold(*scores[:2])
        signs = {**health.of_scores(*scores), **health.of_windows(fake, real, seen)}
        return {
            "validation_loss": float(loss),
            "validation_accuracy_real": float(np.mean(scores[0] > threshold)),
            "response_validation": float(np.mean(np.asarray(self.response(scores[0])))),
            **signs,
            "fooled": health.fooled(**signs),
        }

    def response(self, score):
        """Probability of being measured; without labels, the score as it is."""
        if self.settings.loss != "binary_crossentropy":
            return score
        return keras.ops.sigmoid(score)

    def threshold(self, real, fake):
        """Score above which a window counts as measured: without labels, zero means nothing."""
        if self.settings.loss != "binary_crossentropy":
            return (keras.ops.mean(real) + keras.ops.mean(fake)) / 2
        return 0.0

    def _pretrain_generator(self, data, start, channel, key, done):
        z = self._draw(key, start.shape[1])
        trainable, other = (
            self.generator.trainable_variables,
            self.generator.non_trainable_variables,
        )

        def loss(values):
            fake, _ = self.generator.stateless_call(values, _values(other), z, training=True)
            return self._targets.loss(fake), 0.0

        (value, _), gradient = value_and_grad(loss, _values(trainable))
        self._optimizer_p.apply(gradient, trainable)
        self._average()
        return keras.ops.stack([value])

    def _update_discriminator(self, data, start, channel, key, done):
        for k in range(self.settings.discriminator_updates):
            real, z, noise, mix = self._batch(data, start, channel, key, done, k)
            metrics, gradient = self._discriminator_gradient(real, self._fake(z), noise, mix)
            self._move_discriminator(gradient)
        return keras.ops.stack(metrics)

    def _update_both(self, data, start, channel, key, done):
        s = self.settings
        last = s.discriminator_updates - 1
        for k in range(last):
            real, z, noise, mix = self._batch(data, start, channel, key, done, k)
            _, gradient = self._discriminator_gradient(real, self._fake(z), noise, mix)
            self._move_discriminator(gradient)
        real, z, noise, mix = self._batch(data, start, channel, key, done, last)
        trainable = self.generator.trainable_variables
        other = self.generator.non_trainable_variables
        real_score = self._noisy_score(real, noise, 0) if s.loss == "paired" else None

        def loss_of_generator(values):
            fake, moved = self.generator.stateless_call(values, _values(other), z, training=True)
            score = self._noisy_score(fake, noise, 1)
            total = loss = generator_loss(s.loss, score, s.label_smoothing, real_score)
            if s.statistics_weight:
                total = loss + s.statistics_weight * self._targets.loss(fake)
            return total, (loss, fake, moved)

        (_, (loss, fake, moved)), gradient = value_and_grad(loss_of_generator, _values(trainable))
        fake = keras.ops.stop_gradient(fake)
        metrics, gradient_d = self._discriminator_gradient(real, fake, noise, mix)
        self._optimizer_g.apply(gradient, trainable)
        self._move_discriminator(gradient_d)
        for variable, value in zip(other, moved, strict=True):
            variable.assign(value)
        self._average()
        return keras.ops.stack([*metrics, loss])

    def _discriminator_gradient(self, real, fake, noise, mix):
        s, ops, network = self.settings, keras.ops, self.discriminator
        if noise is not None:
            real, fake = real + noise[0], fake + noise[1]
        other = _values(network.non_trainable_variables)

        def squared_slope(values, x):
            def summed(x):
                return ops.sum(network.stateless_call(values, other, x)[0]), 0.0

            return ops.sum(ops.square(value_and_grad(summed, x)[1]), axis=(1, 2))

        def loss_of_discriminator(values):
            score_real, score_fake = (
                network.stateless_call(values, other, x)[0] for x in (real, fake)
            )
            loss = discriminator_loss(s.loss, score_real, score_fake, s.synthetic_weight)
            total = loss
            if s.gradient_penalty:
                # Gulrajani et al. 2017, arXiv:1704.00028, Eq. 3
                norm = ops.sqrt(squared_slope(values, mix * real + (1 - mix) * fake) + 1e-12)
                total = total + s.gradient_penalty * ops.mean(ops.square(norm - 1))
            if s.r1_r2_penalty:
                # Mescheder et al. 2018, arXiv:1801.04406, Eq. 9, on both kinds of windows
                both = squared_slope(values, real) + squared_slope(values, fake)
                total = total + s.r1_r2_penalty / 2 * ops.mean(both)
            return total, (score_real, score_fake)

        (loss, (score_real, score_fake)), gradient = value_and_grad(
            loss_of_discriminator, _values(network.trainable_variables)
        )
        threshold = self.threshold(score_real, score_fake)
        metrics = [
            loss,
            ops.mean(ops.cast(score_real > threshold, "float32")),
            ops.mean(ops.cast(score_fake <= threshold, "float32")),
            ops.mean(self.response(score_real)),
            ops.mean(self.response(score_fake)),
        ]
        return metrics, gradient

    def _fake(self, z):
        """Windows for the discriminator alone: the generator's moving averages stay."""
        fake, _ = self.generator.stateless_call(
            _values(self.generator.trainable_variables),
            _values(self.generator.non_trainable_variables),
            z,
            training=True,
        )
        return keras.ops.stop_gradient(fake)

    def _move_discriminator(self, gradient) -> None:
        self._optimizer_d.apply(gradient, self.discriminator.trainable_variables)
        if self.settings.weight_clip:
            # Arjovsky et al. 2017, arXiv:1701.07875, Algorithm 1; kernels only, since a layer
            # normalisation's scale begins at 1.
            limit = self.settings.weight_clip
            for v in self.discriminator.trainable_variables:
                if len(v.shape) > 1:
                    v.assign(keras.ops.clip(v.value, -limit, limit))

    def _average(self) -> None:
        decay = self.settings.ema_decay
        if decay:
            for kept, new in zip(self._averaged, self.generator.trainable_variables, strict=True):
                kept.assign(decay * kept.value + (1 - decay) * new.value)

    def _batch(self, data, start, channel, key, done, k: int):
        """Windows, latents, input noise and mixing numbers of one update."""
        s, n = self.settings, start.shape[1]
        real = crop(data, start[k], channel[k] if self.alone else None, s.window_samples)
        key = key + np.int32([0, 16 * k])
        noise = None
        if s.input_noise_sigma or s.input_noise_final_sigma:
            sigma = s.input_noise_sigma + (s.input_noise_final_sigma - s.input_noise_sigma) * done
            shape = (2, n, s.window_samples, real.shape[2])
            noise = sigma * random_normal(shape, key + np.int32([0, 1]))
        mix = random_uniform((n, 1, 1), key + np.int32([0, 2]))
        return real, self._draw(key, n), noise, mix

    def _draw(self, key, n: int):
        return self.latents.draw_inside(key, n, self.settings.window_samples)

    def _noisy_score(self, windows, noise, kind: int):
        return self.discriminator(windows if noise is None else windows + noise[kind])


def networks(settings: TrainGanNotebook, data, seed: int):
    """Generator, discriminator and the latents that the first needs.

    Parameters
    ----------
    settings : crab.params.TrainGanNotebook
    data : crab.generators.training.TrainingData
    seed : int
        For the initial weights.

    Returns
    -------
    (keras.Model, keras.Model, crab.generators.latents.Latents)
    """
    s, to_units = settings, data.normalisation
    weights = seeds.integer(seed, "networks")
    n_det = len(to_units.detectors)
    if s.architecture == "shot_noise":
        generator, latents = shot_noise.generator(
            n_det,
            s.n_latent,
            s.kernel_length,
            s.extra_layers,
            s.stretch_sigma,
            to_units.ceiling,
            seed=weights,
        )
        critic = shot_noise.critic(
            n_det,
            s.window_samples,
            s.kernel_length,
            s.extra_layers,
            s.minibatch_deviation,
            seed=weights,
        )
        return generator, critic, latents
    n_channels = 1 if s.architecture == "reference" else n_det
    common = {"n_channels": n_channels, "extra_layers": s.extra_layers, "seed": weights}
    generator = gan.generator(
        s.activation,
        s.kernel_length,
        (to_units.floor, to_units.ceiling),
        n_latent=s.n_latent,
        **common,
    )
    discriminator = gan.discriminator(
        s.activation, s.kernel_length, minibatch_deviation=s.minibatch_deviation, **common
    )
    return generator, discriminator, gan.latents(s.n_latent)


def _optimizer(settings: TrainGanNotebook, whose: str, n_steps: int, variables):
    s = settings
    name, rate = getattr(s, f"{whose}_optimizer"), getattr(s, f"{whose}_learning_rate")
    if s.final_learning_rate < 1:
        rate = keras.optimizers.schedules.CosineDecay(
            rate, max(math.ceil(n_steps), 1), alpha=s.final_learning_rate
        )
    if name == "sgd":
        optimizer = keras.optimizers.SGD(rate)
    else:
        kind = {"adam": keras.optimizers.Adam, "nadam": keras.optimizers.Nadam}[name]
        optimizer = kind(rate, beta_1=s.beta_1, beta_2=s.beta_2)
    optimizer.build(variables)
    return optimizer


def _values(variables) -> list:
    return [keras.ops.convert_to_tensor(v.value) for v in variables]
