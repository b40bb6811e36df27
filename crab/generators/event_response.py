"""Known answers of a mission's detectors, on the output's grid: wafer and direct hits.

Everything passes the anti-alias filter and the decimation of `crab.physics.readout`. The heat of
the wafer is a sum of modes that all die out within some samples, so that a few time shapes, each
with a few patterns over the detectors, serve them all. Hits on sensors are looked up by deposit and
by their place between two samples.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import signal

from crab.generators import fine_grid
from crab.generators.fine_grid import PHASES
from crab.physics import pulses, readout, tes, wafer
from crab.physics.sensors import Sensor

DIRECT_PHASES = 16
_SHAPE_ERROR = 0.01  # rms of what more time shapes would add, as a share of the answer
_PATTERN_ERROR = 0.003  # patterns below this share of the first are left out
_TAIL = 1e-5  # share of a pulse's integral that is cut off
_FINER = 16  # steps of an internal sample in which answers are averaged


@dataclass(frozen=True)
class Grid:
    """Where output samples lie among internal ones, and how far the filter reaches.

    Attributes
    ----------
    decimate : crab.physics.readout.Decimator
    internal_rate_hz : float
    """

    decimate: readout.Decimator
    internal_rate_hz: float

    @property
    def sample_s(self) -> float:
        """Time between output samples."""
        return self.decimate.down / self.decimate.up / self.internal_rate_hz

    @property
    def lead(self) -> int:
        """Output samples before an event that the filter lets it be seen in."""
        return int(np.ceil(self.decimate.halo * self.decimate.up / self.decimate.down)) + 1

    def respond(self, integral, tail_s: float, n_phases: int) -> np.ndarray:
        """Output samples around an event, for its places after a sample.

        Internal samples are means over their intervals, wherever in one the event comes: here is
        the mean over all such places, as the grids of internal samples and of events are foreign.

        Parameters
        ----------
        integral : callable
            ``integral(since_s)``: running integrals of the answers, shape (n_answers, n), for
            times since the event; 0 before it.
        tail_s : float
            How long the answers last.
        n_phases : int
            The event comes phase/n_phases samples after output sample `lead`.

        Returns
        -------
        ndarray, shape (n_answers, n_phases, 2 lead + 2 + n_after)
        """
        internal_s = 1 / self.internal_rate_hz
        finer = int(np.ceil(_FINER * self.sample_s / internal_s / n_phases))
        step_s = self.sample_s / n_phases / finer
        taps = self.decimate.taps
        at_s = (np.arange(len(taps)) - len(taps) // 2) * internal_s / self.decimate.up
        reach = int(np.ceil(at_s[-1] / step_s))
        window = np.interp(np.arange(-reach, reach + 1) * step_s, at_s, taps, left=0, right=0)
        window /= window.sum()
        wanted = 2 * self.lead + 2 + int(np.ceil(tail_s / self.sample_s))
        # From n_phases - 1 places before the first sample to the last one.
        first = -(n_phases - 1) - self.lead * n_phases
        n_places = wanted * n_phases
        since_s = (np.arange(-reach, (n_places - 1) * finer + reach + 1) + first * finer) * step_s
        means = integral(since_s + internal_s / 2) - integral(since_s - internal_s / 2)
        fine = signal.oaconvolve(means / internal_s, window[None], "valid", axes=1)[:, ::finer]
        return fine.reshape(len(fine), wanted, n_phases)[:, :, ::-1].transpose(0, 2, 1)


@dataclass(frozen=True)
class WaferResponse:
    """Answer of detectors to heat in their wafer.

    A component is a time shape with a pattern over the detectors.

    Attributes
    ----------
    plate : crab.physics.wafer.Wafer
    weights : ndarray of float32, shape (modes_per_axis, modes_per_axis, n_components)
        Amplitude of each component for a deposit of 1 eV in each mode.
    patterns : ndarray of float32, shape (n_det, n_components)
    shape_of : ndarray of int, shape (n_components,)
        Time shape of each component, ascending.
    shapes : ndarray, shape (n_shapes, n_fine)
        On the fine grid, the event at place ``PHASES * (lead + 1) - 1``.
    mean_w : ndarray, shape (n_det, n_modes)
        Mean power for a mean of 1 eV/s in each mode.
    lead : int
        Samples.
    """

    plate: wafer.Wafer
    weights: np.ndarray
    patterns: np.ndarray
    shape_of: np.ndarray
    shapes: np.ndarray
    mean_w: np.ndarray
    lead: int

    @cached_property
    def matrices(self) -> list[np.ndarray]:
        """Of `fine_grid.filter_matrices` for each time shape."""
        return [fine_grid.filter_matrices(shape, PHASES) for shape in self.shapes]

    @property
    def tail(self) -> int:
        """Samples after an event."""
        return self.shapes.shape[1] // PHASES - self.lead

    def amplitudes(self, x_mm: np.ndarray, y_mm: np.ndarray, energy_ev: np.ndarray) -> np.ndarray:
        """Amplitudes of components, float32, shape (n, n_components)."""
        side, per_axis = self.plate.side_mm, len(self.weights)
        along_x, along_y = (_cosines(np.asarray(v), side, per_axis) for v in (x_mm, y_mm))
        along_x *= np.asarray(energy_ev, dtype=np.float32)
        modes = (along_x[:, None] * along_y[None]).reshape(per_axis**2, -1)
        return (self.weights.reshape(per_axis**2, -1).T @ modes).T

    def n_places(self, length: int) -> int:
        """Places of the fine grid that so many samples want."""
        return fine_grid.felt_places(self.matrices[0], length)

    def first_sample(self) -> float:
        """Time of the first of these places in samples after the first sample."""
        return self.lead + 1 - self.shapes.shape[1] / PHASES

    def add(self, places: np.ndarray, sample: np.ndarray, amplitudes: np.ndarray) -> None:
        """Add events to places of the fine grid.

        Parameters
        ----------
        places : ndarray of float32, shape (n_components, n_places)
            Changed in place.
        sample : ndarray, shape (n,)
            Time of each event in samples after the first one; may lie outside.
        amplitudes : ndarray of float32, shape (n, n_components)
        """
        at = (sample - self.first_sample()) * PHASES
        fine_grid.share_out(places, at, amplitudes)

    def samples(self, places: np.ndarray, length: int) -> np.ndarray:
        """Output samples of all detectors, float32, shape (n_det, length)."""
        edges = np.searchsorted(self.shape_of, np.arange(len(self.shapes) + 1))
        parts = [
            fine_grid.filtered(places[a:b], matrices, length)
            for a, b, matrices in zip(edges[:-1], edges[1:], self.matrices, strict=True)
        ]
        return self.patterns @ np.concatenate(parts)


def _cosines(at_mm, side_mm: float, n: int) -> np.ndarray:
    """Normalised cosine modes of one axis, shape (n, ...), by Chebyshev's recurrence."""
    out = np.empty((n, len(at_mm)), dtype=np.float32)
    out[0] = 1
    if n > 1:
        twice = 2 * np.cos(
            np.pi * (at_mm.astype(np.float32) / np.float32(side_mm) + np.float32(0.5))
        )
        out[1] = twice / 2
        for k in range(2, n):
            out[k] = twice * out[k - 1] - out[k - 2]
        out[1:] *= np.float32(np.sqrt(2))
    return out


