"""TES against the small-signal theory of Irwin & Hilton (2005) and against its own equations."""

import numpy as np
import pytest

from crab import params
from crab.errors import CrabError
from crab.physics import pulses, tes
from crab.physics.wafer import EV_TO_J


@pytest.fixture(scope="module")
def settings():
    return params.load().missions["litebird_lft"].sensor


@pytest.fixture(scope="module")
def point(settings):
    return tes.operating_point(settings, 0.1)


@pytest.fixture(scope="module")
def table(point):
    return pulses.pulse_table(point, 1e5)


def test_operating_point_of_the_litebird_candidate(point):
    """Public LiteBIRD TES candidate (T_c 171 mK, P_sat 1.25 pW, P_opt 0.5 pW, alpha 100,
    tau_0 33 ms): G = 33 pW/K, C = 1.09 pJ/K, loop gain 13, tau_eff 2.3 ms, 6.6 pW per kelvin of
    the bath; a published simulation rests at 0.781 pW."""
    assert point.conductance_w_per_k == pytest.approx(33e-12, rel=0.02)
    assert point.heat_capacity_j_per_k == pytest.approx(1.09e-12, rel=0.02)
    assert point.stiff_loop_gain == pytest.approx(13, rel=0.05)
    assert point.time_constant_s == pytest.approx(2.3e-3, rel=0.05)
    assert point.bath_coupling_w_per_k == pytest.approx(6.6e-12, rel=0.01)
    assert point.joule_power_w == pytest.approx(0.781e-12, rel=0.03)


def test_operating_point_is_at_rest_and_has_the_given_slope(settings, point):
    """Power in = power out, I R = V - I R_L, and (T/R) dR/dT = alpha."""
    heat = point.joule_power_w + point.optical_power_w
    assert point.heat_flow_w(point.temperature_k) == pytest.approx(heat, rel=1e-12)
    assert point.resistance_at(point.temperature_k) == pytest.approx(point.resistance_ohm)
    step = 1e-8
    rise = point.resistance_at(point.temperature_k + step) - point.resistance_at(
        point.temperature_k - step
    )
    slope = rise / (2 * step) * point.temperature_k / point.resistance_ohm
    assert slope == pytest.approx(settings.alpha, rel=1e-6)


def test_time_constant_tends_to_the_textbook_limit(settings):
    """Stiff bias without inductance: tau_0/(1 + loop gain) (Irwin & Hilton, Eq. 37, beta 0)."""
    stiff = settings.model_copy(update={"shunt_resistance_ohm": 1e-6, "inductance_h": 1e-12})
    point = tes.operating_point(stiff, 0.1)
    limit = stiff.natural_time_constant_s / (1 + point.stiff_loop_gain)
    assert point.time_constant_s == pytest.approx(limit, rel=1e-4)
    assert point.loop_gain == pytest.approx(point.stiff_loop_gain, rel=1e-4)


def test_small_pulse_of_the_equations_is_the_analytic_one(point):
    """Check 8: decay time within 5 % and energy within 2 % of the small-signal theory: the pulse
    takes loop_gain/(1 + loop_gain) of the deposit from the Joule power."""
    time_s = np.arange(0.0, 0.05, 2e-5)
    power_w, energy_j = pulses.nonlinear_pulse(point, 50.0, time_s)
    late = (time_s > 1e-3) & (time_s < 8e-3)
    decay_s = -1 / np.polyfit(time_s[late], np.log(-power_w[late]), 1)[0]
    assert decay_s == pytest.approx(point.time_constant_s, rel=0.05)
    taken = point.loop_gain / (1 + point.loop_gain)
    assert -np.trapezoid(power_w, time_s) / (50.0 * EV_TO_J) == pytest.approx(taken, rel=0.02)
    assert energy_j[-1] / (50.0 * EV_TO_J) == pytest.approx(point.joule_gain, rel=0.02)
    linear_w = tes.linear_pulse_w(point, 50.0, time_s)
    np.testing.assert_allclose(power_w, linear_w, atol=0.01 * np.abs(linear_w).max())


