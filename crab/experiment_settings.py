"""Sections of `params.yaml` that say which trainings are tried, and where a search looks."""

import difflib
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from crab.descriptions import Positive, Section
from crab.errors import CrabError
from crab.training_settings import TrainGanNotebook, TrainVaeNotebook

Scalar = bool | int | float | str
TrainingSettings = TrainGanNotebook | TrainVaeNotebook


class Choice(Section):
    """A model and what is set differently from its section."""

    model: str = Field(description="key of train_gan or train_vae")
    overrides: dict[str, Scalar] = Field(default={}, description="by the name of the setting")
    train_duration_s: Positive | None = Field(
        default=None, description="learn from the first part of the training cube; null for all"
    )


class IllAndCured(Section):
    """Two choices: one that shows an illness, and one that should not."""

    ill: Choice
    cured: Choice


class ExperimentsNotebook(Section):
    """Trainings that are compared; `common` holds for every choice of a model."""

    common: dict[str, dict[str, Scalar]] = Field(description="overrides by the model's name")
    choices: Annotated[dict[str, Choice], Field(min_length=1)]
    base: str = Field(description="the choice whose spread over seeds stands beside the others")
    n_seeds: Annotated[int, Field(ge=2, description="trainings of the base choice")]
    illnesses: dict[str, IllAndCured] = Field(description="by a name of crab.generators.health")
    stability_model: str = Field(description="trained before with several seeds")

    @model_validator(mode="after")
    def _base_is_a_choice(self) -> Self:
        if self.base not in self.choices:
            raise CrabError(f"base = {self.base!r}: allowed are {', '.join(self.choices)}")
        return self


class Axis(Section):
    """Values of one setting that a search may try: a range, or a list."""

    low: float | int | None = None
    high: float | int | None = None
    log: bool = Field(default=False, description="uniform in the logarithm")
    choices: list[Scalar] | None = None

    @model_validator(mode="after")
    def _range_or_list(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.low is None) == (not self.choices):
            raise CrabError(
                f"low = {self.low}, high = {self.high}, choices = {self.choices}: allowed are low "
                "and high, or a list of choices"
            )
        if self.low is not None and not self.low < self.high:
            raise CrabError(f"high = {self.high}: allowed are numbers above low = {self.low}")
        if self.log and (self.low is None or self.low <= 0):
            raise CrabError(f"low = {self.low}: allowed with log are numbers > 0")
        return self

    @property
    def ends(self) -> list[Scalar]:
        """Values that have to be allowed for all to be."""
        return self.choices or [self.low, self.high]


class SearchSpace(Section):
    """What a search for good settings of one model may change."""

    common: dict[str, Scalar] = Field(description="overrides that all trials share")
    space: Annotated[dict[str, Axis], Field(min_length=1)]


def models(profile) -> dict[str, TrainingSettings]:
    """Settings of all networks of a profile, by name."""
    return {**profile.train_vae, **profile.train_gan}


def resolve(
    choice: Choice,
    known: dict[str, TrainingSettings],
    common: dict[str, dict[str, Scalar]] | None = None,
    name: str = "choice",
) -> TrainingSettings:
    """Settings of a choice, validated as if they stood in `params.yaml`.

    Parameters
    ----------
    choice : Choice
    known : dict of str to TrainGanNotebook or TrainVaeNotebook
        As `models` gives them.
    common : dict of str to dict, optional
        Overrides by the model's name, for all choices; the choice's own go before.
    name : str
        What errors call the choice.

    Returns
    -------
    TrainGanNotebook or TrainVaeNotebook

    Raises
    ------
    CrabError
        For an unknown model or setting, or a value that is not allowed: key, value, what is.
    """
    if choice.model not in known:
        raise CrabError(f"{name}.model = {choice.model!r}: allowed are {', '.join(sorted(known))}")
    base = known[choice.model]
    return override(base, {**(common or {}).get(choice.model, {}), **choice.overrides}, name)


def override(base: TrainingSettings, overrides: dict[str, Any], name: str) -> TrainingSettings:
    """Other values for some settings, everything validated anew.

    Parameters
    ----------
    base : TrainGanNotebook or TrainVaeNotebook
    overrides : dict
    name : str
        What errors call it.

    Returns
    -------
    The same kind as `base`.

    Raises
    ------
    CrabError
        As `resolve`.
    """
    kind = type(base)
    for key, value in overrides.items():
        if key not in kind.model_fields:
            near = difflib.get_close_matches(key, list(kind.model_fields), n=1)
            hint = f"did you mean {near[0]!r}?" if near else ", ".join(kind.model_fields)
            raise CrabError(f"{name}.{key} = {value!r}: no such setting: {hint}")
    try:
        return kind.model_validate({**base.model_dump(), **overrides})
    except ValidationError as error:
        raise CrabError("\n".join(_explain(e, name) for e in error.errors())) from None


def _explain(fault: dict, name: str) -> str:
    if fault["type"] == "value_error":
        return f"{name}: {fault['ctx']['error']}"
    key = ".".join(map(str, (name, *fault["loc"])))
    return f"{key} = {fault['input']!r}: {fault['msg']}"
