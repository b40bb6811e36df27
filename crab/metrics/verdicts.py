"""Scores in the words of the project's first comparison: consistent, inconsistent, absent.

The words follow from rules that are fixed here and printed with every table: `RULE_SPECTRA`,
`RULE_CORRELATION`, `RULE_LOSS`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from crab.errors import CrabError
from crab.metrics.limits import LIMITS

CONSISTENT, NEARLY, INCONSISTENT, ABSENT = (
    "consistent",
    "~consistent",
    "inconsistent",
    "absent",
)
MINIMIZED, NEARLY_MINIMIZED, NOT_MINIMIZED = "minimized", "~minimized", "not minimized"

# Of the continuum: the whole TOD's spectrum is that of its few largest hits.
ROWS = {
    "power spectrum": ("psd_ratio_continuum",),
    "frequency spectrum": ("acf_error_continuum", "spectral_kurtosis_error_continuum"),
    "bolometer correlation": (
        "rho_error_continuum",
        "coherence_error_continuum",
        "multiplicity_error",
    ),
}
_NEARLY = 3.0
# Less than this part of the reference's correlation is none, however well it is measured.
_NO_CORRELATION = 0.1
_CORRELATED = 0.5
_SMOOTHING = 0.1
_LAST = 0.25
_LEVEL = (0.05, 0.25)
_MIN_EPOCHS = 4
_ROUNDING = 1e-6

RULE_SPECTRA = (
    "t is the larger of the limit and real-vs-real + 2 errors (the second alone where there is no "
    f"limit): {CONSISTENT} if value <= t, {NEARLY} if value <= {_NEARLY:g} t, else {INCONSISTENT}; "
    "the worst of its rows counts. Rows: "
    + "; ".join(f"{what}: {', '.join(names)}" for what, names in ROWS.items())
)
RULE_CORRELATION = (
    f"{ABSENT} if the model has one detector, or if the part of the reference's correlation that "
    f"is there (rho_recovered) is below {_NO_CORRELATION:g} or 2 of its errors, where "
    f"real-vs-real recovers more than {_CORRELATED:g}; else as for the spectra"
)
RULE_LOSS = (
    f"The loss is averaged over {_SMOOTHING:.0%} of the epochs, and its fall is that from the "
    "first epoch to the lowest average. How far the last average lies above the lowest, and how "
    f"much a line through the last {_LAST:.0%} of the epochs rises or falls (if that is more than "
    f"2 of its errors), in units of the fall: {MINIMIZED} if both are at most {_LEVEL[0]:g}, "
    f"{NEARLY_MINIMIZED} if both are at most {_LEVEL[1]:g}, else {NOT_MINIMIZED}, as is a loss "
    "whose fall is within 2 standard deviations of its jumps about that line"
)


def verdicts(scores: pd.DataFrame) -> dict[str, str]:
    """Verdicts on power spectrum, frequency spectrum and bolometer correlation.

    Parameters
    ----------
    scores : pandas.DataFrame
        Scorecard of one generator (`scorecard.tabulate`).

    Returns
    -------
    dict of str to str
        By the keys of `ROWS`: consistent, ~consistent, inconsistent or absent, by `RULE_SPECTRA`
        and `RULE_CORRELATION`.

    Raises
    ------
    CrabError
        If a row is missing.
    """
    table = scores.set_index("metric")
    needed = [name for names in ROWS.values() for name in names] + ["rho_recovered"]
    for name in needed:
        if name not in table.index:
            raise CrabError(f"scores: no row {name!r}")
    result = {what: _worst(table, names) for what, names in ROWS.items()}
    if _correlation_absent(table.loc["rho_recovered"]):
        result["bolometer correlation"] = ABSENT
    return result


def loss_verdict(losses: Sequence[float]) -> str:
    """Verdict on one loss, by `RULE_LOSS`.

    Parameters
    ----------
    losses : sequence of float
        One number an epoch; epochs without one (NaN) are left out.

    Returns
    -------
    str
        minimized, ~minimized or not minimized.

    Raises
    ------
    CrabError
        If there are fewer than four numbers.
    """
    loss = np.asarray(losses, dtype=float)
    loss = loss[~np.isnan(loss)]
    if loss.size < _MIN_EPOCHS:
        raise CrabError(f"losses: {loss.size} epochs: a verdict needs at least {_MIN_EPOCHS}")
    if not np.isfinite(loss).all():
        return NOT_MINIMIZED
    width = max(1, round(_SMOOTHING * loss.size))
    smooth = np.convolve(loss, np.full(width, 1 / width), mode="valid")
    fall = loss[0] - smooth.min()
    epoch = np.arange(max(_MIN_EPOCHS - 1, round(_LAST * loss.size)))
    last = loss[-epoch.size :]
    line = stats.linregress(epoch, last)
    jumps = np.std(last - line.slope * epoch)
    if fall <= max(2 * jumps, _ROUNDING * np.abs(loss).max()):
        return NOT_MINIMIZED
    # Adversarial losses jump from epoch to epoch: that is no trend.
    change = abs(line.slope) * (epoch.size - 1) if abs(line.slope) > 2 * line.stderr else 0.0
    off = max(smooth[-1] - smooth.min(), change) / fall
    for limit, verdict in zip(_LEVEL, (MINIMIZED, NEARLY_MINIMIZED), strict=True):
        if off <= limit:
            return verdict
    return NOT_MINIMIZED


def training_verdicts(history: pd.DataFrame, losses: Sequence[str]) -> dict[str, str]:
    """Verdicts on the losses of a training.

    Parameters
    ----------
    history : pandas.DataFrame
        One row an epoch.
    losses : sequence of str
        Columns to judge, e.g. ``generator_loss`` and ``validation_loss``.

    Returns
    -------
    dict of str to str
        `loss_verdict` by column.

    Raises
    ------
    CrabError
        If a column is missing, or has fewer than four numbers.
    """
    missing = [name for name in losses if name not in history]
    if missing:
        raise CrabError(
            f"history: no column {missing[0]!r}: there are {', '.join(map(str, history.columns))}"
        )
    result = {}
    for name in losses:
        try:
            result[name] = loss_verdict(history[name])
        except CrabError as error:
            raise CrabError(f"history: {name}: {error}") from None
    return result


def _worst(table: pd.DataFrame, names: Sequence[str]) -> str:
    order = (CONSISTENT, NEARLY, INCONSISTENT)
    return max((_verdict(table.loc[name], LIMITS[name].must) for name in names), key=order.index)


def _verdict(row: pd.Series, must: float) -> str:
    beside = row["real_vs_real"] + 2 * row["real_vs_real_error"]
    # fmax: one of them may not exist.
    threshold = np.fmax(must, beside)
    if row["value"] <= threshold:
        return CONSISTENT
    return NEARLY if row["value"] <= _NEARLY * threshold else INCONSISTENT


def _correlation_absent(row: pd.Series) -> bool:
    if np.isnan(row["value"]):
        return True
    none = row["value"] <= max(_NO_CORRELATION, 2 * row["error"])
    return bool(none and row["real_vs_real"] > _CORRELATED)
