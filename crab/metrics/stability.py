"""Is it the recipe or the luck of one seed? The same training several times, each scored."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from crab.errors import CrabError
from crab.metrics.limits import LIMITS

# Marginal, power spectrum, bolometer correlation, diversity: rows 3, 4, 6 and 9.
METRICS = (
    "w1",
    "w1_continuum",
    "psd_ratio",
    "psd_ratio_continuum",
    "rho_error",
    "rho_error_continuum",
    "coherence_error_continuum",
    "multiplicity_error",
    "coverage_ratio",
)
ALL = "all of these"
COLUMNS = ("metric", "n_trainings", "n_pass", "mean", "spread", "worst", "must", "sense")


def stability(scorecards: Sequence[pd.DataFrame], least: int = 5) -> pd.DataFrame:
    """How many trainings of one recipe pass, and how far their values are apart.

    Parameters
    ----------
    scorecards : sequence of pandas.DataFrame
        `scorecard.tabulate` of each training; seeds differ, data and settings do not.
    least : int
        Fewer trainings are refused; at least 2.

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`, one row for each of `METRICS` and a last one, `ALL`, for trainings that
        pass them all. ``spread`` is the sample standard deviation, ``worst`` the value furthest on
        the wrong side. NaN does not pass, and makes mean and spread NaN.

    Raises
    ------
    CrabError
        If there are too few scorecards, or one lacks a metric or is of another mission,
        environment or profile.
    """
    least = max(2, least)
    if len(scorecards) < least:
        raise CrabError(
            f"scorecards: {len(scorecards)} trainings: stability needs at least {least}"
        )
    values = []
    for i, table in enumerate(scorecards):
        for key in ("profile", "mission", "environment"):
            found, wanted = (set(t[key]) for t in (table, scorecards[0]))
            if found != wanted:
                raise CrabError(
                    f"scorecards[{i}]: {key} = {sorted(found)}: must be that of the first, "
                    f"{sorted(wanted)}"
                )
        by_metric = table.set_index("metric")["value"]
        missing = [m for m in METRICS if m not in by_metric]
        if missing:
            raise CrabError(f"scorecards[{i}]: no row {missing[0]!r}")
        values.append(by_metric[list(METRICS)].to_numpy(dtype=float))
    values = np.array(values)
    passes = np.array(
        [[LIMITS[m].met(v) for m, v in zip(METRICS, row, strict=True)] for row in values]
    )
    n = len(scorecards)
    rows = []
    for metric, column, passed in zip(METRICS, values.T, passes.T, strict=True):
        limit = LIMITS[metric]
        worst = column.max() if limit.sense == "<=" else column.min()
        summary = (column.mean(), column.std(ddof=1), worst)
        rows.append((metric, n, int(passed.sum()), *summary, limit.must, limit.sense))
    rows.append((ALL, n, int(passes.all(axis=1).sum()), *[np.nan] * 4, ""))
    return pd.DataFrame(rows, columns=list(COLUMNS))