def test_linear_pulse_has_the_analytic_integral(point):
    time_s = np.arange(0.0, 0.06, 2e-6)
    integral = np.trapezoid(tes.linear_pulse_w(point, 1e3, time_s), time_s)
    assert integral == pytest.approx(point.joule_gain * 1e3 * EV_TO_J, rel=1e-3)


def test_large_pulses_saturate(point):
    """Above R_n the Joule power can fall no further: V^2/R_n is left under stiff bias, so the
    pulse stays above -P_J, grows longer instead of deeper, and takes less per deposit."""
    time_s = np.arange(0.0, 0.4, 5e-5)
    solved = {e: pulses.nonlinear_pulse(point, e, time_s)[0] for e in (1e3, 1e4, 1e6)}
    widths = [(p < 0.5 * p.min()).sum() for p in solved.values()]
    taken = [-np.trapezoid(p, time_s) / e for e, p in solved.items()]
    assert widths[0] < widths[1] < widths[2]
    assert taken[0] > taken[1] > taken[2]
    normal = point.bias_v / (point.normal_resistance_ohm + point.shunt_resistance_ohm)
    floor = normal**2 * point.normal_resistance_ohm - point.joule_power_w
    for power in solved.values():
        assert floor * 1.001 < power.min() < 0
    assert solved[1e6].min() == pytest.approx(floor, rel=0.02)
    assert tes.linear_pulse_w(point, 1e6, time_s).min() < -point.joule_power_w


def test_linear_and_nonlinear_part_at_kilo_electronvolts(point):
    """A minimum ionising particle leaves 2.2 keV in 1 um of gold: not a small signal any more."""
    time_s = np.arange(0.0, 0.1, 1e-4)
    for energy_ev, low, high in ((10.0, 0.99, 1.01), (2.2e3, 0.6, 0.9), (2.2e4, 0.05, 0.3)):
        deep = pulses.nonlinear_pulse(point, energy_ev, time_s)[0].min()
        assert low < deep / tes.linear_pulse_w(point, energy_ev, time_s).min() < high


@pytest.mark.parametrize("energy_ev", [37.0, 2.2e3, 8e4])
def test_interpolated_pulse_is_the_equations_pulse(point, table, energy_ev):
    """Sample means from the table against the running integral of the equations, within 1 % of
    the deepest sample, at an arrival inside a sample."""
    sample_s = 1 / 156.25
    arrival_s = 3.3 * sample_s
    got = table.interval_means_w(energy_ev, arrival_s, 0, 60, sample_s)
    edges_s = np.arange(61) * sample_s - arrival_s
    after = edges_s > 0
    released = np.zeros(61)
    times_s = np.concatenate([[0.0], edges_s[after]])
    released[after] = pulses.nonlinear_pulse(point, energy_ev, times_s)[1][1:]
    expected = np.diff(released) / sample_s
    assert np.abs(got - expected).max() < 0.01 * np.abs(expected).max()
    assert np.all(got[:3] == 0)


def test_linear_table_is_the_linear_pulse(point):
    """Means over intervals add up to the analytic energy for any deposit."""
    linear = pulses.pulse_table(point, 1e7, linear=True)
    for energy_ev in (0.3, 1e3, 1e7):
        means = linear.interval_means_w(energy_ev, 0.0021, 0, 100, 1 / 156.25)
        total = means.sum() / 156.25
        assert total == pytest.approx(point.joule_gain * energy_ev * EV_TO_J, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"critical_temperature_k": 0.09}, "critical_temperature_k = 0.09"),
        ({"optical_power_w": 2e-12}, "optical_power_w = 2e-12"),
        ({"shunt_resistance_ohm": 0.8}, "shunt_resistance_ohm = 0.8"),
        ({"inductance_h": 1e-3}, "inductance_h = 0.001"),
    ],
)
def test_impossible_bias_is_named(settings, change, word):
    with pytest.raises(CrabError, match=word):
        tes.operating_point(settings.model_copy(update=change), 0.1)


