"""The map between W and network units, and the windows cut from it."""

import numpy as np
import pytest

from crab.errors import CrabError
from crab.generators.normalise import Normalisation
from crab.generators.windows import crop, spread


@pytest.mark.parametrize("stretch_sigma", [0.0, 5.0])
def test_round_trip_to_float32_precision(train_cube, stretch_sigma):
    """Back in W within the rounding of a float32, over 300 sigma of amplitude."""
    normalisation = Normalisation.fit(train_cube, stretch_sigma)
    tod = train_cube["tod"].values
    back = normalisation.inverse(normalisation.forward(tod))
    assert back.dtype == np.float32
    amplitude = np.abs(tod - normalisation.location_w[:, None])
    assert (amplitude / normalisation.scale_w[:, None]).max() > 20
    error = np.abs(back.astype(float) - tod)
    # The logarithm multiplies a relative rounding error by x / s, here below 10.
    eps = np.finfo(np.float32).eps
    assert (error <= 10 * eps * amplitude + 2 * eps * np.abs(tod)).all()


def test_known_values(train_cube):
    """u = s sinh(1) sigma below the median is x = s."""
    n = Normalisation.fit(train_cube, 5.0)
    tod = n.location_w[:, None] - n.scale_w[:, None] * 5 * np.sinh([[1.0, -2.0, 0.0]])
    np.testing.assert_allclose(n.forward(tod), np.tile([5.0, -10.0, 0.0], (3, 1)), atol=1e-5)


def test_scale_is_a_gaussian_sigma_and_ignores_rare_hits(train_cube):
    """Half of the central 68.27 % interval of a normal law is its sigma."""
    rng = np.random.default_rng(3)
    n = train_cube["time"].size
    cube = train_cube.copy()
    cube["tod"] = (("detector", "time"), rng.normal(1e-15, 3e-16, (3, n)).astype(np.float32))
    cube["tod"].values[:, :5] -= 1e-12
    normalisation = Normalisation.fit(cube, 0.0)
    np.testing.assert_allclose(normalisation.scale_w, 3e-16, rtol=5 / np.sqrt(n))
    np.testing.assert_allclose(normalisation.location_w, 1e-15, atol=5 * 3e-16 / np.sqrt(n))


@pytest.mark.parametrize(("convention", "sign"), [("joule", -1), ("optical_equivalent", 1)])
def test_hits_point_upwards(train_cube, convention, sign):
    cube = train_cube.copy()
    cube["tod"] = -sign * train_cube["tod"]
    cube.attrs = {**train_cube.attrs, "power_convention": convention}
    normalisation = Normalisation.fit(cube, 5.0)
    values = normalisation.forward(cube["tod"].values)
    assert values.max() == normalisation.ceiling > 2 * abs(normalisation.floor)
    assert np.mean(values < normalisation.floor) == pytest.approx(1e-3, abs=1e-4)


def test_dict_round_trip_and_faults(train_cube):
    normalisation = Normalisation.fit(train_cube, 5.0)
    values = normalisation.to_dict()
    assert Normalisation.from_dict(values, "model.json").to_dict() == values
    with pytest.raises(CrabError, match=r"model.json: normalisation.location_w has 1 values.*3"):
        Normalisation.from_dict({**values, "location_w": [0.0]}, "model.json")
    cube = train_cube.copy(deep=True)
    cube["tod"][1] = np.float32(1e-15)
    with pytest.raises(CrabError, match="'det_1' is constant"):
        Normalisation.fit(cube, 5.0)


def test_crops_are_runs_of_the_cube():
    """Of one detector, or of all at the same time."""
    data = np.arange(3 * 500, dtype=np.float32).reshape(500, 3)  # sample, detector
    start, channel = np.int32([0, 7, 499 - 63]), np.int32([2, 0, 1])
    alone = np.asarray(crop(data, start, channel, 64))
    assert alone.shape == (3, 64, 1)
    together = np.asarray(crop(data, start, None, 64))
    for k, (s, c) in enumerate(zip(start, channel, strict=True)):
        np.testing.assert_array_equal(alone[k, :, 0], data[s : s + 64, c])
        np.testing.assert_array_equal(together[k], data[s : s + 64])


@pytest.mark.parametrize(("n_max", "n_alone"), [(7, 7), (1000, 12)])
def test_spread_windows_do_not_overlap(n_max, n_alone):
    values = np.arange(3 * 5000, dtype=np.float32).reshape(3, 5000)
    alone = spread(values, 1060, n_max, alone=True)
    assert alone.shape == (n_alone, 1060, 1)
    assert np.unique(alone).size == alone.size
    together = spread(values, 1060, n_max, alone=False)
    assert together.shape == (4, 1060, 3)
    np.testing.assert_array_equal(together[1, :, 2], values[2, 1060:2120])


def test_cubes_shorter_than_a_window_are_refused():
    with pytest.raises(CrabError, match="cube has 100 samples: needs at least 1060"):
        spread(np.zeros((2, 100), np.float32), 1060, 10, alone=True)
