"""`params.yaml`, typed: the only place for values. Units are in the names, ranges in the types."""

import difflib
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from crab import paths
from crab.descriptions import (
    Absorber,
    Box,
    Count,
    Environment,
    Geometry,
    InstrumentDatabase,
    InstrumentTable,
    LinearSensor,
    Mission,
    NonNegative,
    Positive,
    Section,
    SolarEvent,
    Tes,
    WaferThermal,
)
from crab.errors import CrabError
from crab.experiment_settings import ExperimentsNotebook, SearchSpace
from crab.streaming_settings import ConditionalNotebook, TrainEventsNotebook
from crab.training_settings import TrainGanNotebook, TrainStreamNotebook, TrainVaeNotebook

__all__ = [
    "Absorber",
    "Box",
    "ConditionalNotebook",
    "Environment",
    "Geometry",
    "InstrumentDatabase",
    "InstrumentTable",
    "LinearSensor",
    "Mission",
    "Params",
    "SolarEvent",
    "Tes",
    "TrainEventsNotebook",
    "TrainGanNotebook",
    "TrainStreamNotebook",
    "TrainVaeNotebook",
    "WaferThermal",
    "choose",
    "load",
]


class EnvironmentNotebook(Section):
    energy_min_mev: Positive
    energy_max_mev: Positive
    threshold_mev_per_nucleon: Positive
    n_lines: Count


class DepositsNotebook(Section):
    """Geant4 library of one split; primaries are counted before strata drop those of others."""

    n_target_primaries: Count = Field(description="per split, towards the wafer")
    n_shield_primaries: Count = Field(description="per split, through the shield past the wafer")
    n_aimed_primaries: Count = Field(description="per split, shared by all TES")
    energy_min_mev_per_nucleon: Positive
    energy_max_mev_per_nucleon: Positive
    proposal_environment: str
    cell_mm: Positive
    production_cut_um: Positive
    shield_production_cut_um: Positive
    n_workers: Count


class SimulateTodNotebook(Section):
    train_duration_s: Positive
    validation_duration_s: Positive
    test_duration_s: Positive
    direct_hits: Literal["linear", "nonlinear"]


class ExploreNotebook(Section):
    segment_s: Positive
    threshold_sigma: Positive


class GenerateNotebook(Section):
    """A cube to keep, and a survey of the mission in chunks (`crab.survey`)."""

    generator: str
    duration_s: Positive
    mission_years: Positive
    chunk_samples: Annotated[int, Field(ge=8192)]
    stride_days: Annotated[float, Field(ge=0)]
    workers: Annotated[int, Field(ge=0)]
    segment_samples: Annotated[int, Field(ge=16, multiple_of=2)]
    hit_sigma: Annotated[list[Positive], Field(min_length=1)]
    dead_time_s: Annotated[float, Field(ge=0)]
    band_hz: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    focal_plane_detectors: Count
    node_cores: Count
    node_hour_eur: Positive


class CompareNotebook(Section):
    generators: Annotated[list[str], Field(min_length=1)]
    window_samples: Annotated[int, Field(ge=64)]
    classifier_windows: Annotated[list[Annotated[int, Field(ge=64)]], Field(min_length=1)]
    classifiers: Annotated[list[Literal["boosting", "resnet", "stft"]], Field(min_length=1)]
    classifier_epochs: Count
    segment_samples: Annotated[int, Field(ge=64)]
    n_bins: Count
    clip_sigma: Positive
    hit_sigma: Positive


class ImpactNotebook(Section):
    """Maps, spectra and the bias of r."""

    generators: list[str]
    environments: Annotated[list[str], Field(min_length=1)]
    mapped_environment: str
    event_environment: str
    hours: Positive
    nside: Count
    thresholds_sigma: Annotated[list[Positive], Field(min_length=1)]
    sky_fraction: Annotated[float, Field(gt=0, le=1)]
    white_noise_days: Positive
    white_noise_rate_hz: Positive
    knee_mhz: NonNegative
    baselines_s: Annotated[list[Positive], Field(min_length=1)]
    map_blocks: Annotated[int, Field(ge=8)]  # fewer: no p of exchanges below 0.01
    map_all: bool
    second_wafer_hours: Positive


class ValidationNotebook(Section):
    n_beam_protons: Count
    n_plate_primaries: Count
    plate_cut_um: Positive
    n_workers: Count


class Profile(Section):
    """Settings of one profile: a section for each notebook, named like it."""

    environment: EnvironmentNotebook
    deposits: DepositsNotebook
    simulate_tod: SimulateTodNotebook
    explore: ExploreNotebook
    train_vae: dict[str, TrainVaeNotebook] = Field(description="by the model's name")
    train_gan: dict[str, TrainGanNotebook] = Field(description="by the model's name")
    train_events: dict[str, TrainEventsNotebook] = Field(description="by the model's name")
    train_stream: dict[str, TrainStreamNotebook] = Field(description="by the model's name")
    conditional: dict[str, ConditionalNotebook] = Field(description="by the model's name")
    generate: GenerateNotebook
    compare: CompareNotebook
    impact: ImpactNotebook
    validation: ValidationNotebook
    experiments: ExperimentsNotebook
    search: dict[str, SearchSpace] = Field(description="by the model's name")


