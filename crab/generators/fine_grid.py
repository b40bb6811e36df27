"""Events and random numbers on a grid finer than the output's, and their way to output samples.

Events come at any time. Each is shared out between the places around it, so that all frequencies
that the filter lets through are as they would be; then a few filters by products of matrices make
the samples of all events at once.
"""

from collections.abc import Callable

import numpy as np
from scipy.sparse import csc_array

PHASES = 2  # places for each output sample
_SHARES = 8  # places that an event is shared out between
_BAND = 1.1  # of the output's Nyquist frequency: what the filter lets through
_STEPS = 1024  # between two places, for which shares are known
_PIECE = 64  # samples that one product of matrices makes


def _shares() -> np.ndarray:
    """Shares of an event in the places around it, float32, shape (_STEPS, _SHARES).

    The least squares of what they are off an event between the places, over all frequencies that
    the filter lets through: at most 0.3 %.
    """
    place = np.arange(_SHARES) - (_SHARES // 2 - 1)
    turn = _BAND / PHASES  # of pi, from one place to the next
    between = (np.arange(_STEPS) + 0.5) / _STEPS
    matrix = np.sinc((place[:, None] - place) * turn)
    return np.linalg.solve(matrix, np.sinc((place[:, None] - between) * turn)).T.astype(np.float32)


_SHARE_TABLE = _shares()


def share_out(places: np.ndarray, at: np.ndarray, amplitudes: np.ndarray) -> None:
    """Add events to the places around them.

    Parameters
    ----------
    places : ndarray of float32, shape (n_rows, n_places)
        Changed in place.
    at : ndarray, shape (n,)
        Place of each event; those too near to an end or beyond it are left out.
    amplitudes : ndarray of float32, shape (n, n_rows)
    """
    n_places = places.shape[1]
    left = np.floor(at).astype(np.int32)
    first = left - (_SHARES // 2 - 1)
    inside = (first >= 0) & (first + _SHARES <= n_places)
    at, left, first, amplitudes = at[inside], left[inside], first[inside], amplitudes[inside]
    shares = _SHARE_TABLE[((at - left) * _STEPS).astype(np.int32)]
    matrix = csc_array(
        (
            shares.ravel(),
            (first[:, None] + np.arange(_SHARES, dtype=np.int32)).ravel(),
            np.arange(0, _SHARES * len(first) + 1, _SHARES, dtype=np.int32),
        ),
        shape=(n_places, len(first)),
    )
    places += (matrix @ amplitudes).T


def filter_matrices(taps: np.ndarray, step: int) -> np.ndarray:
    """Matrices that make a piece of samples from the places that it feels.

    Parameters
    ----------
    taps : ndarray, shape (n_taps,)
    step : int
        Places from one sample to the next.

    Returns
    -------
    ndarray of float32, shape (n_parts, step * piece, piece)
        For `filtered`.
    """
    width = step * _PIECE
    n_parts = -(-(width - step + len(taps)) // width)
    out = np.zeros((n_parts * width, _PIECE), dtype=np.float32)
    for sample in range(_PIECE):
        out[sample * step : sample * step + len(taps), sample] = taps[::-1]
    return out.reshape(n_parts, width, _PIECE)


def felt_places(matrices: np.ndarray, length: int) -> int:
    """Places that `filtered` wants for so many samples; those beyond the taps count nothing."""
    return (length // _PIECE + len(matrices) - 1) * matrices.shape[1]


def filtered(places: np.ndarray, matrices: np.ndarray, length: int) -> np.ndarray:
    """Filter and take every ``step``-th.

    Parameters
    ----------
    places : ndarray of float32, shape (n, felt_places(matrices, length))
    matrices : ndarray
        Of `filter_matrices`.
    length : int
        A multiple of a piece.

    Returns
    -------
    ndarray of float32, shape (n, length)
    """
    n, width = len(places), matrices.shape[1]
    pieces = length // _PIECE
    out = 0.0
    for part, matrix in enumerate(matrices):
        own = places[:, part * width : (part + pieces) * width]
        out = out + own.reshape(n, pieces, width) @ matrix
    return out.reshape(n, length)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers by Box & Muller 1958 (doi:10.1214/aoms/1177706645), float32.

    From 32 bits each, so they end at 6.7; three times as fast as numpy's.
    """
    n = int(np.prod(shape))
    half = (n + 1) // 2
    bits = rng.integers(0, 2**64 - 1, half, dtype=np.uint64, endpoint=True)
    radius, angle = np.split(bits.view(np.uint32).astype(np.float32), 2)
    radius += np.float32(1)  # no logarithm of 0
    radius *= np.float32(2.0**-32)
    np.log(radius, out=radius)
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    angle *= np.float32(2 * np.pi / 2**32)
    out = np.empty(2 * half, dtype=np.float32)
    np.cos(angle, out=out[:half])
    np.sin(angle, out=out[half:])
    out[:half] *= radius
    out[half:] *= radius
    return out[:n].reshape(shape)


def normal_blocks(rng_of: Callable, n_rows: int, length: int, n_next: int, n: int) -> np.ndarray:
    """Normal numbers of a block and of the start of the next one.

    Parameters
    ----------
    rng_of : callable
        0 or 1, for this block or the next one, to its generator of random numbers.
    n_rows : int
    length : int
        Of a block.
    n_next : int
        Of the next block.
    n : int
        Length of the rows, at least ``length + n_next``; the rest is 0.

    Returns
    -------
    ndarray of float32, shape (n_rows, n)
    """
    out = np.zeros((n_rows, n), dtype=np.float32)
    # What the block before wants as well comes first.
    here = rng_of(0)
    out[:, :n_next] = normal(here, (n_rows, n_next))
    out[:, n_next:length] = normal(here, (n_rows, length - n_next))
    out[:, length : length + n_next] = normal(rng_of(1), (n_rows, n_next))
    return out
