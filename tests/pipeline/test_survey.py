"""A mission in chunks: what is merged is what the whole would have given, to the bit where said."""

from functools import partial

import numpy as np
import pytest
import xarray as xr
from scipy import signal, stats

from crab import CrabError, schema, seeds, survey
from crab.generators.requests import from_blocks
from crab.metrics import periods, running
from tests.conftest import make_attrs, make_detectors

RATE_HZ = 19.1
N_DET = 3
SEGMENT = 64


def measures(**changes) -> running.Measures:
    settings = {
        "sampling_rate_hz": RATE_HZ,
        "segment_samples": SEGMENT,
        "thresholds_w": ((-2e-16,) * N_DET, (-5e-16,) * N_DET),
        "dead_samples": 4,
        "band_hz": (2.0, 6.0),
    }
    return running.Measures(**settings | changes)


class Noise:
    """White noise of 0.1 fW with rare downward hits; notes what it is asked for in a file."""

    name = "noise"
    windowed = False

    def __init__(self, log=None, fails_at=None):
        self.log, self.fails_at = log, fails_at
        self.detectors = make_detectors(N_DET)
        self.record = {
            "mission": "litebird_lft",
            "detectors": self.detectors["detector"].values.tolist(),
            "sampling_rate_hz": RATE_HZ,
            "params_hash": "0" * 12,
        }

    def sample(self, environment, start_sample, n_samples, seed):
        if self.fails_at is not None and start_sample >= self.fails_at:
            raise KeyboardInterrupt
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{start_sample}\n")

        def block(index):
            rng = seeds.rng(seed, environment, block=index)
            noise = rng.standard_normal((N_DET, 256))
            return 1e-16 * (noise - 20 * (rng.random((N_DET, 256)) < 0.01))

        return from_blocks(block, 256, N_DET, start_sample, n_samples)


def in_chunks(tod, length, order=1, **changes):
    parts = [
        running.chunk(tod[:, a : a + length], a, measures(**changes))
        for a in range(0, tod.shape[1], length)
    ][::order]
    return running.merge({key: np.stack([part[key] for part in parts]) for key in parts[0]})


@pytest.fixture
def tod():
    """Skewed, correlated and far from 0: 4096 samples of three detectors."""
    rng = np.random.default_rng(3)
    own = rng.gamma(0.5, 1e-16, (N_DET, 64 * SEGMENT))
    drift = 1e-13 + 1e-16 * np.linspace(0, 5, own.shape[1])
    return (own + own[:1] + drift).astype(np.float32)


def test_merged_moments_are_those_of_the_whole(tod):
    """Against scipy.stats on all samples; the mean is 1000 times the width and drifts."""
    merged = in_chunks(tod, 5 * SEGMENT)
    x, n = tod.astype(float), tod.shape[1]
    m2 = np.diag(merged["comoment_w2"])
    assert merged["n_samples"] == n
    np.testing.assert_allclose(merged["mean_w"], x.mean(axis=1), rtol=1e-13)
    np.testing.assert_allclose(merged["comoment_w2"] / n, np.cov(x, bias=True), rtol=1e-9)
    skewness = np.sqrt(n) * merged["m3_w3"] / m2**1.5
    np.testing.assert_allclose(skewness, stats.skew(x, axis=1), rtol=1e-9)
    kurtosis = stats.kurtosis(x, axis=1, fisher=False)
    np.testing.assert_allclose(n * merged["m4_w4"] / m2**2, kurtosis, rtol=1e-9)
    np.testing.assert_array_equal(merged["minimum_w"], tod.min(axis=1))
    np.testing.assert_array_equal(merged["maximum_sample"], tod.argmax(axis=1))


def test_the_order_of_parts_does_not_change_a_bit(tod):
    forwards, backwards = (in_chunks(tod, 4 * SEGMENT, order) for order in (1, -1))
    for key, values in forwards.items():
        np.testing.assert_array_equal(values, backwards[key], err_msg=key)


