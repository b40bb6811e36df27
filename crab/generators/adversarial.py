"""Two networks against each other: losses and the two kinds of training step."""

from crab.generators.backend import compile_step, keras, value_and_grad
from crab.params import TrainGanNotebook

METRICS = (
    "discriminator_loss",
    "accuracy_real",
    "accuracy_fake",
    "response_real",
    "response_fake",
    "generator_loss",
)


def discriminator_loss(loss: str, real, fake, synthetic_weight: float):
    """Loss of the discriminator from its scores.

    Parameters
    ----------
    loss : {"binary_crossentropy", "wasserstein"}
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
    return ops.mean(ops.softplus(-real)) + synthetic_weight * ops.mean(ops.softplus(fake))


def generator_loss(loss: str, fake, label_smoothing: float):
    """Loss of the generator from the discriminator's scores of its windows.

    Parameters
    ----------
    loss, fake
        As in `discriminator_loss`.
    label_smoothing : float
        The cross-entropy's target is 1 - label_smoothing.

    Returns
    -------
    scalar tensor
    """
    ops = keras.ops
    if loss == "wasserstein":
        return -ops.mean(fake)
    return ops.mean(ops.softplus(fake) - (1 - label_smoothing) * fake)


class AdversarialPair:
    """Generator, discriminator, their optimizers, and compiled training steps.

    A Keras model that was compiled while its discriminator was not trainable leaves that
    discriminator untrained for good, so nothing here is compiled by Keras or frozen: each step
    says itself which variables it moves.

    Parameters
    ----------
    generator, discriminator : keras.Model
    settings : crab.params.TrainGanNotebook

    Attributes
    ----------
    variables : list of keras.Variable
        The whole state: both networks and both optimizers.
    discriminator_step : callable
        ``(real, z, noise, mix) -> METRICS[:5]``; moves the discriminator only.
    gan_step : callable or None
        ``(real, z, noise, mix) -> METRICS``; moves both networks, from the same generated
        windows. None before `join`.

    Notes
    -----
    Arguments of a step: ``real`` windows (n, n_samples, 1), latents ``z`` (n, n_latent), input
    noise (2, n, n_samples or 1, 1) for measured and generated windows, ``mix`` (n, 1, 1) in [0, 1).
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        settings: TrainGanNotebook,
    ):
        s = settings
        self.generator, self.discriminator, self.settings = generator, discriminator, s
        self._optimizer_g = _optimizer(s.generator_optimizer, s.generator_learning_rate, s.beta_1)
        self._optimizer_d = _optimizer(
            s.discriminator_optimizer, s.discriminator_learning_rate, s.beta_1
        )
        self._optimizer_g.build(generator.trainable_variables)
        self._optimizer_d.build(discriminator.trainable_variables)
        self.variables = [
            *generator.variables,
            *discriminator.variables,
            *self._optimizer_g.variables,
            *self._optimizer_d.variables,
        ]
        self.discriminator_step = compile_step(self._update_discriminator, self.variables)
        self.gan_step = None

    def join(self) -> keras.Model:
        """Make `gan_step`; the two networks in a row are returned."""
        self.gan_step = compile_step(self._update_both, self.variables)
        return keras.Sequential([self.generator, self.discriminator], name="gan")

    def response(self, score):
        """Probability of being measured; with a Wasserstein loss the critic's score as it is."""
        return score if self.settings.loss == "wasserstein" else keras.ops.sigmoid(score)

    def threshold(self, real, fake):
        """Score above which a window counts as measured: a critic's zero means nothing."""
        if self.settings.loss == "wasserstein":
            return (keras.ops.mean(real) + keras.ops.mean(fake)) / 2
        return 0.0

    def _update_discriminator(self, real, z, noise, mix):
        # Batch statistics as in `_update_both`; the moving averages that come back are dropped.
        fake, _ = self.generator.stateless_call(
            _values(self.generator.trainable_variables),
            _values(self.generator.non_trainable_variables),
            z,
            training=True,
        )
        metrics, gradient = self._discriminator_gradient(real, fake, noise, mix)
        self._optimizer_d.apply(gradient, self.discriminator.trainable_variables)
        return keras.ops.stack(metrics)

    def _update_both(self, real, z, noise, mix):
        s = self.settings
        trainable = self.generator.trainable_variables
        other = self.generator.non_trainable_variables

        def loss_of_generator(values):
            fake, moved = self.generator.stateless_call(values, _values(other), z, training=True)
            score = self.discriminator(fake + noise[1])
            return generator_loss(s.loss, score, s.label_smoothing), (fake, moved)

        (loss, (fake, moved)), gradient = value_and_grad(loss_of_generator, _values(trainable))
        fake = keras.ops.stop_gradient(fake)
        metrics, gradient_d = self._discriminator_gradient(real, fake, noise, mix)
        self._optimizer_g.apply(gradient, trainable)
        self._optimizer_d.apply(gradient_d, self.discriminator.trainable_variables)
        for variable, value in zip(other, moved, strict=True):
            variable.assign(value)
        return keras.ops.stack([*metrics, loss])

    def _discriminator_gradient(self, real, fake, noise, mix):
        s, ops, network = self.settings, keras.ops, self.discriminator
        real, fake = real + noise[0], fake + noise[1]
        other = _values(network.non_trainable_variables)

        def loss_of_discriminator(values):
            score, _ = network.stateless_call(values, other, ops.concatenate([real, fake]))
            score_real, score_fake = ops.split(score, 2)
            loss = discriminator_loss(s.loss, score_real, score_fake, s.synthetic_weight)
            if s.gradient_penalty:
                # Gulrajani et al. 2017, arXiv:1704.00028, Eq. 3
                def summed(x):
                    return ops.sum(network.stateless_call(values, other, x)[0]), 0.0

                _, slope = value_and_grad(summed, mix * real + (1 - mix) * fake)
                norm = ops.sqrt(ops.sum(ops.square(slope), axis=(1, 2)) + 1e-12)
                loss = loss + s.gradient_penalty * ops.mean(ops.square(norm - 1))
            return loss, (score_real, score_fake)

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


def _optimizer(name: str, learning_rate: float, beta_1: float) -> keras.Optimizer:
    if name == "sgd":
        return keras.optimizers.SGD(learning_rate)
    kind = {"adam": keras.optimizers.Adam, "nadam": keras.optimizers.Nadam}[name]
    return kind(learning_rate, beta_1=beta_1)


def _values(variables) -> list:
    return [keras.ops.convert_to_tensor(v.value) for v in variables]
