"""Checks of the input, windows and the jackknife."""

import numpy as np
import pytest
from synthetic_cubes import make_tod, to_cube

from crab import CrabError, seeds
from crab.metrics import windows

N_TIME = 2048


@pytest.fixture(scope="module")
def cube():
    return to_cube(make_tod("small", N_TIME))


def test_cubes_that_may_be_compared(cube):
    windows.comparable(reference=cube, generated=to_cube(make_tod("other", 1000)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.assign_attrs(mission="planck"), r"generated: mission = 'planck': must be"),
        (lambda c: c.assign_attrs(environment="solar_min_2009"), "environment = 'solar_min_2009'"),
        (
            lambda c: c.assign_attrs(power_convention="optical_equivalent"),
            r"power_convention = 'optical_equivalent'.*'joule'",
        ),
        (lambda c: c.isel(detector=[1, 0, 2]), r"detector = \['det_01', 'det_00'.*order differs"),
        (lambda c: c.isel(detector=slice(2)), "number or order differs"),
        (
            lambda c: c.assign_coords(detector=["x", "det_01", "det_02"]),
            "'x' is not in reference",
        ),
        (lambda c: c.assign(tod=c["tod"].assign_attrs(units="K")), r"generated: tod: units = 'K'"),
        (lambda c: c.transpose("time", "detector"), r"dimensions \('time', 'detector'\)"),
        (lambda c: c.assign(tod=c["tod"].where(c["time"] > 1)), "tod: .* NaN or infinite"),
        (lambda c: c.expand_dims("realisation"), "select one realisation"),
        (lambda c: c.drop_vars("tod"), "variable 'tod' is missing"),
    ],
)
def test_cubes_that_may_not(cube, change, message):
    with pytest.raises(CrabError, match=message):
        windows.comparable(reference=cube, generated=change(cube))


def test_different_sampling_rates(cube):
    faster = to_cube(make_tod("small", N_TIME), rate_hz=31.0)
    with pytest.raises(
        CrabError, match=r"sampling_rate_hz = 31.0: must be that of reference, 19.1"
    ):
        windows.comparable(reference=cube, generated=faster)


def test_standardised_by_the_core_whatever_the_tail(cube):
    """1.4826 MAD is the sigma of a Gaussian; one spike in 1000 samples moves it by 0.1 %."""
    gaussian = seeds.rng(16, "core").normal(size=(2, 100_000))
    gaussian[:, ::1000] = -1000
    noise = to_cube(2e-16 * gaussian + 5e-16)
    (z,) = windows.standardise(noise, reference=noise)
    core = z[np.abs(z) < 10]
    assert core.std() == pytest.approx(1, rel=0.02)
    assert core.mean() == pytest.approx(0, abs=0.02)
    # The same watts are judged by the reference's width, not by their own.
    wide = to_cube(np.float32(2) * noise["tod"].values)
    (z,) = windows.standardise(wide, reference=noise)
    assert z[np.abs(z) < 20].std() == pytest.approx(2, rel=0.02)


def test_a_constant_reference_has_no_width(cube):
    flat = to_cube(np.zeros((3, 100)))
    with pytest.raises(CrabError, match="detector 'det_00' has width 0 W"):
        windows.standardise(cube, reference=flat)


def test_windows_begin_at_absolute_multiples():
    samples = np.arange(2 * 1000).reshape(2, 1000)
    whole = windows.windows(samples, 64)
    part = windows.windows(samples[:, 100:], 64, start_sample=100)
    assert whole.shape == (2, 15, 64)
    assert np.array_equal(part, whole[:, 2:])


def test_first_sample_from_the_time_axis(cube):
    assert windows.start_sample(cube) == 0
    assert windows.start_sample(cube.isel(time=slice(123, None))) == 123


def test_jackknife_of_a_mean_is_the_standard_error():
    x = seeds.rng(16, "mean").normal(size=(1, 16_000))
    by_block = windows.blocks(x)
    estimate = windows.jackknife(lambda keep: by_block[:, keep].mean())
    assert estimate.value == pytest.approx(x.mean())
    assert estimate.error == pytest.approx(by_block.mean(axis=2).std(ddof=1) / 4)
    assert estimate.error == pytest.approx(1 / np.sqrt(16_000), rel=0.5)


def test_more_blocks_than_samples():
    with pytest.raises(CrabError, match="time: 10 samples: needs at least 16"):
        windows.blocks(np.zeros((1, 10)))
