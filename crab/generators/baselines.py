"""Baselines that need nothing but a training cube: what a network must beat.

They are fitted in seconds and not stored. All are stationary: they know the training stretch and
no change of the environment since. Direct hits are in all of them, in their own way: spread over
all times as Gaussian power (`GaussianBaseline`), over their window (`PhaseBaseline`), or as they
were (`BootstrapBaseline`).
"""

from typing import Self

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from crab import schema, seeds
from crab.errors import CrabError
from crab.generators.requests import check_request, from_blocks
from crab.io import content_hash
from crab.provenance import params_hash
from crab.training_settings import REFERENCE_WINDOW

_COPIED = ("mission", "environment", "phi_mv", "lis", "power_convention", "physics_list")
_SEGMENT_BATCH = 64  # segments transformed at a time
_SEGMENTS_PER_DETECTOR = 2  # at least


def make_record(name: str, train: xr.Dataset, **settings) -> dict:
    """Record of a baseline, with the facts that `crab.generators.base.Generator` asks for.

    Parameters
    ----------
    name : str
        The baseline's name.
    train : xarray.Dataset
        Training cube.
    **settings
        The baseline's options.

    Returns
    -------
    dict

    Raises
    ------
    CrabError
        If the cube is not valid or has realisations.
    """
    schema.validate(train, "training cube")
    if train["tod"].dims != ("detector", "time"):
        raise CrabError(
            f"training cube: tod has dimensions {train['tod'].dims}: allowed are "
            "('detector', 'time'); select one realisation"
        )
    facts = {key: train.attrs[key] for key in _COPIED}
    return {
        "generator": name,
        **{key: v.item() if hasattr(v, "item") else v for key, v in facts.items()},
        "sampling_rate_hz": float(train.attrs["sampling_rate_hz"]),
        "detectors": train["detector"].values.astype(str).tolist(),
        "detector_table": train.coords.to_dataset().drop_vars("time").to_dict(),
        "settings": settings,
        "training_data_hash": content_hash(train),
        "params_hash": params_hash(name, settings, str(train.attrs["params_hash"])),
    }