def wafer_response(plate: wafer.Wafer, sensor: Sensor, detectors, grid: Grid) -> WaferResponse:
    """Time shapes and amplitudes of the wafer's heat in detectors.

    Parameters
    ----------
    plate : crab.physics.wafer.Wafer
    sensor : crab.physics.sensors.Sensor
    detectors : xarray.Dataset
        With ``x_mm`` and ``y_mm``.
    grid : Grid

    Returns
    -------
    WaferResponse
    """
    pole = 1 / sensor.time_constant_s
    near = np.abs(pole - plate.rate_hz) < 1e-6 * pole
    rate = np.where(near, pole * (1 + 1e-6), plate.rate_hz)[:, None]

    def integral(since_s):
        t = np.maximum(since_s, 0)[None]
        return (pole * -np.expm1(-rate * t) - rate * -np.expm1(-pole * t)) / (pole - rate)

    tail_s = np.log(1 / _TAIL) * (1 / pole + 1 / rate.min())
    rows = grid.respond(integral, tail_s, PHASES)
    # Later places of the event come first on the fine grid.
    fine = rows[:, ::-1].transpose(0, 2, 1).reshape(len(rows), -1)
    at = plate.shapes(detectors["x_mm"].values, detectors["y_mm"].values)
    gain = sensor.gain * sensor.wafer_coupling_w_per_k * wafer.EV_TO_J / plate.heat_capacity_j_per_k
    share = gain * at / rate[:, 0]  # (n_det, n_modes): time integral for 1 eV
    # A deposit anywhere feeds all modes alike: modes weigh by what detectors feel of them.
    felt = np.sqrt((share**2).mean(axis=0))
    left, size, right = np.linalg.svd(felt[:, None] * fine, full_matrices=False)
    rest = np.sqrt(np.append(np.cumsum(size[::-1] ** 2)[::-1][1:], 0) / (size**2).sum())
    n_shapes = int(np.argmax(rest < _SHAPE_ERROR)) + 1
    # fine = (left size / felt) right
    parts = left[:, :n_shapes] * size[:n_shapes] / felt[:, None]
    weights = share[:, :, None] * parts[None]  # (n_det, n_modes, n_shapes)
    patterns, scaled = [], []
    for shape in range(n_shapes):
        modes, strength, pattern = np.linalg.svd(weights[:, :, shape].T, full_matrices=False)
        scaled.append(modes * strength)
        patterns.append(pattern.T)
    strength = np.linalg.norm(scaled, axis=1)  # (n_shapes, n_patterns): shapes are of length 1
    shape_of, which = np.nonzero(strength > _PATTERN_ERROR * strength.max())
    per_axis = round(len(rate) ** 0.5)
    own = np.stack([scaled[s][:, k] for s, k in zip(shape_of, which, strict=True)], axis=1)
    return WaferResponse(
        plate=plate,
        weights=own.reshape(per_axis, per_axis, -1).astype(np.float32),
        patterns=np.stack(
            [patterns[s][:, k] for s, k in zip(shape_of, which, strict=True)], axis=1
        ).astype(np.float32),
        shape_of=shape_of,
        shapes=right[:n_shapes],
        mean_w=share,
        lead=grid.lead,
    )


