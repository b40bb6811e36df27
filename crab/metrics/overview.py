"""Scorecards at a glance: by row of the table of tests, and by mission and environment."""

import numpy as np
import pandas as pd

from crab.metrics.limits import ROWS, SHARPNESS

_PAIR = ["mission", "environment", "generator"]


def over_limit(scores: pd.DataFrame, column: str = "value") -> pd.Series:
    """Values over their limit; limit over value where larger is better. Below 1 passes.

    Parameters
    ----------
    scores : pandas.DataFrame
        `scorecard.COLUMNS`.
    column : str
        Of ``value``, ``real_vs_real``, ``goal``.

    Returns
    -------
    pandas.Series
    """
    larger = scores["sense"] == ">="
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(larger, scores["must"] / scores[column], scores[column] / scores["must"])
    return pd.Series(ratio.astype(float), index=scores.index)


def judged(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows with a limit, and whether the data can judge it.

    Parameters
    ----------
    scores : pandas.DataFrame
        `scorecard.COLUMNS`.

    Returns
    -------
    pandas.DataFrame
        The same columns, and ``row``, ``over`` (value over limit), ``blunt``: two Monte Carlo
        cubes miss the limit against each other. Rows that say whether data suffice are left out.
    """
    keep = scores["pass"].notna() & ~scores["metric"].isin(SHARPNESS)
    found = scores[keep].assign(row=[row_of(m) for m in scores[keep]["metric"]])
    return found.assign(over=over_limit(found), blunt=over_limit(found, "real_vs_real") > 1)


def row_of(metric: str) -> int:
    """Number of the row of the table of tests that a metric belongs to; 0 for none."""
    starts = {start: row for row, (_, names) in ROWS.items() for start in names}
    known = [start for start in starts if metric.startswith(start)]
    return starts[max(known, key=len)] if known else 0


def by_row(scores: pd.DataFrame) -> pd.DataFrame:
    """How each row of the table of tests ends, for every generator.

    Parameters
    ----------
    scores : pandas.DataFrame
        Scorecards of one or more generators, missions and environments.

    Returns
    -------
    pandas.DataFrame
        Columns mission, environment, generator, row, test, kept, of, blunt, worst,
        value_over_limit, real_vs_real_over_limit. All rows of the table, in order: ``of`` is 0
        for one that nobody has measured. Limits that the data cannot judge are in ``blunt``, not
        in ``of``; ``worst`` is the metric furthest beyond its limit, of those judged.
    """
    records = []
    for pair, table in scores.groupby(_PAIR, sort=False):
        every = judged(table)
        for row, (test, _) in ROWS.items():
            of_row = every[every["row"] == row]
            sharp = of_row[~of_row["blunt"]]
            counts = (int(sharp["pass"].sum()), len(sharp), int(of_row["blunt"].sum()))
            worst, ours, real = "", np.nan, np.nan
            if len(sharp):
                # A NaN is no number and so the worst of all.
                first = sharp["over"].fillna(np.inf).idxmax()
                worst, ours = sharp.loc[first, ["metric", "over"]]
                real = over_limit(sharp.loc[[first]], "real_vs_real").iloc[0]
            records.append((*pair, row, test, *counts, worst, ours, real))
    columns = [*_PAIR, "row", "test", "kept", "of", "blunt", "worst"]
    return pd.DataFrame(records, columns=[*columns, "value_over_limit", "real_vs_real_over_limit"])


def kept(scores: pd.DataFrame) -> pd.DataFrame:
    """Limits kept, of those that the data can judge.

    Parameters
    ----------
    scores : pandas.DataFrame
        Scorecards of one or more generators, missions and environments.

    Returns
    -------
    pandas.DataFrame
        Columns mission, environment, generator, kept, of, blunt.
    """
    every = judged(scores)
    groups = every.assign(
        kept=every["pass"].astype(bool) & ~every["blunt"], of=~every["blunt"]
    ).groupby(_PAIR, sort=False)
    return groups[["kept", "of", "blunt"]].sum().astype(int).reset_index()
