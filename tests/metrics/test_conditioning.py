"""Conditioning: summaries against analytic numbers; a generator that ignores what it is told."""

import numpy as np
import pytest
from scipy import stats
from synthetic_cubes import make_tod, to_cube

from crab import CrabError, seeds
from crab.metrics import conditioning, scorecard
from crab.metrics.limits import CONDITIONED

RATE_HZ = 19.1
N_TIME = 64_000
WIDTH_W = np.full(2, 1e-16)


def shot_cube(label, hits_per_s, depth=20.0, **attrs):
    """White noise of one width with negative hits of one sample each, in 2 detectors."""
    rng = seeds.rng(11, label)
    tod = rng.standard_normal((2, N_TIME))
    tod -= depth * (rng.random((2, N_TIME)) < hits_per_s / RATE_HZ)
    return to_cube(1e-16 * tod, **attrs)


def test_white_noise():
    """Level of white noise is 2 sigma^2 / rate, its skewness 0, its 0.1 % quantile that of N(0,1).

    Clipped at 5 widths it is the same to 1e-5; beyond 5 lie 2.9e-7 of its samples.
    """
    found = conditioning.summaries(shot_cube("white", 0.0), WIDTH_W)
    expected = {
        "psd_level": 2 / RATE_HZ,
        "psd_level_continuum": 2 / RATE_HZ,
        "skewness_continuum": 0.0,
        "tail_quantile": stats.norm.isf(1e-3),
        "core_width": 1.0,
    }
    for name, value in expected.items():
        assert abs(found[name].value - value) < 4 * found[name].error
        assert 0 < found[name].error < 0.05
    assert found["hit_rate"].value < 1e-3


def test_hits():
    """Rate of isolated hits, less those that begin next to another; power p depth^2 (1 - p) more.

    One of three samples beyond 0.1 % is a hit here, so the tail's quantile is a hit's depth.
    """
    p = 0.1 / RATE_HZ
    cube = shot_cube("hits", 0.1)
    found = conditioning.summaries(cube, WIDTH_W)
    rate, error = found["hit_rate"]
    assert abs(rate - 0.1 * (1 - p)) < 4 * error
    assert error == pytest.approx(np.sqrt(0.1 / (2 * N_TIME / RATE_HZ)), rel=0.6)
    extra = (found["psd_level"].value - 2 / RATE_HZ) * RATE_HZ / 2
    assert extra == pytest.approx(p * (1 - p) * 400, rel=0.2)
    assert found["psd_level_continuum"].value < found["psd_level"].value / 2
    assert found["skewness_continuum"].value < -0.05
    assert found["tail_quantile"].value == pytest.approx(20, rel=0.06)
    turned = cube.assign_attrs(power_convention="optical_equivalent").assign(tod=-cube["tod"])
    assert conditioning.summaries(turned, WIDTH_W)["hit_rate"] == found["hit_rate"]


def test_one_width_for_all_environments():
    """Twice the amplitude: four times the power, twice the width; not so in its own width."""
    cube = shot_cube("white", 0.0)
    louder = cube.assign(tod=2 * cube["tod"])
    quiet, loud = (conditioning.summaries(c, WIDTH_W, clip_sigma=50) for c in (cube, louder))
    assert loud["psd_level"].value == pytest.approx(4 * quiet["psd_level"].value)
    assert loud["core_width"].value == pytest.approx(2 * quiet["core_width"].value)
    own = conditioning.summaries(louder, conditioning.widths_w(louder))
    assert own["core_width"].value == pytest.approx(1, abs=0.01)


def test_a_band():
    """Red noise has less power at high frequencies."""
    cube = to_cube(make_tod("band"))
    width = conditioning.widths_w(cube)
    low, high = (
        conditioning.summaries(cube, width, band_hz=band)["psd_level_continuum"].value
        for band in ((0.0, 1.0), (5.0, 9.0))
    )
    assert low > 5 * high
    with pytest.raises(CrabError, match=r"band_hz = \(20.0, 30.0\)"):
        conditioning.summaries(cube, width, band_hz=(20.0, 30.0))


def test_a_generator_that_knows_one_environment_only():
    """Twice as many hits in the other environment are missed; a second Monte Carlo fits.

    Samples that begin a hit: p (1 - p), as hits next to each other are one.
    """
    rates = {"quiet": 1.0, "loud": 2.0}
    monte_carlo, real, follows, ignores = (
        {
            name: conditioning.summaries(shot_cube(f"{label} {name}", rate or hits), WIDTH_W)
            for name, hits in rates.items()
        }
        for label, rate in (("a", None), ("b", None), ("c", None), ("d", 1.0))
    )
    good = conditioning.conditioning_rows(follows, monte_carlo, ["loud"], real)
    bad = conditioning.conditioning_rows(ignores, monte_carlo, ["loud"], real)
    labels = {"profile": "p", "mission": "m", "generator": "g"}
    tables = {
        (which, name): scorecard.table(*pair, environment=name, **labels).set_index("metric")
        for which, found in (("good", good), ("bad", bad))
        for name, pair in found.items()
    }
    rows = [f"conditioning_{name}" for name in CONDITIONED]
    for name in rates:
        assert tables["good", name].loc[rows, "pass"].all()
        assert (tables["good", name].loc[rows, "real_vs_real"] < 0.1).all()
    assert tables["bad", "quiet"].loc[rows, "pass"].all()
    wrong = tables["bad", "loud"].loc["conditioning_hit_rate"]
    assert not wrong["pass"]
    quiet, loud = (hits / RATE_HZ * (1 - hits / RATE_HZ) for hits in rates.values())
    assert abs(wrong["value"] - (1 - quiet / loud)) < 4 * wrong["error"]
    held_out = [tables["good", n].loc[conditioning.HELD_OUT, "value"] for n in rates]
    assert held_out == [0, 1]


def test_the_error_of_a_ratio():
    ours = dict.fromkeys(CONDITIONED, conditioning.Estimate(1.2, 0.03))
    theirs = dict.fromkeys(CONDITIONED, conditioning.Estimate(1.0, 0.04))
    for value, error in conditioning.rows(ours, theirs).values():
        assert value == pytest.approx(0.2)
        assert error == pytest.approx(np.hypot(0.03, 1.2 * 0.04))


def test_response_is_one_table():
    summary = conditioning.summaries(shot_cube("white", 0.0), WIDTH_W)
    table = conditioning.response({"a": summary, "b": summary})
    assert table.columns.tolist() == ["environment", "quantity", "value", "error"]
    assert len(table) == 2 * len(summary)


def test_what_does_not_fit():
    summary = {"a": {}, "b": {}}
    with pytest.raises(CrabError, match="monte_carlo: 'b' is in only one"):
        conditioning.conditioning_rows(summary, {"a": {}})
    with pytest.raises(CrabError, match="held_out = 'c': allowed are a, b"):
        conditioning.conditioning_rows(summary, summary, ["c"])
    with pytest.raises(CrabError, match="allowed are 2 positive widths"):
        conditioning.summaries(shot_cube("white", 0.0), np.ones(3))