@dataclass(frozen=True)
class DirectResponse:
    """Pulses of hits on absorbers.

    Attributes
    ----------
    rows : ndarray of float32, shape (n_rows, DIRECT_PHASES + 1, n_samples)
        Pulse for a deposit of 1 eV, from `lead` samples before the event.
    ln_ev : ndarray, shape (n_rows,), or None
        Deposits that the rows are for; None if there is one row for each absorber.
    lead : int
    """

    rows: np.ndarray
    ln_ev: np.ndarray | None
    lead: int

    @property
    def tail(self) -> int:
        """Samples after an event."""
        return self.rows.shape[2] - self.lead

    def add(self, out, absorber, detector, ln_ev, sample) -> None:
        """Add pulses to a TOD.

        Parameters
        ----------
        out : ndarray of float32, shape (n_det, n_samples)
            Changed in place.
        absorber, detector : ndarray of int, shape (n,)
        ln_ev : ndarray, shape (n,)
            Logarithm of the deposit in eV.
        sample : ndarray, shape (n,)
            Time of each hit in samples after the first of `out`; may lie outside.
        """
        if not len(sample):
            return
        whole = np.floor(sample).astype(np.int64)
        place = (sample - whole) * DIRECT_PHASES
        phase = np.minimum(place.astype(np.int64), DIRECT_PHASES - 1)
        part = (place - phase)[:, None]
        energy = np.exp(ln_ev)[:, None]
        if self.ln_ev is None:
            lower = upper = absorber
            mix = np.zeros((len(sample), 1))
        else:
            at = np.interp(ln_ev, self.ln_ev, np.arange(len(self.ln_ev)))
            lower = np.minimum(at.astype(np.int64), len(self.ln_ev) - 2)
            upper, mix = lower + 1, (at - lower)[:, None]
        pulse = (1 - mix) * (
            (1 - part) * self.rows[lower, phase] + part * self.rows[lower, phase + 1]
        )
        if self.ln_ev is not None:
            pulse += mix * (
                (1 - part) * self.rows[upper, phase] + part * self.rows[upper, phase + 1]
            )
        pulse *= energy
        n_pulse, n_samples = pulse.shape[1], out.shape[1]
        for first, row, own in zip(whole - self.lead, detector, pulse, strict=True):
            low, high = max(first, 0), min(first + n_pulse, n_samples)
            if low < high:
                out[row, low:high] += own[low - first : high - first]


def direct_response(mission, sensor: Sensor, grid: Grid, largest_ev: float) -> DirectResponse:
    """Pulses of direct hits.

    Parameters
    ----------
    mission : crab.params.Mission
    sensor : crab.physics.sensors.Sensor
    grid : Grid
    largest_ev : float
        Largest deposit in a TES that can come.

    Returns
    -------
    DirectResponse
    """
    ln_ev = None
    if sensor.power_convention == "joule":
        point = tes.operating_point(mission.sensor, mission.wafer_thermal.bath_temperature_k)
        table = pulses.pulse_table(point, largest_ev)
        ln_ev, tail_s = np.log(table.energy_ev), table.time_s[-1]

        def integral(since_s):
            return np.stack([np.interp(since_s, table.time_s, row) for row in table.response])

    else:
        all_pulses = [mission.sensor.pulses[name] for name in mission.geometry.absorbers]
        tail_s = max(d.time_constant_s for pulse in all_pulses for d in pulse.decays)
        tail_s *= np.log(1 / _TAIL)

        def integral(since_s):
            t = np.maximum(since_s, 0)
            rows = []
            for pulse in all_pulses:
                areas = np.array([d.amplitude * d.time_constant_s for d in pulse.decays])
                grown = [-np.expm1(-t / d.time_constant_s) for d in pulse.decays]
                rows.append(pulse.energy_share * (areas / areas.sum()) @ np.stack(grown))
            return np.stack(rows)

    rows = grid.respond(integral, tail_s, DIRECT_PHASES)
    # A whole sample later is phase 0, one sample on.
    last = np.zeros_like(rows[:, :1])
    last[:, 0, 1:] = rows[:, 0, :-1]
    rows = np.concatenate([rows, last], axis=1) * wafer.EV_TO_J
    running = np.cumsum(np.abs(rows).max(axis=1)[:, ::-1], axis=1)[:, ::-1]
    felt = (running > _TAIL * running[:, :1]).any(axis=0)
    length = max(int(felt.sum()), 2 * grid.lead + 1)
    return DirectResponse(rows[:, :, :length].astype(np.float32), ln_ev, grid.lead)
