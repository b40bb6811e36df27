"""Wafer heat against closed forms: Debye, single exponential, images, conservation."""

import numpy as np
import pytest

from crab import params
from crab.physics import instrument, wafer


@pytest.fixture(scope="module")
def mission():
    return params.load().missions["litebird_lft"]


def build(mission, **changes):
    return wafer.build(mission.geometry, mission.wafer_thermal.model_copy(update=changes))


def test_debye_heat_capacity_of_silicon():
    """6.0e-4 J m^-3 K^-1 at 0.1 K: 12 pi^4/5 n k (T/645 K)^3 with n = 5.0e28 per m^3."""
    assert wafer.heat_capacity_j_per_m3_k(0.1, 645.0) == pytest.approx(6.0e-4, rel=0.01)
    ratio = wafer.heat_capacity_j_per_m3_k(0.2, 645.0) / wafer.heat_capacity_j_per_m3_k(0.1, 645.0)
    assert ratio == pytest.approx(8.0)


def test_minimum_ionising_particle_warms_the_wafer(mission):
    """A MIP (290 keV/mm: 1.66 MeV cm2/g in silicon, PDG) warms 10 x 10 cm by 7.7 uK, whatever
    the thickness."""
    plate = build(mission)
    energy_j = 290e3 * mission.geometry.wafer_thickness_mm * wafer.EV_TO_J
    assert energy_j / plate.heat_capacity_j_per_k == pytest.approx(7.7e-6, rel=0.02)


def test_uniform_mode_decays_with_c_over_g(mission):
    """One mode alone is T = E/C exp(-t G/C) everywhere (lumped capacity)."""
    plate = build(mission, modes_per_axis=1)
    tau_s = plate.heat_capacity_j_per_k / mission.wafer_thermal.bath_conductance_w_per_k
    time_s = np.linspace(0, 3 * tau_s, 7)
    got = wafer.impulse_response_k(plate, 1e5, (3.0, -20.0), [0.0, 40.0], [0.0, -40.0], time_s)
    expected = 1e5 * wafer.EV_TO_J / plate.heat_capacity_j_per_k * np.exp(-time_s / tau_s)
    np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), rtol=1e-12)


@pytest.mark.parametrize("image", range(8))
def test_images_of_an_event(mission, image):
    """Jumps of a mirrored or turned event are those of deposits at the mirrored places, and the
    eight images are the eight symmetries of a square."""
    plate = build(mission)
    rng = np.random.default_rng(2)
    x_mm, y_mm = rng.uniform(-50, 50, (2, 6))
    group = np.array([0, 0, 0, 1, 1, 1])
    deposits = {"deposit_ev": rng.uniform(1e4, 1e6, 6)}
    kicks = wafer.kicks_k(plate, group, 2, {**deposits, "x_mm": x_mm, "y_mm": y_mm})
    x2_mm, y2_mm = wafer.mirror(x_mm, y_mm, np.full(6, image))
    moved = wafer.kicks_k(plate, group, 2, {**deposits, "x_mm": x2_mm, "y_mm": y2_mm})
    got = wafer.image_jumps(kicks, np.full(2, image))
    np.testing.assert_allclose(got, moved, rtol=0, atol=1e-6 * np.abs(kicks).max())
    corners = [wafer.mirror(np.array([2.0]), np.array([1.0]), np.array([k])) for k in range(8)]
    assert len({(float(x[0]), float(y[0])) for x, y in corners}) == 8


