"""Variational auto-encoders of all detectors, with latents for every sample.

The seed of this comparison names three, "Gaussian", "Bernoulli 1" and "Bernoulli 2", and defines
none. The reading taken here, for normalised values x and their share p of the range of the
training cube:

* Gaussian: x is normal, mean and width of every sample from the decoder;
* Bernoulli 1: the usual cross-entropy on [0, 1], which is the likelihood of n trials whose share
  of successes is the datum (n = 1 knows only two values, so n is a parameter);
* Bernoulli 2: the continuous Bernoulli distribution with its normaliser (Loaiza-Ganem and
  Cunningham 2019, arXiv:1907.06845).

Encoder and decoder are convolutional and see no padding, so a TOD of any length has no seams. It
is drawn through the likelihood, not only as its mean.
"""

import numpy as np

from crab import seeds
from crab.generators import health
from crab.generators.backend import compile_steps, keras, random_normal, value_and_grad
from crab.generators.gan import glorot
from crab.generators.latents import Latents
from crab.generators.windows import crop
from crab.training_settings import TrainVaeNotebook

STAGE = "vae"
METRICS = ("loss", "reconstruction", "kl")
_LOG_2_PI = float(np.log(2 * np.pi))
# Below this distance of the probability from 1/2 the normaliser is a series.
_NEAR_HALF = 0.02
_LOG_WIDTH = (-4.0, 4.0)  # of the Gaussian likelihood, in core widths


class Autoencoder:
    """Encoder, decoder, optimizer and the training step of one VAE.

    Parameters
    ----------
    settings : crab.params.TrainVaeNotebook
    data : crab.generators.training.TrainingData
    seed : int
        For the initial weights.

    Attributes
    ----------
    variables, schedule, metrics
        As in `crab.generators.adversarial.Game`.
    """

    metrics = METRICS
    other = "encoder"
    alone = False

    def __init__(self, settings: TrainVaeNotebook, data, seed: int):
        s = self.settings = settings
        self.data = data
        n_det = len(data.normalisation.detectors)
        weights = seeds.integer(seed, "networks")
        # Losing its edges twice, a window still leaves what the loss looks at.
        self._margin = s.n_layers * (s.kernel_length - 1)
        self.latents = Latents(s.n_latent, 0, self._margin)
        self.encoder = _network("encoder", n_det, 2 * s.n_latent, s, weights)
        n_outputs = 2 if s.likelihood == "gaussian" else 1
        self.decoder = _network("decoder", s.n_latent, n_outputs * n_det, s, weights)
        self.schedule = [(STAGE, s.steps_per_epoch)] * s.epochs
        rate = keras.optimizers.schedules.CosineDecay(
            s.learning_rate, s.epochs * s.steps_per_epoch, alpha=s.final_learning_rate
        )
        self._optimizer = keras.optimizers.Adam(rate)
        self._trainable = [*self.encoder.trainable_variables, *self.decoder.trainable_variables]
        self._optimizer.build(self._trainable)
        self.variables = [*self._trainable, *self._optimizer.variables]
        self._run = compile_steps(self._step, self.variables, data.values)

    def n_crops(self, stage: str) -> int:
        """Batches of windows that one step takes."""
        return 1

    def run(self, stage: str, *inputs: np.ndarray) -> np.ndarray:
        """Steps; as in `crab.generators.adversarial.Game`."""
        return self._run(*inputs)

    @property
    def network(self) -> keras.Model:
        """What is saved: the decoder."""
        return self.decoder

    def take_over(self, weights: list[np.ndarray]) -> None:
        """Weights of a finished `network`."""
        self.decoder.set_weights(weights)

    def record(self) -> dict:
        """What the sampler has to know about the network."""
        return {
            "latents": self.latents._asdict(),
            "window_samples": self.settings.window_samples,
            "output": self.settings.likelihood,
            "bernoulli_trials": self.settings.bernoulli_trials,
        }

    def monitor(self, rng: np.random.Generator) -> dict[str, float]:
        """Loss on held-out windows, and what generated ones look like."""
        real, seen = self.data.held_out, self.data.seen
        noise = rng.standard_normal((*real.shape[:1], real.shape[1], self.settings.n_latent))
        noise = noise[:, self._margin :].astype(np.float32)
        loss = self._loss(keras.ops.convert_to_tensor(real), noise, 1.0)[0]
        z = self.latents.draw(rng, len(real), real.shape[1] + self._margin)
        output = np.asarray(self.decoder.predict_on_batch(z))
        fake = draw(output, self.record(), self.data.normalisation, rng)
        return {"validation_loss": float(loss), **health.of_windows(fake, real, seen)}

    def _step(self, data, start, channel, key, done):
        s, ops = self.settings, keras.ops
        x = crop(data, start[0], None, s.window_samples)
        shape = (start.shape[1], s.window_samples - self._margin, s.n_latent)
        noise = random_normal(shape, key)
        weight = ops.minimum(done / s.kl_warm_up, 1.0) if s.kl_warm_up else 1.0
        n_encoder = len(self.encoder.trainable_variables)

        def loss(values):
            parts = values[:n_encoder], values[n_encoder:]
            return self._loss(x, noise, weight, *parts)

        values = [ops.convert_to_tensor(v.value) for v in self._trainable]
        (value, parts), gradient = value_and_grad(loss, values)
        self._optimizer.apply(gradient, self._trainable)
        return ops.stack([value, *parts])

    def _loss(self, x, noise, weight, encoder=None, decoder=None):
        """Negative evidence bound per sample and detector, and its two terms."""
        s, ops = self.settings, keras.ops
        values = (encoder, decoder)
        if encoder is None:
            networks = (self.encoder, self.decoder)
            values = [[v.value for v in n.trainable_variables] for n in networks]
        code, _ = self.encoder.stateless_call(values[0], [], x)
        mean, log_width = ops.split(code, 2, axis=2)
        log_width = ops.clip(log_width, -8.0, 4.0)
        z = mean + ops.exp(log_width) * noise
        output, _ = self.decoder.stateless_call(values[1], [], z)
        n_det = x.shape[2]
        target = x[:, self._margin : x.shape[1] - self._margin]
        likelihood = log_likelihood(target, output, self.record(), self.data.normalisation)
        kl = 0.5 * (ops.square(mean) + ops.exp(2 * log_width) - 1) - log_width
        kl = ops.mean(ops.sum(kl, axis=2)) / n_det
        reconstruction = -ops.mean(likelihood)
        return reconstruction + s.kl_weight * weight * kl, (reconstruction, kl)


