"""Sections of `params.yaml` for conditional generators: how they are built, trained and judged."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from crab.descriptions import Count, NonNegative, Positive, Section
from crab.errors import CrabError


class TrainEventsNotebook(Section):
    """The marked point process ``stream_events``; potentials are those of helmod_2017."""

    environments: Annotated[list[str], Field(min_length=1)] = Field(
        description="whose solar events are learned; the first one's interstellar spectra are used"
    )
    potential_min_mv: Positive
    potential_max_mv: Positive
    n_potentials: Annotated[int, Field(ge=2)]
    threshold_events_hz: Positive = Field(
        description="rate of the wafer hits made one by one, at the lowest potential"
    )
    hidden_units: Annotated[int, Field(ge=4, le=64)]
    hidden_layers: Annotated[int, Field(ge=1, le=4)]
    n_bins: Annotated[int, Field(ge=2, le=64)]
    n_draws: Annotated[int, Field(ge=1000)] = Field(description="events learned from")
    batch_size: Count
    steps: Count
    learning_rate: Positive

    @model_validator(mode="after")
    def _range_is_one(self):
        if self.potential_max_mv <= self.potential_min_mv:
            raise CrabError(
                f"train_events.potential_max_mv = {self.potential_max_mv:g}: allowed are "
                f"potentials above potential_min_mv = {self.potential_min_mv:g}"
            )
        return self


class ConditionalNotebook(Section):
    """How one conditional generator is judged in environments that it knows and does not know."""

    environments: Annotated[list[str], Field(min_length=1)] = Field(
        description="judged where the mission has a test cube, or one can be simulated"
    )
    simulate_missing: bool = Field(description="simulate the cubes that notebook 03 did not make")
    held_out_environment: str = Field(description="kept out of every training; may change in time")
    mission_times_days: Annotated[list[NonNegative], Field(min_length=1)] = Field(
        description="where stretches of the held-out environment are simulated and generated"
    )
    stretch_duration_s: Positive
    n_seam_boundaries: Count
    seam_window_samples: Annotated[int, Field(ge=16, multiple_of=2)]
    seam_classifiers: Annotated[list[Literal["boosting", "resnet", "stft"]], Field(min_length=1)]
    light_values: Count = Field(description="samples times detectors of a light scorecard, at most")
    classifiers: list[Literal["boosting", "resnet", "stft"]] = Field(
        description="of the held-out environment's full scorecard; empty: a light one"
    )
    classifier_windows: Annotated[list[Annotated[int, Field(ge=64)]], Field(min_length=1)]
    classifier_epochs: Count
    window_samples: Annotated[int, Field(ge=64)]
    segment_samples: Annotated[int, Field(ge=64)]
    n_bins: Count
    clip_sigma: Positive
    hit_sigma: Positive
