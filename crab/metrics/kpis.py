"""The key performance indicators that the project set itself, from what is on disk."""

from typing import NamedTuple

import pandas as pd
import xarray as xr

from crab import paths
from crab.params import Params

COLUMNS = ("kpi", "target", "value", "error", "pass")
_YEAR_S = 365.25 * 86400
_MISSION_YEARS = 3.0


class Target(NamedTuple):
    """A limit and on which side of it to be."""

    sense: str
    limit: float

    def met(self, value: float) -> bool:
        """Whether a value is on the right side; NaN never is."""
        return bool(value >= self.limit if self.sense == ">=" else value <= self.limit)

    def __str__(self) -> str:
        return f"{self.sense} {self.limit:g}"


TARGETS = {
    "network families trained (GAN, VAE)": Target(">=", 2),
    f"longest generated TOD / mission of {_MISSION_YEARS:g} years": Target(">=", 1),
    "generation time / TOD length": Target("<=", 1e-2),
    "generation time / TOD length, in production": Target("<=", 1e-4),
    "correlation between generated samples": Target("<=", 1e-2),
    "mission and environment pairs with generated samples": Target(">=", 1),
    "impact on the measurement: reports published": Target(">=", 1),
}


def kpis(scores: pd.DataFrame, settings: Params) -> pd.DataFrame:
    """Targets, what was reached, and whether that is enough.

    Parameters
    ----------
    scores : pandas.DataFrame
        Scorecard of one generator (`scorecard.tabulate`): its profile and mission say where to
        look.
    settings : Params
        All its active missions in all its active environments are to be covered.

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`, one row for each of `TARGETS`. The sample correlation is the larger of
        its two measures; the mission is covered by one cube, or is not.
    """
    profile, mission = scores["profile"].iloc[0], scores["mission"].iloc[0]
    by_name = scores.set_index("metric")
    names = ["sample_correlation", "sample_correlation_excess"]
    # A NaN must not lose against a number.
    worst = by_name.loc[names, "value"].sort_values(na_position="last").index[-1]
    speed = tuple(by_name.loc["generation_time", ["value", "error"]])
    cubes = {
        (m, e): sorted((paths.cube(profile, m, e, "x").parent).glob(f"{m}-{e}-*.nc"))
        for m in settings.active_missions
        for e in settings.active_environments
    }
    longest_s = max(
        (_duration_s(path) for (m, _), found in cubes.items() if m == mission for path in found),
        default=0.0,
    )
    measured = [
        (len(_families(profile)), 0.0),
        (longest_s / (_MISSION_YEARS * _YEAR_S), 0.0),
        speed,
        speed,
        tuple(by_name.loc[worst, ["value", "error"]]),
        (sum(bool(found) for found in cubes.values()) / len(cubes), 0.0),
        (len(_impact_reports(profile)), 0.0),
    ]
    return pd.DataFrame(
        [
            (kpi, str(target), float(value), float(error), target.met(value))
            for (kpi, target), (value, error) in zip(TARGETS.items(), measured, strict=True)
        ],
        columns=list(COLUMNS),
    )


def _families(profile: str) -> set[str]:
    """Kinds of network trained for any mission, by the first part of the model's name."""
    folder = paths.model(profile, "mission", "model").parents[1]
    return {p.stem.split("_")[0] for p in folder.glob("*/*.keras")} & {"gan", "vae"}


def _impact_reports(profile: str) -> list:
    folder = paths.tables(profile, "report").parent
    return [p for p in folder.glob("10_impact*/numbers.json")]


def _duration_s(path) -> float:
    with xr.open_dataset(path, engine="h5netcdf") as cube:
        return cube.sizes["time"] / cube.attrs["sampling_rate_hz"]
