"""A small, fast stand-in for the Monte Carlo: correlated red noise plus negative pulses."""

import numpy as np
from scipy import signal

from crab import schema, seeds
from tests.conftest import make_attrs, make_detectors

RATE_HZ = 19.1
WINDOW = 256


def to_cube(tod, rate_hz=RATE_HZ, **attrs):
    """Cube from an array (n_detector, n_time) in W."""
    return schema.make_cube({"tod": tod}, make_detectors(len(tod)), rate_hz, make_attrs(**attrs))


def make_tod(label, n_time=128 * WINDOW, n_detector=3, light_tail=False):
    """Synthetic TOD in W: a common and an own red part, white noise, exponential pulses.

    With a light tail there are four times as many hits, all with half the root mean square of the
    exponential law: same spectrum, same correlation, but none is large.
    """
    rng = seeds.rng(7, label)
    own, common = rng.normal(size=(n_detector, n_time)), rng.normal(size=(1, n_time))
    share = np.linspace(0.3, 0.9, n_detector)[:, np.newaxis]
    red = signal.lfilter([1], [1, -0.8], np.sqrt(share) * common + np.sqrt(1 - share) * own)
    chance, energy = rng.random((n_detector, n_time)), rng.exponential(8.0, (n_detector, n_time))
    hits = (chance < 0.04) * 8.0 / np.sqrt(2) if light_tail else (chance < 0.01) * energy
    pulses = signal.lfilter([1], [1, -0.5], hits)
    return 3e-16 * (red + 0.3 * rng.normal(size=own.shape) - pulses)
