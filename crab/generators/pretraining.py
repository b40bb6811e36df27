"""Pre-training of a generator on statistics of the training cube, before any adversary.

An adversary's gradients are slow at second-order statistics. So the generator first fits, by
gradient descent, three things whose targets come from the whole training cube:

* the cross-spectral matrix in bands of frequency, for the stretched values and for amplitudes
  limited to a few and to some tens of core widths (unlimited, a handful of hits would be the whole
  spectrum, and its estimate from a batch useless);
* quantile curves far into both tails, of the values, of their differences in time, of means over
  eight samples, of the detectors' mean and of what differs from it;
* with these, skewness and the rates of hits: both are functionals of the quantile curves.

Products of two independent halves of a batch keep the squares unbiased.
"""

import itertools

import numpy as np

from crab.generators.backend import keras
from crab.generators.normalise import Normalisation

LEARNING_RATE = 3e-3
_N_BANDS = 20
_N_QUANTILES = 160
_CLIP_SIGMA = {"continuum": 5.0, "hits": 30.0}
_SMOOTHED = 8
_MAX_WINDOWS = 4000
_OWN_WEIGHT = 10.0


class Targets:
    """What a generator's batch shall look like.

    Parameters
    ----------
    values : ndarray of float32, shape (n_samples, n_det)
        Normalised training cube.
    normalisation : Normalisation
    window_samples : int
        Of the generated windows.
    """

    def __init__(self, values: np.ndarray, normalisation: Normalisation, window_samples: int):
        self._stretch = normalisation.stretch_sigma
        self._n = window_samples
        # Logarithmic, but no band wider than a part of the whole: the response has its shape at
        # high frequency.
        top = window_samples // 2 + 1
        edges = np.concatenate([np.geomspace(1, top, _N_BANDS), np.linspace(1, top, _N_BANDS)])
        edges = np.unique(edges.round().astype(int))
        member = np.zeros((len(edges) - 1, window_samples // 2 + 1), dtype=np.float32)
        for band, (low, high) in zip(member, itertools.pairwise(edges), strict=True):
            band[low:high] = 1 / (high - low)
        self._bands = member
        self._taper = np.hanning(window_samples).astype(np.float32)
        step = max(1, len(values) // window_samples // _MAX_WINDOWS)
        windows = values[: len(values) // window_samples * window_samples]
        windows = windows.reshape(-1, window_samples, values.shape[1])[::step]
        self._white, self._own = {}, {}
        for name, view in self._views(windows).items():
            spectra = self._spectra(np.asarray(view))
            matrix = np.mean([np.asarray(s) for s in spectra], axis=0)
            self._own[name] = np.diagonal(matrix, axis1=1, axis2=2).astype(np.float32)
            matrix = (
                matrix
                + 1e-4
                * np.eye(matrix.shape[1])
                * np.trace(matrix, axis1=1, axis2=2).reshape(-1, 1, 1)
                / matrix.shape[1]
            )
            self._white[name] = np.linalg.inv(np.linalg.cholesky(matrix)).astype(np.float32)
        self._curves = {}
        for name, series in self._series(windows).items():
            flat = np.sort(np.asarray(series).reshape(-1, series.shape[-1]), axis=0)
            scale = np.diff(np.quantile(flat, [0.158655, 0.841345], axis=0), axis=0)[0] / 2
            self._curves[name] = flat, scale

    def loss(self, windows):
        """How far a batch is from the targets.

        Parameters
        ----------
        windows : tensor of float32, shape (n, window_samples, n_det)
            Generated, in network units; n even.

        Returns
        -------
        scalar tensor
        """
        return self.spectral_loss(windows) + self.quantile_loss(windows)

    def spectral_loss(self, windows):
        """Squared relative errors: of each detector's spectrum, and of whitened matrices.

        Whitened, correlation counts in all directions alike, but the spectrum of what detectors
        have in common is one of many.
        """
        ops = keras.ops
        total = 0.0
        for name, view in self._views(windows).items():
            white, own = self._white[name], self._own[name]
            unit = np.eye(white.shape[1], dtype=np.float32)
            turned = np.swapaxes(white, 1, 2)
            spectra = self._spectra(view)
            first, second = (ops.matmul(ops.matmul(white, s), turned) - unit for s in spectra)
            total = total + ops.mean(ops.sum(first * second, axis=(1, 2))) / unit.shape[0]
            first, second = (ops.diagonal(s, axis1=1, axis2=2) / own - 1 for s in spectra)
            total = total + _OWN_WEIGHT * ops.mean(first * second)
        return total

    def quantile_loss(self, windows):
        """Mean distance of quantile curves in core widths, evenly in the logarithm of the tail."""
        ops = keras.ops
        total = 0.0
        for name, series in self._series(windows).items():
            flat, scale = self._curves[name]
            ours = ops.sort(ops.reshape(series, (-1, flat.shape[1])), axis=0)
            rank = _ranks(ours.shape[0])
            place = (rank + 0.5) / ours.shape[0] * len(flat) - 0.5
            low = np.clip(np.floor(place).astype(int), 0, len(flat) - 2)
            part = np.clip(place - low, 0, 1)[:, None]
            theirs = ((1 - part) * flat[low] + part * flat[low + 1]).astype(np.float32)
            difference = ops.abs(ops.take(ours, rank, axis=0) - theirs) / scale.astype(np.float32)
            total = total + ops.mean(difference)
        return total

    def _views(self, windows) -> dict:
        """The same windows on three scales: each lets others have the say."""
        ops, s = keras.ops, self._stretch
        linear = s * ops.sinh(windows / s) if s else windows
        limited = {name: ops.clip(linear, -c, c) for name, c in _CLIP_SIGMA.items()}
        return {"stretched": windows, **limited}

    def _series(self, windows) -> dict:
        ops = keras.ops
        mean = ops.mean(windows, axis=2, keepdims=True)
        n = self._n // _SMOOTHED * _SMOOTHED
        shape = (-1, n // _SMOOTHED, _SMOOTHED, windows.shape[2])
        return {
            "value": windows,
            "step": windows[:, 1:] - windows[:, :-1],
            "smoothed": ops.mean(ops.reshape(windows[:, :n], shape), axis=2),
            "common": mean,
            "difference": windows - mean,
        }

    def _spectra(self, view):
        """Real part of the cross-spectral matrix in bands, of each half of the windows."""
        ops = keras.ops
        x = view - ops.mean(view, axis=1, keepdims=True)
        x = ops.transpose(x, (0, 2, 1)) * self._taper
        half = x.shape[0] // 2
        found = []
        for part in (x[:half], x[half : 2 * half]):
            real, imaginary = ops.rfft(part)
            products = ops.einsum("nif,njf->fij", real, real)
            products = products + ops.einsum("nif,njf->fij", imaginary, imaginary)
            found.append(ops.einsum("bf,fij->bij", self._bands, products) / half)
        return found


def _ranks(n: int) -> np.ndarray:
    """Ranks evenly spaced in the bulk and in the logarithm of both tails."""
    tail = np.geomspace(1, n // 2, _N_QUANTILES // 2)
    return np.unique(np.concatenate([tail - 1, n - tail]).round().astype(int))
