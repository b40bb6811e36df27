"""Noise of detectors after the anti-alias filter and the decimation."""

from collections.abc import Callable

import numpy as np

from crab.generators.event_response import Grid
from crab.generators.fine_grid import felt_places, filter_matrices, filtered, normal_blocks
from crab.physics.sensors import Sensor

_NOISE_REACH = 32  # samples on either side that make the noise's colour
_NOISE_POINTS = 4096
_FOLDS = 2  # further ones are in the stop band
_FINER = 16


def noise_spectrum(sensor: Sensor, grid: Grid, frequency_hz: np.ndarray) -> np.ndarray:
    """Two-sided noise power density of each detector's samples, folded at the Nyquist frequency.

    Parameters
    ----------
    sensor : crab.physics.sensors.Sensor
    grid : Grid
    frequency_hz : ndarray, shape (n,)
        From 0 to half the sampling rate.

    Returns
    -------
    ndarray, shape (n_det, n)
        W^2/Hz; its integral from minus to plus half the sampling rate is the variance.
    """
    inside, added = (sensor.noise[name].values[:, None] for name in ("inside", "readout"))
    step = 1 / (grid.internal_rate_hz * sensor.time_constant_s)
    keep = np.exp(-step)
    lag = (1 - keep) / step
    taps, up = grid.decimate.taps, grid.decimate.up
    # Symmetric taps have a real transform; zeros behind them make its table fine.
    n_table = 1 << (len(taps) * _FINER - 1).bit_length()
    passed = np.abs(np.fft.rfft(taps, n_table))
    at_hz = np.arange(len(passed)) * (up * grid.internal_rate_hz / n_table)
    total = 0.0
    for fold in range(-_FOLDS, _FOLDS + 1):
        f = frequency_hz + fold / grid.sample_s
        delay = np.exp(-2j * np.pi * f / grid.internal_rate_hz)
        shape = np.abs((1 - lag + (lag - keep) * delay) / (1 - keep * delay)) ** 2
        power = np.interp(np.abs(f), at_hz, passed) ** 2
        total = total + power * (inside**2 * shape + added**2)
    return sensor.gain**2 / 2 * total


def noise_taps(sensor: Sensor, grid: Grid) -> np.ndarray:
    """Symmetric filter that gives white noise the colour of each detector's noise.

    Returns
    -------
    ndarray, shape (n_det, 2 * reach + 1)
    """
    rate_hz = 1 / grid.sample_s
    frequency_hz = np.linspace(0, rate_hz / 2, _NOISE_POINTS // 8 + 1)
    amplitude = np.sqrt(noise_spectrum(sensor, grid, frequency_hz) * rate_hz)
    taps = np.fft.irfft(amplitude, axis=1)
    taps = np.concatenate([taps[:, -_NOISE_REACH:], taps[:, : _NOISE_REACH + 1]], axis=1)
    # What is cut off takes no power with it.
    power = np.fft.irfft(amplitude**2, axis=1)[:, :1]
    return taps * np.sqrt(power / (taps**2).sum(axis=1, keepdims=True))


class Noise:
    """Noise of detectors, block by block.

    Parameters
    ----------
    sensor : crab.physics.sensors.Sensor
    grid : Grid
    """

    def __init__(self, sensor: Sensor, grid: Grid):
        taps, self._group = np.unique(
            noise_taps(sensor, grid).round(30), axis=0, return_inverse=True
        )
        self._matrices = [filter_matrices(own, 1) for own in taps]
        self._n_next = taps.shape[1] - 1

    def block(self, rng_of: Callable, length: int) -> np.ndarray:
        """Noise of one block, float32, shape (n_det, length); `rng_of` as in `fine_grid`."""
        n_det, n = len(self._group), felt_places(self._matrices[0], length)
        white = normal_blocks(rng_of, n_det, length, self._n_next, n)
        out = np.empty((n_det, length), dtype=np.float32)
        for group, matrices in enumerate(self._matrices):
            own = np.flatnonzero(self._group == group)
            out[own] = filtered(white[own], matrices, length)
        return out
