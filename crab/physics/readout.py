"""Noise, anti-alias filter, decimation and units of the read-out signal.

Noise-equivalent powers follow Irwin & Hilton (2005) and Mather (1982); white, independent in each
detector. The database's 1/f noise (knee at 20 mHz) is not simulated: the half-wave plate moves
the sky signal above it, and CRAB's subject is the background.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import xarray as xr
from astropy import constants, units
from astropy.cosmology import Planck18
from scipy import signal

from crab.errors import CrabError
from crab.params import LinearSensor, Tes
from crab.physics.tes import OperatingPoint

H, K_B = constants.h.value, constants.k_B.value
STOP_BAND_DB = 80.0
_TRANSITION = 0.1  # half width of the transition band, in units of the output's Nyquist frequency
_MAX_FACTOR = 20_000


def power_per_kelvin_w(
    bandcenter_ghz: np.ndarray, bandwidth_ghz: np.ndarray, optical_efficiency: float
) -> np.ndarray:
    """Optical power per kelvin of CMB temperature, dP/dT_CMB.

    Parameters
    ----------
    bandcenter_ghz, bandwidth_ghz : array_like
        Top-hat band.
    optical_efficiency : float
        From the sky to the absorber.

    Returns
    -------
    ndarray
        eta int k x^2 e^x/(e^x - 1)^2 dnu with x = h nu/(k T_CMB), for one mode and one
        polarisation, in W/K.
    """
    # Gauss-Legendre over the band: exact to rounding for so smooth a function.
    node, weight = np.polynomial.legendre.leggauss(8)
    centre, width = np.asarray(bandcenter_ghz, float), np.asarray(bandwidth_ghz, float)
    frequency_ghz = centre[..., None] + width[..., None] / 2 * node
    kelvin_per_ghz = (constants.h * units.GHz / constants.k_B).to_value(units.K)
    x = frequency_ghz * kelvin_per_ghz / Planck18.Tcmb0.value
    mean = (weight / 2 * (x / 2 / np.sinh(x / 2)) ** 2).sum(axis=-1)
    return optical_efficiency * K_B * width * 1e9 * mean


def noise_equivalent_power(tes: Tes, point: OperatingPoint, detectors: xr.Dataset) -> xr.Dataset:
    """Noise of each detector, referred to absorbed power, at low frequency.

    Parameters
    ----------
    tes : Tes
    point : OperatingPoint
    detectors : xarray.Dataset
        With coordinates ``bandcenter_ghz`` and ``bandwidth_ghz``.

    Returns
    -------
    xarray.Dataset
        On dimension ``detector``: ``photon``, ``phonon``, ``johnson``, their sum ``inside`` (which
        the detector's time constant filters), ``readout`` (which it does not), ``total``
        [W/sqrt(Hz), one-sided], ``power_per_kelvin`` [W/K_CMB], ``net`` [uK_CMB sqrt(s)] and
        ``net_database`` (the instrument's own, for comparison).
    """
    centre = detectors["bandcenter_ghz"].astype(float)
    width = detectors["bandwidth_ghz"].astype(float)
    power, gain = point.optical_power_w, point.stiff_loop_gain
    photon = np.sqrt(2 * H * centre * 1e9 * power + 2 * power**2 / (width * 1e9))

    # Mather's factor for a link whose conductivity goes as T^(n-1).
    n, ratio = point.exponent, point.bath_temperature_k / point.temperature_k
    link = n / (2 * n + 1) * (1 - ratio ** (2 * n + 1)) / (1 - ratio**n)
    phonon = np.sqrt(4 * K_B * point.temperature_k**2 * point.conductance_w_per_k * link)

    # Irwin & Hilton, Eqs. 88 and 91 at zero frequency; the shunt sits at the bath temperature.
    sensor = 4 * K_B * point.temperature_k * point.joule_power_w / gain**2
    shunt = 4 * K_B * point.bath_temperature_k * point.current_a**2 * point.shunt_resistance_ohm
    johnson = np.sqrt(sensor + shunt * ((gain - 1) / gain) ** 2)

    # dP_J = I (R - R_L) dI, and dP_J = joule_gain dP_in.
    volts = point.current_a * (point.resistance_ohm - point.shunt_resistance_ohm)
    readout = tes.readout_noise_a_per_rthz * volts / abs(point.joule_gain)

    flat = xr.ones_like(centre)
    parts = {
        "photon": photon,
        "phonon": flat * phonon,
        "johnson": flat * johnson,
        "inside": np.sqrt(photon**2 + phonon**2 + johnson**2),
        "readout": flat * readout,
    }
    return _with_net(parts, tes.optical_efficiency, detectors)


def measured_noise(sensor: LinearSensor, detectors: xr.Dataset) -> xr.Dataset:
    """Noise of a sensor that is known by its measured noise-equivalent power.

    Parameters
    ----------
    sensor : LinearSensor
    detectors : xarray.Dataset
        As in `noise_equivalent_power`.

    Returns
    -------
    xarray.Dataset
        As of `noise_equivalent_power`; all of it counts as ``readout``, white in the data.
    """
    flat = xr.ones_like(detectors["bandcenter_ghz"].astype(float))
    parts = {"inside": 0 * flat, "readout": sensor.nep_w_per_rthz * flat}
    return _with_net(parts, sensor.optical_efficiency, detectors)


def _with_net(parts: dict, optical_efficiency: float, detectors: xr.Dataset) -> xr.Dataset:
    centre = detectors["bandcenter_ghz"].astype(float)
    width = detectors["bandwidth_ghz"].astype(float)
    total = np.sqrt(parts["inside"] ** 2 + parts["readout"] ** 2)
    slope = xr.ones_like(centre) * power_per_kelvin_w(centre, width, optical_efficiency)
    # sqrt(2): from 1/sqrt(Hz) to sqrt(s).
    net = 1e6 * total / (np.sqrt(2) * slope)
    out = xr.Dataset({**parts, "total": total, "power_per_kelvin": slope, "net": net})
    if "net_ukrts" in detectors.coords:
        out["net_database"] = ("detector", detectors["net_ukrts"].values)
    return out


def detector_noise_w(
    white: np.ndarray,
    internal_rate_hz: float,
    inside_w: float,
    readout_w: float,
    time_constant_s: float,
    gain: float,
) -> np.ndarray:
    """Noise of one detector on the internal grid, in the sensor's own kind of power.

    Parameters
    ----------
    white : ndarray, shape (2, n_samples)
        Independent standard normal numbers.
    internal_rate_hz : float
    inside_w : float
        Photon, phonon and Johnson noise referred to absorbed power, W/sqrt(Hz), one-sided; the
        detector's time constant filters it.
    readout_w : float
        Readout noise, likewise; it comes after the detector.
    time_constant_s : float
        Of the detector.
    gain : float
        Change of the read-out power per absorbed power.

    Returns
    -------
    ndarray, shape (n_samples,)
        In W; samples are means over their intervals.
    """
    per_sample = np.sqrt(internal_rate_hz / 2)
    # Exact response of the detector to a power that is constant over each interval.
    step = 1 / (internal_rate_hz * time_constant_s)
    keep = np.exp(-step)
    lag = (1 - keep) / step
    inside = signal.lfilter([1 - lag, lag - keep], [1, -keep], inside_w * white[0])
    return gain * per_sample * (inside + readout_w * white[1])


@dataclass(frozen=True)
class Decimator:
    """Anti-alias filter and rational resampling from the internal to the output rate.

    Attributes
    ----------
    up, down : int
        Output rate = internal rate * up/down, in lowest terms.
    taps : ndarray
        Linear-phase FIR at up times the internal rate, symmetric, so that there is no delay.
    halo : int
        Internal samples that the filter needs on either side.
    """

    up: int
    down: int
    taps: np.ndarray
    halo: int

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Resample along the last axis and drop the halo at both ends.

        Parameters
        ----------
        samples : ndarray, shape (..., n)
            Internal samples; n less twice the halo is a multiple of ``down``.

        Returns
        -------
        ndarray, shape (..., (n - 2 halo) up/down)
            Output sample j is centred on internal sample ``halo + j down/up``.
        """
        # The halo is filled up with zeros to where the two grids meet again.
        margin = -(-self.halo // self.down)
        edge = margin * self.down - self.halo
        padded = np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(edge, edge)])
        out = signal.resample_poly(padded, self.up, self.down, axis=-1, window=self.taps)
        return out[..., margin * self.up : out.shape[-1] - margin * self.up]


def decimator(internal_rate_hz: float, sampling_rate_hz: float) -> Decimator:
    """Design the filter: flat to 0.9 of the new Nyquist frequency, 80 dB down from 1.1 of it.

    Parameters
    ----------
    internal_rate_hz, sampling_rate_hz : float
        In their decimal form their ratio must be a fraction of moderate numbers, as
        19.1/156.25 = 382/3125.

    Returns
    -------
    Decimator
        Half amplitude at the Nyquist frequency. Frequencies up to 1.1 of it fold onto the last
        tenth of the band; all higher ones are suppressed by 80 dB.

    Raises
    ------
    CrabError
        If the internal rate is below 2.5 times the output rate or the fraction is not moderate.
    """
    ratio = Fraction(str(sampling_rate_hz)) / Fraction(str(internal_rate_hz))
    if ratio * 5 > 2:
        raise CrabError(
            f"internal_rate_hz = {internal_rate_hz:g}: allowed are values of at least 2.5 times "
            f"sampling_rate_hz = {sampling_rate_hz:g}"
        )
    up, down = ratio.numerator, ratio.denominator
    if max(up, down) > _MAX_FACTOR:
        raise CrabError(
            f"internal_rate_hz = {internal_rate_hz:g}: its ratio to sampling_rate_hz = "
            f"{sampling_rate_hz:g} is {down}/{up}; allowed are ratios of integers up to "
            f"{_MAX_FACTOR}: take, for example, {sampling_rate_hz * 8:g}"
        )
    # Widths relative to the Nyquist frequency of the up-sampled signal.
    nyquist = float(ratio) / up
    count, beta = signal.kaiserord(STOP_BAND_DB, 2 * _TRANSITION * nyquist)
    half = count // 2 + 1
    taps = signal.firwin(2 * half + 1, nyquist, window=("kaiser", beta))
    return Decimator(up=up, down=down, taps=taps, halo=-(-half // up))


def to_optical_equivalent(cube: xr.Dataset) -> xr.Dataset:
    """The same TOD as the absorbed optical power that would cause it.

    Parameters
    ----------
    cube : xarray.Dataset
        TOD cube in the ``joule`` convention with coordinate ``joule_gain``.

    Returns
    -------
    xarray.Dataset
        ``tod`` and its parts divided by -loop_gain/(1 + loop_gain): hits positive.

    Raises
    ------
    CrabError
        If the cube has the other convention or lacks the coordinate.
    """
    return _rescaled(cube, "joule", "optical_equivalent")


def to_joule(cube: xr.Dataset) -> xr.Dataset:
    """Inverse of `to_optical_equivalent`."""
    return _rescaled(cube, "optical_equivalent", "joule")


def to_kelvin_cmb(cube: xr.Dataset, variable: str = "tod") -> xr.DataArray:
    """TOD in thermodynamic temperature.

    Parameters
    ----------
    cube : xarray.Dataset
        TOD cube in the ``optical_equivalent`` convention with coordinate ``power_per_kelvin_w``.
    variable : str
        ``tod`` or one of its parts.

    Returns
    -------
    xarray.DataArray
        float32, in K_CMB.

    Raises
    ------
    CrabError
        If the cube is in the ``joule`` convention, which has another sign and scale, or lacks
        the coordinate.
    """
    _expect(cube, "optical_equivalent", "power_per_kelvin_w")
    out = (cube[variable] / cube["power_per_kelvin_w"]).astype(np.float32)
    out = out.transpose(*cube[variable].dims)
    out.attrs = {**cube[variable].attrs, "units": "K_CMB"}
    return out


def _rescaled(cube: xr.Dataset, source: str, target: str) -> xr.Dataset:
    _expect(cube, source, "joule_gain")
    gain = cube["joule_gain"] if target == "joule" else 1 / cube["joule_gain"]
    out = cube.copy()
    for name in cube.data_vars:
        if str(name).startswith("tod"):
            values = (cube[name] * gain).astype(np.float32).transpose(*cube[name].dims)
            out[name] = values.assign_attrs(cube[name].attrs)
    out.attrs["power_convention"] = target
    return out


def _expect(cube: xr.Dataset, convention: str, coordinate: str) -> None:
    found = cube.attrs.get("power_convention")
    if found != convention:
        raise CrabError(f"power_convention = {found!r}: allowed here is {convention!r}")
    if coordinate not in cube.coords:
        raise CrabError(f"coordinate {coordinate!r} is missing; the cube has {list(cube.coords)}")
