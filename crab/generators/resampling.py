"""Baseline that resamples the events behind the training cube (compound Poisson).

It is the Monte Carlo without new transport: fast and good where event truth and response are
known. Unlike a network it needs both, and it repeats the events of its library.
"""

from pathlib import Path
from typing import Self

import numpy as np
import xarray as xr

from crab import io, schema
from crab.errors import CrabError
from crab.generators.baselines import make_record
from crab.generators.requests import check_request
from crab.params import Environment, Mission
from crab.physics import montecarlo
from crab.physics.simulator import Simulator


class EventBaseline:
    """Geant4 events of the training split at new Poisson times, through the known response.

    Rates follow the environment over the mission, as in the Monte Carlo. The random streams bear
    this baseline's name instead of a split's, so that nothing coincides with a simulated cube.
    """

    name = "baseline_events"
    windowed = False
    needs_library = True

    def __init__(
        self, record: dict, library: xr.Dataset, mission: Mission, environment: Environment
    ):
        self.record = record
        self.detectors = xr.Dataset.from_dict(record["detector_table"])
        # The split is what sets the streams of two simulations of one library apart.
        self._what = (library.assign_attrs(split=self.name), mission, environment)
        self._prepared: tuple[int, Simulator] | None = None

    @classmethod
    def fit(
        cls,
        train: xr.Dataset,
        deposits: xr.Dataset | str | Path,
        mission: Mission,
        environment: Environment,
    ) -> Self:
        """Take over the events behind a training cube.

        Parameters
        ----------
        train : xarray.Dataset
            Simulated TOD cube; tells names, split and the kind of pulses.
        deposits : xarray.Dataset or path-like
            Deposit library of the same mission and split.
        mission : Mission
        environment : Environment
            Those that the cube was simulated with.

        Raises
        ------
        CrabError
            If the mission or the cube is imported, so that there are no deposits; or if the cube
            was not simulated from these deposits with these parameters.
        """
        name = train.attrs.get("mission")
        why = "this baseline needs the events behind a cube and the response to them: leave it out"
        if mission.geometry is None:
            raise CrabError(
                f"{cls.name}: mission {name}: it has no geometry, its cubes are imported, so there "
                f"are no deposits; {why}"
            )
        if "direct_hits" not in train.attrs:
            raise CrabError(
                f"{cls.name}: training cube: attribute 'direct_hits' is missing, so it was not "
                f"simulated here; {why}"
            )
        library = deposits if isinstance(deposits, xr.Dataset) else io.open_table(deposits)
        direct_hits = str(train.attrs["direct_hits"])
        record = make_record(cls.name, train, direct_hits=direct_hits)
        # What the Monte Carlo says of these deposits and parameters, against what the cube says.
        expected = montecarlo.lazy_cube(
            library,
            mission,
            environment,
            duration_s=1 / mission.sampling_rate_hz,
            mission_name=record["mission"],
            environment_name=record["environment"],
            seed=0,
            split=str(train.attrs.get("split")),
            direct_hits=direct_hits,
        )
        for key in ("sampling_rate_hz", "params_hash"):
            if train.attrs[key] != expected.attrs[key]:
                raise CrabError(
                    f"{cls.name}: training cube: {key} = {train.attrs[key]}, these deposits and "
                    f"parameters give {expected.attrs[key]}: the response behind the cube is not "
                    "known; simulate the cube again (`dvc repro`)"
                )
        if record["detectors"] != expected["detector"].values.tolist():
            raise CrabError(
                f"{cls.name}: training cube: detectors {record['detectors']}: the deposits are for "
                f"{expected['detector'].values.tolist()}"
            )
        return cls(record, library, mission, environment)

    def sample(self, environment: str, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
        """TOD of any part of a mission; see `crab.generators.base.Generator.sample`.

        Parameters
        ----------
        environment : str
        start_sample, n_samples, seed : int

        Returns
        -------
        ndarray of float32, shape (n_det, n_samples)
            Power in W.

        Raises
        ------
        CrabError
            For another environment or a negative start or length.
        """
        return self._parts(environment, start_sample, n_samples, seed)["tod"]

    def background(
        self, environment: str, start_sample: int, n_samples: int, seed: int
    ) -> np.ndarray:
        """As `sample`, without the noise of the detectors: the same events."""
        parts = self._parts(environment, start_sample, n_samples, seed)
        return parts["tod_wafer"] + parts["tod_direct"]

    def _parts(self, environment, start_sample, n_samples, seed) -> dict[str, np.ndarray]:
        check_request(self.name, self.record, environment, start_sample, n_samples)
        if n_samples == 0:
            empty = np.empty((len(self.record["detectors"]), 0), dtype=np.float32)
            return dict.fromkeys(("tod", *schema.PARTS), empty)
        return self._simulator(seed).samples(start_sample, n_samples)

    def _simulator(self, seed: int) -> Simulator:
        prepared = self._prepared
        # Read and written once: another thread may ask for another seed.
        if prepared is None or prepared[0] != seed:
            simulator = montecarlo.prepare(
                *self._what,
                mission_name=self.record["mission"],
                environment_name=self.record["environment"],
                seed=seed,
                split=self.name,
                direct_hits=self.record["settings"]["direct_hits"],
            )
            prepared = self._prepared = (seed, simulator)
        return prepared[1]
