"""Pulses of a transition-edge sensor from its full equations: any size, also piled up.

The equations are those of `crab.physics.tes`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy.integrate import solve_ivp

from crab.errors import CrabError
from crab.physics.tes import OperatingPoint
from crab.physics.wafer import EV_TO_J

_LENGTH_S = 0.5  # at least: with some milliseconds of time constant all is over after 0.2 s


def nonlinear_pulse(
    point: OperatingPoint, energy_ev: float, time_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pulse from the full equations, for a deposit of any size.

    Parameters
    ----------
    point : OperatingPoint
    energy_ev : float
        Deposited energy; warms the TES by E/C at once.
    time_s : ndarray
        Increasing times since the deposit, the first one 0.

    Returns
    -------
    power_w : ndarray
        Change of Joule power in W; never below -P_J.
    energy_j : ndarray
        Its running time integral in J.
    """
    return nonlinear_train(point, [energy_ev], [0.0], time_s)


def nonlinear_train(
    point: OperatingPoint, energy_ev, hit_s, time_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Answer of the full equations to several deposits: pile-up, saturation and recovery.

    Parameters
    ----------
    point : OperatingPoint
    energy_ev : array_like, shape (n,)
        Deposited energies; each warms the TES by E/C at once.
    hit_s : array_like, shape (n,)
        When they come, increasing.
    time_s : ndarray, shape (n_time,)
        Increasing times, the first one not before the first deposit.

    Returns
    -------
    power_w, energy_j : ndarray, shape (n_time,)
        Change of Joule power and its running time integral from the first deposit on.
    """
    energy_j = np.asarray(energy_ev, dtype=float) * EV_TO_J
    warmed = energy_j / (point.heat_capacity_j_per_k * point.temperature_k)
    total_j = energy_j.sum()
    rest_power = point.joule_power_w
    shunt = point.shunt_resistance_ohm

    # Unknowns: relative changes of current and temperature, fraction of the energy. All terms are
    # written as differences from rest, else rounding swamps a 1 eV pulse, 1e-7 of the power.
    rest_turn = (point.temperature_k - point.critical_temperature_k) / point.transition_width_k
    steepness = point.temperature_k / point.transition_width_k
    rest_flow = point.prefactor_w_per_kn * point.temperature_k**point.exponent
    circuit = point.resistance_ohm + shunt

    def slopes(_, state):
        current, warmer = state[0], max(state[1], -0.5)
        turn = rest_turn + steepness * warmer
        opened = point.normal_resistance_ohm / math.pi
        opened *= math.atan2(steepness * warmer, 1 + rest_turn * turn)
        joule = current * (2 + current) * (point.resistance_ohm + opened) + opened
        heat = rest_power * joule / point.resistance_ohm
        heat -= rest_flow * math.expm1(point.exponent * math.log1p(warmer))
        return [
            -(current * (circuit + opened) + opened) / point.inductance_h,
            heat / (point.heat_capacity_j_per_k * point.temperature_k),
            change_of_power(current) / total_j,
        ]

    def change_of_power(current):
        driven = point.resistance_ohm - shunt - current * shunt
        return rest_power / point.resistance_ohm * current * driven

    scale = min(1.0, warmed.min())
    state = np.zeros(3)
    power_w, taken = np.empty(len(time_s)), np.empty(len(time_s))
    stops = np.append(hit_s[1:], max(time_s[-1], hit_s[-1]))
    for k, (start, stop, jump) in enumerate(zip(hit_s, stops, warmed, strict=True)):
        state[1] += jump
        last = k == len(warmed) - 1
        own = (time_s >= start) & ((time_s < stop) | last)
        answer = solve_ivp(
            slopes,
            (start, stop),
            state,
            method="LSODA",
            t_eval=np.append(time_s[own], [] if last else [stop]),
            rtol=1e-7,
            atol=1e-7 * scale * np.array([1.0, 1.0, 0.0]) + [0, 0, 1e-7],
        )
        if not answer.success:
            raise CrabError(
                f"TES equations not solved for energy_ev = {energy_ev[k]:g}: {answer.message}"
            )
        n_own = own.sum()
        power_w[own] = change_of_power(answer.y[0, :n_own])
        taken[own] = answer.y[2, :n_own]
        state = answer.y[:, -1].copy()
    return power_w, taken * total_j


@dataclass(frozen=True)
class PulseTable:
    """Running integrals of pulses, to be looked up by deposit and time.

    Attributes
    ----------
    energy_ev : ndarray, shape (n_energy,)
        Logarithmic grid.
    time_s : ndarray, shape (n_time,)
        From 0 to the end of the slowest pulse.
    response : ndarray, shape (n_energy, n_time)
        Integral of the change of Joule power up to a time, per deposited energy: dimensionless,
        from 0 to -loop_gain/(1 + loop_gain) for small deposits.
    point : OperatingPoint or None
        Where the equations are solved again for deposits that pile up; None if all is linear.
    """

    energy_ev: np.ndarray
    time_s: np.ndarray
    response: np.ndarray
    point: OperatingPoint | None

    def length_s(self, energy_ev: np.ndarray) -> np.ndarray:
        """Time after which less than 0.1 % of a pulse's integral is to come."""
        done = self.response / self.response[:, -1:] > 1 - 1e-3
        return np.interp(energy_ev, self.energy_ev, self.time_s[done.argmax(axis=1)])

    def interval_means_w(
        self, energy_ev: float, time_s: float, first: int, n_samples: int, sample_s: float
    ) -> np.ndarray:
        """Mean change of Joule power over consecutive intervals.

        Parameters
        ----------
        energy_ev : float
            Deposit; below the grid the response is linear, above it an error.
        time_s : float
            When it came.
        first : int
            Index of the first interval: intervals are [i sample_s, (i + 1) sample_s).
        n_samples : int
        sample_s : float

        Returns
        -------
        ndarray, shape (n_samples,)

        Raises
        ------
        CrabError
            For a deposit above the table.
        """
        if energy_ev > self.energy_ev[-1] * (1 + 1e-6):
            raise CrabError(
                f"deposit_ev = {energy_ev:g}: the pulse table ends at {self.energy_ev[-1]:g} eV"
            )
        place = np.interp(np.log(energy_ev), np.log(self.energy_ev), range(len(self.energy_ev)))
        row = min(int(place), len(self.energy_ev) - 2)
        part = place - row
        response = (1 - part) * self.response[row] + part * self.response[row + 1]
        edges = (first + np.arange(n_samples + 1)) * sample_s - time_s
        return np.diff(np.interp(edges, self.time_s, response)) * energy_ev * EV_TO_J / sample_s


def pulse_table(
    point: OperatingPoint, energy_max_ev: float, linear: bool = False, per_decade: int = 20
) -> PulseTable:
    """Tabulate pulses of direct hits.

    Parameters
    ----------
    point : OperatingPoint
    energy_max_ev : float
        Largest deposit that will be asked for; the table ends at the power of ten above it.
    linear : bool
        Use the small-signal pulse for every deposit.
    per_decade : int
        Energies per decade; 20 keep the interpolated pulses within 1 % of the equations.

    Returns
    -------
    PulseTable
    """
    # At the lower end, 10 eV, a pulse is linear to 0.1 %.
    decades = max(1, math.ceil(math.log10(max(energy_max_ev, 1.0))) - 1)
    return _pulse_table(point, decades, linear, per_decade)


@lru_cache(maxsize=8)
def _pulse_table(point: OperatingPoint, decades: int, linear: bool, per_decade: int) -> PulseTable:
    fast = np.arange(0.0, 0.1, 1e-4)
    length_s = max(_LENGTH_S, 25 * point.time_constant_s + 0.3)
    time_s = np.concatenate([fast, np.geomspace(0.1, length_s, 400)])
    n_energies = per_decade * decades + 1
    energy_ev = np.logspace(1, 1 + decades, n_energies)
    if linear:
        slow, tail = point.time_constant_s, point.electrical_time_constant_s
        rise = slow * -np.expm1(-time_s / slow) - tail * -np.expm1(-time_s / tail)
        response = np.tile(point.joule_gain * rise / (slow - tail), (n_energies, 1))
    else:
        response = np.stack(
            [nonlinear_pulse(point, e, time_s)[1] / (e * EV_TO_J) for e in energy_ev]
        )
    return PulseTable(energy_ev, time_s, response, None if linear else point)


def train_means_w(
    table: PulseTable, deposit_ev: np.ndarray, hit_s: np.ndarray, n_samples: int, sample_s: float
) -> np.ndarray:
    """Mean change of Joule power over consecutive intervals after hits on one TES.

    Lone hits are looked up; hits that come before the TES has recovered from the last one pile up,
    and there the equations are solved for all of them together.

    Parameters
    ----------
    table : PulseTable
    deposit_ev, hit_s : ndarray, shape (n_hits,)
        Deposits and their sorted times, in [0, n_samples * sample_s).
    n_samples : int
    sample_s : float

    Returns
    -------
    ndarray, shape (n_samples,)
    """
    out = np.zeros(n_samples)
    if len(hit_s) == 0:
        return out
    over_s = np.maximum.accumulate(hit_s + table.length_s(deposit_ev))
    fresh = np.append(True, hit_s[1:] > over_s[:-1]) | (table.point is None)
    starts = np.append(np.flatnonzero(fresh), len(hit_s))
    for low, high in pairwise(starts):
        first = int(hit_s[low] / sample_s)
        length = int((hit_s[high - 1] - hit_s[low] + table.time_s[-1]) / sample_s) + 2
        last = min(first + length, n_samples)
        if high - low == 1:
            out[first:last] += table.interval_means_w(
                deposit_ev[low], hit_s[low], first, last - first, sample_s
            )
            continue
        edges_s = (first + np.arange(last - first + 1)) * sample_s
        _, energy_j = nonlinear_train(
            table.point,
            deposit_ev[low:high],
            hit_s[low:high],
            np.maximum(edges_s, hit_s[low]),
        )
        out[first:last] += np.diff(energy_j) / sample_s
    return out
