"""What a sensor makes of heat in its wafer and of hits: one face for all kinds of sensor."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from crab.params import LinearSensor, Mission, Tes
from crab.physics import pulses as tes_pulses
from crab.physics import readout, tes, wafer


@dataclass(frozen=True)
class Sensor:
    """A sensor at work, as `crab.physics.simulator` needs it.

    Attributes
    ----------
    power_convention : {"joule", "optical_equivalent"}
        What the simulated power means; see `crab.schema`.
    gain : float
        Slow change of that power per absorbed power: ``joule_gain`` of a TES, else 1.
    rest_power_w : float
        Joule power at rest; 0 where it is not modelled.
    wafer_coupling_w_per_k : float
        Power that flows in per kelvin of the wafer below.
    time_constant_s : float
        Of the answer to absorbed power.
    run_up_s : float
        How long a hit is felt.
    parts : tuple of str
        Part of the TOD that each absorber's hits belong to, in the order of the geometry.
    noise : xarray.Dataset
        See `crab.physics.readout.noise_equivalent_power`.
    hits_w : callable
        ``hits_w(absorber, deposit_ev, since_s, n_samples, sample_s)``: mean change of power over
        consecutive intervals, shape (n_samples,), after hits on that absorber of one detector;
        times are sorted and in [0, n_samples * sample_s).
    mean_w : callable
        ``mean_w(absorber, power_w)``: mean change for a mean power deposited in an absorber, in
        the linear response.
    """

    power_convention: str
    gain: float
    rest_power_w: float
    wafer_coupling_w_per_k: float
    time_constant_s: float
    run_up_s: float
    parts: tuple[str, ...]
    noise: xr.Dataset
    hits_w: Callable[..., np.ndarray]
    mean_w: Callable[[int, np.ndarray], np.ndarray]


def build(
    mission: Mission, detectors: xr.Dataset, largest_ev: float, direct_hits: str = "nonlinear"
) -> Sensor:
    """Sensor of a mission.

    Parameters
    ----------
    mission : Mission
    detectors : xarray.Dataset
        Of `crab.physics.instrument.detectors`.
    largest_ev : float
        Largest deposit that can come.
    direct_hits : {"nonlinear", "linear"}
        Pulses of a TES from the full equations, or small-signal. A linear sensor knows only one.

    Returns
    -------
    Sensor
    """
    if isinstance(mission.sensor, Tes):
        return _tes(mission, detectors, largest_ev, direct_hits)
    return _linear(mission.sensor, mission.geometry.absorbers, detectors)


# Hits on several absorbers of one TES pile up within each absorber only.
def _tes(mission: Mission, detectors: xr.Dataset, largest_ev: float, direct_hits: str) -> Sensor:
    point = tes.operating_point(mission.sensor, mission.wafer_thermal.bath_temperature_k)
    table = tes_pulses.pulse_table(point, largest_ev, linear=direct_hits == "linear")

    def hits_w(absorber, deposit_ev, since_s, n_samples, sample_s):
        return tes_pulses.train_means_w(table, deposit_ev, since_s, n_samples, sample_s)

    return Sensor(
        power_convention="joule",
        gain=point.joule_gain,
        rest_power_w=point.joule_power_w,
        wafer_coupling_w_per_k=point.bath_coupling_w_per_k,
        time_constant_s=point.time_constant_s,
        run_up_s=float(table.time_s[-1]),
        parts=("tod_direct",) * len(mission.geometry.absorbers),
        noise=readout.noise_equivalent_power(mission.sensor, point, detectors),
        hits_w=hits_w,
        mean_w=lambda absorber, power_w: point.joule_gain * power_w,
    )


def _linear(sensor: LinearSensor, absorbers, detectors: xr.Dataset) -> Sensor:
    pulses = [sensor.pulses[name] for name in absorbers]
    longest_s = max(decay.time_constant_s for pulse in pulses for decay in pulse.decays)

    def hits_w(absorber, deposit_ev, since_s, n_samples, sample_s):
        pulse = pulses[absorber]
        rate_hz = np.array([1 / decay.time_constant_s for decay in pulse.decays])
        height = np.array([decay.amplitude for decay in pulse.decays])
        # The pulse's integral is the stated share of the deposit.
        height *= pulse.energy_share / (height / rate_hz).sum()
        kicks = np.multiply.outer(deposit_ev * wafer.EV_TO_J, height)
        means, _ = wafer.decay_means(rate_hz, since_s, kicks, n_samples, sample_s)
        return means.sum(axis=0)

    return Sensor(
        power_convention="optical_equivalent",
        gain=1.0,
        rest_power_w=0.0,
        wafer_coupling_w_per_k=sensor.wafer_coupling_w_per_k,
        time_constant_s=sensor.time_constant_s,
        run_up_s=wafer.RUN_UP_DECAYS * max(longest_s, sensor.time_constant_s),
        parts=tuple(f"tod_{pulse.part}" for pulse in pulses),
        noise=readout.measured_noise(sensor, detectors),
        hits_w=hits_w,
        mean_w=lambda absorber, power_w: pulses[absorber].energy_share * power_w,
    )
