"""A wafer of detectors in an environment, from hits to samples.

Every random number belongs to an absolute block of time of a named stream, and every stretch is
computed in fixed absolute chunks, each with its own run-up. So any part of a mission can be asked
for alone and comes out bit for bit the same.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from crab import schema, seeds
from crab.params import Environment
from crab.physics import readout, spectra, wafer
from crab.physics.sensors import Sensor
from crab.progress import tqdm

_ARRIVALS_S = 10.0  # length of a block of arrivals
_NOISE_SAMPLES = 8192  # internal samples in a block of noise
_CHUNK_S = 300.0  # about; a whole number of periods of the two sampling grids
_THREADS = 4  # at most: each holds some 200 MB
_BEFORE_START = 2**20  # block indices start here, so that the run-up may begin before time 0
# By the bits of a mask of images: how many are set, and which is the n-th.
_N_IMAGES = np.array([mask.bit_count() for mask in range(256)])
_NTH_IMAGE = np.zeros((256, 8), dtype=np.int8)
for _mask in range(1, 256):
    _NTH_IMAGE[_mask, : _N_IMAGES[_mask]] = [k for k in range(8) if _mask >> k & 1]
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

    An event that was not aimed at an absorber may come in several of the 8 images of a square
    wafer, as the flux is isotropic and the shield a sphere: in those that pass no absorber near
    enough to be counted there (`crab.physics.strata.images`), in each as often as in the others.

    Attributes
    ----------
    library, detectors : xarray.Dataset
    environment : Environment
    plate : wafer.Wafer or None
        None for detectors without a wafer.
    sensor : sensors.Sensor
    decimate : readout.Decimator
    internal_rate_hz : float
    stream : tuple
        Seed and labels that the random streams share.
    kicks_k : ndarray of float32, shape (n_events, n_modes)
        Of `wafer.kicks_k`.
    direct : dict
        Deposits in absorbers: row range of each event (``starts``), ``absorber``, ``detector``,
        ``deposit_ev``; and the per-event columns of the truth table (``events``).
    """

    library: xr.Dataset
    detectors: xr.Dataset
    environment: Environment
    plate: wafer.Wafer | None
    sensor: Sensor
    decimate: readout.Decimator
    internal_rate_hz: float
    stream: tuple
    kicks_k: np.ndarray
    direct: dict[str, np.ndarray]

    @property
    def chunk_samples(self) -> int:
        """Output samples of the fixed absolute chunks that everything is computed in."""
        return self._periods * self.decimate.up

    @property
    def _periods(self) -> int:
        return max(1, round(_CHUNK_S * self.internal_rate_hz / self.decimate.down))

    @cached_property
    def rates_hz(self) -> np.ndarray:
        """Mean rate of each event over the environment's span, shape (n_events,)."""
        return spectra.event_rates_hz(self.library, self.environment)

    @cached_property
    def cumulative_hz(self) -> np.ndarray:
        """Running sum of the events' rates, for each component of the environment."""
        return np.cumsum(spectra.component_rates_hz(self.library, self.environment), axis=1)

    @cached_property
    def _images(self) -> np.ndarray:
        """Allowed images of each event as bits, shape (n_events,)."""
        if "images" in self.library:
            return self.library["images"].values
        return np.ones(self.library.sizes["event"], dtype=np.uint8)

    @cached_property
    def mode_rate_hz(self) -> np.ndarray:
        """Decay rates of the wafer's modes, kept off the sensor's pole: the answer of two equal
        poles is no difference of exponentials. Shape (n_modes,)."""
        pole = 1 / self.sensor.time_constant_s
        near = np.abs(pole - self.plate.rate_hz) < 1e-6 * pole
        return np.where(near, pole * (1 + 1e-6), self.plate.rate_hz)

    @cached_property
    def response(self) -> np.ndarray:
        """Share of each mode in each detector after the sensor, shape (n_det, n_modes)."""
        pole = 1 / self.sensor.time_constant_s
        return self._coupling * pole / (pole - self.mode_rate_hz)

    @property
    def _coupling(self) -> np.ndarray:
        at = self.plate.shapes(self.detectors["x_mm"].values, self.detectors["y_mm"].values)
        return self.sensor.gain * self.sensor.wafer_coupling_w_per_k * at

    @cached_property
    def mean_wafer_power_w(self) -> np.ndarray:
        """Expected mean of the wafer's part, shape (n_det,): taken off the TOD."""
        mean_w = np.zeros(self.detectors.sizes["detector"])
        if self.plate is not None:
            allowed = self._images[None] >> np.arange(8, dtype=np.uint8)[:, None] & 1
            weights_hz = self.rates_hz * allowed / allowed.sum(axis=0)
            kicks = wafer.image_jumps(weights_hz @ self.kicks_k, np.arange(8)).sum(axis=0)
            mean_w += self._coupling @ (kicks / self.plate.rate_hz)
        event = self.direct["event"]
        for absorber, part in enumerate(self.sensor.parts):
            if part == "tod_wafer":
                own = self.direct["absorber"] == absorber
                power_w = self.rates_hz[event[own]] * self.direct["deposit_ev"][own] * wafer.EV_TO_J
                power_w = np.bincount(self.direct["detector"][own], power_w, len(mean_w))
                mean_w += self.sensor.mean_w(absorber, power_w)
        return mean_w

    def mean_rate_hz(self, start_s: float, stop_s: float) -> float:
        """Expected hits per second between two times of the mission."""
        n = min(max(1, round((stop_s - start_s) / _ARRIVALS_S)), 10_000)
        middle_s = start_s + (np.arange(n) + 0.5) * (stop_s - start_s) / n
        weights = spectra.component_weights(self.environment, middle_s)
        return float(self.cumulative_hz[:, -1] @ weights.mean(axis=1))

    def absorber_rate_hz(self, absorber: int = 0) -> np.ndarray:
        """Mean rate of hits in one absorber of each detector, in 1/s, shape (n_det,)."""
        own = self.direct["absorber"] == absorber
        rates_hz = self.rates_hz[self.direct["event"][own]]
        return np.bincount(self.direct["detector"][own], rates_hz, self.detectors.sizes["detector"])

    def arrivals(self, start_s: float, stop_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hits in [start_s, stop_s): sorted times in s, event indices and images (0 to 7)."""
        times, events, images = [], [], []
        for block in range(int(start_s // _ARRIVALS_S), int(stop_s // _ARRIVALS_S) + 1):
            rng = seeds.rng(*self.stream, "arrivals", block=_BEFORE_START + block)
            # Weights change over hours: constant within a block.
            middle_s = np.array([(block + 0.5) * _ARRIVALS_S])
            weights = spectra.component_weights(self.environment, middle_s)[:, 0]
            in_block = []
            for weight, cumulative in zip(weights, self.cumulative_hz, strict=True):
                n_hits = rng.poisson(weight * cumulative[-1] * _ARRIVALS_S)
                drawn = np.searchsorted(cumulative, rng.random(n_hits) * cumulative[-1], "right")
                in_block.append(np.minimum(drawn, len(cumulative) - 1))  # a product may round up
            event = np.concatenate(in_block)
            time_s = rng.random(len(event))
            order = np.argsort(time_s, kind="stable")
            chosen = rng.random(len(event))
            times.append((time_s[order] + block) * _ARRIVALS_S)
            events.append(event[order])
            mask = self._images[event[order]]
            images.append(_NTH_IMAGE[mask, (chosen * _N_IMAGES[mask]).astype(int)])
        time_s = np.concatenate(times)
        inside = slice(*np.searchsorted(time_s, [start_s, stop_s]))
        return time_s[inside], np.concatenate(events)[inside], np.concatenate(images)[inside]

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
        longest_s = self.sensor.run_up_s
        if self.plate is not None:
            longest_s = max(longest_s, wafer.RUN_UP_DECAYS / self.plate.bath_rate_hz)
        run_up = int(np.ceil(longest_s * self.internal_rate_hz))
        sample_s = 1 / self.internal_rate_hz
        total = run_up + n_samples
        zero_s = (first - run_up - 0.5) * sample_s
        time_s, event, image = self.arrivals(zero_s, zero_s + total * sample_s)
        since_s = np.clip(time_s - zero_s, 0, np.nextafter(total * sample_s, 0))
        parts = {
            name: np.zeros((self.detectors.sizes["detector"], total))
            for name in ("tod_wafer", "tod_direct")
        }
        if self.plate is not None:
            parts["tod_wafer"] += self._wafer(since_s, event, image, total)
        self._add_hits(parts, since_s, event, total)
        parts["tod_wafer"] -= self.mean_wafer_power_w[:, None]
        return {name: values[:, run_up:] for name, values in parts.items()} | {
            "tod_noise": self._noise(first, n_samples)
        }

    def single_event(self, event: int, n_samples: int) -> dict[str, np.ndarray]:
        """Answer to one event in the middle of ``n_samples`` internal samples, and nothing else.

        Returns
        -------
        dict of str to ndarray, shape (n_det, n_samples)
            ``tod_wafer`` and ``tod_direct`` in W, as in `internal` but with no mean taken off.
        """
        since_s = np.array([n_samples / 2 / self.internal_rate_hz])
        event, image = np.array([event]), np.array([0])
        shape = (self.detectors.sizes["detector"], n_samples)
        parts = {name: np.zeros(shape) for name in ("tod_wafer", "tod_direct")}
        if self.plate is not None:
            parts["tod_wafer"] += self._wafer(since_s, event, image, n_samples)
        self._add_hits(parts, since_s, event, n_samples)
        return parts

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
        down, halo = self.decimate.down, self.decimate.halo
        periods, length = self._periods, self.chunk_samples
        shape = (self.detectors.sizes["detector"], n_samples)
        parts = {name: np.empty(shape, dtype=np.float32) for name in schema.PARTS}
        chunks = range(start // length, -(-(start + n_samples) // length))

        def fill(chunk: int) -> None:
            inner = self.internal(chunk * periods * down - halo, periods * down + 2 * halo)
            low, high = max(start, chunk * length), min(start + n_samples, (chunk + 1) * length)
            wanted = slice(low - chunk * length, high - chunk * length)
            for name, values in inner.items():
                parts[name][:, low - start : high - start] = self.decimate(values)[:, wanted]

        # Chunks are independent and spend their time in code that releases the interpreter. One
        # thread each for the matrix products, whose sums else depend on how many there are.
        with (
            threadpool_limits(1, "blas"),
            ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool,
        ):
            done = pool.map(fill, chunks)
            bar = {"desc": "simulated time", "unit": "chunk", "disable": not progress}
            for _ in tqdm(done, total=len(chunks), **bar):
                pass
        parts["tod"] = sum(values.astype(float) for values in parts.values()).astype(np.float32)
        return parts

    def truth(self, start_s: float, stop_s: float) -> xr.Dataset:
        """Table of the hits in [start_s, stop_s)."""
        time_s, event, image = self.arrivals(start_s, stop_s)
        columns = {
            "time_s": time_s,
            "event": event.astype(np.int32),
            "image": image.astype(np.int8),
            "species": self.library["species"].values[event].astype(np.int8),
            "energy_mev": self.library["energy_mev"].values[event].astype(np.float32),
            **{name: values[event] for name, values in self.direct["events"].items()},
        }
        columns["x_mm"], columns["y_mm"] = wafer.mirror(columns["x_mm"], columns["y_mm"], image)
        truth = xr.Dataset({name: ("hit", values) for name, values in columns.items()})
        truth["species"].attrs.update(self.library["species"].attrs)
        # The library's volumes count the wafer as 0, and the absorbers after it.
        names = str(self.library["volume"].attrs.get("flag_meanings", "")).split()[1:]
        flags = np.arange(len(names), dtype=np.int16)
        truth["absorber"].attrs = {"flag_values": flags, "flag_meanings": " ".join(names)}
        detectors = " ".join(self.detectors["detector"].values.tolist())
        truth["detector_index"].attrs["flag_meanings"] = detectors
        for name, unit in _TRUTH_UNITS.items():
            truth[name].attrs["units"] = unit
        return truth

    def _wafer(self, since_s, event, image, n_samples: int) -> np.ndarray:
        def jumps(hits: slice) -> np.ndarray:
            return wafer.image_jumps(self.kicks_k[event[hits]], image[hits])

        # Heat that the sensor has followed, less what it still lags behind: both are decays.
        sample_s = 1 / self.internal_rate_hz
        warm, _ = wafer.decay_means(self.mode_rate_hz, since_s, jumps, n_samples, sample_s)
        # All modes lag alike: one amplitude a detector, or a mode if these are fewer.
        n_lags = min(self.response.shape)
        pole = np.full(n_lags, 1 / self.sensor.time_constant_s)
        if n_lags == len(self.response):
            lag, _ = wafer.decay_means(
                pole, since_s, lambda hits: jumps(hits) @ self.response.T, n_samples, sample_s
            )
            return self.response @ warm - lag
        lag, _ = wafer.decay_means(pole, since_s, jumps, n_samples, sample_s)
        return self.response @ (warm - lag)

    def _add_hits(self, parts: dict, since_s, event, n_samples: int) -> None:
        starts = self.direct["starts"]
        counts = starts[event + 1] - starts[event]
        hit = np.repeat(np.arange(len(event)), counts)
        if not len(hit):
            return
        within = np.arange(len(hit)) - np.repeat(np.cumsum(counts) - counts, counts)
        row = starts[event[hit]] + within
        n_detectors = self.detectors.sizes["detector"]
        target = self.direct["absorber"][row] * n_detectors + self.direct["detector"][row]
        order = np.argsort(target, kind="stable")  # hits of one target stay in order of time
        edges = np.flatnonzero(np.diff(target[order], prepend=-1))
        for own in np.split(order, edges[1:]):
            absorber, detector = divmod(int(target[own[0]]), n_detectors)
            parts[self.sensor.parts[absorber]][detector] += self.sensor.hits_w(
                absorber,
                self.direct["deposit_ev"][row[own]],
                since_s[hit[own]],
                n_samples,
                1 / self.internal_rate_hz,
            )

    def _noise(self, first: int, n_samples: int) -> np.ndarray:
        noise = self.sensor.noise
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
                float(noise["inside"][row]),
                float(noise["readout"][row]),
                self.sensor.time_constant_s,
                self.sensor.gain,
            )
        return out
