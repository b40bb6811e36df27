"""The map between W and network units, and the windows cut from it."""

import numpy as np
import pytest

from crab.errors import CrabError
from crab.generators.normalise import Normalisation
from crab.generators.windows import WINDOW_SAMPLES, Crops, held_out


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


def test_crops_are_addressed_by_step():
    """Every crop is a run of one detector, and the same for the same step in any order."""
    values = np.arange(3 * 3000, dtype=np.float32).reshape(3, 3000)
    crops = Crops(values, 1, "a")
    batch = crops.batch(7, 50)
    assert batch.shape == (50, WINDOW_SAMPLES, 1)
    assert (np.diff(batch[..., 0], axis=1) == 1).all()
    assert set((batch[:, 0, 0] // 3000).astype(int)) == {0, 1, 2}
    crops.batch(8, 50)
    np.testing.assert_array_equal(Crops(values, 1, "a").batch(7, 50), batch)
    assert not np.array_equal(crops.batch(8, 50), batch)
    assert not np.array_equal(Crops(values, 2, "a").batch(7, 50), batch)


def test_held_out_windows_do_not_overlap():
    values = np.arange(3 * 5000, dtype=np.float32).reshape(3, 5000)
    for n_max, expected in ((7, 7), (1000, 12)):
        windows = held_out(values, n_max)
        assert windows.shape == (expected, WINDOW_SAMPLES, 1)
        assert np.unique(windows).size == windows.size


def test_cubes_shorter_than_a_window_are_refused():
    with pytest.raises(CrabError, match="training cube has 100 samples: needs at least 1060"):
        Crops(np.zeros((2, 100), np.float32), 1)
    with pytest.raises(CrabError, match="validation cube has 100 samples"):
        held_out(np.zeros((2, 100), np.float32), 10)
