"""Maps along LiteBIRD's scan, and the noise of several detectors in them."""

import numpy as np
import pytest
from scipy import signal

from crab import seeds
from crab.impact import channel_levels, flagging, focal_plane, maps, signals, spectra
from crab.physics import readout

CHANNEL = "L4-140"
NSIDE = 32


def names_of(wafer: str, polarisation: str = "TB") -> list[str]:
    """Detectors of one wafer and channel whose antennas have the same orientation (U)."""
    path = f"{maps.RELEASE}/LFT/{CHANNEL}"
    every = maps.database().query(f"{path}/channel_info").metadata["detector_names"]
    found = []
    for name in every:
        info = maps.database().query(f"{path}/{name}/detector_info").metadata
        if info["wafer"] == wafer and info["orient"] == "U" and info["pol"] in polarisation:
            found.append(name)
    return found


@pytest.fixture(scope="module")
def wafers() -> list[str]:
    path = f"{maps.RELEASE}/LFT/{CHANNEL}"
    every = maps.database().query(f"{path}/channel_info").metadata["detector_names"]
    query = maps.database().query
    return sorted({query(f"{path}/{n}/detector_info").metadata["wafer"] for n in every})


def infos(names):
    return maps.detector_infos("LFT", tuple(names), (CHANNEL,) * len(names))


def bb_level(result, observed_s, mission_s):
    fraction = spectra.effective_sky_fraction(result["hits"].values)
    found = spectra.pseudo_spectra(result["sky"].values, result["hits"].values, 2 * NSIDE)["bb"]
    level = spectra.level(found, 4, fraction)
    return spectra.mission_level(level, result["hits"].values, observed_s, mission_s)


def test_published_noise_of_pair_differences(wafers):
    """1 aW/rtHz in (d1 - d2)/2, 6 pairs, 1 year: N_l^BB = 1.96e-6 uK^2 (arXiv:2101.08410).

    Ten days of the real scan at 0.5 Hz (white noise is white at any rate), scaled to a year.
    """
    names = [n for wafer in wafers[:3] for n in names_of(wafer)[:4]]
    rate, days, year = 0.5, 10, 365.25 * 86400
    slope = float(readout.power_per_kelvin_w(140.0, 42.0, 0.514))
    # Independent detectors of sqrt(2) aW/rtHz have 1 aW/rtHz in the half-difference.
    net_ukrts = np.sqrt(2) * 1e-18 / (np.sqrt(2) * slope) * 1e6
    n_samples = int(days * 86400 * rate)
    chunks = maps.observations(
        signals.white_source(np.full(12, net_ukrts), rate, 11),
        infos(names),
        "LFT",
        rate,
        n_samples,
        chunk_s=86400.0,
    )
    result = maps.pair_map(NSIDE, chunks)
    assert result["hits"].sum() == pytest.approx(6 * n_samples, rel=0.01)
    found = bb_level(result, n_samples / rate, year)
    assert found.value == pytest.approx(1.96e-6, rel=0.2)
    assert found.error / found.value < 0.05
    assert abs(found.value - 1.96e-6) < 3 * found.error


@pytest.fixture(scope="module")
def hours():
    """Six hours at LiteBIRD's rate."""
    rate = 19.1
    return rate, int(6 * 3600 * rate)


def common_mode(n_wafers, per_wafer, rho, sigma_k):
    """White noise with correlation rho within each wafer, none between them."""

    def source(start, n):
        rng = seeds.rng(7, "test", "common", n_wafers, block=start)
        own = rng.standard_normal((n_wafers, per_wafer, n), dtype=np.float32)
        shared = rng.standard_normal((n_wafers, 1, n), dtype=np.float32)
        tod = np.sqrt(1 - rho) * own + np.sqrt(rho) * shared
        return (sigma_k * tod).reshape(-1, n)

    return source


