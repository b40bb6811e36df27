"""Transition-edge sensor with voltage bias: where it rests, and its small-signal pulse.

    C dT/dt = -K (T^n - T_b^n) + I^2 R(T) + P_opt + E delta(t)
    L dI/dt = V - I R_L - I R(T)

after Irwin & Hilton (2005, in Cryogenic Particle Detection, Eqs. 1-2), with the transition
R(T) = R_n [1/2 + arctan((T - T_c)/w)/pi]. "Joule power" is P_J = I (V - I R_L), what the bias
circuit delivers and the current tells; a deposit lowers it, so hits are negative.
"""

from dataclasses import dataclass

import numpy as np

from crab.errors import CrabError
from crab.params import Tes
from crab.physics.wafer import EV_TO_J


@dataclass(frozen=True)
class OperatingPoint:
    """A biased TES at rest and its small-signal quantities (Irwin & Hilton symbols in words).

    Attributes
    ----------
    temperature_k, bath_temperature_k, critical_temperature_k, transition_width_k : float
        T, T_b, T_c and w.
    exponent, prefactor_w_per_kn : float
        n and K of the heat flow K (T^n - T_b^n).
    resistance_ohm, normal_resistance_ohm, shunt_resistance_ohm : float
        R, R_n and R_L.
    current_a, inductance_h : float
        I and L.
    optical_power_w, joule_power_w : float
        P_opt and P_J = I^2 R.
    conductance_w_per_k, heat_capacity_j_per_k : float
        G = n K T^(n-1) and C = G tau_0.
    bath_coupling_w_per_k : float
        n K T_b^(n-1): power that flows in per degree of the bath (the wafer below the TES).
    stiff_loop_gain : float
        alpha P_J/(G T), the loop gain under ideal voltage bias.
    loop_gain : float
        The same times (R - R_L)/(R + R_L), as the shunt weakens the feedback: the one in use.
    natural_time_constant_s, time_constant_s, electrical_time_constant_s : float
        tau_0 = C/G, the slow and the fast pole of the biased circuit.
    """

    temperature_k: float
    bath_temperature_k: float
    critical_temperature_k: float
    transition_width_k: float
    exponent: float
    prefactor_w_per_kn: float
    resistance_ohm: float
    normal_resistance_ohm: float
    shunt_resistance_ohm: float
    current_a: float
    inductance_h: float
    optical_power_w: float
    joule_power_w: float
    conductance_w_per_k: float
    heat_capacity_j_per_k: float
    bath_coupling_w_per_k: float
    stiff_loop_gain: float
    loop_gain: float
    natural_time_constant_s: float
    time_constant_s: float
    electrical_time_constant_s: float

    @property
    def joule_gain(self) -> float:
        """-loop_gain/(1 + loop_gain): slow change of Joule power per power that flows in."""
        return -self.loop_gain / (1 + self.loop_gain)

    @property
    def bias_v(self) -> float:
        """Thevenin voltage V = I (R + R_L)."""
        return self.current_a * (self.resistance_ohm + self.shunt_resistance_ohm)

    def resistance_at(self, temperature_k):
        """R(T) in ohm."""
        turn = np.arctan((temperature_k - self.critical_temperature_k) / self.transition_width_k)
        return self.normal_resistance_ohm * (0.5 + turn / np.pi)

    def heat_flow_w(self, temperature_k):
        """Power to the bath, K (T^n - T_b^n)."""
        n = self.exponent
        return self.prefactor_w_per_kn * (temperature_k**n - self.bath_temperature_k**n)


