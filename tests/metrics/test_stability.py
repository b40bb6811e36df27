"""Several trainings of one recipe, counted."""

import numpy as np
import pandas as pd
import pytest

from crab import CrabError
from crab.metrics import stability


def scorecard(**values):
    good = dict.fromkeys(stability.METRICS, 0.001) | {"coverage_ratio": 0.99}
    table = pd.DataFrame((good | values).items(), columns=["metric", "value"])
    return table.assign(profile="smoke", mission="litebird_lft", environment="litebird_2032")


def test_counts_means_and_spread():
    w1 = [0.01, 0.02, 0.03, 0.04, 0.05]
    cards = [scorecard(w1=v) for v in w1]
    cards[0] = scorecard(w1=0.01, coverage_ratio=0.5)
    table = stability.stability(cards).set_index("metric")
    assert table.loc["w1", ["n_trainings", "n_pass"]].tolist() == [5, 3]
    assert table.loc["w1", "mean"] == pytest.approx(0.03)
    # Sample standard deviation of 1 to 5: sqrt(10 / 4).
    assert table.loc["w1", "spread"] == pytest.approx(0.01 * np.sqrt(2.5))
    assert table.loc["w1", "worst"] == 0.05
    assert table.loc["coverage_ratio", ["n_pass", "worst"]].tolist() == [4, 0.5]
    assert table.loc["psd_ratio", "n_pass"] == 5
    # The first fails by its coverage, the last two by their amplitudes.
    assert table.loc[stability.ALL, "n_pass"] == 2


def test_nan_does_not_pass():
    cards = [scorecard(rho_error=np.nan if i == 0 else 0.01) for i in range(5)]
    table = stability.stability(cards).set_index("metric")
    assert table.loc["rho_error", "n_pass"] == 4
    assert np.isnan(table.loc["rho_error", "mean"])
    assert table.loc[stability.ALL, "n_pass"] == 4


def test_what_does_not_make_a_series_is_refused():
    with pytest.raises(CrabError, match="4 trainings: stability needs at least 5"):
        stability.stability([scorecard()] * 4)
    with pytest.raises(CrabError, match="1 trainings: stability needs at least 2"):
        stability.stability([scorecard()], least=1)
    other = scorecard().assign(environment="solar_min_2009")
    with pytest.raises(CrabError, match=r"scorecards\[4\]: environment = \['solar_min_2009'\]"):
        stability.stability([scorecard()] * 4 + [other])
    with pytest.raises(CrabError, match=r"scorecards\[4\]: no row 'w1'"):
        stability.stability([scorecard()] * 4 + [scorecard().iloc[1:]])
