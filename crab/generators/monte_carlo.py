"""The Monte Carlo itself, asked for samples like any generator."""

import threading
from dataclasses import replace
from typing import Self

import numpy as np
import xarray as xr

from crab import io, params, paths
from crab.errors import CrabError
from crab.params import Params
from crab.physics import montecarlo
from crab.physics.simulator import Simulator

MONTE_CARLO = "monte_carlo"
_SPLIT = "test"
_ONE_PLACE_MM = 1e-3
_DAY_S = 86400.0
# What belongs to a request, or to a stretch of time, is no fact about a generator.
_NO_FACTS = ("seed", "start_sample", "phi_start_mv", "phi_stop_mv", "hit_rate_hz", "title")


class MonteCarlo:
    """The simulator as a `crab.generators.base.Generator`, for any environment.

    Its TODs are those of ``crab simulate --split test`` with the same seed. One prepared simulator
    is held, whatever is asked: that of the last environment, which all seeds share.

    Parameters
    ----------
    library : xarray.Dataset
        Deposit library of the mission's test split.
    mission, environment : str
        Keys of params.yaml; the record and the detectors' working point are of this environment.
    settings : crab.params.Params
    direct_hits : {"nonlinear", "linear"}
        See `crab.physics.montecarlo.prepare`.
    craft : crab.params.Mission, optional
        The mission with other detectors at the same places; see `with_detectors`.

    Attributes
    ----------
    name, record, detectors, windowed
        See `crab.generators.base.Generator`.
    block_samples : int
        Samples that are computed together.

    Raises
    ------
    CrabError
        If the library does not fit, or a name is unknown.
    """

    name = MONTE_CARLO
    windowed = False

    def __init__(
        self,
        library: xr.Dataset,
        mission: str,
        environment: str,
        settings: Params,
        direct_hits: str,
        craft: params.Mission | None = None,
    ):
        own = params.choose("mission", mission, settings.missions)
        self._library, self._settings = library, settings
        self._craft, self._own_wafer = craft or own, own.instrument.wafer
        self._options = {"mission_name": mission, "split": _SPLIT, "direct_hits": direct_hits}
        self._lock = threading.Lock()
        self._kept: dict[str, Simulator] = {}
        what, options = self._request(environment)
        one = montecarlo.lazy_cube(*what, duration_s=_DAY_S, seed=0, **options)
        self.block_samples = one["tod"].chunks[-1][0]
        self.detectors = one.coords.to_dataset().drop_vars("time")
        self.record = {
            **{key: value for key, value in one.attrs.items() if key not in _NO_FACTS},
            "generator": self.name,
            "detectors": one["detector"].values.tolist(),
        }

    @classmethod
    def ready(cls, profile: str, mission: str, environment: str, settings: Params) -> Self:
        """Read the deposit library of a mission.

        Parameters
        ----------
        profile, mission, environment : str
            Keys of params.yaml.
        settings : crab.params.Params

        Raises
        ------
        CrabError
            If it is missing or does not fit, or a name is unknown.
        """
        chosen = params.choose("profile", profile, settings.profiles)
        params.choose("mission", mission, settings.missions)
        params.choose("environment", environment, settings.environments)
        library = io.open_table(paths.deposits(profile, mission, _SPLIT))
        return cls(library, mission, environment, settings, chosen.simulate_tod.direct_hits)

    def with_detectors(self, table: xr.Dataset) -> Self:
        """The same for a wafer of the same geometry, from the same library.

        What is drawn depends on the seed alone, not on the detectors: give another wafer a seed of
        its own (`crab.mission_source.stream_seed`), and its background is independent.

        Parameters
        ----------
        table : xarray.Dataset
            As of `crab.physics.instrument.detectors`. Those that stand where the library has a
            detector are taken, in the library's order; the others are left out.

        Raises
        ------
        CrabError
            If the library has a detector where the table has none, or the detectors are not from
            the database.
        """
        mission, source = self.record["mission"], self._craft.instrument
        if source.kind != "database":
            raise CrabError(
                f"{self.name}: the detectors of mission {mission} are listed in params.yaml: "
                f"allowed are those of wafer {source.wafer!r}"
            )
        names, wafers = table["detector"].values.astype(str), table["wafer"].values.astype(str)
        chosen = []
        for index, name in enumerate(self.record["detectors"]):
            here = [float(self.detectors[axis][index]) for axis in ("x_mm", "y_mm")]
            off_mm = np.hypot(table["x_mm"].values - here[0], table["y_mm"].values - here[1])
            if not off_mm.min(initial=np.inf) < _ONE_PLACE_MM:
                raise CrabError(
                    f"wafer {', '.join(np.unique(wafers))}: it has no detector where {name} is "
                    f"({here[0]:.2f}, {here[1]:.2f} mm): the deposit library of {mission} fits "
                    "wafers with detectors at the same places only"
                )
            chosen.append(int(off_mm.argmin()))
        changes = {"wafer": str(wafers[chosen[0]]), "detectors": names[chosen].tolist()}
        craft = self._craft.model_copy(update={"instrument": source.model_copy(update=changes)})
        return type(self)(
            self._library.assign_attrs(detectors=" ".join(changes["detectors"])),
            mission,
            self.record["environment"],
            self._settings,
            self._options["direct_hits"],
            craft,
        )

    def sample(self, environment: str, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
        """Background and detector noise; see `crab.generators.base.Generator.sample`."""
        return self._parts(environment, start_sample, n_samples, seed)["tod"]

    def background(
        self, environment: str, start_sample: int, n_samples: int, seed: int
    ) -> np.ndarray:
        """As `sample`, without the noise of the detectors."""
        parts = self._parts(environment, start_sample, n_samples, seed)
        return parts["tod_wafer"] + parts["tod_direct"]

    def _parts(self, environment, start_sample, n_samples, seed) -> dict[str, np.ndarray]:
        params.choose("environment", environment, self._settings.environments)
        for key, value in (("start_sample", start_sample), ("n_samples", n_samples)):
            if value < 0:
                raise CrabError(f"{key} = {value}: allowed are integers >= 0")
        if n_samples == 0:
            empty = np.empty((len(self.record["detectors"]), 0), dtype=np.float32)
            return dict.fromkeys(("tod", "tod_wafer", "tod_direct"), empty)
        return self._simulator(environment, seed).samples(start_sample, n_samples)

    def _simulator(self, environment: str, seed: int) -> Simulator:
        with self._lock:  # a library's worth of memory: no two threads make one
            if environment not in self._kept:
                self._kept.clear()
                what, options = self._request(environment)
                self._kept[environment] = montecarlo.prepare(*what, seed=0, **options)
            prepared = self._kept[environment]
        _, mission, sky, _, split = prepared.stream
        # Its own wafer's label on any wafer: the background of a wafer is that of its seed.
        other = replace(prepared, stream=(seed, mission, sky, self._own_wafer, split))
        # Nothing that is worked out already depends on the seed.
        vars(other).update({**vars(prepared), "stream": other.stream})
        return other

    def _request(self, environment: str) -> tuple[tuple, dict]:
        """What `crab.physics.montecarlo` is given, but for the seed."""
        sky = params.choose("environment", environment, self._settings.environments)
        what = (self._library, self._craft, sky)
        return what, {**self._options, "environment_name": environment}