class Params(Section):
    """The whole of `params.yaml`."""

    active_profiles: Annotated[list[str], Field(min_length=1)]
    active_missions: Annotated[list[str], Field(min_length=1)]
    active_environments: Annotated[list[str], Field(min_length=1)]
    survey_missions: list[str] = Field(description="simulated in one environment only")
    survey_environment: str
    training_environment: str
    seed: Annotated[int, Field(ge=0)]
    environments: dict[str, Environment]
    missions: dict[str, Mission]
    profiles: dict[str, Profile]

    @model_validator(mode="after")
    def _names_exist(self):
        for key, table in (
            ("active_profiles", self.profiles),
            ("active_missions", self.missions),
            ("active_environments", self.environments),
            ("survey_missions", self.missions),
        ):
            for name in getattr(self, key):
                choose(key, name, table)
        for key in ("active_missions", "survey_missions"):
            for name in getattr(self, key):
                if self.missions[name].geometry is None:
                    raise CrabError(
                        f"{key} = {name!r}: it has no geometry, so `dvc repro` cannot simulate it: "
                        "allowed are missions with geometry and sensor; run notebooks on imported "
                        "cubes with `crab run`"
                    )
        choose("survey_environment", self.survey_environment, self.environments)
        for name in set(self.survey_missions) & set(self.active_missions):
            raise CrabError(
                f"survey_missions = {name!r}: allowed are missions that are not in active_missions"
            )
        if self.training_environment not in self.active_environments:
            raise CrabError(
                f"training_environment = {self.training_environment!r}: allowed are those of "
                f"active_environments: {', '.join(self.active_environments)}"
            )
        for key, profile in self.profiles.items():
            choose(
                f"profiles.{key}.deposits.proposal_environment",
                profile.deposits.proposal_environment,
                self.environments,
            )
            for kind in ("train_events", "train_stream"):
                for model, section in getattr(profile, kind).items():
                    for name in section.environments:
                        at = f"profiles.{key}.{kind}.{model}.environments"
                        choose(at, name, self.environments)
            impact = profile.impact
            for name in (
                *impact.environments,
                impact.mapped_environment,
                impact.event_environment,
            ):
                choose(f"profiles.{key}.impact.environments", name, self.environments)
            for model, section in profile.conditional.items():
                at = f"profiles.{key}.conditional.{model}"
                for name in section.environments:
                    choose(f"{at}.environments", name, self.environments)
                held_out = section.held_out_environment
                choose(f"{at}.held_out_environment", held_out, self.environments)
        return self


_BY_KIND = ("instrument", "sensor")


def choose(key: str, name: str, table: dict):
    """``table[name]``, or an error that names the key, the value and the valid choices."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), list(table), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise CrabError(f"{key} = {name!r}: allowed are {', '.join(sorted(table))}{hint}")


def load(path: str | Path | None = None) -> Params:
    """Read and validate `params.yaml`.

    Parameters
    ----------
    path : path-like, optional
        Default: the project's own file.

    Returns
    -------
    Params

    Raises
    ------
    CrabError
        If the file is missing, is no YAML, or has an unknown, missing or out-of-range key. One
        line for each fault: file, key, value and what is allowed.
    """
    path = Path(path) if path is not None else paths.root() / "params.yaml"
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise CrabError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise CrabError(f"{path}: not valid YAML: {error}") from None
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise CrabError("\n".join(_explain(path, e) for e in error.errors())) from None


def _explain(path: Path, fault: dict) -> str:
    # Pydantic puts the kind of an instrument or sensor into the location: no key of the file.
    loc = fault["loc"]
    kept = [part for k, part in enumerate(loc) if k == 0 or loc[k - 1] not in _BY_KIND]
    key = ".".join(map(str, kept))
    if fault["type"] == "value_error":
        return (
            f"{path}: {key}: {fault['ctx']['error']}" if key else f"{path}: {fault['ctx']['error']}"
        )
    if fault["type"] == "missing":
        return f"{path}: {key}: missing; add it"
    if fault["type"] == "extra_forbidden":
        return f"{path}: {key} = {fault['input']!r}: unknown key{_near(fault['loc'])}"
    return f"{path}: {key} = {fault['input']!r}: {fault['msg']}"


def _near(loc: tuple) -> str:
    model = Params
    for part in loc[:-1]:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        inner = getattr(annotation, "__args__", (None, None))[-1] if annotation else None
        model = next(
            (m for m in (annotation, inner) if isinstance(m, type) and issubclass(m, BaseModel)),
            model,
        )
    near = difflib.get_close_matches(str(loc[-1]), list(model.model_fields), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(model.model_fields)}"
