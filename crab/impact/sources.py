"""Where a background comes from, for detectors by name and in K_CMB: some generator."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from crab import params
from crab.errors import CrabError
from crab.generators import base
from crab.mission_source import stream_seed
from crab.params import Params
from crab.physics import instrument, readout


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

    @cached_property
    def own_wafer(self) -> str:
        """The wafer that has the run's seed: the mission's own, also if the generator was moved."""
        craft = params.load().missions.get(self.generator.record["mission"])
        if craft is not None:
            return craft.instrument.wafer
        return str(self.generator.detectors["wafer"].values[0])

    @property
    def sampling_rate_hz(self) -> float:
        return float(self.generator.record["sampling_rate_hz"])

    @property
    def has_noise(self) -> bool:
        """True if the noise of the detectors is in what the generator makes."""
        return not hasattr(self.generator, "background")

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
        own = stream_seed(seed, self.wafer, self.own_wafer, realisation)
        watts = draw(environment, start_sample, n_samples, own)
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
        Name of a registered one, ``"monte_carlo"`` among them; an object with ``sample``; for
        several missions a dict of these by mission; None is the ``generate.generator`` of the
        profile.
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
