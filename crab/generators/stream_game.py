"""Generator and critic of the streaming GAN, their optimizers, and compiled training steps.

Every step takes windows of each environment, and generated ones with the same conditions.
"""

from collections.abc import Sequence

import numpy as np

from crab.generators import shot_noise, stream_network
from crab.generators.adversarial import discriminator_loss, generator_loss
from crab.generators.backend import compile_steps, keras, value_and_grad
from crab.generators.normalise import Normalisation
from crab.generators.stream_targets import StreamTargets
from crab.generators.windows import crop
from crab.training_settings import TrainStreamNotebook

STATISTICS, ADVERSARIAL = "statistics", "gan"
METRICS = ("statistics_loss", "generator_loss", "critic_loss", "score_gap")


class StreamGame:
    """Networks and steps of one training.

    Parameters
    ----------
    settings : TrainStreamNotebook
    values : list of ndarray of float32, shape (n_samples, n_det)
        Normalised training cube of each environment.
    told : list of ndarray of float32, shape (n_samples, n_conditions)
        Conditions of each sample, about their centre.
    normalisation : Normalisation
    seed : int
        For the initial weights.

    Attributes
    ----------
    generator, critic : keras.Model
    latents : crab.generators.latents.Latents
    variables : list of keras.Variable
        The whole state: both networks, their optimizers, the averaged weights.
    """

    def __init__(
        self,
        settings: TrainStreamNotebook,
        values: Sequence[np.ndarray],
        told: Sequence[np.ndarray],
        normalisation: Normalisation,
        seed: int,
    ):
        s = self.settings = settings
        self._n_det = len(normalisation.detectors)
        self._targets = [StreamTargets(v, normalisation, s.window_samples) for v in values]
        self.generator, self.latents = stream_network.generator(
            self._n_det, s.stretch_sigma, normalisation.ceiling, seed
        )
        self.critic = shot_noise.critic(
            self._n_det, s.window_samples, s.kernel_length, 0, True, seed
        )
        trainable = self.generator.trainable_variables
        self._optimizers = {
            STATISTICS: self._adam(s.statistics_learning_rate, s.statistics_epochs, 0.9, trainable),
            ADVERSARIAL: self._adam(s.generator_learning_rate, s.gan_epochs, 0.0, trainable),
            "critic": self._adam(
                s.critic_learning_rate, s.gan_epochs, 0.0, self.critic.trainable_variables
            ),
        }
        self._averaged = [keras.Variable(np.array(v), trainable=False) for v in trainable]
        self.variables = [
            *self.generator.variables,
            *self.critic.variables,
            *(v for o in self._optimizers.values() for v in o.variables),
            *self._averaged,
        ]
        data = np.concatenate([np.concatenate(values), np.concatenate(told)], axis=1)
        steps = {STATISTICS: self._statistics_step, ADVERSARIAL: self._game_step}
        used = {STATISTICS} | ({ADVERSARIAL} if s.gan_epochs else set())
        self.run = {name: compile_steps(steps[name], self.variables, data) for name in used}

    @property
    def network(self) -> keras.Model:
        """The generator as it is saved, with averaged weights if there are any."""
        if not self.settings.ema_decay:
            return self.generator
        model = keras.models.clone_model(self.generator)
        model.set_weights(self.generator.get_weights())
        for variable, value in zip(model.trainable_variables, self._averaged, strict=True):
            # A copy: JAX may give the memory of a network that predicts to something else.
            variable.assign(np.array(value))
        return model

    def _adam(self, rate: float, epochs: int, beta_1: float, variables):
        n_steps = max(1, epochs * self.settings.steps_per_epoch)
        falling = keras.optimizers.schedules.CosineDecay(
            rate, n_steps, alpha=self.settings.final_learning_rate
        )
        optimizer = keras.optimizers.Adam(falling, beta_1=beta_1, beta_2=0.99)
        optimizer.build(variables)
        return optimizer

    def _batch(self, data, start, key):
        s = self.settings
        windows = crop(data, start, None, s.window_samples)
        condition = windows[:, s.window_samples // 2, self._n_det :]
        n = len(self._targets) * s.batch_size
        z = self.latents.draw_inside(key, n, s.window_samples)
        return windows[:, :, : self._n_det], z, condition

    def _statistics(self, fake):
        n = self.settings.batch_size
        losses = [t.loss(fake[k * n : (k + 1) * n]) for k, t in enumerate(self._targets)]
        return sum(losses) / len(losses)

    def _statistics_step(self, data, start, key):
        _, z, condition = self._batch(data, start, key)
        trainable = self.generator.trainable_variables

        def loss(weights):
            fake, _ = self.generator.stateless_call(weights, [], [z, condition])
            return self._statistics(fake), 0.0

        (value, _), gradient = value_and_grad(loss, _values(trainable))
        self._optimizers[STATISTICS].apply(gradient, trainable)
        self._average()
        return keras.ops.stack([value])

    def _game_step(self, data, start, key):
        s, ops = self.settings, keras.ops
        real, z, condition = self._batch(data, start, key)
        trainable = self.generator.trainable_variables
        real_score = self.critic(real)

        def loss_of_generator(weights):
            fake, _ = self.generator.stateless_call(weights, [], [z, condition])
            statistics = self._statistics(fake)
            game = generator_loss("paired", self.critic(fake), 0.0, real_score)
            return game + s.statistics_weight * statistics, (statistics, game, fake)

        (_, (statistics, game, fake)), gradient = value_and_grad(
            loss_of_generator, _values(trainable)
        )
        critic_loss, gap, gradient_c = self._critic_gradient(real, ops.stop_gradient(fake))
        self._optimizers[ADVERSARIAL].apply(gradient, trainable)
        self._optimizers["critic"].apply(gradient_c, self.critic.trainable_variables)
        self._average()
        return ops.stack([statistics, game, critic_loss, gap])

    def _critic_gradient(self, real, fake):
        ops, other = keras.ops, _values(self.critic.non_trainable_variables)

        def score(weights, x):
            return self.critic.stateless_call(weights, other, x)[0]

        def squared_slope(weights, x):
            _, slope = value_and_grad(lambda x: (ops.sum(score(weights, x)), 0.0), x)
            return ops.sum(ops.square(slope), axis=(1, 2))

        def loss(weights):
            scores = [score(weights, x) for x in (real, fake)]
            own = discriminator_loss("paired", *scores)
            # Mescheder et al. 2018, arXiv:1801.04406, Eq. 9, on both kinds of windows
            slopes = squared_slope(weights, real) + squared_slope(weights, fake)
            total = own + self.settings.r1_r2_penalty / 2 * ops.mean(slopes)
            return total, (own, ops.mean(scores[0]) - ops.mean(scores[1]))

        weights = _values(self.critic.trainable_variables)
        (_, (own, gap)), gradient = value_and_grad(loss, weights)
        return own, gap, gradient

    def _average(self) -> None:
        decay = self.settings.ema_decay
        for kept, new in zip(self._averaged, self.generator.trainable_variables, strict=True):
            kept.assign(decay * kept.value + (1 - decay) * new.value)


def _values(variables) -> list:
    return [keras.ops.convert_to_tensor(v.value) for v in variables]
