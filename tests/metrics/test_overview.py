"""Scorecards at a glance."""

import numpy as np
import pandas as pd
import pytest

from crab.metrics import overview, scorecard
from crab.metrics.limits import LIMITS, ROWS


def table(values, beside=None, **labels):
    known = {"profile": "p", "mission": "m", "environment": "e", "generator": "g"} | labels
    return scorecard.table(
        {k: (v, 0.01) for k, v in values.items()},
        {k: (v, 0.01) for k, v in (beside or {}).items()},
        **known,
    )


SCORES = table(
    {"c2st_auc": 0.6, "w1": 0.06, "w1_continuum": 0.09, "psd_ratio": 0.2, "coverage_ratio": 0.45},
    {"c2st_auc": 0.5, "w1": 0.01, "w1_continuum": 0.01, "psd_ratio": 0.3, "coverage_ratio": 1.0},
)


def test_every_limit_has_a_row():
    rows = {metric: overview.row_of(metric) for metric in LIMITS}
    assert all(rows.values())
    assert set(rows.values()) == set(ROWS)
    assert rows["downstream_delta_r_deglitched"] == 12
    # How likely a difference is by chance is reported, and has no limit.
    assert overview.row_of("downstream_p_bb") == 12 and "downstream_p_bb" not in LIMITS
    assert overview.row_of("spectral_kurtosis_error") == 5
    assert overview.row_of("kurtosis") == 3
    assert overview.row_of("something") == 0


def test_value_over_limit():
    over = overview.over_limit(SCORES)
    assert over.tolist() == pytest.approx([0.6 / 0.68, 2, 3, 2, 2])


def test_rows_in_order():
    found = overview.by_row(SCORES).set_index("row")
    assert found.index.tolist() == list(ROWS)
    assert found.loc[1, ["kept", "of"]].tolist() == [1, 1]
    assert found.loc[3, ["kept", "of", "worst"]].tolist() == [0, 2, "w1_continuum"]
    assert found.loc[3, "value_over_limit"] == pytest.approx(3)
    assert found.loc[3, "real_vs_real_over_limit"] == pytest.approx(1 / 3)
    # Two Monte Carlo cubes differ by more than the limit: nothing is said of the generator.
    assert found.loc[4, ["kept", "of", "blunt"]].tolist() == [0, 0, 1]
    assert found.loc[10, "of"] == 0 and found.loc[10, "worst"] == ""
    assert np.isnan(found.loc[10, "value_over_limit"])


def test_nan_is_the_worst():
    found = overview.by_row(table({"w1": np.nan, "w1_continuum": 0.5})).set_index("row")
    assert found.loc[3, "worst"] == "w1"
    assert found.loc[3, ["kept", "of"]].tolist() == [0, 2]


def test_limits_kept():
    both = overview.kept(
        pd.concat([SCORES, table({"w1": 0.01}, mission="other")], ignore_index=True)
    ).set_index("mission")
    assert both.loc["m", ["kept", "of", "blunt"]].tolist() == [1, 4, 1]
    assert both.loc["other", ["kept", "of", "blunt"]].tolist() == [1, 1, 0]


def test_maps_that_two_monte_carlo_cubes_cannot_agree_on_judge_nobody():
    """Row 12 before deglitching: a few hits carry the noise, so only the other half can judge."""
    scores = table(
        {"downstream_noise_bb": 0.6, "downstream_noise_bb_deglitched": 0.05},
        {"downstream_noise_bb": 0.9, "downstream_noise_bb_deglitched": 0.03},
    )
    row = overview.by_row(scores).set_index("row").loc[12]
    assert row[["kept", "of", "blunt"]].tolist() == [1, 1, 1]
    assert row["worst"] == "downstream_noise_bb_deglitched"
