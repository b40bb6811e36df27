"""Where a background comes from, for detectors by name and in K_CMB: generators and Monte Carlo."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import xarray as xr

from crab import io, params, paths, seeds
from crab.errors import CrabError
from crab.generators import base
from crab.params import Params
from crab.physics import instrument, montecarlo, readout
from crab.physics.simulator import Simulator

MONTE_CARLO = "monte_carlo"
_SPLIT = "test"


class MonteCarlo:
    """The simulator as a generator (see `crab.generators.base.Generator`), for any environment.

    Its TODs are those of ``crab simulate --split test`` with the same seed.
    """

    name = MONTE_CARLO
    windowed = False

    def __init__(self, library: xr.Dataset, mission: str, settings: Params, direct_hits: str):
        self._library, self._settings, self._direct_hits = library, settings, direct_hits
        self._craft = params.choose("mission", mission, settings.missions)
        self._prepared: tuple[tuple, Simulator] | None = None
        self.record = {
            "generator": self.name,
            "mission": mission,
            "environments": list(settings.environments),
        }
        # Any environment will do: facts about detectors do not depend on it.
        simulator = self._simulator(settings.training_environment, settings.seed)
        sensor, table = simulator.sensor, simulator.detectors
        kelvin = ("detector", sensor.noise["power_per_kelvin"].values)
        self.detectors = table.assign_coords(power_per_kelvin_w=kelvin)
        if sensor.power_convention == "joule":
            self.detectors = self.detectors.assign_coords(joule_gain=sensor.gain)
        self.record |= {
            "detectors": table["detector"].values.tolist(),
            "sampling_rate_hz": self._craft.sampling_rate_hz,
            "power_convention": sensor.power_convention,
        }

    @classmethod
    def ready(cls, profile: str, mission: str, settings: Params) -> Self:
        """Read the deposit library of a mission.

        Raises
        ------
        CrabError
            If it is missing or does not fit.
        """
        chosen = params.choose("profile", profile, settings.profiles)
        library = io.open_table(paths.deposits(profile, mission, _SPLIT))
        return cls(library, mission, settings, chosen.simulate_tod.direct_hits)

    def sample(self, environment: str, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
        """Background and detector noise, W; see `crab.generators.base.Generator.sample`."""
        return self._parts(environment, start_sample, n_samples, seed)["tod"]

    def background(
        self, environment: str, start_sample: int, n_samples: int, seed: int
    ) -> np.ndarray:
        """As `sample`, without the noise of the detectors."""
        parts = self._parts(environment, start_sample, n_samples, seed)
        return parts["tod_wafer"] + parts["tod_direct"]

    def _parts(self, environment, start_sample, n_samples, seed) -> dict[str, np.ndarray]:
        if n_samples == 0:
            empty = np.empty((len(self.record["detectors"]), 0), dtype=np.float32)
            return dict.fromkeys(("tod", "tod_wafer", "tod_direct"), empty)
        return self._simulator(environment, seed).samples(start_sample, n_samples)

    def _simulator(self, environment: str, seed: int) -> Simulator:
        if self._prepared is None or self._prepared[0] != (environment, seed):
            simulator = montecarlo.prepare(
                self._library,
                self._craft,
                params.choose("environment", environment, self._settings.environments),
                mission_name=self.record["mission"],
                environment_name=environment,
                seed=seed,
                split=_SPLIT,
                direct_hits=self._direct_hits,
            )
            self._prepared = ((environment, seed), simulator)
        return self._prepared[1]


@dataclass(frozen=True)
class Source:
    """A generator on one wafer.

    Attributes
    ----------
    generator : crab.generators.base.Generator
    wafer : str
        Wafers are independent: each has a seed of its own.
    """

    generator: object
    wafer: str

    @property
    def names(self) -> list[str]:
        """Detectors that the generator knows."""
        return [str(name) for name in self.generator.detectors["detector"].values]

    @property
    def own_wafer(self) -> str:
        """The wafer that the generator is of."""
        return str(self.generator.detectors["wafer"].values[0])

    @property
    def sampling_rate_hz(self) -> float:
        return float(self.generator.record["sampling_rate_hz"])

    @property
    def has_noise(self) -> bool:
        """True if the noise of the detectors is in what the generator makes."""
        return not hasattr(self.generator, "background")

    def seed(self, seed: int, realisation: int) -> int:
        """Seed of this wafer: on the generator's own wafer, realisation 0 is the run's seed."""
        if self.wafer == self.own_wafer and realisation == 0:
            return seed
        # 63 bits: a seed is an attribute of files.
        return seeds.philox_key(seed, "inject", self.wafer, realisation) >> 65

    def kelvin(
        self, environment: str, start_sample: int, n_samples: int, seed: int, realisation: int = 0
    ) -> np.ndarray:
        """Background of all detectors that the generator knows.

        Returns
        -------
        ndarray of float32, shape (n_det, n_samples)
            In K_CMB, optical-equivalent: hits are positive.
        """
        generator = self.generator
        draw = generator.sample if self.has_noise else generator.background
        watts = draw(environment, start_sample, n_samples, self.seed(seed, realisation))
        convention = generator.record["power_convention"]
        facts = {"power_convention": convention}
        ds = xr.Dataset({"tod": (("detector", "time"), watts)}, generator.detectors.coords, facts)
        if convention == "joule":
            ds = readout.to_optical_equivalent(ds)
        return readout.to_kelvin_cmb(ds).values


def find(
    names: Iterable[str],
    *,
    environment: str,
    generator,
    mission: str | Iterable[str] | None,
    profile: str,
) -> list:
    """Generators that know some detectors.

    Parameters
    ----------
    names : iterable of str
        Detectors.
    environment : str
        Key of ``environments`` in params.yaml.
    generator : str, Generator, mapping or None
        Name of a registered one or ``"monte_carlo"``; an object with ``sample``; for several
        missions a dict of these by mission; None is the ``generate.generator`` of the profile.
    mission : str, iterable of str or None
        None: the missions of params.yaml that have one of these detectors.
    profile : str
        Whose models and deposit libraries.

    Returns
    -------
    list of Generator

    Raises
    ------
    CrabError
        If no mission or several have a detector, or a model is missing or does not fit.
    """
    if hasattr(generator, "sample"):
        return [generator]
    settings = params.load()
    params.choose("environment", environment, settings.environments)
    chosen = params.choose("profile", profile, settings.profiles)
    if isinstance(generator, Mapping):
        wanted = dict(generator)
    else:
        if mission is None:
            missions = _missions_of(names, settings)
        else:
            missions = [mission] if isinstance(mission, str) else list(mission)
        wanted = dict.fromkeys(missions, generator or chosen.generate.generator)
    out = []
    for key, kind in wanted.items():
        if hasattr(kind, "sample"):
            out.append(kind)
            continue
        params.choose("mission", key, settings.missions)
        if kind == MONTE_CARLO:
            out.append(MonteCarlo.ready(profile, key, settings))
            continue
        known = {**base.REGISTRY, MONTE_CARLO: None}
        params.choose("generator", kind, known)
        out.append(base.ready(kind, profile, key, environment, settings))
    return out


def _missions_of(names: Iterable[str], settings: Params) -> list[str]:
    known = {
        key: set(instrument.detectors(craft)["detector"].values.tolist())
        for key, craft in settings.missions.items()
    }
    found = {name: [key for key, table in known.items() if name in table] for name in names}
    for name, keys in found.items():
        if len(keys) > 1:
            raise CrabError(
                f"detector {name!r} is in missions {', '.join(keys)}: give mission= one of them"
            )
    missions = list(dict.fromkeys(keys[0] for keys in found.values() if keys))
    if not missions:
        some = ", ".join(f"{sorted(table)[0]} ({key})" for key, table in known.items())
        raise CrabError(
            f"detectors {', '.join(list(found)[:5])}: no mission of params.yaml has any of them; "
            f"allowed are the detectors of its missions, such as {some}; others can stand in for "
            "yours (stand_ins=), or give generator= your own"
        )
    return missions
