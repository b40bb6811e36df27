"""Heat in the silicon wafer: eigenmodes of a plate with insulated edges and a link to the bath.

A deposit E at x' warms the plate by T(x, t) = (E/C) sum_k u_k(x) u_k(x') exp(-r_k t), with the
cosine modes u_k of the Neumann box and r_k = G/C + D |k|^2 (Carslaw & Jaeger, Conduction of Heat
in Solids, section 14.3). Phonons at 0.1 K are partly ballistic and reflect at the edges
(arXiv:2101.03318), so D is an effective in-plane diffusivity and the edges are insulating. The
mode amplitudes decay exponentially between deposits, which makes the time stepping exact.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy import constants, units
from scipy.signal import lfilter
from scipy.sparse import csr_array

from crab.params import Geometry, WaferThermal

SILICON_ATOMS_PER_M3 = 2329.0 / (28.0855 * constants.u.value)  # density / atomic mass
EV_TO_J = units.eV.to(units.J)
RUN_UP_DECAYS = 25  # e-foldings after which nothing is left of a pulse
_BLOCK = 512  # intervals at a time: keeps the exponentials in the processor's cache


def heat_capacity_j_per_m3_k(temperature_k: float, debye_temperature_k: float) -> float:
    """Lattice heat capacity of silicon per volume, in the low-temperature limit of Debye.

    Parameters
    ----------
    temperature_k, debye_temperature_k : float
        Temperature (far below the Debye temperature) and Debye temperature in K.

    Returns
    -------
    float
        12 pi^4/5 n k (T/Theta)^3 in J m^-3 K^-1 (Ashcroft & Mermin, Eq. 23.27).
    """
    per_atom = 12 * np.pi**4 / 5 * constants.k_B.value
    return SILICON_ATOMS_PER_M3 * per_atom * (temperature_k / debye_temperature_k) ** 3


@dataclass(frozen=True)
class Wafer:
    """Thermal model of one wafer.

    Attributes
    ----------
    side_mm : float
        Side of the square plate; its centre is the origin.
    heat_capacity_j_per_k : float
        Of the whole plate.
    bath_rate_hz : float
        G/C, the decay rate of the uniform mode in 1/s.
    wavenumber_per_m : ndarray, shape (n_modes, 2)
        k along x and y; the uniform mode is first.
    rate_hz : ndarray, shape (n_modes,)
        Decay rates r_k in 1/s.
    """

    side_mm: float
    heat_capacity_j_per_k: float
    bath_rate_hz: float
    wavenumber_per_m: np.ndarray
    rate_hz: np.ndarray

    def shapes(self, x_mm: np.ndarray, y_mm: np.ndarray) -> np.ndarray:
        """Mode functions u_k at points, normalised to a mean square of 1 over the plate.

        Parameters
        ----------
        x_mm, y_mm : array_like, shape (n,)
            Positions from the centre of the wafer.

        Returns
        -------
        ndarray, shape (n, n_modes)
        """
        # Waves are tabulated by axis: a mode is a product of two of them.
        axis = np.unique(self.wavenumber_per_m[:, 0])
        scale = np.where(axis == 0, 1.0, np.sqrt(2.0))
        x_m = (np.atleast_1d(x_mm) + self.side_mm / 2) * 1e-3
        y_m = (np.atleast_1d(y_mm) + self.side_mm / 2) * 1e-3
        along_x = scale * np.cos(np.outer(x_m, axis))
        along_y = scale * np.cos(np.outer(y_m, axis))
        return (along_x[:, :, None] * along_y[:, None, :]).reshape(len(x_m), -1)


def build(geometry: Geometry, thermal: WaferThermal) -> Wafer:
    """Thermal model of a wafer from its parameters."""
    volume_m3 = geometry.wafer_side_mm**2 * geometry.wafer_thickness_mm * 1e-9
    capacity = volume_m3 * heat_capacity_j_per_m3_k(
        thermal.bath_temperature_k, thermal.debye_temperature_k
    )
    axis = np.pi * np.arange(thermal.modes_per_axis) / (geometry.wafer_side_mm * 1e-3)
    wavenumber = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    bath_rate_hz = thermal.bath_conductance_w_per_k / capacity
    return Wafer(
        side_mm=geometry.wafer_side_mm,
        heat_capacity_j_per_k=capacity,
        bath_rate_hz=bath_rate_hz,
        wavenumber_per_m=wavenumber,
        rate_hz=bath_rate_hz + thermal.diffusivity_m2_per_s * (wavenumber**2).sum(axis=1),
    )


def impulse_response_k(
    wafer: Wafer, energy_ev: float, source_mm: tuple, x_mm, y_mm, time_s
) -> np.ndarray:
    """Temperature rise after one deposit.

    Parameters
    ----------
    wafer : Wafer
    energy_ev : float
        Deposited energy.
    source_mm : (float, float)
        Where it was deposited.
    x_mm, y_mm : array_like, shape (n,)
        Where the temperature is wanted.
    time_s : array_like, shape (n_time,)
        Time since the deposit, >= 0.

    Returns
    -------
    ndarray, shape (n, n_time)
        In K.
    """
    kick_k = energy_ev * EV_TO_J / wafer.heat_capacity_j_per_k
    weight = wafer.shapes(x_mm, y_mm) * wafer.shapes(*source_mm)
    return kick_k * weight @ np.exp(-np.outer(wafer.rate_hz, np.atleast_1d(time_s)))


def kicks_k(wafer: Wafer, group: np.ndarray, n_groups: int, deposits: dict) -> np.ndarray:
    """Jump of every mode amplitude caused by each event.

    Parameters
    ----------
    wafer : Wafer
    group : ndarray of int, shape (n_deposits,)
        Event that each deposit belongs to, sorted.
    n_groups : int
        Number of events.
    deposits : dict
        Arrays ``x_mm``, ``y_mm``, ``deposit_ev`` of shape (n_deposits,).

    Returns
    -------
    ndarray of float32, shape (n_groups, n_modes)
        (1/C) sum over the event's deposits of E u_k(x), in K.
    """
    out = np.empty((n_groups, len(wafer.rate_hz)), dtype=np.float32)
    scale = EV_TO_J / wafer.heat_capacity_j_per_k
    step = 50_000  # events at a time: bounds the memory of large libraries
    for first in range(0, n_groups, step):
        last = min(first + step, n_groups)
        rows = slice(*np.searchsorted(group, [first, last]))
        starts = np.searchsorted(group[rows], np.arange(first, last + 1))
        energy = scale * np.asarray(deposits["deposit_ev"][rows], dtype=float)
        events = csr_array(
            (energy, np.arange(len(energy)), starts), shape=(last - first, len(energy))
        )
        out[first:last] = events @ wafer.shapes(deposits["x_mm"][rows], deposits["y_mm"][rows])
    return out


def image_jumps(kicks: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Jumps of the mode amplitudes when an event is mirrored or turned on a square wafer.

    Parameters
    ----------
    kicks : ndarray, shape (n, n_modes)
        Of `kicks_k`.
    image : ndarray of int, shape (n,)
        Symmetry of the square, 0 to 7; see `mirror`.

    Returns
    -------
    ndarray, shape (n, n_modes)

    Notes
    -----
    A mode with m half waves along an axis keeps its form under a reflection of that axis and takes
    the sign (-1)^m; exchanging the axes exchanges the two wave numbers.
    """
    per_axis = round(kicks.shape[1] ** 0.5)
    grid = kicks.reshape(-1, per_axis, per_axis)
    sign = (-1.0) ** np.arange(per_axis)
    swapped = (image & 4).astype(bool)
    out = np.where(swapped[:, None, None], grid.transpose(0, 2, 1), grid)
    out[(image & 1) == 1] *= sign[:, None]
    out[(image & 2) == 2] *= sign
    return out.reshape(kicks.shape)


