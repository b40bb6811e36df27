"""Marked point process: single events of a network, in any environment, through known responses.

Events of each kind come as a Poisson process whose rate follows the flux (`event_table`). A
network draws their marks (`marks`), and the mission's detectors answer (`event_response`). The many
small deposits in a wafer are one process of skewed numbers with the mean, the covariance and the
third cumulants that Campbell's theorem gives them. Nothing of a deposit library is played back.

Blocks of samples sit at fixed places of the mission and are computed whole, whoever asks. The
random numbers of a block are those of the events that its first sample feels and all later ones;
what else its last samples feel, it takes from the start of the next block.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import xarray as xr
from numpy.lib.stride_tricks import as_strided
from scipy.sparse import csc_array
from threadpoolctl import threadpool_limits

from crab import params, seeds
from crab.errors import CrabError
from crab.generators import event_noise, event_response, files
from crab.generators.event_flux import Flux, Rates
from crab.generators.event_response import PHASES
from crab.generators.marks import Sampler
from crab.generators.small_events import SmallEvents
from crab.generators.splines import Scale
from crab.params import Environment, Mission
from crab.physics import readout, sensors, wafer

_BINS = 64  # of a block: rates are constant within each
_PIECE = 64  # samples that one product of matrices makes


class Events(NamedTuple):
    """Events with their marks, in any order.

    Attributes
    ----------
    sample : ndarray, shape (n,)
        Absolute time in samples.
    kind : ndarray of int, shape (n,)
    marks : ndarray of float32, shape (n, n_marks)
    detector : ndarray of int, shape (n,)
        Whose absorbers are hit, where a kind leaves that open.
    """

    sample: np.ndarray
    kind: np.ndarray
    marks: np.ndarray
    detector: np.ndarray


class MarkedEvents:
    """A marked point process that meets `crab.generators.base.Generator`.

    Parameters
    ----------
    model : keras.Model
        Network of the marks.
    record : dict
    environments : dict of str to Environment, optional
        Those that can be asked for; default: those of params.yaml.
    detectors : xarray.Dataset, optional
        Default: those of the record.
    """

    windowed = False
    block_samples = 8192

    def __init__(
        self,
        model,
        record: dict,
        environments: dict[str, Environment] | None = None,
        detectors: xr.Dataset | None = None,
    ):
        self.model, self.name = model, record["generator"]
        self.environments = environments
        self.detectors = detectors
        if detectors is None:
            self.detectors = xr.Dataset.from_dict(record["detector_table"])
        names = [str(name) for name in self.detectors["detector"].values]
        self.record = {**record, "detectors": names}
        if detectors is not None:
            self.record["detector_table"] = detectors.to_dict()
        tables = record["tables"]
        self.rates = Rates.from_dict(tables)
        scales = ([Scale(np.array(k)) for k in tables[key]] for key in ("scales", "solar_scales"))
        self.sampler = Sampler(model, *scales)
        self.mission = Mission.model_validate_json(record["mission_parameters"])
        self._build()
        self._fluxes: dict[str, Flux] = {}

    @classmethod
    def load(
        cls,
        path: str | Path,
        mission: str | None = None,
        environment: str | None = None,
        detectors: list[str] | None = None,
    ) -> Self:
        """Read a trained model.

        Parameters
        ----------
        path : path-like
            ``<model>.keras``; its ``.json`` is beside it.
        mission, detectors : optional
            Checked against what the model was trained for.
        environment : optional
            Any of params.yaml.

        Raises
        ------
        CrabError
            If a file is missing, truncated or incomplete, was trained for something else, or the
            environment is unknown.
        """
        model, record, _ = files.read_model(path)
        files.check_record(record, path, mission, None, detectors)
        generator = cls(model, record)
        if environment is not None:
            generator._flux(environment)
        return generator

    def with_detectors(self, table: xr.Dataset) -> Self:
        """The same generator for other detectors of the same wafer.

        Parameters
        ----------
        table : xarray.Dataset
            As of `crab.physics.instrument.detectors`.

        Raises
        ------
        CrabError
            If the mission has no wafer, or a detector is not on it.
        """
        side = self.mission.geometry.wafer_side_mm
        if self.mission.wafer_thermal is None:
            raise CrabError(
                f"{self.name}: mission {self.record['mission']} has no wafer: what hits its "
                "detectors was learned for these alone"
            )
        for axis in ("x_mm", "y_mm"):
            at = table[axis].values
            if np.abs(at).max() > side / 2:
                worst = np.abs(at).argmax()
                raise CrabError(
                    f"detector {table['detector'].values[worst]}: {axis} = {at[worst]:.2f}: "
                    f"allowed are places on the wafer, up to {side / 2:g} mm from its centre"
                )
        return type(self)(self.model, self.record, self.environments, table)

    def sample(self, environment: str, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
        """TOD of any part of a mission; see `crab.generators.base.Generator.sample`.

        Parameters
        ----------
        environment : str
            Any that is described, also one that was not trained for.
        start_sample, n_samples, seed : int

        Returns
        -------
        ndarray of float32, shape (n_det, n_samples)
            Power in W.

        Raises
        ------
        CrabError
            For an unknown environment or a negative start or length.
        """
        flux = self._flux(environment)
        for key, value in (("start_sample", start_sample), ("n_samples", n_samples)):
            if value < 0:
                raise CrabError(f"{key} = {value}: allowed are integers >= 0")
        tod = np.empty((self.detectors.sizes["detector"], n_samples), dtype=np.float32)
        stop, length = start_sample + n_samples, self.block_samples
        blocks = range(start_sample // length, -(-stop // length)) if n_samples else range(0)

        def fill(block: int) -> None:
            low, high = max(start_sample, block * length), min(stop, (block + 1) * length)
            part = self._block(flux, block, seed)
            tod[:, low - start_sample : high - start_sample] = part[
                :, low - block * length : high - block * length
            ]

        # One thread each for products of matrices, whose sums else depend on how many there are.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(fill, blocks))
        return tod

    def events(self, environment: str, block: int, seed: int) -> Events:
        """Events that a block of samples feels.

        Parameters
        ----------
        environment : str
        block : int
            Absolute index.
        seed : int

        Returns
        -------
        Events
            From `reach` samples before the block to its end and what the filter sees beyond.
        """
        flux = self._flux(environment)
        return self._events(flux, block, seed)

    def _flux(self, name: str) -> Flux:
        if name not in self._fluxes:
            known = self.environments
            if known is None:
                known = self.environments = params.load().environments
            environment = params.choose("environment", name, known)
            if environment.solar_events and not self.rates.has_solar:
                raise CrabError(
                    f"environment = {name!r}: it has solar events, and this {self.name} learned "
                    f"none: train it with one in train_events.environments"
                )
            self._fluxes[name] = Flux(name, environment)
        return self._fluxes[name]

    def _build(self) -> None:
        mission, table = self.mission, self.detectors
        first = len(self.sampler.scales) - len(self.rates.slots)
        scales = self.sampler.scales[first:] + self.sampler.solar[first:]
        self._first_slot = first
        largest_ev = float(np.exp(max(scale.knots[-1] for scale in scales)))
        sensor = sensors.build(mission, table, largest_ev)
        grid = event_response.Grid(
            readout.decimator(mission.internal_rate_hz, mission.sampling_rate_hz),
            mission.internal_rate_hz,
        )
        self._grid = grid
        self._direct = event_response.direct_response(mission, sensor, grid, largest_ev)
        # Samples before a block whose events it feels, and after it.
        self.reach = (self._direct.tail + 1, self._direct.lead + 1)
        self._wafer = self._small = None
        if mission.wafer_thermal is not None:
            plate = wafer.build(mission.geometry, mission.wafer_thermal)
            self._wafer = event_response.wafer_response(plate, sensor, table, grid)
            self._small = SmallEvents(self._wafer, self.record["tables"]["small"], grid.sample_s)
            self._products = [_toeplitz(s, PHASES) for s in self._wafer.shapes]
            self.reach = (max(self.reach[0], self._wafer.tail + 1), self.reach[1])
        taps = event_noise.noise_taps(sensor, grid)
        self._noise_reach = taps.shape[1] - 1
        taps, self._noise_group = np.unique(taps.round(30), axis=0, return_inverse=True)
        self._noise_products = [_toeplitz(t, 1) for t in taps]
        self._sensor = sensor

    def _block(self, flux: Flux, block: int, seed: int) -> np.ndarray:
        start = block * self.block_samples
        found = self._events(flux, block, seed)
        out = self._noise(flux, block, seed)
        if self._wafer is not None:
            out += self._heat(flux, found, block, seed).T
        present = self.rates.kinds[found.kind, self._first_slot :]
        which, slot = np.nonzero(present)
        if len(which):
            slots = np.array(self.rates.slots)
            absorber, fixed = slots[slot].T
            detector = np.where(fixed >= 0, fixed, found.detector[which])
            self._direct.add(
                out,
                absorber,
                detector,
                found.marks[which, self._first_slot + slot],
                found.sample[which] - start,
            )
        out -= self._mean_w(flux)[:, None].astype(np.float32)
        return out

    def _events(self, flux: Flux, block: int, seed: int) -> Events:
        # All of this block, and of the next one the bins that the last samples feel.
        edge = self.block_samples / _BINS
        n_next = -(-sum(self.reach) // edge)
        parts = [
            self._times(flux, b, seed, int(n)) for b, n in ((block, _BINS), (block + 1, n_next))
        ]
        sample, kind, ln_flux, solar, chosen, normal = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        context = self.rates.context(kind, ln_flux, solar)
        marks = self.sampler.draw(context, self.rates.kinds[kind], normal)
        detector = (chosen * self.detectors.sizes["detector"]).astype(np.int64)
        return Events(sample, kind, marks, detector)

    def _times(self, flux: Flux, block: int, seed: int, n_bins: int) -> tuple:
        """Times, kinds and random numbers of the events in the first bins of one block."""
        n_kinds, n_marks = self.rates.kinds.shape
        edge = self.block_samples / _BINS
        quiet, solar = flux.at(self._bins_s(block))
        rates_hz = self.rates.at(quiet, solar, self.detectors.sizes["detector"])
        rng = self._rng(flux, seed, "events", block)
        # Bin by bin, so that the events of the first bins take the first numbers.
        counts = rng.poisson(rates_hz.transpose(1, 0, 2) * (edge * self._grid.sample_s))
        counts = counts[:n_bins].ravel()
        place = np.repeat(np.arange(len(counts)), counts)
        of_bin, rest = np.divmod(place, 2 * n_kinds)
        is_solar, kind = np.divmod(rest, n_kinds)
        within, chosen = rng.random((len(kind), 2)).T
        sample = block * self.block_samples - self.reach[0] + (of_bin + within) * edge
        normal = self._rng(flux, seed, "marks", block).standard_normal(
            (len(kind), n_marks), dtype=np.float32
        )
        return sample, kind, np.log(quiet)[of_bin], is_solar.astype(bool), chosen, normal

    def _bins_s(self, block: int) -> np.ndarray:
        """Middle times of the bins of a block, which begins when its first sample feels events."""
        edge = self.block_samples / _BINS
        start = block * self.block_samples - self.reach[0]
        return (start + (np.arange(_BINS) + 0.5) * edge) * self._grid.sample_s

    def _heat(self, flux: Flux, found: Events, block: int, seed: int) -> np.ndarray:
        """Wafer's part, shape (n_samples, n_det)."""
        response, length = self._wafer, self.block_samples
        n_fine, n_shapes = response.shapes.shape[1], len(response.shapes)
        # The first place that the block's first sample feels.
        first = (block * length + response.lead + 1) * PHASES - n_fine
        n_places = (length - 1) * PHASES + n_fine
        ln_ev, x_mm, y_mm, own = self._deposits(found)
        place = found.sample[own] * PHASES - first
        inside = (place >= 0) & (place < n_places - 1)
        place = place[inside]
        amplitudes = response.amplitudes(x_mm[inside], y_mm[inside], np.exp(ln_ev[inside]))
        left = place.astype(np.int32)
        part = (place - left).astype(np.float32)
        share = csc_array(
            (
                np.stack([1 - part, part], axis=1).ravel(),
                np.stack([left, left + 1], axis=1).ravel(),
                np.arange(0, 2 * len(place) + 1, 2, dtype=np.int32),
            ),
            shape=(n_places, len(place)),
        )
        places = share @ amplitudes
        moments = self._small.moments(*flux.at(self._bins_s(block)))
        self._small.add(
            places,
            moments,
            lambda k: self._rng(flux, seed, "small", block + k),
            length,
            response.white_gain,
        )
        n_det = places.shape[1] // n_shapes
        out = 0.0
        for shape, product in enumerate(self._products):
            own = np.ascontiguousarray(places[:, shape * n_det : (shape + 1) * n_det])
            out = out + _pieces(product, own, length, PHASES)
        return out + self._small.level_w(moments, length)

    def _deposits(self, found: Events) -> tuple:
        """Deposits in the wafer: logarithm of eV, place, and which events they belong to."""
        half = self.mission.geometry.wafer_side_mm / 2
        alone = self.rates.kinds[found.kind, 0]
        near = self.rates.kinds[found.kind, 3]
        one, other = np.flatnonzero(alone), np.flatnonzero(near)
        detector = found.detector[other]
        columns = [found.marks[one, 0]], [found.marks[one, 1]], [found.marks[one, 2]]
        columns[0].append(found.marks[other, 3])
        for k, axis in enumerate(("x_mm", "y_mm")):
            at = found.marks[other, 4 + k] + self.detectors[axis].values[detector]
            columns[1 + k].append(np.clip(at, -half, half).astype(np.float32))
        return *(np.concatenate(c) for c in columns), np.concatenate([one, other])

    def _noise(self, flux: Flux, block: int, seed: int) -> np.ndarray:
        length, n_det = self.block_samples, self.detectors.sizes["detector"]
        white = np.concatenate(
            [
                self._rng(flux, seed, "noise", b).standard_normal((n, n_det), dtype=np.float32)
                for b, n in ((block, length), (block + 1, self._noise_reach))
            ]
        )
        out = np.empty((n_det, length), dtype=np.float32)
        for group, product in enumerate(self._noise_products):
            own = np.flatnonzero(self._noise_group == group)
            out[own] = _pieces(product, np.ascontiguousarray(white[:, own]), length, 1).T
        return out

    def _mean_w(self, flux: Flux) -> np.ndarray:
        """What is taken off: the mean of the wafer's part in the environment's quiet flux."""
        if flux.mean_w is None:
            n_det = self.detectors.sizes["detector"]
            mean_w = np.zeros(n_det)
            if self._small is not None:
                mean_w += self._small.mean_w(flux)
            weight = self.rates.mean_slots_ev_s(flux, n_det)
            for (absorber, fixed), power_ev in zip(self.rates.slots, weight, strict=True):
                if self._sensor.parts[absorber] == "tod_wafer":
                    power_w = self._sensor.mean_w(absorber, power_ev * wafer.EV_TO_J)
                    mean_w[slice(None) if fixed < 0 else fixed] += power_w
            flux.mean_w = mean_w
        return flux.mean_w

    def _rng(self, flux: Flux, seed: int, stream: str, block: int) -> np.random.Generator:
        labels = (self.record["mission"], flux.name, self.mission.instrument.wafer, self.name)
        return seeds.rng(seed, *labels, stream, block=block)


def _toeplitz(taps: np.ndarray, step: int) -> np.ndarray:
    """Matrix that makes a piece of samples from the places that it feels, float32."""
    n = (_PIECE - 1) * step + len(taps)
    out = np.zeros((_PIECE, n), dtype=np.float32)
    for sample in range(_PIECE):
        out[sample, sample * step : sample * step + len(taps)] = taps[::-1]
    return out


def _pieces(product: np.ndarray, places: np.ndarray, length: int, step: int) -> np.ndarray:
    """Filter and take every ``step``-th: shape (n_places, n_det) to (length, n_det)."""
    n_det = places.shape[1]
    pieces = length // _PIECE
    row = places.strides[0]
    windows = as_strided(
        places,
        (pieces, product.shape[1], n_det),
        (row * _PIECE * step, row, places.strides[1]),
        writeable=False,
    )
    return (product @ windows).reshape(length, n_det)
