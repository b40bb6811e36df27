"""The key performance indicators that the project set itself, from tables that notebooks write."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from crab import paths
from crab.errors import CrabError
from crab.metrics import scorecard
from crab.metrics.limits import LIMITS, PRODUCTION_TIME
from crab.params import Params

COLUMNS = ("kpi", "target", "value", "error", "pass")
# Notebooks that judge or generate.
NOTEBOOKS = ("07_compare", "08_conditional", "09_generate", "10_impact")
# Columns that the tables of other notebooks must have; they may have more.
COVERAGE_COLUMNS = (
    "mission",
    "environment",
    "generator",
    "duration_s",
    "mission_duration_s",
    "wall_s",
    "n_detectors",
    "cores",
)
GRID_COLUMNS = ("mission", "environment", "generator", "ok")
_KEYS = ("mission", "environment", "generator", "metric")
_MISSION_YEARS = 3.0
_YEAR_S = 365.25 * 86400
_FAMILIES = {"gan", "vae"}
# The profile whose numbers are meant to be published, and the background that is no generator's.
FULL, MONTE_CARLO = "full", "monte_carlo"


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
    f"share of a mission of {_MISSION_YEARS:g} years that was generated": Target(">=", 1),
    "generation time / TOD length": Target("<=", LIMITS["generation_time"].must),
    "generation time / TOD length, in production": Target("<=", PRODUCTION_TIME),
    "correlation between generated samples": Target("<=", LIMITS["sample_correlation_excess"].must),
    "share of missions and environments with valid samples": Target(">=", 1),
    "impact on the measurement: full reports with a generated background": Target(">=", 1),
}


class Evidence(NamedTuple):
    """Tables of other notebooks.

    Attributes
    ----------
    scores : pandas.DataFrame
        Scorecards, one row for each mission, environment, generator and metric: where two
        notebooks give one, that of the later notebook.
    coverage : pandas.DataFrame
        One row for each mission generated and summarised: `COVERAGE_COLUMNS`.
    grid : pandas.DataFrame
        One row for each mission, environment and generator: `GRID_COLUMNS`.
    read : pandas.DataFrame
        Columns table, n_rows: the files, relative to the project.
    """

    scores: pd.DataFrame
    coverage: pd.DataFrame
    grid: pd.DataFrame
    read: pd.DataFrame


def evidence(profile: str, notebooks: Sequence[str] = NOTEBOOKS) -> Evidence:
    """Read what other notebooks left: ``scorecard.csv``, ``coverage.csv``, ``grid.csv``.

    Parameters
    ----------
    profile : str
    notebooks : sequence of str
        Stems of notebooks, in whose reports to look.

    Returns
    -------
    Evidence
        A table that nobody has written is empty.

    Raises
    ------
    CrabError
        If a table lacks a column.
    """
    read = []

    def gather(name: str, columns: Sequence[str]) -> pd.DataFrame:
        tables = [pd.DataFrame(columns=list(columns))]
        folder = paths.tables(profile, "report").parent
        for path in (p for n in notebooks for p in sorted(folder.glob(f"{n}*/{name}.csv"))):
            table = pd.read_csv(path)
            missing = [c for c in columns if c not in table]
            if missing:
                raise CrabError(
                    f"{path}: no column {missing[0]!r}: there are {', '.join(table.columns)}"
                )
            read.append((str(path.relative_to(paths.root())), len(table)))
            tables.append(table)
        # Empty tables have no types to give.
        full = [t for t in tables if len(t)]
        return pd.concat(full, ignore_index=True) if full else tables[0]

    scores = gather("scorecard", scorecard.COLUMNS).drop_duplicates(list(_KEYS), keep="last")
    scores["pass"] = scores["pass"].astype("boolean")
    coverage, grid = gather("coverage", COVERAGE_COLUMNS), gather("grid", GRID_COLUMNS)
    files = pd.DataFrame(read, columns=["table", "n_rows"])
    return Evidence(scores.reset_index(drop=True), coverage, grid, files)


def kpis(scores: pd.DataFrame, settings: Params, found: Evidence) -> pd.DataFrame:
    """Targets, what was reached, and whether that is enough.

    Parameters
    ----------
    scores : pandas.DataFrame
        Scorecard of one generator (`scorecard.tabulate`): its profile and mission say where to
        look.
    settings : Params
        All its missions in all its environments are to be covered.
    found : Evidence
        As `evidence` reads it; an empty table counts as nothing done.

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`, one row for each of `TARGETS`. The sample correlation is the larger of
        its two measures; the share of the mission is that of the generator that came furthest;
        what counts as a report of the impact, `impact_reports` says.
    """
    profile, mission = scores["profile"].iloc[0], scores["mission"].iloc[0]
    by_name = scores.set_index("metric")
    names = ["sample_correlation", "sample_correlation_excess"]
    # A NaN must not lose against a number.
    worst = by_name.loc[names, "value"].sort_values(na_position="last").index[-1]
    speed = tuple(by_name.loc["generation_time", ["value", "error"]])
    measured = [
        (len(_families(profile)), np.nan),
        (_covered(found.coverage, mission), np.nan),
        speed,
        speed,
        tuple(by_name.loc[worst, ["value", "error"]]),
        (float(valid_pairs(found.grid, settings).to_numpy().mean()), np.nan),
        (int(impact_reports(profile)["counts"].sum()), np.nan),
    ]
    return pd.DataFrame(
        [
            (kpi, str(target), float(value), float(error), target.met(value))
            for (kpi, target), (value, error) in zip(TARGETS.items(), measured, strict=True)
        ],
        columns=list(COLUMNS),
    )


def valid_pairs(grid: pd.DataFrame, settings: Params) -> pd.DataFrame:
    """For which missions and environments any generator gives valid samples.

    Parameters
    ----------
    grid : pandas.DataFrame
        With `GRID_COLUMNS`; pairs that `settings` does not know are left out.
    settings : Params

    Returns
    -------
    pandas.DataFrame of bool
        Missions down, environments across: all that there are in ``params.yaml``, but missions
        whose cubes are imported.
    """
    missions = [name for name, mission in settings.missions.items() if mission.geometry]
    pairs = pd.DataFrame(False, index=missions, columns=list(settings.environments))
    for row in grid[grid["ok"].astype(bool)].itertuples():
        if row.mission in pairs.index and row.environment in pairs.columns:
            pairs.loc[row.mission, row.environment] = True
    return pairs


def impact_reports(profile: str) -> pd.DataFrame:
    """What notebook 10 has left, and whether it counts as a result.

    Parameters
    ----------
    profile : str

    Returns
    -------
    pandas.DataFrame
        One row for each report that ran to its end: ``report``, ``profile``, ``generators`` whose
        bias of r stands in its table, ``counts``: it is of the full profile and has one. A smoke
        run shows that the chain works; it measures nothing for a publication.

    Raises
    ------
    CrabError
        If a table of biases does not say where its background is from.
    """
    folder = paths.tables(profile, "report").parent
    rows = []
    # Numbers are the last thing that a report writes.
    for path in sorted(folder.glob("10_impact*/numbers.json")):
        generators, biases = [], path.with_name("delta_r.csv")
        if biases.is_file():
            table = pd.read_csv(biases)
            if "source" not in table:
                raise CrabError(
                    f"{biases}: no column 'source': there are {', '.join(table.columns)}"
                )
            known = table[table["auto_bias"].notna()]["source"]
            generators = [name for name in dict.fromkeys(known) if name != MONTE_CARLO]
        counts = profile == FULL and bool(generators)
        rows.append((path.parent.name, profile, ", ".join(generators), counts))
    return pd.DataFrame(rows, columns=["report", "profile", "generators", "counts"])


def _covered(coverage: pd.DataFrame, mission: str) -> float:
    of_mission = coverage[coverage["mission"] == mission]
    if of_mission.empty:
        return 0.0
    share = of_mission.groupby(["environment", "generator"])["duration_s"].sum()
    return float(min(1.0, share.max() / (_MISSION_YEARS * _YEAR_S)))


def _families(profile: str) -> set[str]:
    """Kinds of network trained for any mission, by the first part of the model's name."""
    folder = paths.model(profile, "mission", "model").parents[1]
    return {p.stem.split("_")[0] for p in folder.glob("*/*.keras")} & _FAMILIES
