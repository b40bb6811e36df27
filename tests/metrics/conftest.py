"""Cubes shared by the tests of the metrics."""

import pytest
from synthetic_cubes import make_tod, to_cube


@pytest.fixture(scope="session")
def real():
    """Three independent draws of one law: the reference, and two for real-vs-real."""
    return [to_cube(make_tod(label)) for label in "abc"]
