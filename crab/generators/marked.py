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
from threadpoolctl import threadpool_limits

from crab import params, seeds
from crab.errors import CrabError
from crab.generators import event_response, files
from crab.generators.event_flux import Flux, Rates
from crab.generators.event_noise import Noise
from crab.generators.marks import Sampler
from crab.generators.small_events import SmallEvents
from crab.generators.splines import Scale
from crab.params import Environment, Mission
from crab.physics import readout, sensors, wafer

_BINS = 128  # of a block: rates are constant within each


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
    block_samples = 16384

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
        return self._sample(environment, start_sample, n_samples, seed, with_noise=True)

    def background(
        self, environment: str, start_sample: int, n_samples: int, seed: int
    ) -> np.ndarray:
        """As `sample`, without the noise of the detectors: the same events, bit for bit."""
        return self._sample(environment, start_sample, n_samples, seed, with_noise=False)

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
        return self._events(flux, self._fluxes_cm2(flux, block), block, seed)

    def _sample(self, environment, start_sample, n_samples, seed, with_noise) -> np.ndarray:
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
            if with_noise:
                part += self._noise(flux, block, seed)
            tod[:, low - start_sample : high - start_sample] = part[
                :, low - block * length : high - block * length
            ]

        # One thread each for products of matrices, whose sums else depend on how many there are.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(fill, blocks))
        return tod

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
            self.reach = (max(self.reach[0], self._wafer.tail + 1), self.reach[1])
        self._detector_noise = Noise(sensor, grid)
        self._sensor = sensor

    def _block(self, flux: Flux, block: int, seed: int) -> np.ndarray:
        """Background of one block, float32, shape (n_det, block_samples)."""
        start, length = block * self.block_samples, self.block_samples
        fluxes_cm2 = self._fluxes_cm2(flux, block)
        found = self._events(flux, fluxes_cm2, block, seed)
        n_det = self.detectors.sizes["detector"]
        level_w = np.repeat(-self._mean_w(flux)[:, None], _BINS, axis=1)
        if self._wafer is None:
            out = np.zeros((n_det, length), dtype=np.float32)
        else:
            moments = self._small.moments(*(part[:_BINS] for part in fluxes_cm2))
            out = self._heat(flux, found, moments, block, seed)
            level_w += self._small.level_w(moments)
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
        bins = out.reshape(n_det, _BINS, -1)  # a view
        bins += level_w.astype(np.float32)[:, :, None]
        return out

    @property
    def _bin_samples(self) -> int:
        return self.block_samples // _BINS

    @property
    def _n_next(self) -> int:
        """Bins of the next block that the last samples of a block feel."""
        return -(-sum(self.reach) // self._bin_samples)

    def _fluxes_cm2(self, flux: Flux, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Quiet and solar flux in the bins of a block and the first ones of the next.

        A block begins when its first sample feels events.
        """
        middle = np.arange(block * _BINS, (block + 1) * _BINS + self._n_next) + 0.5
        return flux.at((middle * self._bin_samples - self.reach[0]) * self._grid.sample_s)

    def _events(self, flux: Flux, fluxes_cm2: tuple, block: int, seed: int) -> Events:
        # All of this block, and of the next one the bins that the last samples feel.
        parts = [
            self._times(flux, [part[own] for part in fluxes_cm2], b, seed)
            for b, own in ((block, slice(_BINS)), (block + 1, slice(_BINS, None)))
        ]
        sample, kind, ln_flux, solar, chosen, marks = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        context = self.rates.context(kind, ln_flux, solar)
        marks = self.sampler.draw(context, self.rates.kinds[kind], marks)
        detector = (chosen * self.detectors.sizes["detector"]).astype(np.int64)
        return Events(sample, kind, marks, detector)

    def _times(self, flux: Flux, fluxes_cm2: list, block: int, seed: int) -> tuple:
        """Times, kinds and random numbers of the events in the first bins of one block."""
        n_kinds, n_marks = self.rates.kinds.shape
        edge = self._bin_samples
        rates_hz = self.rates.at(*fluxes_cm2, self.detectors.sizes["detector"])
        # Bin by bin, so that those of the first bins come first whoever asks for how many.
        rng = self._rng(flux, seed, "counts", block)
        counts = rng.poisson(rates_hz.transpose(1, 0, 2) * (edge * self._grid.sample_s)).ravel()
        place = np.repeat(np.arange(len(counts)), counts)
        of_bin, rest = np.divmod(place, 2 * n_kinds)
        is_solar, kind = np.divmod(rest, n_kinds)
        within, chosen = self._rng(flux, seed, "events", block).random((len(kind), 2)).T
        sample = block * self.block_samples - self.reach[0] + (of_bin + within) * edge
        drawn = self._rng(flux, seed, "marks", block).standard_normal(
            (len(kind), n_marks), dtype=np.float32
        )
        return sample, kind, np.log(fluxes_cm2[0])[of_bin], is_solar.astype(bool), chosen, drawn

    def _heat(self, flux: Flux, found: Events, moments, block: int, seed: int) -> np.ndarray:
        """Wafer's part without the mean of the small events, shape (n_det, block_samples)."""
        response, length = self._wafer, self.block_samples

        def rng_of(k):
            return self._rng(flux, seed, "small", block + k)

        places = self._small.places(moments, rng_of, length, response.n_places(length))
        ln_ev, x_mm, y_mm, own = self._deposits(found)
        amplitudes = response.amplitudes(x_mm, y_mm, np.exp(ln_ev))
        response.add(places, found.sample[own] - block * length, amplitudes)
        return response.samples(places, length)

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
        """Noise of the detectors in one block, float32, shape (n_det, block_samples)."""
        return self._detector_noise.block(
            lambda k: self._rng(flux, seed, "noise", block + k), self.block_samples
        )

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
