"""How the files of another simulation are laid out: a small YAML file, typed."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from crab.errors import CrabError

UNITS = {  # to W or to K_CMB
    "W": 1.0,
    "pW": 1e-12,
    "fW": 1e-15,
    "aW": 1e-18,
    "K_CMB": 1.0,
    "mK_CMB": 1e-3,
    "uK_CMB": 1e-6,
}
TIME_UNITS_S = {
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "ns": 1e-9,
    "min": 60.0,
    "h": 3600.0,
    "day": 86400.0,
}

Dim = Literal["realisation", "detector", "time"]
Part = Literal["tod_wafer", "tod_direct", "tod_noise"]
Column = Literal[
    "wafer",
    "pixel",
    "channel",
    "x_mm",
    "y_mm",
    "z_mm",
    "pol_angle_rad",
    "net_ukrts",
    "bandcenter_ghz",
    "bandwidth_ghz",
    "power_per_kelvin_w",
    "joule_gain",
    "joule_power_w",
]
TruthColumn = Literal[
    "time_s",
    "deposit_ev",
    "detector_index",
    "direct_deposit_ev",
    "event",
    "species",
    "energy_mev",
    "x_mm",
    "y_mm",
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeAxis(_Section):
    """Time of each sample."""

    name: str
    unit: Literal["s", "ms", "us", "ns", "min", "h", "day"] | None = None


class Truth(_Section):
    """Table of the hits behind the TOD."""

    file: str = Field(description="beside the mapping, if not absolute")
    columns: dict[TruthColumn, str] = Field({}, description="names in the file; default: the same")


class Mapping(_Section):
    """What a file does not say of itself, or says under another name."""

    format: Literal["npz", "netcdf", "hdf5", "litebird_sim"] | None = None
    data: str = "tod"
    dims: list[Dim] = ["detector", "time"]
    realisation: Annotated[int, Field(ge=0)] | None = None
    unit: Literal["W", "pW", "fW", "aW", "K_CMB", "mK_CMB", "uK_CMB"] | None = None
    power_convention: Literal["joule", "optical_equivalent"] | None = None
    sampling_rate_hz: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    time: TimeAxis | None = None
    detectors: str | list[str] | None = None
    columns: dict[Column, float | str | list[float] | list[str]] = {}
    parts: dict[Part, str] = {}
    nan: Literal["fail", "interpolate"] = "fail"
    level: Literal["fail", "accept"] = "fail"
    start_sample: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=-1)] = -1
    phi_mv: Annotated[float, Field(ge=0)] | None = None
    lis: str | None = None
    physics_list: Annotated[str, Field(min_length=1)]
    source: str = ""
    truth: Truth | None = None

    @field_validator("dims")
    @classmethod
    def _each_dim_once(cls, dims: list[str]) -> list[str]:
        if len(set(dims)) != len(dims) or not {"detector", "time"} <= set(dims):
            raise ValueError("allowed are detector and time in their order, and realisation")
        return dims


def load(mapping: str | Path | dict | Mapping) -> Mapping:
    """Read and validate a mapping.

    Parameters
    ----------
    mapping : path-like, dict or Mapping
        YAML file, or what it would hold.

    Returns
    -------
    Mapping

    Raises
    ------
    CrabError
        One line for each fault: file, key, value and what is allowed.
    """
    if isinstance(mapping, Mapping):
        return mapping
    where, raw = "mapping", mapping
    if not isinstance(mapping, dict):
        where = str(mapping)
        try:
            raw = yaml.safe_load(Path(mapping).read_text())
        except FileNotFoundError:
            raise CrabError(f"{where}: no such file") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CrabError(f"{where}: not valid YAML: {error}") from None
    try:
        found = Mapping.model_validate(raw)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(where, fault) for fault in error.errors())
        raise CrabError("\n".join(lines)) from None
    if found.truth is not None and where != "mapping":
        # A relative name is beside the mapping, wherever the command is run.
        truth = found.truth.model_copy(update={"file": str(Path(where).parent / found.truth.file)})
        found = found.model_copy(update={"truth": truth})
    return found


def _explain(where: str, fault: dict) -> str:
    # A union adds its types to the place of a fault: they are no keys.
    loc = [str(p) for p in fault["loc"] if not re.match(r"(str|float|list\[.*|\[key\])$", str(p))]
    key = ".".join(loc)
    if fault["type"] == "missing":
        return f"{where}: {key}: missing; add it"
    if fault["type"] == "extra_forbidden":
        model = {"time": TimeAxis, "truth": Truth}.get(loc[0] if loc[1:] else "", Mapping)
        near = difflib.get_close_matches(loc[-1], model.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(model.model_fields)
        return f"{where}: {key} = {fault['input']!r}: unknown key; {hint}"
    return f"{where}: {key} = {fault['input']!r}: {fault['msg']}"