@pytest.mark.parametrize("source_mm", [(0.0, 0.0), (-45.0, 38.0)])
def test_heat_kernel_against_images(mission, source_mm):
    """Short times: sum over mirror images of the free heat kernel exp(-r^2/4Dt)/(4 pi D t)
    (Carslaw & Jaeger, section 10.10), which reflects at the edges."""
    plate = build(mission, modes_per_axis=40)
    diffusivity = mission.wafer_thermal.diffusivity_m2_per_s
    side_m = plate.side_mm * 1e-3
    time_s = np.array([0.02, 0.1]) * (0.05**2 / diffusivity)
    x_mm, y_mm = np.array([0.0, 10.0, -47.0, 49.0]), np.array([5.0, -30.0, 45.0, 49.0])
    got = wafer.impulse_response_k(plate, 1e5, source_mm, x_mm, y_mm, time_s)

    def line(u_mm, u0_mm):
        u_m, u0_m = u_mm * 1e-3 + side_m / 2, u0_mm * 1e-3 + side_m / 2
        images = [s * u0_m + 2 * n * side_m for n in range(-3, 4) for s in (1, -1)]
        spread = 4 * diffusivity * time_s
        squares = [(u_m[:, None] - image) ** 2 / spread for image in images]
        return sum(np.exp(-square) for square in squares) / np.sqrt(np.pi * spread)

    per_area = plate.heat_capacity_j_per_k / side_m**2
    kernel = line(x_mm, source_mm[0]) * line(y_mm, source_mm[1])
    expected = 1e5 * wafer.EV_TO_J / per_area * kernel * np.exp(-plate.bath_rate_hz * time_s)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9 * expected.max())


def test_deposited_energy_all_reaches_the_bath(mission):
    """G times the time integral of the plate's mean temperature is the deposited energy, and at
    every moment the plate holds E exp(-t G/C): diffusion only moves heat."""
    plate = build(mission)
    edges = (np.arange(200) + 0.5) / 200 * plate.side_mm - plate.side_mm / 2
    x_mm, y_mm = (g.ravel() for g in np.meshgrid(edges, edges))
    time_s = np.array([0.0, 0.01, 0.3])
    field = wafer.impulse_response_k(plate, 2e5, (31.0, -12.0), x_mm, y_mm, time_s)
    held_ev = field.mean(axis=0) * plate.heat_capacity_j_per_k / wafer.EV_TO_J
    np.testing.assert_allclose(held_ev, 2e5 * np.exp(-plate.bath_rate_hz * time_s), rtol=1e-9)

    kick = wafer.kicks_k(plate, np.zeros(1, int), 1, deposit(31.0, -12.0, 2e5))
    n, sample_s = 4000, 1 / 156.25
    means, _ = wafer.decay_means(plate.rate_hz, np.array([0.0123]), kick, n, sample_s)
    conductance = mission.wafer_thermal.bath_conductance_w_per_k
    into_bath_ev = conductance * means[0].sum() * sample_s / wafer.EV_TO_J
    assert into_bath_ev == pytest.approx(2e5, rel=1e-6)


def deposit(x_mm, y_mm, deposit_ev):
    columns = {"x_mm": x_mm, "y_mm": y_mm, "deposit_ev": deposit_ev}
    return {name: np.atleast_1d(value).astype(float) for name, value in columns.items()}


def test_cells_of_an_event_add_up(mission):
    """Three cells in two events against the sum of single impulse responses."""
    plate = build(mission)
    cells = deposit([1.0, 3.0, -40.0], [2.0, 4.0, 11.0], [1e5, 5e4, 7e4])
    kicks = wafer.kicks_k(plate, np.array([0, 0, 1]), 2, cells)
    at = plate.shapes([20.0], [-5.0])
    for event, members in enumerate([(0, 1), (2,)]):
        expected = sum(
            wafer.impulse_response_k(
                plate,
                cells["deposit_ev"][i],
                (cells["x_mm"][i], cells["y_mm"][i]),
                [20.0],
                [-5.0],
                [0.07],
            )[0, 0]
            for i in members
        )
        got = at @ (kicks[event] * np.exp(-plate.rate_hz * 0.07))
        assert got[0] == pytest.approx(expected, rel=1e-5)