def test_spectra_and_levels_are_welchs(tod):
    """Welch 1967 without overlap, by scipy.signal, for each segment and on average."""
    merged = in_chunks(tod, 5 * SEGMENT)
    segments = 1e15 * tod.astype(float).reshape(N_DET, -1, SEGMENT)
    # scipy takes the mean off as we do, and sees the same float32 samples.
    frequency, density = signal.periodogram(segments, RATE_HZ, "hann", detrend="constant")
    np.testing.assert_allclose(running.frequencies_hz(measures()), frequency)
    mean = merged["psd_sum_w2_per_hz"] / merged["n_segments"]
    # Float32: the mean of a segment is known to 1e-7 of 1000 widths; it matters at 0 Hz only.
    np.testing.assert_allclose(mean[:, 2:] * 1e30, density.mean(axis=1)[:, 2:], rtol=1e-3)
    band = (frequency >= 2) & (frequency <= 6)
    level = np.log(density[..., band].mean(axis=2) * 1e-30)
    np.testing.assert_allclose(merged["level_mean"], level.mean(axis=1), atol=1e-3)
    np.testing.assert_allclose(merged["level_m2"] / 64, level.var(axis=1), rtol=2e-2)


def test_one_hit_counts_once_however_the_mission_is_cut():
    """Planted: one long hit, one that comes back in the dead time, one after it, one not live."""
    tod = np.zeros((N_DET, 8 * SEGMENT), dtype=np.float32)
    tod[0, 20:27] = -1e-15  # one hit of 7 samples
    tod[0, [100, 103]] = -1e-15  # 3 samples apart: one
    tod[1, [100, 105]] = -1e-15  # 5 apart: two
    tod[1, 3 * SEGMENT + 2] = -1e-15  # among the first 4 of a segment
    tod[2, [30, 4 * SEGMENT - 1, 4 * SEGMENT + 5]] = -3e-16  # beyond one threshold
    tod[2, 200] = 1e-15  # the wrong way
    for merged in (in_chunks(tod, n * SEGMENT) for n in (1, 3, 8)):
        assert merged["hits"].tolist() == [[2, 2, 3], [2, 2, 0]]
        assert merged["live_s"] == pytest.approx(8 * (SEGMENT - 4) / RATE_HZ)


def test_rate_behind_a_paralysable_dead_time():
    """p (1 - p)^k for hits of probability p a sample and k dead samples: the discrete form of
    m = n exp(-n tau) (Knoll, Radiation Detection and Measurement, paralyzable model)."""
    p, n = 0.05, 4000 * SEGMENT
    hit = np.random.default_rng(8).random((N_DET, n)) < p
    merged = running.chunk(-1e-15 * hit.astype(np.float32), 0, measures())
    expected = p * (1 - p) ** 4
    live = merged["live_s"] * RATE_HZ
    error = np.sqrt(expected * live)
    assert (np.abs(merged["hits"][0] - expected * live) < 4 * error).all()


@pytest.mark.parametrize("up", [False, True])
def test_thresholds_have_a_direction(up):
    sign = 1 if up else -1
    rows = tuple((sign * w,) * N_DET for w in (2e-16, 5e-16))
    tod = np.random.default_rng(0).standard_normal((N_DET, SEGMENT)).astype(np.float32) * 1e-17
    tod[:, 30] = 1e-15
    hits = running.chunk(tod, 0, measures(thresholds_w=rows))["hits"]
    assert hits.sum() == (6 if up else 0)


def small_plan(**changes):
    settings = {"mission_s": 70 * 86400.0, "chunk_samples": 512, "stride_s": 10 * 86400.0}
    return survey.plan(measures(), **settings | changes)


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory):
    path = tmp_path_factory.mktemp("survey") / "whole.nc"
    found, spent = survey.run(Noise, "calm", 1, small_plan(), path, workers=0, progress=False)
    return path, found, spent


def test_workers_do_not_change_a_byte(surveyed, tmp_path):
    path = tmp_path / "whole.nc"
    survey.run(Noise, "calm", 1, small_plan(), path, workers=2, progress=False)
    assert path.read_bytes() == surveyed[0].read_bytes()


