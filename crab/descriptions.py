"""Environments and missions as data: the typed sections of `params.yaml` that describe them."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from crab.errors import CrabError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class PhiNode(Section):
    """Modulation potential at one time."""

    year: Annotated[float, Field(ge=1900, le=2200)]
    phi_mv: Annotated[float, Field(ge=0, le=3000)]


class SolarEvent(Section):
    """Solar-particle event: protons with the spectrum of Ellison & Ramaty 1985.

    The fluence is ``fluence_scale * norm * T^-index * exp(-T / rollover)``, T in MeV.
    """

    title: str
    norm_per_cm2_sr_mev: Positive = Field(description="at 1 MeV, without the rollover")
    index: NonNegative
    rollover_mev: Positive
    fluence_scale: Positive = Field(description="share of the published fluence")
    onset_s: float = Field(allow_inf_nan=False, description="mission time")
    rise_s: Positive
    decay_s: Positive
    source: str

    @model_validator(mode="after")
    def _rises_before_it_decays(self):
        if not self.rise_s < self.decay_s:
            raise CrabError(
                f"solar_events: rise_s = {self.rise_s}: allowed are values below "
                f"decay_s = {self.decay_s}"
            )
        return self


class Environment(Section):
    """Cosmic-ray environment: a modulation potential with the LIS that it belongs to.

    ``phi_nodes`` make the potential a function of time, linear between them, with ``phi_mv`` as
    their mean. With ``iso_dlr_2013`` nuclei follow ``w_index`` and electrons alone ``phi_mv``,
    which belongs to helmod_2017. Solar events come on top.
    """

    title: str
    phi_mv: Annotated[float, Field(ge=0, le=3000)]
    lis: Literal["burger_2000", "helmod_2017", "iso_dlr_2013"]
    source: str
    w_index: Annotated[float, Field(ge=0, le=200)] | None = None
    start_year: Annotated[float, Field(ge=1900, le=2200)] | None = Field(
        default=None, description="mission time 0 of a potential that changes"
    )
    phi_nodes: tuple[PhiNode, ...] = ()
    solar_events: tuple[SolarEvent, ...] = ()

    @model_validator(mode="after")
    def _keys_belong_together(self):
        iso = self.lis == "iso_dlr_2013"
        if iso != (self.w_index is not None):
            allowed = "numbers from 0 to 200" if iso else "null"
            raise CrabError(f"w_index = {self.w_index}: allowed with lis = {self.lis} is {allowed}")
        if not self.phi_nodes:
            if self.start_year is not None:
                raise CrabError(
                    f"start_year = {self.start_year}: allowed without phi_nodes is null"
                )
            return self
        if iso:
            raise CrabError("phi_nodes: allowed with lis = iso_dlr_2013 is none")
        if self.start_year is None:
            raise CrabError("start_year = null: allowed with phi_nodes is a year")
        years = [node.year for node in self.phi_nodes]
        if len(years) < 2 or any(b <= a for a, b in pairwise(years)):
            raise CrabError(f"phi_nodes: years {years}: allowed are 2 or more that increase")
        areas = [(b.year - a.year) * (a.phi_mv + b.phi_mv) / 2 for a, b in pairwise(self.phi_nodes)]
        mean = sum(areas) / (years[-1] - years[0])
        if abs(self.phi_mv - mean) > 1:
            raise CrabError(
                f"phi_mv = {self.phi_mv}: allowed is the mean of phi_nodes, {mean:.1f}, within 1"
            )
        return self


class Box(Section):
    """Equal boxes in a row, placed from the detector's own point; lengths in mm."""

    size_mm: tuple[Positive, Positive, Positive]
    offset_mm: tuple[float, float, float] = Field((0.0, 0.0, 0.0), description="row's centre")
    copies: Count = 1
    pitch_mm: tuple[float, float, float] = Field((0.0, 0.0, 0.0), description="copy to copy")


class Absorber(Section):
    """A part that every detector has and that feels what it absorbs, as Geant4 builds it."""

    material: str = Field(description="name in Geant4's NIST table")
    production_cut_um: Positive
    boxes: Annotated[list[Box], Field(min_length=1)]


