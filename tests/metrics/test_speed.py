"""Row 13: times over the TOD's length."""

import numpy as np
import pytest

from crab import CrabError
from crab.metrics import scorecard, speed
from crab.metrics.limits import LIMITS


def test_every_row():
    """An hour of 12 detectors in 0.36 s: 1e-4 of its length, and 376 times that for 4508."""
    found = speed.rows([0.36, 0.30, 0.42], 3600.0, 12, [1.44, 1.44, 1.44])
    assert set(found) == {name for name in LIMITS if name.startswith("generation")}
    assert found["generation_time"].value == pytest.approx(1e-4)
    assert found["generation_time"].error == pytest.approx(0.06 / 3600)
    assert found["generation_time_per_detector"].value == pytest.approx(1e-4 / 12)
    assert found["generation_time_focal_plane"].value == pytest.approx(1e-4 * 4508 / 12)
    assert found["generation_and_writing_time"].value == pytest.approx(5e-4)
    table = scorecard.table(
        found, {}, profile="p", mission="m", environment="e", generator="g"
    ).set_index("metric")
    assert table.loc["generation_time_per_detector", "goal"] == 1e-6
    assert table.loc["generation_time", "pass"]
    assert not table.loc["generation_time_focal_plane", "pass"]


def test_without_writing():
    found = speed.rows([1.0], 100.0, 2)
    assert not [name for name in found if "writing" in name]
    assert np.isnan(found["generation_time"].error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 1.0, 1), "generate_s = "),
        (([1.0, 0.0], 1.0, 1), "generate_s = "),
        (([1.0], 0.0, 1), "duration_s = 0.0"),
        (([1.0], 1.0, 0), "n_detectors = 0"),
        (([1.0], 1.0, 1, [-1.0]), "write_s = "),
    ],
)
def test_what_was_not_measured(arguments, message):
    with pytest.raises(CrabError, match=message):
        speed.rows(*arguments)
