"""Baselines against the spectra, marginals and theorems that define them."""

import itertools

import numpy as np
import pytest
from scipy import signal, stats

from crab import io, params, schema
from crab.errors import CrabError
from crab.generators.baselines import (
    BootstrapBaseline,
    GaussianBaseline,
    PhaseBaseline,
    cross_spectrum,
    filter_taps,
)
from crab.generators.requests import check_request, from_blocks
from crab.generators.resampling import EventBaseline
from crab.physics import montecarlo
from crab.physics.wafer import EV_TO_J
from tests.conftest import make_attrs, make_detectors
from tests.generators.conftest import SEED
from tests.physics import synthetic

RATE_HZ = 19.1
ENVIRONMENT = "litebird_2032"
POLES = np.array([0.9, -0.5])
UNIT_W = 1e-16


def mixture(n_samples: int, seed: int = 3):
    """Three detectors that see two AR(1) processes: the second sees the first one two samples
    late. In W, with means of several sigma."""
    white = np.random.default_rng(seed).standard_normal((2, n_samples + 102))
    first, second = (signal.lfilter([1.0], [1.0, -a], w) for a, w in zip(POLES, white, strict=True))
    tod = np.stack([first[102:], 0.8 * first[100:-2] + second[102:], 2 * second[102:]])
    tod += np.array([[5.0], [-8.0], [0.0]])
    return schema.make_cube({"tod": UNIT_W * tod}, make_detectors(), RATE_HZ, make_attrs())


def analytic(phase: np.ndarray) -> np.ndarray:
    """S_ij(f) = <X_i X_j*> of `mixture` in `UNIT_W` squared, shape (n_frequency, 3, 3): an AR(1)
    process has 1 / |1 - a e^(-i 2 pi f)|^2 (Priestley 1981, Sect. 4.12)."""
    turn = np.exp(-2j * np.pi * phase)
    density = 1 / np.abs(1 - POLES * turn[:, None]) ** 2
    mixing = np.zeros((len(phase), 3, 2), dtype=complex)
    mixing[:, 0, 0] = 1
    mixing[:, 1, 0], mixing[:, 1, 1] = 0.8 * turn**2, 1
    mixing[:, 2, 1] = 2
    return (mixing * density[:, None]) @ np.swapaxes(mixing, 1, 2).conj()


@pytest.fixture(scope="module")
def ar_cube():
    return mixture(2**17)


@pytest.fixture(scope="module")
def gaussian(ar_cube):
    return GaussianBaseline.fit(ar_cube, n_taps=512)


# --- matched Gaussian noise ------------------------------------------------------------------


def test_taps_give_the_analytic_correlations():
    """Sum over k of h(k + l) h(k)^T is the mixture's covariance at lag l: for AR(1) a^|l| / (1 -
    a^2), between detectors at the delay of two samples."""
    taps = filter_taps(analytic(np.fft.rfftfreq(512)))
    first, second = 1 / (1 - POLES**2)
    for lag in range(20):
        found = np.einsum("kia,kja->ij", taps[lag:], taps[: 512 - lag])
        slow, fast = (
            POLES[0] ** np.abs(lag + np.array([-2, 0, 2])) * first,
            POLES[1] ** lag * second,
        )
        expected = [
            [slow[1], 0.8 * slow[2], 0],
            [0.8 * slow[0], 0.64 * slow[1] + fast, 2 * fast],
            [0, 2 * fast, 4 * fast],
        ]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_cross_spectrum_weighs_every_sample_alike(train_cube):
    """Its transform is, at each lag, the correlation of all samples times that of the Hann window
    (Blackman & Tukey 1958), whatever the place of a hit: exact at lag 0, else within 1.5 % of the
    variance."""
    values = train_cube["tod"].values[:, :3001].astype(float) / UNIT_W
    values -= values.mean(axis=1, keepdims=True)
    lags = np.fft.irfft(cross_spectrum(values, 128), 128, axis=0)
    np.testing.assert_allclose(lags[0], values @ values.T / 3001, rtol=1e-9)
    hann = signal.get_window("hann", 64)
    scale = 0.015 * np.sqrt(np.outer(*[np.diag(lags[0])] * 2))
    for lag in (1, 7, 20, 40, 63):
        weight = (hann[lag:] * hann[: 64 - lag]).sum() / (hann**2).sum()
        expected = weight * values[:, lag:] @ values[:, : 3001 - lag].T / 3001
        assert np.all(np.abs(lags[lag] - expected) < scale)
    np.testing.assert_allclose(lags[64], 0, atol=1e-9)
    hits = np.eye(1, 3001, 1234) + np.eye(1, 3001, 0), np.eye(1, 3001, 1250) + np.eye(1, 3001, 3000)
    for two in hits:  # at the peak of a segment, beside it, at both ends
        assert np.fft.irfft(cross_spectrum(two, 128), axis=0)[0, 0, 0] * 3001 == pytest.approx(2)


