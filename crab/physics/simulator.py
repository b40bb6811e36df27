"""A wafer of detectors in an environment, from hits to samples.

Every random number belongs to an absolute block of time of a named stream, and every stretch is
computed in fixed absolute chunks, each with its own run-up. So any part of a mission can be asked
for alone and comes out bit for bit the same.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import xarray as xr

from crab import schema, seeds
from crab.physics import readout, tes, wafer
from crab.progress import tqdm

_ARRIVALS_S = 10.0  # length of a block of arrivals
_NOISE_SAMPLES = 8192  # internal samples in a block of noise
_CHUNK_S = 300.0  # about; a whole number of periods of the two sampling grids
_THREADS = 4  # at most: each holds some 200 MB
_RUN_UP_DECAYS = 25  # e-foldings of the slowest mode before the first sample
_BEFORE_START = 2**20  # block indices start here, so that the run-up may begin before time 0
_TRUTH_UNITS = {
    "time_s": "s",
    "energy_mev": "MeV",
    "deposit_ev": "eV",
    "x_mm": "mm",
    "y_mm": "mm",
    "direct_deposit_ev": "eV",
}


@dataclass(frozen=True)
class Simulator:
    """A wafer of detectors in an environment, ready to be asked for any stretch of time.

    Made by `prepare`. Internal sample i is the mean over [(i - 1/2) s, (i + 1/2) s) with s the
    internal sampling interval, so that sample i belongs to time i s exactly.

    Attributes
    ----------
    library, detectors : xarray.Dataset
    rates_hz : ndarray, shape (n_events,)
    plate : wafer.Wafer
    point : tes.OperatingPoint
    pulses : tes.PulseTable
    noise : xarray.Dataset
        Of `readout.noise_equivalent_power`.
    decimate : readout.Decimator
    internal_rate_hz : float
    stream : tuple
        Seed and labels that the random streams share.
    kicks_k : ndarray of float32, shape (n_events, n_modes)
        Of `wafer.kicks_k`.
    direct : dict
        Deposits in TES: row range of each event (``starts``), ``detector``, ``deposit_ev``; and
        the per-event columns of the truth table (``events``).
    """

    library: xr.Dataset
    detectors: xr.Dataset
    rates_hz: np.ndarray
    plate: wafer.Wafer
    point: tes.OperatingPoint
    pulses: tes.PulseTable
    noise: xr.Dataset
    decimate: readout.Decimator
    internal_rate_hz: float
    stream: tuple
    kicks_k: np.ndarray
    direct: dict[str, np.ndarray]

    @property
    def response(self) -> np.ndarray:
        """Share of each mode in each detector after the TES, shape (n_det, n_modes)."""
        pole = 1 / self.point.time_constant_s
        gap = pole - self.plate.rate_hz
        # The two-pole response divides by the gap; 1e-6 of it is lost where they coincide.
        gap = np.where(np.abs(gap) < 1e-6 * pole, 1e-6 * pole, gap)
        at = self.plate.shapes(self.detectors["x_mm"].values, self.detectors["y_mm"].values)
        return self.point.joule_gain * self.point.bath_coupling_w_per_k * at * pole / gap

    @property
    def mean_wafer_power_w(self) -> np.ndarray:
        """Expected mean of the wafer's part, shape (n_det,): taken off the TOD."""
        at = self.plate.shapes(self.detectors["x_mm"].values, self.detectors["y_mm"].values)
        warmth_k = at @ ((self.rates_hz @ self.kicks_k) / self.plate.rate_hz)
        return self.point.joule_gain * self.point.bath_coupling_w_per_k * warmth_k

    @property
    def direct_rate_hz(self) -> np.ndarray:
        """Rate of hits in each TES, in 1/s, shape (n_det,)."""
        event = np.repeat(np.arange(len(self.rates_hz)), np.diff(self.direct["starts"]))
        n_detectors = self.detectors.sizes["detector"]
        return np.bincount(self.direct["detector"], self.rates_hz[event], n_detectors)

    def arrivals(self, start_s: float, stop_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Hits in [start_s, stop_s): sorted times in s and event indices."""
        cumulative = np.cumsum(self.rates_hz)
        times, events = [], []
        for block in range(int(start_s // _ARRIVALS_S), int(stop_s // _ARRIVALS_S) + 1):
            rng = seeds.rng(*self.stream, "arrivals", block=_BEFORE_START + block)
            n_hits = rng.poisson(cumulative[-1] * _ARRIVALS_S)
            times.append(np.sort(rng.random(n_hits)) * _ARRIVALS_S + block * _ARRIVALS_S)
            drawn = np.searchsorted(cumulative, rng.random(n_hits) * cumulative[-1], "right")
            events.append(np.minimum(drawn, len(cumulative) - 1))  # a product may round up
        time_s, event = np.concatenate(times), np.concatenate(events)
        inside = slice(*np.searchsorted(time_s, [start_s, stop_s]))
        return time_s[inside], event[inside]

    def internal(self, first: int, n_samples: int) -> dict[str, np.ndarray]:
        """Parts of the TOD on the internal grid.

        Parameters
        ----------
        first : int
            Internal sample to start with; the run-up of wafer and pulses comes before it.
        n_samples : int

        Returns
        -------
        dict of str to ndarray, shape (n_det, n_samples)
            ``tod_wafer``, ``tod_direct``, ``tod_noise`` in W.
        """
        longest_s = max(_RUN_UP_DECAYS / self.plate.bath_rate_hz, tes.PULSE_LENGTH_S)
        run_up = int(np.ceil(longest_s * self.internal_rate_hz))
        sample_s = 1 / self.internal_rate_hz
        total = run_up + n_samples
        zero_s = (first - run_up - 0.5) * sample_s
        time_s, event = self.arrivals(zero_s, zero_s + total * sample_s)
        since_s = np.clip(time_s - zero_s, 0, np.nextafter(total * sample_s, 0))
        return {
            "tod_wafer": self._wafer(since_s, event, total)[:, run_up:],
            "tod_direct": self._direct(since_s, event, total)[:, run_up:],
            "tod_noise": self._noise(first, n_samples),
        }

    def samples(self, start: int, n_samples: int, progress: bool = False) -> dict[str, np.ndarray]:
        """Parts of the TOD after filter and decimation.

        Parameters
        ----------
        start : int
            Absolute index of the first sample, >= 0.
        n_samples : int
        progress : bool
            Show a progress bar.

        Returns
        -------
        dict of str to ndarray of float32, shape (n_det, n_samples)
            ``tod_wafer``, ``tod_direct``, ``tod_noise`` and their sum ``tod``, in W.
        """
        up, down, halo = self.decimate.up, self.decimate.down, self.decimate.halo
        periods = max(1, round(_CHUNK_S * self.internal_rate_hz / down))
        length = periods * up
        shape = (self.detectors.sizes["detector"], n_samples)
        parts = {name: np.empty(shape, dtype=np.float32) for name in schema.PARTS}
        chunks = range(start // length, -(-(start + n_samples) // length))

        def fill(chunk: int) -> None:
            inner = self.internal(chunk * periods * down - halo, periods * down + 2 * halo)
            low, high = max(start, chunk * length), min(start + n_samples, (chunk + 1) * length)
            wanted = slice(low - chunk * length, high - chunk * length)
            for name, values in inner.items():
                parts[name][:, low - start : high - start] = self.decimate(values)[:, wanted]

        # Chunks are independent and spend their time in code that releases the interpreter.
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            done = pool.map(fill, chunks)
            bar = {"desc": "simulated time", "unit": "chunk", "disable": not progress}
            for _ in tqdm(done, total=len(chunks), **bar):
                pass
        parts["tod"] = sum(values.astype(float) for values in parts.values()).astype(np.float32)
        return parts

    def truth(self, start_s: float, stop_s: float) -> xr.Dataset:
        """Table of the hits in [start_s, stop_s)."""
        time_s, event = self.arrivals(start_s, stop_s)
        columns = {
            "time_s": time_s,
            "event": event.astype(np.int32),
            "species": self.library["species"].values[event].astype(np.int8),
            "energy_mev": self.library["energy_mev"].values[event].astype(np.float32),
            **{name: values[event] for name, values in self.direct["events"].items()},
        }
        truth = xr.Dataset({name: ("hit", values) for name, values in columns.items()})
        truth["species"].attrs.update(self.library["species"].attrs)
        for name, unit in _TRUTH_UNITS.items():
            truth[name].attrs["units"] = unit
        return truth

    def _wafer(self, since_s: np.ndarray, event: np.ndarray, n_samples: int) -> np.ndarray:
        sample_s = 1 / self.internal_rate_hz
        response = self.response
        warm, _ = wafer.decay_means(
            self.plate.rate_hz, since_s, self.kicks_k, n_samples, sample_s, rows=event
        )
        step = 4096  # hits at a time
        kicks = np.empty((len(event), len(response)))
        for first in range(0, len(event), step):
            hits = slice(first, first + step)
            kicks[hits] = self.kicks_k[event[hits]].astype(float) @ response.T
        pole = np.full(len(response), 1 / self.point.time_constant_s)
        lag, _ = wafer.decay_means(pole, since_s, kicks, n_samples, sample_s)
        return response @ warm - lag - self.mean_wafer_power_w[:, None]

    def _direct(self, since_s: np.ndarray, event: np.ndarray, n_samples: int) -> np.ndarray:
        out = np.zeros((self.detectors.sizes["detector"], n_samples))
        sample_s = 1 / self.internal_rate_hz
        starts = self.direct["starts"]
        for hit in np.flatnonzero(starts[event + 1] > starts[event]):
            first = int(since_s[hit] / sample_s)
            last = min(first + int(self.pulses.time_s[-1] / sample_s) + 2, n_samples)
            for row in range(starts[event[hit]], starts[event[hit] + 1]):
                out[self.direct["detector"][row], first:last] += self.pulses.interval_means_w(
                    self.direct["deposit_ev"][row], since_s[hit], first, last - first, sample_s
                )
        return out

    def _noise(self, first: int, n_samples: int) -> np.ndarray:
        sources = {name: self.noise[name].values for name in ("photon", "phonon", "johnson")}
        inside_w = np.sqrt(sum(values**2 for values in sources.values()))
        readout_w = self.noise["readout"].values
        blocks = range(first // _NOISE_SAMPLES, (first + n_samples - 1) // _NOISE_SAMPLES + 1)
        skip = first - blocks[0] * _NOISE_SAMPLES
        out = np.empty((self.detectors.sizes["detector"], n_samples))
        for row, name in enumerate(self.detectors["detector"].values):
            label = (*self.stream, "noise", str(name))
            white = [
                seeds.rng(*label, block=_BEFORE_START + block).standard_normal((2, _NOISE_SAMPLES))
                for block in blocks
            ]
            out[row] = readout.detector_noise_w(
                np.concatenate(white, axis=1)[:, skip : skip + n_samples],
                self.internal_rate_hz,
                inside_w[row],
                readout_w[row],
                self.point,
            )
        return out