@pytest.mark.parametrize("n_wafers", [1, 2])
def test_a_common_mode_does_not_average_down_within_a_wafer(wafers, hours, n_wafers):
    """Detectors of one orientation: N_eff = W/(rho + (1 - rho)/n), in the TOD and in maps."""
    rate, n_samples = hours
    net_ukrts, rho, n = 100.0, 0.7, 3
    names = [name for wafer in wafers[:n_wafers] for name in names_of(wafer, "T")[:n]]
    detectors = infos(names)
    source = common_mode(n_wafers, n, rho, net_ukrts * 1e-6 * np.sqrt(rate))
    expected = n_wafers / (rho + (1 - rho) / n)

    blocks = focal_plane.covariance_blocks(
        1e6 * source(0, n_samples), rate, maps.hwp_frequency_hz("LFT")
    )
    weight = focal_plane.weights(np.array([d["pol_angle_rad"] for d in detectors]))
    found = focal_plane.net2(blocks, weight)
    assert abs(found.value - net_ukrts**2 / expected) < 4 * found.error
    assert focal_plane.effective_detectors(blocks, weight) == pytest.approx(expected, rel=0.1)

    result = maps.binned_map(
        NSIDE, maps.observations(source, detectors, "LFT", rate, n_samples, chunk_s=3600.0)
    )
    level = bb_level(result, n_samples / rate, 1e7)
    assert level.error / level.value < 0.06
    assert abs(level.value - spectra.white_level_uk2(net_ukrts, expected, 1e7)) < 3 * level.error


def test_what_a_pair_feels_alike_drops_out(wafers, hours):
    """A common mode cancels between detectors 90 degrees apart: in sums, and so in binned maps.

    The database's pairs of orientation U are 89.7 degrees apart: sin(0.25 deg) = 0.4 % is left.
    """
    rate, n_samples = hours
    detectors = infos(names_of(wafers[0])[:4])
    angles = np.array([d["pol_angle_rad"] for d in detectors])
    members = np.array([[0, 1], [2, 3]])
    rng = seeds.rng(7, "test", "pair")
    common = np.broadcast_to(rng.standard_normal(n_samples).astype(np.float32), (4, n_samples))
    blocks = focal_plane.covariance_blocks(common, rate, maps.hwp_frequency_hz("LFT"))
    single = focal_plane.net2(blocks, np.array([1, 0, 0, 0])).value
    assert single == pytest.approx(1 / rate, rel=0.03)
    assert focal_plane.net2(blocks, focal_plane.pair_weights(angles, members)).value < 1e-9 * single

    result = maps.binned_map(
        NSIDE,
        maps.observations(lambda a, n: common[:, a : a + n], detectors, "LFT", rate, n_samples),
    )
    intensity, *polarisation = np.nanstd(result["sky"].values, axis=1)
    assert intensity > 0 and max(polarisation) < 0.01 * intensity


def test_maps_do_not_depend_on_chunks_and_leave_flagged_samples_out(wafers):
    rate, n_samples = 19.1, 68760
    detectors = infos(names_of(wafers[0])[:2])
    white = signals.white_source(np.full(2, 40.0), rate, 3)
    times = np.arange(0, n_samples, 997)

    def spoilt(start, n):
        tod = white(start, n)
        tod[:, np.isin(np.arange(start, start + n), times)] = 1.0
        return tod

    def flags(start, n):
        return np.broadcast_to(np.isin(np.arange(start, start + n), times), (2, n))

    def binned(source, **settings):
        return maps.binned_map(
            16, maps.observations(source, detectors, "LFT", rate, n_samples, **settings)
        )

    whole, pieces = binned(white, chunk_s=3600.0), binned(white, chunk_s=1200.0)
    np.testing.assert_allclose(pieces["sky"], whole["sky"], rtol=0, atol=0.05)
    clean, bad = binned(spoilt, flags=flags), binned(spoilt)
    seen = clean["hits"] > 0
    assert abs(clean["sky"]).where(seen).max() < 1e3 < abs(bad["sky"]).max()
    lost = 1 - clean["hits"].sum() / bad["hits"].sum()
    assert lost == pytest.approx(1 / 997, rel=0.3)


def test_a_sky_comes_back_from_a_map(wafers):
    rate, n_samples = 19.1, 68760
    rng = seeds.rng(1, "test", "sky")
    sky = rng.standard_normal((3, 12 * 16**2))
    chunks = maps.observations(
        lambda start, n: np.zeros((2, n), np.float32),
        infos(names_of(wafers[0])[:2]),
        "LFT",
        rate,
        n_samples,
        sky=sky,
    )
    found = maps.binned_map(16, chunks)
    deep = found["hits"].values > 100
    assert deep.sum() > 20
    np.testing.assert_allclose(found["sky"].values[:, deep], sky[:, deep], atol=1e-3)


def test_white_noise_does_not_depend_on_how_it_is_asked_for():
    source = signals.white_source(np.array([10.0, 20.0]), 19.1, 4)
    whole = source(0, 140_000)
    np.testing.assert_array_equal(source(65_000, 2_000), whole[:, 65_000:67_000])
    assert whole[1].std() == pytest.approx(20e-6 * np.sqrt(19.1), rel=0.01)