def test_covariance_is_that_of_the_training_cube(gaussian, ar_cube):
    """Expected covariance of what comes out, sum of h h^T, and the mean: exact, in W."""
    taps_w = np.fft.irfft(gaussian._response_w, 1024, axis=0)
    expected = np.cov(ar_cube["tod"].values.astype(float), bias=True) / UNIT_W**2
    np.testing.assert_allclose(
        np.einsum("kia,kja->ij", taps_w, taps_w) / UNIT_W**2, expected, rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(gaussian.location_w, ar_cube["tod"].mean("time"), rtol=1e-4)
    median = GaussianBaseline.fit(ar_cube, 512, location="median").location_w
    np.testing.assert_allclose(median, ar_cube["tod"].median("time"), rtol=1e-6)


def test_spectra_and_coherence_are_the_analytic_ones(gaussian, ar_cube):
    """Learned from 2^17 samples, generated 2^18. In each of 32 bands, with m = n df modes in both
    together: power within 5/sqrt(m), complex coherency c within 5 sqrt((1 - |c|^2)/m), and 1 % for
    the smoothing of the spectrum by segments of 256 and 512 samples."""
    n, n_bands = 2**18, 32
    tod = gaussian.sample(ENVIRONMENT, 1000, n, SEED) / UNIT_W
    phase, _ = signal.welch(tod[0], nperseg=512)
    density = np.array(
        [[signal.csd(tod[j], tod[i], nperseg=512)[1] for j in range(3)] for i in range(3)]
    )
    bands = np.array_split(np.arange(1, 256), n_bands)
    found = np.array([density[..., band].mean(axis=-1) for band in bands]) / 2
    truth = analytic(phase)
    expected = np.array([truth[band].mean(axis=0) for band in bands])
    n_modes = np.array([1 / (1 / (n * len(b) / 512) + 1 / (2**17 * len(b) / 512)) for b in bands])
    power, power_expected = (np.einsum("bii->bi", s).real for s in (found, expected))
    off = np.abs(power / power_expected - 1)
    assert np.all(off < (5 / np.sqrt(n_modes) + 0.01)[:, None])
    for i, j in ((0, 1), (1, 2), (0, 2)):
        coherency, coherency_expected = (
            s[:, i, j] / np.sqrt(p[:, i] * p[:, j])
            for s, p in ((found, power), (expected, power_expected))
        )
        sigma = np.sqrt((1 - np.abs(coherency_expected) ** 2) / n_modes)
        assert np.all(np.abs(coherency - coherency_expected) < 5 * sigma + 0.01)
    assert np.abs(coherency_expected).max() < 1e-12  # detectors 0 and 2 share nothing


def test_gaussian_has_no_seams(ar_cube):
    """Covariance of samples 0, 1 and 8 apart, at each place of a block of the filter, edges
    included: that of the taps, within 5 sigma of sqrt((c_ii c_jj + c_ij^2)/n) (Isserlis)."""
    n_taps, n_blocks = 64, 6000
    model = GaussianBaseline.fit(ar_cube, n_taps)
    taps = np.fft.irfft(model._response_w, axis=0)[:n_taps] / UNIT_W
    tod = model.sample(ENVIRONMENT, 0, (n_blocks + 1) * n_taps, SEED).astype(float)
    tod = (tod - model.location_w[:, None]) / UNIT_W
    power = np.einsum("kia,kia->i", taps, taps)
    for lag in (0, 1, 8):
        expected = np.einsum("kia,kja->ij", taps[lag:], taps[: n_taps - lag])
        sigma = np.sqrt((np.outer(power, power) + expected**2) / n_blocks)
        for i, j in itertools.product(range(3), repeat=2):
            products = tod[i, lag : lag + n_blocks * n_taps] * tod[j, : n_blocks * n_taps]
            found = products.reshape(n_blocks, n_taps).mean(axis=0)
            assert np.abs(found - expected[i, j]).max() < 5 * sigma[i, j]


def test_gaussian_has_no_skewness_and_no_kurtosis(train_cube):
    """Learned from hits of many sigma: samples that are too far apart to be correlated (40 samples,
    ten decay times) have skewness 0 +- sqrt(6/n) and excess kurtosis 0 +- sqrt(24/n), 4 sigma; the
    training cube's are far off."""
    model = GaussianBaseline.fit(train_cube, n_taps=256)
    assert np.all(stats.kurtosis(train_cube["tod"].values.astype(float), axis=1) > 5)
    tod = model.sample(ENVIRONMENT, 0, 400_000, SEED)[:, ::40].astype(float)
    n = tod.shape[1]
    assert np.all(np.abs(stats.skew(tod, axis=1)) < 4 * np.sqrt(6 / n))
    assert np.all(np.abs(stats.kurtosis(tod, axis=1)) < 4 * np.sqrt(24 / n))


def test_unit_does_not_matter(ar_cube):
    """1e-16 W or 1 W: the same numbers; squares of watts are lost nowhere."""
    short = ar_cube.isel(time=slice(0, 5000))
    large = short.assign(tod=(short["tod"] / np.float32(UNIT_W)).assign_attrs(units="W"))
    small, large = (
        GaussianBaseline.fit(cube, 64).sample(ENVIRONMENT, 0, 2000, SEED) for cube in (short, large)
    )
    np.testing.assert_allclose(small / UNIT_W, large, rtol=1e-4, atol=1e-4)


def test_length_of_filter_changes_little(ar_cube, gaussian):
    """Taps that are longer than the memory of the noise, here 10 samples, add nothing: variances
    agree exactly, correlations at lag 10 within the Hann window's weight there (1 %)."""
    taps_w = [m._response_w for m in (gaussian, GaussianBaseline.fit(ar_cube, 1024))]
    lags = [np.fft.irfft(r @ np.swapaxes(r, 1, 2).conj(), axis=0)[:11] / UNIT_W**2 for r in taps_w]
    np.testing.assert_allclose(lags[0][0], lags[1][0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(lags[0][10], lags[1][10], rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_taps": 100}, "n_taps = 100: allowed are multiples of 8"),
        ({"n_taps": 0}, "n_taps = 0: allowed"),
        ({"location": "mode"}, "location = 'mode': allowed are mean, median"),
        ({"n_taps": 2048}, "3 detectors need 6 segments of 1024 samples.*has 4000 samples"),
    ],
)
def test_gaussian_refuses(train_cube, options, message):
    with pytest.raises(CrabError, match=message):
        GaussianBaseline.fit(train_cube, **options)


def test_constant_detector_is_refused(train_cube):
    dead = train_cube.copy(deep=True)
    dead["tod"][1] = 0
    with pytest.raises(CrabError, match="tod of detector 'det_1' is constant"):
        GaussianBaseline.fit(dead, 64)


# --- surrogates and bootstrap ----------------------------------------------------------------


def where(window: np.ndarray, tod: np.ndarray) -> int:
    """Start of the training window with the same mean in all detectors."""
    length = window.shape[1]
    total = np.cumsum(np.pad(tod.astype(float), [(0, 0), (1, 0)]), axis=1)
    mean = (total[:, length:] - total[:, :-length]) / length
    distance = np.abs(mean - window.astype(float).mean(axis=1, keepdims=True))
    return int((distance / tod.std(axis=1, keepdims=True)).max(axis=0).argmin())


@pytest.mark.parametrize("length", [500, 501])
def test_surrogate_keeps_spectra_and_cross_spectra(train_cube, length):
    """Theiler et al. (1992) and Prichard & Theiler (1994): in every window amplitudes and relative
    phases of all detectors are those of a training window, within the rounding of a float32; the
    common phases are new: uniform (Rayleigh, 4 sigma), so that windows do not repeat."""
    model = PhaseBaseline.fit(train_cube, window_samples=length)
    tod = train_cube["tod"].values
    n_windows, turns = 40, []
    made = model.sample(ENVIRONMENT, 0, n_windows * length, SEED).reshape(3, n_windows, length)
    for number in range(n_windows):
        start = where(made[:, number], tod)
        new, old = (
            np.fft.rfft(x.astype(float) / UNIT_W)
            for x in (made[:, number], tod[:, start : start + length])
        )
        crossed = [x[:, None] * x[None].conj() for x in (new, old)]
        np.testing.assert_allclose(*crossed, rtol=1e-4, atol=1e-6 * np.abs(crossed[1]).max())
        turns.append((new * old.conj()).sum(axis=0) / (np.abs(old) ** 2).sum(axis=0))
    turns = np.array(turns)
    np.testing.assert_allclose(turns[:, 0], 1, rtol=1e-4)
    inner = turns[:, 1 : (length + 1) // 2]
    for power in (1, 2):
        assert np.abs((inner**power).mean()) < 4 / np.sqrt(inner.size)
    if length % 2 == 0:
        assert set(np.round(turns[:, -1].real)) == {-1.0, 1.0}


def test_surrogate_of_a_hit_is_spread_over_its_window(train_cube):
    """A hit of height A among N samples becomes noise of power A^2/N; its peak is lost."""
    spike = train_cube.copy(deep=True)
    spike["tod"][:] = 0
    spike["tod"][:, 2000] = 1e-14  # in all windows of 3000 samples among 4000
    made = PhaseBaseline.fit(spike, 3000).sample(ENVIRONMENT, 0, 3000, SEED) / 1e-14
    np.testing.assert_allclose(np.mean(made.astype(float) ** 2, axis=1), 1 / 3000, rtol=1e-5)
    assert np.abs(made).max() < 0.15


def test_bootstrap_is_windows_of_the_training_cube(train_cube):
    """Every window is in the training cube, all detectors together, bit for bit. Starts are
    uniform over all that are possible (chi-square of 10 classes, p > 1e-4)."""
    length, n_windows = 500, 300
    model = BootstrapBaseline.fit(train_cube, window_samples=length)
    made = model.sample(ENVIRONMENT, 0, n_windows * length, SEED).reshape(3, n_windows, length)
    tod = train_cube["tod"].values
    starts = [where(made[:, b], tod) for b in range(n_windows)]
    for number, start in enumerate(starts):
        np.testing.assert_array_equal(made[:, number], tod[:, start : start + length])
    counts, _ = np.histogram(starts, bins=10, range=(0, 4000 - length + 1))
    assert stats.chisquare(counts).pvalue > 1e-4


def test_bootstrap_has_the_training_marginal(train_cube):
    """Expectations are those of the training cube with Kuensch's weights, sample t being in
    min(t + 1, L, n - L + 1, n - t) of the n - L + 1 windows (Kuensch 1989, Sect. 2): the mean, the
    mean square, and how often each of five quantiles is passed (4 sigma of the windows)."""
    length, n_windows = 100, 4000
    model = BootstrapBaseline.fit(train_cube, window_samples=length)
    tod = train_cube["tod"].values.astype(float) / UNIT_W
    made = model.sample(ENVIRONMENT, 0, n_windows * length, SEED) / UNIT_W
    n, t = tod.shape[1], np.arange(tod.shape[1])
    weight = np.minimum.reduce([t + 1, np.full(n, length), np.full(n, n - length + 1), n - t])
    weight = weight / (length * (n - length + 1))
    assert weight.sum() == pytest.approx(1)
    quantiles = np.quantile(tod[0], [1e-3, 0.05, 0.5, 0.95, 0.999])
    below = [lambda x, q=q: x < q for q in quantiles]
    for statistic in (lambda x: x, np.square, *below):
        expected = statistic(tod[0]) @ weight
        windows = statistic(made[0].astype(float)).reshape(n_windows, length).mean(axis=1)
        assert abs(windows.mean() - expected) < 4 * windows.std() / np.sqrt(n_windows)


@pytest.mark.parametrize("window_samples", [1, 4001])
@pytest.mark.parametrize("baseline", [PhaseBaseline, BootstrapBaseline])
def test_windows_that_do_not_fit_are_refused(train_cube, baseline, window_samples):
    with pytest.raises(CrabError, match=f"window_samples = {window_samples}: allowed.*2 to 4000"):
        baseline.fit(train_cube, window_samples=window_samples)


# --- what all that learn from the cube alone share -------------------------------------------


@pytest.fixture(scope="module", params=["gaussian", "phase", "bootstrap"])
def model(request, train_cube):
    if request.param == "gaussian":
        return GaussianBaseline.fit(train_cube, n_taps=64)
    kind = {"phase": PhaseBaseline, "bootstrap": BootstrapBaseline}[request.param]
    return kind.fit(train_cube, window_samples=300)


def test_any_cut_gives_the_same_bits(model):
    """Requests that begin, end and cross anywhere, in any order, also far into the mission."""
    for start in (0, 10**9 + 77):
        n = 3000
        whole = model.sample(ENVIRONMENT, start, n, SEED)
        assert whole.shape == (3, n) and whole.dtype == np.float32
        assert np.isfinite(whole).all()
        cuts = [0, 1, 440, 900, 901, 1024, 2561, n]
        for a, b in reversed(list(itertools.pairwise(cuts))):
            part = model.sample(ENVIRONMENT, start + a, b - a, SEED)
            np.testing.assert_array_equal(part, whole[:, a:b])
    assert model.sample(ENVIRONMENT, 5, 0, SEED).shape == (3, 0)


def test_other_seeds_places_and_detectors_are_other_numbers(model, train_cube):
    """Also a model of other detectors of the mission: its stream is its own."""
    first = model.sample(ENVIRONMENT, 0, 1024, SEED)
    assert not np.array_equal(first, model.sample(ENVIRONMENT, 0, 1024, SEED + 1))
    assert not np.array_equal(first, model.sample(ENVIRONMENT, 1500, 1024, SEED))
    renamed = train_cube.assign_coords(detector=["a", "b", "c"])
    options = {k: v for k, v in model.record["settings"].items() if k != "location"}
    other = type(model).fit(renamed, **options)
    assert not np.array_equal(first, other.sample(ENVIRONMENT, 0, 1024, SEED))


def test_samples_make_a_valid_cube(model, train_cube):
    """With the model's own detector table and record; coordinates are the training cube's."""
    record = model.record
    for key in ("mission", "environment", "phi_mv", "lis", "power_convention", "physics_list"):
        assert record[key] == train_cube.attrs[key]
    assert record["detectors"] == train_cube["detector"].values.tolist()
    assert record["training_data_hash"] == io.content_hash(train_cube)
    assert record["generator"] == model.name
    assert model.windowed == ("window_samples" in record)
    tod = model.sample(ENVIRONMENT, 0, 50, SEED)
    attrs = {key: record.get(key, SEED) for key in schema.REQUIRED_ATTRS if key[0] != "C"}
    attrs["schema_version"] = schema.SCHEMA_VERSION
    cube = schema.make_cube({"tod": tod}, model.detectors, record["sampling_rate_hz"], attrs)
    for name in set(train_cube.coords) - {"time"}:
        np.testing.assert_array_equal(cube[name], train_cube[name])


def test_bad_requests_are_refused(model):
    message = rf"solar_min_2009.*this {model.name} was trained for 'litebird_2032'"
    with pytest.raises(CrabError, match=message):
        model.sample("solar_min_2009", 0, 10, SEED)
    with pytest.raises(CrabError, match="start_sample = -1"):
        model.sample(ENVIRONMENT, -1, 10, SEED)
    with pytest.raises(CrabError, match="n_samples = -2: allowed are integers >= 0"):
        model.sample(ENVIRONMENT, 0, -2, SEED)


def test_cube_with_realisations_is_refused(train_cube):
    several = train_cube.copy()
    several["tod"] = train_cube["tod"].expand_dims("realisation")
    with pytest.raises(CrabError, match="select one realisation"):
        BootstrapBaseline.fit(several, 100)


def test_blocks_are_put_at_their_places():
    """Sample i is i, and only blocks that the request touches are computed."""
    asked = []

    def block(index):
        asked.append(index)
        return np.arange(index * 10, index * 10 + 10)[None]

    found = from_blocks(block, 10, 1, 25, 21)
    np.testing.assert_array_equal(found, np.arange(25, 46)[None])
    assert asked == [2, 3, 4]
    assert from_blocks(block, 10, 1, 25, 0).shape == (1, 0)
    assert from_blocks(block, 10, 1, 50, 10)[0, 0] == 50
    assert asked == [2, 3, 4, 5]
    check_request("x", {"environment": "a"}, "a", 0, 0)


# --- resampled events ------------------------------------------------------------------------

NAMES = {"mission_name": "litebird_lft", "environment_name": "steady"}


@pytest.fixture(scope="module")
def sky():
    """Mission of four detectors on a slow wafer (0.1 s), environment, and a library of 300 events
    that come 100 times a second, one in a hundred on a TES."""
    settings = params.load()
    whole = settings.missions["litebird_lft"]
    slow = {"bath_conductance_w_per_k": 3e-8, "diffusivity_m2_per_s": 0.03, "modes_per_axis": 4}
    thermal = whole.wafer_thermal.model_copy(update=slow)
    instrument = whole.instrument.model_copy(update={"detectors": whole.instrument.detectors[::3]})
    mission = whole.model_copy(update={"instrument": instrument, "wafer_thermal": thermal})
    environment = settings.environments["measured_ams02_2011_2013"]
    library = synthetic.library(mission, environment, 100.0, direct_rate_hz=1.0, n_events=300)
    return library, mission, environment


@pytest.fixture(scope="module")
def simulated(sky):
    return montecarlo.simulate(
        *sky,
        duration_s=300.0,
        seed=SEED,
        split="train",
        direct_hits="linear",
        progress=False,
        **NAMES,
    )[0]


@pytest.fixture(scope="module")
def events(sky, simulated):
    return EventBaseline.fit(simulated, *sky)


@pytest.fixture(scope="module")
def hour(events):
    """3600 s of resampled events, in W."""
    return events.sample("steady", 0, 68_760, SEED).astype(float)


def block_error(values: np.ndarray) -> np.ndarray:
    """Standard error of a mean over time from 60 blocks, many decay times long."""
    blocks = values[..., : values.shape[-1] // 60 * 60].reshape(*values.shape[:-1], 60, -1)
    return blocks.mean(axis=-1).std(axis=-1) / np.sqrt(59)


def test_events_mean_is_rate_times_integral(sky, simulated, hour):
    """Campbell's theorem (Rice 1944, Sect. 1.5): the mean is the sum over events of rate times
    integral of the pulse; of a direct hit in the linear response joule_gain times its deposit. The
    wafer's mean is taken off in the Monte Carlo. 4 sigma."""
    library, *_ = sky
    simulator = montecarlo.prepare(*sky, seed=1, split="train", direct_hits="linear", **NAMES)
    on_tes = library["volume"].values > 0
    power_w = library["deposit_ev"].values[on_tes] * EV_TO_J
    power_w = power_w * simulator.rates_hz[library["event_index"].values[on_tes]]
    power_w = np.bincount(library["detector_index"].values[on_tes], power_w, 4)
    expected = float(simulated["joule_gain"]) * power_w
    error = block_error(hour)
    assert np.all(np.abs(expected) > 8 * error)
    assert np.all(np.abs(hour.mean(axis=1) - expected) < 4 * error)


def test_events_covariance_is_rate_times_integral_of_products(sky, simulated, hour):
    """Campbell's theorem for the second moments: cov_ij is the sum over events of rate times the
    integral of pulse_i pulse_j after filter and decimation, plus the noise of each detector.
    4 sigma."""
    simulator = montecarlo.prepare(*sky, seed=1, split="train", direct_hits="linear", **NAMES)
    down, halo = simulator.decimate.down, simulator.decimate.halo
    expected = np.zeros((4, 4))
    for event, rate_hz in enumerate(simulator.rates_hz):
        parts = simulator.single_event(event, 2 * down)
        pulse = np.pad(sum(parts.values()), [(0, 0), (halo, halo)])
        sampled = simulator.decimate(pulse)
        expected += rate_hz * sampled @ sampled.T / RATE_HZ
    shot = np.diag(expected).copy()
    expected += np.diag(simulated["tod_noise"].values.astype(float).var(axis=1))
    fluctuation = hour - hour.mean(axis=1, keepdims=True)
    products = fluctuation[:, None] * fluctuation[None]
    error = block_error(products)
    assert np.all(shot > 8 * np.diag(error))
    np.testing.assert_array_less(np.abs(products.mean(axis=-1) - expected), 4 * error)


def test_events_background_is_the_sample_without_noise(events, simulated):
    """What is left is the noise of the detectors: its variance, and no correlation between them.

    The variance of n nearly independent numbers is known to sqrt(2/n), a correlation to 1/sqrt(n).
    """
    n = 20_000
    whole = events.sample("steady", 3000, n, SEED).astype(float)
    rays = events.background("steady", 3000, n, SEED)
    assert rays.shape == (4, n) and rays.dtype == np.float32
    noise = whole - rays
    expected = simulated["tod_noise"].values.astype(float).var(axis=1)  # 5730 samples
    np.testing.assert_allclose(noise.var(axis=1), expected, rtol=5 * np.sqrt(2 / 5730))
    off = np.corrcoef(noise)[~np.eye(4, dtype=bool)]
    assert np.abs(off).max() < 5 / np.sqrt(n)
    parts = events._simulator(SEED).samples(3000, n)
    np.testing.assert_allclose(noise, parts["tod_noise"], atol=2e-7 * np.abs(whole).max())
    assert events.background("steady", 5, 0, SEED).shape == (4, 0)
    with pytest.raises(CrabError, match="solar_min_2009"):
        events.background("solar_min_2009", 0, 10, SEED)


def test_events_in_any_cut_are_the_same_bits(events, hour):
    """Across chunks of the simulator, also after another seed was asked for."""
    other = events.sample("steady", 5000, 100, SEED + 1)
    for start, n in ((5000, 1500), (0, 1), (12_345, 700)):
        found = events.sample("steady", start, n, SEED)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, hour[:, start : start + n].astype(np.float32))
    assert not np.array_equal(other, hour[:, 5000:5100].astype(np.float32))
    assert events.sample("steady", 77, 0, SEED).shape == (4, 0)


def test_events_do_not_coincide_with_the_training_cube(simulated, hour):
    """The same library and seed, yet another sky: |r| of detectors below 5 times its error for the
    wafer's correlation time of two samples."""
    train = simulated["tod"].values.astype(float)
    n = train.shape[1]
    r = np.corrcoef(train, hour[:, :n])[:4, 4:]
    assert np.abs(r).max() < 5 * np.sqrt(2 / n)


def test_events_come_from_a_file_too(events, sky, simulated, tmp_path):
    library, mission, environment = sky
    path = io.write(library, tmp_path / "deposits.nc")
    again = EventBaseline.fit(simulated, path, mission, environment)
    start = (100, 50, SEED)
    np.testing.assert_array_equal(again.sample("steady", *start), events.sample("steady", *start))
    assert again.record == events.record
    assert not events.windowed and events.record["detectors"] == mission.instrument.detectors
    np.testing.assert_array_equal(events.detectors["joule_power_w"], simulated["joule_power_w"])


def test_events_refuse_what_is_not_known(sky, simulated):
    library, mission, environment = sky
    imported = mission.model_copy(update={"geometry": None, "sensor": None, "wafer_thermal": None})
    with pytest.raises(CrabError, match=r"litebird_lft: it has no geometry.*imported.*no deposits"):
        EventBaseline.fit(simulated, "missing.nc", imported, environment)
    foreign = simulated.copy()
    foreign.attrs = {k: v for k, v in simulated.attrs.items() if k != "direct_hits"}
    with pytest.raises(CrabError, match="'direct_hits' is missing, so it was not simulated here"):
        EventBaseline.fit(foreign, *sky)
    with pytest.raises(CrabError, match="split = 'test': allowed here is 'train'"):
        EventBaseline.fit(simulated, library.assign_attrs(split="test"), mission, environment)
    other = params.load().environments["solar_max_2014"]
    with pytest.raises(CrabError, match=r"params_hash = .*response behind the cube is not known"):
        EventBaseline.fit(simulated, library, mission, other)
    with pytest.raises(CrabError, match="training cube: detectors"):
        EventBaseline.fit(simulated.isel(detector=[1, 0]), *sky)


def test_events_refuse_bad_requests(events):
    with pytest.raises(CrabError, match="this baseline_events was trained for 'steady'"):
        events.sample("solar_min_2009", 0, 10, SEED)
    with pytest.raises(CrabError, match="start_sample = -1"):
        events.sample("steady", -1, 10, SEED)
