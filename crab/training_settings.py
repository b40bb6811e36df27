"""Sections of `params.yaml` that say how a network is built and trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from crab.descriptions import Count, NonNegative, Positive, Section
from crab.errors import CrabError

REFERENCE_WINDOW = 1060
_Fraction = Annotated[float, Field(ge=0, lt=1)]
_Epochs = Annotated[int, Field(ge=0)]


class TrainGanNotebook(Section):
    """A GAN; learning rates, beta_1 and beta_2 are those of Keras."""

    accelerator: Literal["optional", "required"]
    architecture: Literal["reference", "multichannel", "shot_noise"]
    loss: Literal["binary_crossentropy", "wasserstein", "paired"]
    generator_optimizer: Literal["adam", "nadam", "sgd"]
    discriminator_optimizer: Literal["adam", "nadam", "sgd"]
    generator_learning_rate: Positive
    discriminator_learning_rate: Positive
    final_learning_rate: Annotated[
        float, Field(gt=0, le=1, description="fraction that is left at the end (cosine)")
    ]
    beta_1: _Fraction
    beta_2: _Fraction
    activation: Literal["leaky_relu", "relu", "tanh"]
    kernel_length: Count
    n_latent: Count = Field(description="for a window, or for each sample of shot_noise")
    extra_layers: Annotated[int, Field(ge=0, description="convolutions beyond the reference's")]
    window_samples: Annotated[int, Field(ge=64)]
    batch_size: Count
    steps_per_epoch: Count
    generator_pretraining_epochs: _Epochs
    discriminator_pretraining_epochs: _Epochs
    gan_epochs: _Epochs
    discriminator_updates: Count = Field(description="for each update of the generator")
    extra_discriminator_steps: Annotated[int, Field(ge=0, description="after each epoch")]
    synthetic_weight: Positive
    label_smoothing: _Fraction
    input_noise_sigma: NonNegative
    input_noise_final_sigma: NonNegative
    gradient_penalty: NonNegative
    weight_clip: NonNegative = Field(description="0 for none")
    r1_r2_penalty: NonNegative
    statistics_weight: NonNegative = Field(description="of the pre-training's loss in the game")
    minibatch_deviation: bool
    ema_decay: _Fraction = Field(description="of the generator's weights; 0 for none")
    stretch_sigma: NonNegative

    @model_validator(mode="after")
    def _loss_and_its_companions(self):
        # A critic's score may be shifted freely only if both terms of its loss weigh the same.
        if self.loss != "binary_crossentropy":
            self._only(synthetic_weight=1, label_smoothing=0)
        if self.loss == "wasserstein" and not (self.gradient_penalty or self.weight_clip):
            raise CrabError(
                f"train_gan.gradient_penalty = {self.gradient_penalty}: allowed with "
                "loss = wasserstein are numbers > 0, usually 10, or a weight_clip > 0"
            )
        if self.architecture == "shot_noise":
            if not self.stretch_sigma:
                raise CrabError(
                    f"train_gan.stretch_sigma = {self.stretch_sigma}: allowed with architecture = "
                    "shot_noise are numbers > 0, usually 3"
                )
        else:
            only = {"generator_pretraining_epochs": 0, "statistics_weight": 0}
            self._only(window_samples=REFERENCE_WINDOW, **only)
        if not self.generator_pretraining_epochs + self.gan_epochs:
            raise CrabError(
                "train_gan.gan_epochs = 0: allowed without pre-training are integers > 0"
            )
        return self

    def _only(self, **allowed) -> None:
        for key, value in allowed.items():
            if getattr(self, key) != value:
                why = "loss" if key in ("synthetic_weight", "label_smoothing") else "architecture"
                raise CrabError(
                    f"train_gan.{key} = {getattr(self, key)}: allowed with {why} = "
                    f"{getattr(self, why)} is {value}"
                )


class TrainVaeNotebook(Section):
    """A variational auto-encoder with latents for every sample."""

    accelerator: Literal["optional", "required"]
    likelihood: Literal["gaussian", "bernoulli", "continuous_bernoulli"]
    bernoulli_trials: Count = Field(description="trials that a fraction stands for")
    learning_rate: Positive
    final_learning_rate: Annotated[
        float, Field(gt=0, le=1, description="fraction that is left at the end (cosine)")
    ]
    activation: Literal["leaky_relu", "relu", "tanh"]
    kernel_length: Count
    n_filters: Count
    n_layers: Count
    n_latent: Count = Field(description="for each sample")
    kl_weight: Positive
    kl_warm_up: _Fraction = Field(description="part of the training in which it rises from 0")
    window_samples: Annotated[int, Field(ge=64)]
    batch_size: Count
    steps_per_epoch: Count
    epochs: Count
    stretch_sigma: NonNegative


class TrainStreamNotebook(Section):
    """The streaming GAN, which learns several environments at once."""

    accelerator: Literal["optional", "required"]
    environments: Annotated[list[str], Field(min_length=1, description="learned from")]
    window_samples: Annotated[int, Field(ge=64)]
    batch_size: Annotated[int, Field(ge=2, multiple_of=2, description="of each environment")]
    steps_per_epoch: Count
    statistics_epochs: Count = Field(description="without the critic")
    gan_epochs: _Epochs
    statistics_learning_rate: Positive
    generator_learning_rate: Positive
    critic_learning_rate: Positive
    final_learning_rate: Annotated[
        float, Field(gt=0, le=1, description="fraction that is left at the end (cosine)")
    ]
    kernel_length: Count = Field(description="of the critic")
    r1_r2_penalty: NonNegative
    statistics_weight: NonNegative = Field(description="of their loss beside the critic's")
    ema_decay: _Fraction = Field(description="of the generator's weights; 0 for none")
    stretch_sigma: Positive