def cross_spectrum(values: np.ndarray, n_frequencies: int) -> np.ndarray:
    """Cross-spectral density matrix (Welch 1967), with the same weight for every sample.

    Hann segments overlap by three quarters and go past both ends: squares of the window then add
    up to a constant (half overlap leaves +-33 %, and a rare direct hit would count by its place in
    a segment), products of it at any lag within 1.5 % of that. So it is the transform of the
    correlations of all samples times the window's own (Blackman & Tukey 1958), and its integral is
    their covariance. Segments have half as many samples as there are frequencies, so that it holds
    every lag that they see. No mean is taken off a segment: that would empty the lowest
    frequencies.

    Parameters
    ----------
    values : ndarray, shape (n_det, n_samples)
        With mean 0.
    n_frequencies : int
        Both signs together; a multiple of 8.

    Returns
    -------
    ndarray of complex128, shape (n_frequencies // 2 + 1, n_det, n_det)
        Two-sided, at the frequencies of ``numpy.fft.rfftfreq``; white noise of variance 1 has the
        density 1.

    Raises
    ------
    CrabError
        If there are fewer than two segments side by side for each detector. The smallest
        eigenvalues of a matrix from K segments and n detectors are too small by
        (1 - sqrt(n/K))^2 (Marchenko & Pastur 1967), and 0 for K < n: coherence that is not there.
    """
    n_det, n_samples = values.shape
    segment = n_frequencies // 2
    step = segment // 4
    needed = _SEGMENTS_PER_DETECTOR * n_det
    if n_samples < needed * segment:
        raise CrabError(
            f"n_taps = {n_frequencies}: cross-spectra of {n_det} detectors need {needed} segments "
            f"of {segment} samples, the training cube has {n_samples} samples: allowed are fewer "
            "taps or a longer cube"
        )
    window = np.sin(np.pi * np.arange(segment) / segment) ** 2
    after = segment + -n_samples % step
    padded = np.pad(values, [(0, 0), (segment - step, after)])
    views = np.lib.stride_tricks.sliding_window_view(padded, segment, axis=1)[:, ::step]
    total = np.zeros((n_frequencies // 2 + 1, n_det, n_det), dtype=complex)
    for first in range(0, views.shape[1], _SEGMENT_BATCH):
        batch = views[:, first : first + _SEGMENT_BATCH] * window
        x = np.moveaxis(np.fft.rfft(batch, n_frequencies, axis=2), 2, 0)
        total += x @ np.swapaxes(x, 1, 2).conj()
    return total * step / (n_samples * (window**2).sum())


def filter_taps(density: np.ndarray) -> np.ndarray:
    """Matrix filter that gives white noise a cross-spectral density.

    H(f) is the Hermitian square root of S(f): S = H H^dagger. It is as smooth in f as S is, so its
    taps fall off quickly; an eigenvalue of 0 does no harm.

    Parameters
    ----------
    density : ndarray of complex, shape (n_taps // 2 + 1, n_det, n_det)
        As of `cross_spectrum`.

    Returns
    -------
    ndarray, shape (n_taps, n_det, n_det)
        Tap j is for lag ``j - n_taps // 2``.
    """
    value, vector = np.linalg.eigh(density)
    root = np.sqrt(np.maximum(value, 0))
    response = (vector * root[:, None, :]) @ np.swapaxes(vector, 1, 2).conj()
    n_taps = 2 * (len(density) - 1)
    return np.fft.fftshift(np.fft.irfft(response, n_taps, axis=0), axes=0)


class GaussianBaseline:
    """Gaussian noise with the training cube's mean, power spectra and cross-spectra.

    White noise through a matrix filter: stationary and without seams. Rare direct hits are in the
    spectra, so its bulk is wider than that of the cube.
    """

    name = "baseline_gaussian"
    windowed = False
    needs_library = False
    # Blocks of one tap length are filtered in fixed groups: floats then do not depend on what was
    # asked for.
    group_blocks = 16

    def __init__(self, record: dict, taps_w: np.ndarray, location_w: np.ndarray):
        self.record = record
        self.detectors = xr.Dataset.from_dict(record["detector_table"])
        self.n_taps = len(taps_w)
        self.location_w = location_w
        self._response_w = np.fft.rfft(taps_w, 2 * self.n_taps, axis=0)

    @classmethod
    def fit(cls, train: xr.Dataset, n_taps: int = 1024, location: str = "mean") -> Self:
        """Fit to a training cube.

        Parameters
        ----------
        train : xarray.Dataset
            TOD cube with dimensions ``(detector, time)``.
        n_taps : int
            Length of the filter in samples, a multiple of 8; correlation is kept up to half of it.
            Memory is 16 bytes x n_taps x n_det^2.
        location : {"mean", "median"}
            What the noise is centred on.

        Raises
        ------
        CrabError
            If the cube is not valid or too short for ``n_taps``, a detector is constant, or an
            option is not allowed.
        """
        if n_taps < 8 or n_taps % 8:
            raise CrabError(f"n_taps = {n_taps}: allowed are multiples of 8")
        if location not in ("mean", "median"):
            raise CrabError(f"location = {location!r}: allowed are mean, median")
        record = make_record(cls.name, train, n_taps=n_taps, location=location)
        tod_w = train["tod"].values.astype(np.float64)
        mean_w = tod_w.mean(axis=1)
        scale_w = tod_w.std(axis=1)
        for detector, value in zip(record["detectors"], scale_w, strict=True):
            if not value > 0:
                raise CrabError(f"training cube: tod of detector {detector!r} is constant")
        # Each detector in units of its own width: squares of watts are near 1e-32.
        unit = (tod_w - mean_w[:, None]) / scale_w[:, None]
        taps_w = filter_taps(cross_spectrum(unit, n_taps)) * scale_w[:, None]
        return cls(record, taps_w, mean_w if location == "mean" else np.median(tod_w, axis=1))

    def sample(self, environment: str, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
        """TOD of any part of a mission; see `crab.generators.base.Generator.sample`.

        Parameters
        ----------
        environment : str
        start_sample, n_samples, seed : int

        Returns
        -------
        ndarray of float32, shape (n_det, n_samples)
            Power in W.

        Raises
        ------
        CrabError
            For another environment or a negative start or length.
        """
        check_request(self.name, self.record, environment, start_sample, n_samples)
        # Sums in a matrix product depend on the number of threads.
        with threadpool_limits(1, "blas"):
            return from_blocks(
                lambda group: self._group_w(group, seed),
                self.group_blocks * self.n_taps,
                len(self.location_w),
                start_sample,
                n_samples,
            )

    def _group_w(self, group: int, seed: int) -> np.ndarray:
        """One group of blocks, shape (n_det, group_blocks * n_taps)."""
        n_det, n_taps = len(self.location_w), self.n_taps
        first = group * self.group_blocks
        labels = _stream(self, seed, "white")
        white = np.stack(
            [
                seeds.rng(*labels, block=block).standard_normal((n_det, n_taps))
                for block in range(first, first + self.group_blocks + 1)
            ]
        )
        # A block is the second half of the circular convolution of two blocks of white noise.
        pairs = np.fft.rfft(np.concatenate([white[:-1], white[1:]], axis=2))
        filtered = self._response_w @ np.ascontiguousarray(pairs.transpose(2, 1, 0))
        blocks = np.fft.irfft(filtered.transpose(1, 2, 0), 2 * n_taps)[..., n_taps:]
        return blocks.reshape(n_det, -1) + self.location_w[:, None]


class BootstrapBaseline:
    """Moving-block bootstrap: windows of the training cube from random places, unchanged.

    All detectors together (Kuensch 1989, doi:10.1214/aos/1176347265). Windows sit at fixed places
    of the mission and are independent of each other. It repeats its training data, and there is a
    jump at each seam.
    """

    name = "baseline_bootstrap"
    windowed = True
    needs_library = False

    def __init__(self, record: dict, tod_w: np.ndarray):
        self.record = record
        self.detectors = xr.Dataset.from_dict(record["detector_table"])
        self.tod_w = tod_w

    @classmethod
    def fit(cls, train: xr.Dataset, window_samples: int = REFERENCE_WINDOW) -> Self:
        """Take over a training cube.

        Parameters
        ----------
        train : xarray.Dataset
            TOD cube with dimensions ``(detector, time)``.
        window_samples : int
            Length of a window, > 1.

        Raises
        ------
        CrabError
            If the cube is not valid or shorter than one window.
        """
        record = make_record(cls.name, train, window_samples=window_samples)
        n_samples = train.sizes["time"]
        if not 1 < window_samples <= n_samples:
            raise CrabError(
                f"window_samples = {window_samples}: allowed are 2 to {n_samples}, the samples of "
                "the training cube"
            )
        return cls({**record, "window_samples": window_samples}, train["tod"].values)

    def sample(self, environment: str, start_sample: int, n_samples: int, seed: int) -> np.ndarray:
        """TOD of any part of a mission; see `crab.generators.base.Generator.sample`.

        Parameters
        ----------
        environment : str
        start_sample, n_samples, seed : int

        Returns
        -------
        ndarray of float32, shape (n_det, n_samples)
            Power in W.

        Raises
        ------
        CrabError
            For another environment or a negative start or length.
        """
        check_request(self.name, self.record, environment, start_sample, n_samples)
        labels = _stream(self, seed, "window")
        return from_blocks(
            lambda block: self._window_w(seeds.rng(*labels, block=block)),
            self.record["window_samples"],
            len(self.tod_w),
            start_sample,
            n_samples,
        )

    def _window_w(self, rng: np.random.Generator) -> np.ndarray:
        length = self.record["window_samples"]
        start = int(rng.integers(self.tod_w.shape[1] - length + 1))
        return self.tod_w[:, start : start + length]


class PhaseBaseline(BootstrapBaseline):
    """Phase-randomised surrogate: windows of the training cube with new Fourier phases.

    Amplitudes stay (Theiler et al. 1992, doi:10.1016/0167-2789(92)90102-S), and all detectors are
    turned by the same phases, so that cross-spectra stay, too (Prichard & Theiler 1994,
    doi:10.1103/PhysRevLett.73.951). A window's mean stays; a direct hit in it is spread over all of
    it. A window is taken as periodic, so what does not close at its ends leaks into all of it.
    """

    name = "baseline_phase"

    def _window_w(self, rng: np.random.Generator) -> np.ndarray:
        window = super()._window_w(rng).astype(np.float64)
        length = window.shape[1]
        turn = np.exp(2j * np.pi * rng.random(length // 2 + 1))
        turn[0] = 1
        if length % 2 == 0:  # real, as the Nyquist frequency's amplitude is
            turn[-1] = np.sign(turn[-1].real)
        return np.fft.irfft(np.fft.rfft(window) * turn, length)


def _stream(model, seed: int, what: str) -> tuple:
    # With the detectors: models of two wafers in one mission must not share their numbers.
    record = model.record
    names = (record["mission"], record["environment"], model.name, *record["detectors"])
    return (seed, *names, what)
