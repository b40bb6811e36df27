"""Precision, recall, density and coverage against their expectations."""

import numpy as np
import pytest

from crab import CrabError, seeds
from crab.metrics import diversity


def gaussian(label, n_times=200, n_detector=4, n_features=5):
    return seeds.rng(22, label).normal(size=(n_times, n_detector, n_features))


def test_expected_coverage():
    """Naeem et al. 2020: 1 - (N-1)...(N-k) / ((M+N-1)...(M+N-k)), and 1 - 1/2^k for many."""
    assert diversity.expected_coverage(3, 2, k=1) == pytest.approx(1 - 2 / 4)
    assert diversity.expected_coverage(10**6, 10**6, k=5) == pytest.approx(1 - 2**-5, abs=1e-5)


def test_one_law():
    """Coverage is the paper's expectation, density 1, precision and recall alike."""
    pairs = [(gaussian(i), gaussian(-i)) for i in range(1, 9)]
    found = [diversity.neighbours(a, b) for a, b in pairs]
    expected = {"coverage": diversity.expected_coverage(200, 200), "density": 1.0}
    for name, value in expected.items():
        values, errors = np.transpose([f[name] for f in found])
        assert values.mean() == pytest.approx(value, abs=3 * values.std() / np.sqrt(len(pairs)))
        assert errors.mean() == pytest.approx(values.std(), rel=0.7)
    gap = [f["precision"].value - f["recall"].value for f in found]
    assert abs(np.mean(gap)) < 3 * np.std(gap) / np.sqrt(len(pairs))


def test_one_law_with_detectors_that_see_the_same():
    """A detector more that is a copy brings no window more: the expectation stays."""
    a, b = (np.repeat(gaussian(k, 400, 1), 4, axis=1) for k in "ab")
    coverage = diversity.neighbours(a, b)["coverage"]
    assert coverage.value == pytest.approx(
        diversity.expected_coverage(400, 400), abs=4 * coverage.error
    )


def test_a_dropped_mode_halves_recall_and_coverage():
    """Two far modes of equal weight, of which the generator knows one."""
    modes = gaussian("real", 400)
    modes[::2] += 50
    found = diversity.neighbours(gaussian("one mode", 400), modes)
    assert found["precision"].value > 0.9
    assert found["recall"].value == pytest.approx(0.5, abs=0.1)
    assert found["coverage"].value == pytest.approx(0.5, abs=0.1)


def test_collapsed_to_few_windows():
    """Eight different windows lie in few balls, but each of them in a real one."""
    few = gaussian("a", 8)[np.arange(200) % 8]
    found = diversity.neighbours(few, gaussian("b"))
    assert found["precision"].value > 0.5
    assert found["coverage"].value < 0.3


def test_too_wide_and_too_narrow():
    reference = gaussian("b")
    wide = diversity.neighbours(3 * gaussian("a"), reference)
    narrow = diversity.neighbours(0.3 * gaussian("a"), reference)
    assert wide["precision"].value < 0.5 < wide["recall"].value
    assert narrow["recall"].value < 0.5 < narrow["precision"].value


def test_equal_numbers_of_windows():
    """As many are taken as were asked for, and never more than the smaller has."""
    a, b = gaussian("a", 300), gaussian("b", 150)
    again = diversity.neighbours(a[np.linspace(0, 299, 150).astype(int)], b)
    assert diversity.neighbours(a, b) == again
    assert diversity.neighbours(a, b, 60) != again
    with pytest.raises(CrabError, match="6 times: 5 nearest neighbours need more"):
        diversity.neighbours(a, b, 6)