def test_noise_of_channels_agrees_with_the_database():
    """pol_sensitivity_channel_ukarcmin of the vPTEP database, all channels of the LFT."""
    table = channel_levels.channels("LFT")
    depth_ukarcmin = np.sqrt(table["noise_uk2"]) * np.rad2deg(1) * 60
    np.testing.assert_allclose(depth_ukarcmin, table["published_ukarcmin"], rtol=2e-3)


def test_channels_share_what_their_pairs_share():
    """Own noise falls with pairs and wafers, what is shared with wafers alone."""
    channel, pixel = np.array(["a", "b", "a", "b"]), np.array([0, 0, 1, 1])
    own, shared = 5.0, 2.0
    table = np.full((1, 4, 4), shared) + (own - shared) * np.eye(4)
    wafer = focal_plane.Wafer(table, np.ones(4), channel, pixel)
    found = focal_plane.focal_plane_net2(wafer, {"a": 10, "b": 10}, 4, {"a": 1.0, "b": 1.0})
    np.testing.assert_allclose(np.diag(found[0]), (own + 9 * shared) / 40)
    np.testing.assert_allclose(found[0, 0, 1], shared / 4)
    level, noise = channel_levels.combined(found[0], np.array([1.0, 1.0]), np.ones((2, 3)))
    np.testing.assert_allclose(level, found[0].mean())
    np.testing.assert_allclose(noise, 0.5)


def test_flagging_finds_spikes_and_few_others():
    """Gaussian noise beyond 5 sigma: 6e-7 of the samples; spikes of one detector flag its pair."""
    rng = seeds.rng(2, "test", "flags")
    tod = rng.standard_normal((2, 100_000))
    assert flagging.sigma_flags(tod, 5.0, spread=0).mean() < 1e-4
    tod[0, 500] += 40
    common = 100 * rng.standard_normal(100_000)
    flags = flagging.sigma_flags(tod + common, 5.0, np.array([[0, 1]]), singles=False)
    assert flags[:, 499:502].all() and flags.mean() < 2e-4


def test_destriping_takes_offsets_out_of_the_intensity(wafers):
    """Offsets ten times the white noise, new each minute: a destriper takes most of them out."""
    rate, n_samples, net_ukrts = 1.0, 2 * 86_400, 40.0
    white = signals.white_source(np.full(2, net_ukrts), rate, 5)
    offsets = 10e-6 * net_ukrts * seeds.rng(5, "test", "offsets").standard_normal((2, 2 * 1440))

    def source(start, n):
        return white(start, n) + offsets[:, np.arange(start, start + n) // 60]

    chunks = maps.observations(source, infos(names_of(wafers[0])[:2]), "LFT", rate, n_samples)
    binned = maps.binned_map(16, chunks)["sky"].std("pixel")
    destriped = maps.destriped_map(16, chunks, baseline_s=60.0)["sky"].std("pixel")
    # Two days of scan hold large scales of the intensity badly; those of the polarisation, well.
    ratio = (destriped / binned) ** 2
    assert ratio.sel(stokes="I") < 0.2
    assert ratio.sel(stokes="Q") < 0.05 and ratio.sel(stokes="U") < 0.05


def test_a_time_that_is_no_multiple_of_an_observation_is_destriped(wafers):
    """litebird_sim wants the same number of baselines in each observation: 2.5 h are 3 x 50 min."""
    white = signals.white_source(np.full(2, 40.0), 1.0, 5)
    chunks = maps.observations(white, infos(names_of(wafers[0])[:2]), "LFT", 1.0, 9000)
    assert [chunk.n_samples for chunk in chunks] == [3000, 3000, 3000]
    found = maps.destriped_map(16, chunks, baseline_s=60.0)
    assert np.isfinite(found["sky"].sel(stokes="Q").values).any()


def test_one_over_f_noise_is_twice_the_white_at_its_knee():
    """PSD = NET^2 (1 + f_knee/f), two-sided, as the database's f_knee and slope mean it."""
    rate, n_samples, net_ukrts, knee_hz = 10.0, 400_000, 40.0, 0.5
    tod = signals.one_over_f_source(np.full(2, net_ukrts), rate, 1e3 * knee_hz, n_samples, seed=1)
    frequency, psd = signal.welch(1e6 * tod(0, n_samples), rate, nperseg=4096)
    for at, expected in ((knee_hz, 2.0), (4.0, 1.125)):
        near = np.abs(frequency / at - 1) < 0.05
        found = psd[:, near].mean() / (2 * net_ukrts**2)
        assert found == pytest.approx(expected, rel=0.06)