def operating_point(tes: Tes, bath_temperature_k: float) -> OperatingPoint:
    """Where the TES rests.

    Parameters
    ----------
    tes : Tes
        ``saturation_power_w`` is K (T_c^n - T_b^n); ``alpha`` and ``operating_fraction`` (R/R_n)
        hold at the operating point and fix the width of the transition.
    bath_temperature_k : float

    Returns
    -------
    OperatingPoint

    Raises
    ------
    CrabError
        If T_c is below the bath, the optical power leaves no Joule power, R is not above the
        shunt, or the bias circuit oscillates.
    """
    n, t_c = tes.thermal_exponent, tes.critical_temperature_k
    if t_c <= bath_temperature_k:
        raise CrabError(
            f"tes.critical_temperature_k = {t_c:g}: allowed are values above "
            f"wafer_thermal.bath_temperature_k = {bath_temperature_k:g}"
        )
    prefactor = tes.saturation_power_w / (t_c**n - bath_temperature_k**n)
    # alpha = (T/R) dR/dT at R = f R_n gives w, and R(T) = f R_n gives T.
    offset = np.tan(np.pi * (tes.operating_fraction - 0.5))  # (T - T_c)/w
    widths = tes.alpha * tes.operating_fraction * np.pi * (1 + offset**2)  # T/w
    temperature = t_c / (1 - offset / widths)
    joule = prefactor * (temperature**n - bath_temperature_k**n) - tes.optical_power_w
    resistance = tes.operating_fraction * tes.normal_resistance_ohm
    shunt = tes.shunt_resistance_ohm
    if joule <= 0:
        raise CrabError(
            f"tes.optical_power_w = {tes.optical_power_w:g}: leaves no Joule power; allowed are "
            f"values below {joule + tes.optical_power_w:.3g} W (set by tes.saturation_power_w)"
        )
    if resistance <= shunt:
        raise CrabError(
            f"tes.shunt_resistance_ohm = {shunt:g}: allowed are values below the TES resistance "
            f"{resistance:g} ohm, else the bias is not stable"
        )
    conductance = n * prefactor * temperature ** (n - 1)
    capacity = conductance * tes.natural_time_constant_s
    stiff = tes.alpha * joule / (conductance * temperature)
    current = np.sqrt(joule / resistance)
    slow, fast = _poles(tes, resistance, stiff)
    return OperatingPoint(
        temperature_k=float(temperature),
        bath_temperature_k=bath_temperature_k,
        critical_temperature_k=t_c,
        transition_width_k=float(temperature / widths),
        exponent=n,
        prefactor_w_per_kn=float(prefactor),
        resistance_ohm=resistance,
        normal_resistance_ohm=tes.normal_resistance_ohm,
        shunt_resistance_ohm=shunt,
        current_a=float(current),
        inductance_h=tes.inductance_h,
        optical_power_w=tes.optical_power_w,
        joule_power_w=float(joule),
        conductance_w_per_k=float(conductance),
        heat_capacity_j_per_k=float(capacity),
        bath_coupling_w_per_k=float(n * prefactor * bath_temperature_k ** (n - 1)),
        stiff_loop_gain=float(stiff),
        loop_gain=float(stiff * (resistance - shunt) / (resistance + shunt)),
        natural_time_constant_s=tes.natural_time_constant_s,
        time_constant_s=slow,
        electrical_time_constant_s=fast,
    )


def _poles(tes: Tes, resistance: float, loop_gain: float) -> tuple[float, float]:
    """Slow and fast time constant: eigenvalues of the linear equations (I & H, Eq. 19, beta 0)."""
    tau_el_s = tes.inductance_h / (tes.shunt_resistance_ohm + resistance)
    matrix = np.array(
        [
            [-1 / tau_el_s, -loop_gain / tes.inductance_h],
            [
                2 * resistance / tes.natural_time_constant_s,
                (loop_gain - 1) / tes.natural_time_constant_s,
            ],
        ]
    )
    poles = np.sort(np.linalg.eigvals(matrix))[::-1]
    if np.iscomplexobj(poles) or poles[0] >= 0:
        raise CrabError(
            f"tes.inductance_h = {tes.inductance_h:g}: the bias circuit rings; with this loop gain "
            f"({loop_gain:.1f}) and resistance allowed are smaller values"
        )
    return float(-1 / poles[0]), float(-1 / poles[1])


def linear_pulse_w(point: OperatingPoint, energy_ev: float, time_s: np.ndarray) -> np.ndarray:
    """Small-signal pulse of Joule power after a deposit at time 0 (Irwin & Hilton, Eq. 23).

    Parameters
    ----------
    point : OperatingPoint
    energy_ev : float
    time_s : ndarray
        Time since the deposit, >= 0.

    Returns
    -------
    ndarray
        In W, negative; its integral is ``point.joule_gain`` times the energy.
    """
    slow, fast = point.time_constant_s, point.electrical_time_constant_s
    shape = (np.exp(-time_s / slow) - np.exp(-time_s / fast)) / (slow - fast)
    return point.joule_gain * energy_ev * EV_TO_J * shape
