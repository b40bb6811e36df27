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


def make_tod(label, n_time=128 * WINDOW, n_detector=3):
    """Synthetic TOD in W: a common and an own red part, white noise, exponential pulses."""
    rng = seeds.rng(7, label)
    own, common = rng.normal(size=(n_detector, n_time)), rng.normal(size=(1, n_time))
    share = np.linspace(0.3, 0.9, n_detector)[:, np.newaxis]
    red = signal.lfilter([1], [1, -0.8], np.sqrt(share) * common + np.sqrt(1 - share) * own)
    hits = (rng.random((n_detector, n_time)) < 0.01) * rng.exponential(8.0, (n_detector, n_time))
    pulses = signal.lfilter([1], [1, -0.5], hits)
    return 3e-16 * (red + 0.3 * rng.normal(size=own.shape) - pulses)