def covariance(mission, modes):
    """Covariance of the wafer signal of the default detectors, sampled at 156.25 Hz, for equal
    deposits all over the plate: sum over modes of u_k(x) u_k(x') times the power of a mode, which
    the TES (2.25 ms) and the sample filter."""
    plate = build(mission, modes_per_axis=modes)
    table = instrument.detectors(mission)
    at = plate.shapes(table.x_mm.values, table.y_mm.values)
    f_hz = (np.arange(4000) + 0.5) / 4000 * 1000.0
    omega = 2 * np.pi * f_hz
    filters = np.sinc(f_hz / 156.25) ** 2 / (1 + (omega * 2.25e-3) ** 2)
    power = (filters / (plate.rate_hz[:, None] ** 2 + omega**2)).sum(axis=1)
    pixel = table.pixel.values
    return (at * power) @ at.T, pixel[:, None] == pixel


def test_mode_sum_has_converged(mission):
    """Variances with the default modes against 40 modes per axis: within 1 %; and correlations
    between detectors within 0.004."""
    few, _ = covariance(mission, mission.wafer_thermal.modes_per_axis)
    many, _ = covariance(mission, 40)
    np.testing.assert_allclose(np.diag(few), np.diag(many), rtol=0.01)
    scale = np.sqrt(np.outer(np.diag(few), np.diag(few)))
    scale_many = np.sqrt(np.outer(np.diag(many), np.diag(many)))
    np.testing.assert_allclose(few / scale, many / scale_many, atol=0.004)


def test_correlation_between_detectors(mission):
    """Check 9: a published simulation of 12 LFT detectors in 3 pixels has Pearson's rho of 0.94
    to 0.99 within a pixel and 0.72 to 0.96 between pixels at about 0.3 fW rms; here for 0.35 and
    0.45 fW, with the detectors' own noise of 0.081 fW (12.5 aW/sqrt(Hz) up to 78 Hz, the most of
    it behind 2.25 ms)."""
    matrix, same = covariance(mission, mission.wafer_thermal.modes_per_axis)
    for rms_fw in (0.35, 0.45):
        total = matrix * rms_fw**2 / np.diag(matrix).mean() + 0.081**2 * np.eye(12)
        scale = np.sqrt(np.outer(np.diag(total), np.diag(total)))
        rho = total / scale
        inside = rho[same & ~np.eye(12, dtype=bool)]
        assert 0.93 < inside.min() and 0.94 < inside.mean() < 0.99 and inside.max() < 0.99
        assert 0.72 < rho[~same].min() and rho[~same].max() < 0.96


def test_interval_means_are_exact_and_chunks_join(mission):
    """Against the closed form of each decay, with arrivals anywhere inside the intervals; and the
    same numbers whether computed at once or in pieces."""
    rng = np.random.default_rng(2)
    rate_hz = np.array([4.0, 60.0, 900.0])
    n, sample_s = 1400, 1 / 156.25
    time_s = np.sort(rng.uniform(0, n * sample_s, 900))
    kicks = rng.normal(size=(900, 3))
    means, end = wafer.decay_means(rate_hz, time_s, kicks, n, sample_s)

    edges = np.arange(n + 1) * sample_s
    for k, rate in enumerate(rate_hz):
        since = np.maximum(edges[:, None] - time_s, 0)
        released = (kicks[:, k] * -np.expm1(-rate * since)).sum(axis=1) / rate
        np.testing.assert_allclose(means[k], np.diff(released) / sample_s, atol=1e-9)

    state, pieces = None, []
    for first, last in ((0, 1), (1, 700), (700, 1400)):
        inside = (time_s >= first * sample_s) & (time_s < last * sample_s)
        part, state = wafer.decay_means(
            rate_hz,
            time_s[inside] - first * sample_s,
            kicks[inside],
            last - first,
            sample_s,
            state,
        )
        pieces.append(part)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), means, atol=1e-10)
    np.testing.assert_allclose(state, end, rtol=1e-9)