def mirror(x_mm: np.ndarray, y_mm: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places after a symmetry of the square: 4 exchanges the axes, then 1 flips x and 2 flips y."""
    swapped = (image & 4).astype(bool)
    x, y = np.where(swapped, y_mm, x_mm), np.where(swapped, x_mm, y_mm)
    return np.where(image & 1, -x, x), np.where(image & 2, -y, y)


def decay_means(
    rate_hz: np.ndarray,
    time_s: np.ndarray,
    kicks: np.ndarray | Callable[[slice], np.ndarray],
    n_samples: int,
    sample_s: float,
    state: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Exact interval means of amplitudes that jump at given times and decay exponentially.

    Parameters
    ----------
    rate_hz : ndarray, shape (n_modes,)
        Decay rates r in 1/s, > 0.
    time_s : ndarray, shape (n_hits,)
        Arrival times, sorted, in [0, n_samples * sample_s).
    kicks : ndarray, shape (n_hits, n_modes), or callable
        Jump of each amplitude at each arrival, or a function that gives them for a slice of hits.
    n_samples : int
        Intervals [i sample_s, (i + 1) sample_s).
    sample_s : float
    state : ndarray, shape (n_modes,), optional
        Amplitudes at time 0; zero by default.

    Returns
    -------
    means : ndarray, shape (n_modes, n_samples)
        Mean amplitude in each interval.
    state : ndarray, shape (n_modes,)
        Amplitudes at the end, to start the next chunk from.

    Notes
    -----
    A jump a at time t leaves a exp(-r (t_end - t)) at the end of its interval; the recursion over
    interval ends is a first-order filter, and da/dt = -r a + jumps, integrated over an interval,
    gives its mean from the two end values: no error of the time step anywhere.
    """
    rate_hz = np.asarray(rate_hz, dtype=float)
    state = np.zeros(len(rate_hz)) if state is None else state
    interval = np.minimum((time_s / sample_s).astype(np.int64), n_samples - 1)
    left_s = (interval + 1) * sample_s - time_s
    starts = np.searchsorted(interval, np.arange(n_samples + 1))
    added = np.empty((len(rate_hz), n_samples))
    surviving = np.empty((len(rate_hz), n_samples))
    for first in range(0, n_samples, _BLOCK):
        block = slice(first, min(first + _BLOCK, n_samples))
        edges = starts[first : block.stop + 1]
        hits = slice(edges[0], edges[-1])
        n_hits = hits.stop - hits.start
        sums = csr_array(
            (np.ones(n_hits), np.arange(n_hits), edges - edges[0]),
            shape=(block.stop - first, n_hits),
        )
        jumps = np.array(kicks(hits) if callable(kicks) else kicks[hits], dtype=float)
        added[:, block] = (sums @ jumps).T
        # One column serves all if the rates are equal.
        rates = rate_hz[:1] if np.ptp(rate_hz) == 0 else rate_hz
        jumps *= np.exp(np.multiply.outer(left_s[hits], -rates))
        surviving[:, block] = (sums @ jumps).T

    means, end = added, np.empty(len(rate_hz))
    decay = np.exp(-rate_hz * sample_s)
    for k, (rate, keep) in enumerate(zip(rate_hz, decay, strict=True)):
        after, _ = lfilter([1.0], [1.0, -keep], surviving[k], zi=[keep * state[k]])
        means[k] -= after
        means[k, 1:] += after[:-1]
        means[k, 0] += state[k]
        means[k] /= rate * sample_s
        end[k] = after[-1]
    return means, end