def log_likelihood(x, output, record: dict, normalisation):
    """Logarithm of the likelihood of every value.

    Parameters
    ----------
    x : tensor, shape (n, n_samples, n_det)
        Values in network units.
    output : tensor, shape (n, n_samples, n_det or 2 n_det)
        Of the decoder: means and logarithms of the width, or logits.
    record : dict
        With ``output``, the likelihood's name, and ``bernoulli_trials``.
    normalisation : Normalisation
        Its floor and ceiling are the ends of [0, 1].

    Returns
    -------
    tensor, shape (n, n_samples, n_det)
    """
    ops = keras.ops
    if record["output"] == "gaussian":
        mean, log_width = ops.split(output, 2, axis=2)
        log_width = ops.clip(log_width, *_LOG_WIDTH)
        return -0.5 * (ops.square((x - mean) / ops.exp(log_width)) + _LOG_2_PI) - log_width
    share = ops.clip(_share(x, normalisation), 0.0, 1.0)
    entropy = -(ops.softplus(output) - share * output)
    if record["output"] == "bernoulli":
        return record["bernoulli_trials"] * entropy
    return entropy + log_normaliser(output)


def log_normaliser(logit):
    """ln C of the continuous Bernoulli distribution, arXiv:1907.06845, Eq. 7.

    With p = 1 / (1 + exp(-logit)): C = 2 artanh(1 - 2p) / (1 - 2p), and 2 near p = 1/2.
    """
    ops = keras.ops
    near = ops.abs(logit) < 4 * _NEAR_HALF
    safe = ops.where(near, 1.0, logit)
    # artanh(1 - 2p) = -logit / 2 and 1 - 2p = -tanh(logit / 2)
    far = ops.log(safe / ops.tanh(safe / 2))
    return ops.where(near, np.float32(np.log(2)) + ops.square(logit) / 12, far)


def draw(output: np.ndarray, record: dict, normalisation, rng: np.random.Generator) -> np.ndarray:
    """Values from the decoder's output, through the likelihood.

    Parameters
    ----------
    output : ndarray, shape (n, n_samples, n_det or 2 n_det)
    record, normalisation
        As in `log_likelihood`.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float32, shape (n, n_samples, n_det)
        Network units.
    """
    if record["output"] == "gaussian":
        mean, log_width = np.split(output, 2, axis=2)
        noise = rng.standard_normal(mean.shape, dtype=np.float32)
        return mean + np.exp(np.clip(log_width, *_LOG_WIDTH)) * noise
    logit = output.astype(np.float64)
    if record["output"] == "bernoulli":
        trials = record["bernoulli_trials"]
        share = rng.binomial(trials, 1 / (1 + np.exp(-logit))) / trials
    else:
        # Inverse of the distribution function, arXiv:1907.06845, appendix.
        u = rng.random(logit.shape)
        near = np.abs(logit) < 1e-4
        safe = np.where(near, 1.0, logit)
        # log(1 + u (exp(l) - 1)) / l, written for either sign without overflow
        far = np.where(
            safe > 0,
            1 + np.log(u + (1 - u) * np.exp(-np.abs(safe))) / np.abs(safe),
            -np.log1p(-u * -np.expm1(-np.abs(safe))) / np.abs(safe),
        )
        share = np.where(near, u, far)
    low, high = normalisation.floor, normalisation.ceiling
    return (low + (high - low) * share).astype(np.float32)


def _share(x, normalisation):
    low, high = normalisation.floor, normalisation.ceiling
    return (x - low) / (high - low)


def _network(name: str, n_in: int, n_out: int, settings: TrainVaeNotebook, seed: int):
    layers = keras.layers
    inputs = keras.Input((None, n_in), name=name)
    x = inputs
    for k in range(settings.n_layers):
        layer = f"{name}_{k}"
        x = layers.Conv1D(
            settings.n_filters,
            settings.kernel_length,
            activation=settings.activation,
            kernel_initializer=glorot(seed, layer),
            name=layer,
        )(x)
    x = layers.Dense(n_out, kernel_initializer="zeros", name=f"{name}_out")(x)
    # The straight way: what is linear need not pass the nonlinear layers.
    margin = settings.n_layers * (settings.kernel_length - 1)
    straight = layers.Dense(
        n_out, use_bias=False, kernel_initializer=glorot(seed, f"{name}_straight"), name="straight"
    )(inputs[:, margin // 2 : margin // 2 - margin])
    return keras.Model(inputs, x + 0.3 * straight, name=name)