def test_goes_on_after_a_kill_with_the_same_bytes(surveyed, tmp_path):
    path, log = tmp_path / "whole.nc", tmp_path / "asked.txt"
    starts = survey.starts(small_plan()).tolist()
    with pytest.raises(KeyboardInterrupt):
        dies = partial(Noise, log, fails_at=starts[5])
        survey.run(dies, "calm", 1, small_plan(), path, workers=0, progress=False)
    assert not path.exists()
    survey.run(partial(Noise, log), "calm", 1, small_plan(), path, workers=0, progress=False)
    assert path.read_bytes() == surveyed[0].read_bytes()
    # The first month (4 of 7 chunks) was done; chunk 4 was lost with the month it belongs to.
    assert list(map(int, log.read_text().split())) == [*starts[:5], *starts[4:]]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_survey_says_what_it_covers(surveyed):
    _, found, spent = surveyed
    assert found["day"].values.tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert found["month"].values.tolist() == [0, 1]
    assert found["month_segments"].values.tolist() == [4 * 8, 3 * 8]
    assert spent["duration_s"] == pytest.approx(7 * 512 / RATE_HZ)
    assert spent["mission_s"] == pytest.approx(70 * 86400, abs=SEGMENT / RATE_HZ)
    everything = survey.starts(small_plan(stride_s=0.0, mission_s=3600))
    assert np.diff(everything).tolist() == [512] * (len(everything) - 1)


def test_months_put_together_are_all_chunks_at_once(surveyed):
    plan, noise = small_plan(), Noise()
    parts = [
        running.chunk(noise.sample("calm", int(a), 512, 1), int(a), plan.measures)
        for a in survey.starts(plan)[::-1]
    ]
    at_once = periods.assemble(parts, noise.record["detectors"], plan.measures)
    xr.testing.assert_identical(at_once, surveyed[1].drop_attrs(deep=False))


def test_days_months_and_the_whole_agree_with_a_stored_cube(surveyed):
    plan = small_plan(stride_s=0.0, mission_s=512 * 20 / RATE_HZ)
    tod = Noise().sample("calm", 0, plan.n_samples, 1)
    cube = schema.make_cube({"tod": tod}, make_detectors(N_DET), RATE_HZ, make_attrs())
    found = periods.describe(periods.whole(survey.of_cube(cube, plan)))
    x = tod.astype(float)
    np.testing.assert_allclose(found["rms_w"], x.std(axis=1), rtol=1e-9)
    np.testing.assert_allclose(found["correlation"], np.corrcoef(x), atol=1e-9)
    np.testing.assert_allclose(found["kurtosis"], stats.kurtosis(x, axis=1, fisher=False))
    by_month = periods.by_month(surveyed[1])
    assert int(by_month["n_samples"].sum()) == int(surveyed[1]["n_samples"].sum())
    xr.testing.assert_equal(by_month["hits"].sum("month"), periods.whole(surveyed[1])["hits"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: running.check(measures(segment_samples=63)), "segment_samples = 63"),
        (lambda: running.check(measures(dead_samples=64)), "dead_samples = 64: allowed are 0 to"),
        (lambda: running.check(measures(thresholds_w=((0.0,),))), "all positive or all negative"),
        (lambda: running.check(measures(band_hz=(10.0, 11.0))), "no frequency"),
        (lambda: running.chunk(np.zeros((3, 65)), 0, measures()), "multiples of segment_samples"),
        (lambda: running.chunk(np.zeros((2, 64)), 0, measures()), "the TOD has 2"),
        (lambda: small_plan(stride_s=-1.0), "stride_s = -1.0"),
        (lambda: small_plan(mission_s=1.0), "mission_s = 1.0: shorter than one segment"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(CrabError, match=message):
        call()


def test_a_generator_of_another_rate_is_refused(tmp_path):
    plan = survey.plan(measures(sampling_rate_hz=31.0), 3600.0, 512)
    with pytest.raises(CrabError, match=r"sampling_rate_hz = 31.0: noise makes 19.1 Hz"):
        survey.run(Noise, "calm", 1, plan, tmp_path / "x.nc", workers=0, progress=False)
