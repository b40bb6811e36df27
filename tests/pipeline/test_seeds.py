"""Random numbers: known answers, independence of order, no correlation between streams."""

import numpy as np
import pytest
from scipy import stats

from crab import seeds


def test_known_answers():
    """Fixed for good: other values here mean that every published cube changes."""
    assert seeds.philox_key(1, "litebird_lft", "noise") == 0x2C86B0E86BAF61615D631EC9D2A64BBE
    assert seeds.rng(1, "litebird_lft", "noise").integers(0, 2**32, 3).tolist() == [
        3041652189,
        1867015406,
        3327965872,
    ]
    assert seeds.rng(1, "litebird_lft", "noise", block=7).integers(0, 2**32, 3).tolist() == [
        2372678587,
        585970621,
        2559436863,
    ]
    assert seeds.integer(1, "geant4", 3) == 1756939650


def test_blocks_are_the_same_in_any_order():
    forward = {b: seeds.rng(3, "x", block=b).standard_normal(50) for b in range(5)}
    for b in (4, 0, 2, 3, 1):
        np.testing.assert_array_equal(seeds.rng(3, "x", block=b).standard_normal(50), forward[b])


def test_a_block_holds_more_draws_than_a_mission_needs():
    """A block of 2**128 counter steps: its end never reaches the start of the next one."""
    first, second = (seeds.rng(3, "x", block=b).bit_generator.state for b in (0, 1))
    count = [s["state"]["counter"] for s in (first, second)]
    assert count[1][2] - count[0][2] == 1 and (count[1][:2] == count[0][:2]).all()


@pytest.mark.parametrize(
    ("one", "two"),
    [(("a", "bc"), ("ab", "c")), ((1,), ("1",)), (("a",), ("a", "")), (("a", 0), ("a",))],
)
def test_labels_do_not_run_together(one, two):
    assert seeds.philox_key(1, *one) != seeds.philox_key(1, *two)


def test_streams_and_blocks_are_uncorrelated():
    """Correlation of 10 000 pairs of white streams of 1000 follows its null law, sigma = 1/sqrt(N).

    Source: Fisher (1915); for N = 1000 the normal limit holds to better than the test's power.
    """
    n = 1000
    left = np.array([seeds.rng(1, "s", i).standard_normal(n) for i in range(100)])
    right = np.array([seeds.rng(1, "s", 0, block=i + 1).standard_normal(n) for i in range(100)])
    r = np.corrcoef(left, right)[:100, 100:].ravel()
    assert stats.kstest(r * np.sqrt(n), "norm").pvalue > 1e-3


def test_negative_values_are_refused():
    with pytest.raises(ValueError, match="seed = -1"):
        seeds.rng(-1, "x")
    with pytest.raises(ValueError, match="block = -2"):
        seeds.rng(1, "x", block=-2)