class Geometry(Section):
    """What Geant4 builds: shield, wafer (null for none) and absorbers, lengths in mm."""

    shielding_al_mm: NonNegative
    shield_radius_mm: Positive
    wafer_side_mm: Positive | None
    wafer_thickness_mm: Positive | None
    aim_radius_mm: Positive = Field(description="primaries are aimed this near to an absorber")
    absorbers: Annotated[dict[Word, Absorber], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole_wafer_or_none(self):
        if (self.wafer_side_mm is None) != (self.wafer_thickness_mm is None):
            raise CrabError(
                f"geometry.wafer_side_mm = {self.wafer_side_mm}, geometry.wafer_thickness_mm = "
                f"{self.wafer_thickness_mm}: allowed are two lengths, or null for both"
            )
        return self


class WaferThermal(Section):
    """Heat in the wafer: Debye silicon, effective in-plane diffusion and a link to the bath."""

    bath_temperature_k: Positive
    debye_temperature_k: Positive
    bath_conductance_w_per_k: Positive
    diffusivity_m2_per_s: Positive
    modes_per_axis: Count


class Tes(Section):
    """Voltage-biased transition-edge sensor (Irwin & Hilton 2005 symbols in words)."""

    kind: Literal["tes"]
    critical_temperature_k: Positive
    normal_resistance_ohm: Positive
    operating_fraction: Annotated[float, Field(gt=0, lt=1)]
    alpha: Positive
    thermal_exponent: Positive
    natural_time_constant_s: Positive
    optical_power_w: NonNegative
    saturation_power_w: Positive
    shunt_resistance_ohm: Positive
    inductance_h: Positive
    optical_efficiency: Annotated[float, Field(gt=0, le=1)]
    readout_noise_a_per_rthz: NonNegative


class Decay(Section):
    """One exponential of a pulse, ``amplitude * exp(-t / time_constant_s)``."""

    amplitude: Positive = Field(description="relative to the others of the pulse")
    time_constant_s: Positive


class Pulse(Section):
    """Answer to a deposit in one absorber: a sum of exponentials."""

    part: Literal["wafer", "direct"] = Field(description="part of the TOD that it belongs to")
    energy_share: Annotated[float, Field(gt=0, le=1)] = Field(
        description="time integral of the pulse, as absorbed power, over the deposit"
    )
    decays: Annotated[list[Decay], Field(min_length=1)]


class LinearSensor(Section):
    """Sensor known by its measured pulses, linear in the deposit (NTD bolometers, KID)."""

    kind: Literal["linear"]
    time_constant_s: Positive = Field(description="of the answer to light and to wafer heat")
    wafer_coupling_w_per_k: NonNegative = Field(description="power per kelvin of the wafer")
    nep_w_per_rthz: Positive
    optical_efficiency: Annotated[float, Field(gt=0, le=1)]
    pulses: dict[str, Pulse] = Field(description="by absorber")


class InstrumentDatabase(Section):
    """Detectors of one wafer of the instrument database."""

    kind: Literal["database"]
    release: Literal["litebird-sim vPTEP"]
    telescope: Literal["LFT", "MFT", "HFT"]
    wafer: str
    detectors: list[str] | None = Field(description="names; null for the whole wafer")
    pixel_pitch_mm: Positive
    sensor_ring_radius_mm: NonNegative = Field(description="sensors of a pixel lie on a ring")


class Detector(Section):
    """A detector that no database has."""

    name: str
    pixel: Annotated[int, Field(ge=0)]
    channel: str
    x_mm: float
    y_mm: float
    z_mm: float | None = Field(None, description="null: the wafer's upper face")
    pol_angle_rad: float
    net_ukrts: Positive
    bandcenter_ghz: Positive
    bandwidth_ghz: Positive


class InstrumentTable(Section):
    """Detectors of one wafer or module, listed one by one."""

    kind: Literal["table"]
    wafer: str
    detectors: Annotated[list[Detector], Field(min_length=1)]


class Mission(Section):
    """Where detectors sit and how they are read out.

    Without geometry and sensor a mission has no Monte Carlo here: its cubes are imported.
    """

    title: str
    instrument: Annotated[InstrumentDatabase | InstrumentTable, Field(discriminator="kind")]
    sampling_rate_hz: Positive
    internal_rate_hz: Positive = Field(description="of the physics, before filter and decimation")
    hwp_rpm: Positive | None = Field(description="half-wave plate; null for none")
    effort: Annotated[float, Field(gt=0, le=1)] = Field(
        description="share of a profile's primaries and durations that this mission gets"
    )
    geometry: Geometry | None
    wafer_thermal: WaferThermal | None
    sensor: Annotated[Tes | LinearSensor, Field(discriminator="kind")] | None

    @model_validator(mode="after")
    def _parts_fit(self):
        if (self.geometry is None) != (self.sensor is None):
            raise CrabError("mission: geometry and sensor: allowed are both, or null for both")
        if self.geometry is None:
            return self
        if (self.geometry.wafer_side_mm is None) != (self.wafer_thermal is None):
            raise CrabError(
                "mission: wafer_thermal goes with geometry.wafer_side_mm: allowed are both, or "
                "null for both"
            )
        if isinstance(self.sensor, Tes) and self.wafer_thermal is None:
            raise CrabError("mission: sensor.kind = 'tes': needs wafer_thermal")
        if isinstance(self.sensor, LinearSensor):
            known, given = set(self.geometry.absorbers), set(self.sensor.pulses)
            if known != given:
                raise CrabError(
                    f"mission: sensor.pulses = {', '.join(sorted(given))}: allowed are exactly "
                    f"the absorbers {', '.join(sorted(known))}"
                )
        return self