def test_deposit_above_the_table(table):
    with pytest.raises(CrabError, match="table ends at"):
        table.interval_means_w(1e6, 0.0, 0, 10, 1 / 156.25)


def test_piled_up_pulses_against_small_steps(point):
    """Three deposits within one recovery: the equations of Irwin & Hilton (2005, Eqs. 1-2)
    integrated by a fourth-order Runge-Kutta scheme in steps of 1 us, within 1e-4 of the deepest
    sample."""
    energy_ev, hit_s = np.array([3e4, 2e3, 5e3]), np.array([0.0, 0.004, 0.0100])
    p = point

    def slope(temperature_k, current_a):
        resistance = p.resistance_at(temperature_k)
        heat = current_a**2 * resistance + p.optical_power_w - p.heat_flow_w(temperature_k)
        drive = p.bias_v - current_a * (p.shunt_resistance_ohm + resistance)
        return np.array([heat / p.heat_capacity_j_per_k, drive / p.inductance_h])

    step_s, state = 1e-6, np.array([p.temperature_k, p.current_a])
    n, every = 60_000, 1000
    fine = np.empty(n // every)
    arrivals = dict(zip(np.round(hit_s / step_s).astype(int), energy_ev, strict=True))
    for k in range(n):
        state[0] += arrivals.get(k, 0.0) * EV_TO_J / p.heat_capacity_j_per_k
        if k % every == 0:
            fine[k // every] = state[1] * (p.bias_v - state[1] * p.shunt_resistance_ohm)
        a = slope(*state)
        b = slope(*(state + step_s / 2 * a))
        c = slope(*(state + step_s / 2 * b))
        state = state + step_s / 6 * (a + 2 * b + 2 * c + slope(*(state + step_s * c)))
    time_s = np.arange(n // every) * every * step_s
    power_w, _ = pulses.nonlinear_train(p, energy_ev, hit_s, time_s)
    assert np.abs(power_w - (fine - p.joule_power_w)).max() < 1e-4 * np.abs(power_w).max()


def test_pile_up_only_where_pulses_meet(point, table):
    """Far apart, hits add up. Close together and large, the TES can give up no more than a TES
    driven normal, P_J - (V/(R_n + R_L))^2 R_n, though the sum of the two pulses asks for more."""
    sample_s, deposit_ev = 1 / 156.25, np.array([8e4, 8e4])
    one = [
        pulses.train_means_w(table, deposit_ev[:1], np.array([t]), 250, sample_s)
        for t in (0.010, 0.8, 0.015)
    ]
    apart = pulses.train_means_w(table, deposit_ev, np.array([0.010, 0.8]), 250, sample_s)
    np.testing.assert_allclose(apart, one[0] + one[1], atol=1e-25)
    close = pulses.train_means_w(table, deposit_ev, np.array([0.010, 0.015]), 250, sample_s)
    normal_a = point.bias_v / (point.normal_resistance_ohm + point.shunt_resistance_ohm)
    floor_w = normal_a**2 * point.normal_resistance_ohm - point.joule_power_w
    assert floor_w * 1.001 < close.min() < 0.9 * floor_w
    assert (one[0] + one[2]).min() < 1.8 * floor_w
    # More energy in one pulse: it lasts longer, and takes more than one alone.
    assert close.sum() < one[0].sum()


def test_train_of_one_is_the_table(point, table):
    """A lone hit from the table against the equations, solved at the sample edges: within 1 %."""
    sample_s = 1 / 156.25
    got = pulses.train_means_w(table, np.array([2e3]), np.array([0.02]), 80, sample_s)
    edges_s = np.arange(81) * sample_s
    after = edges_s > 0.02
    times_s = np.append(0.02, edges_s[after])
    released = np.zeros(81)
    released[after] = pulses.nonlinear_train(point, [2e3], [0.02], times_s)[1][1:]
    expected = np.diff(released) / sample_s
    assert np.abs(got - expected).max() < 0.01 * np.abs(expected).max()
