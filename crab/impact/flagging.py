"""Leave out samples that stand out: the simplest deglitching, with its loss stated.

A sample is flagged if it is further from the median of its block than some robust standard
deviations, found again without the flagged ones until none is new, and its neighbours with it.
Blocks of seven minutes (8192 samples at 19.1 Hz), and not the whole TOD, because the level of the
background changes over hours; the median of absolute deviations, and not the standard deviation,
because that of a block with bright glitches hides the faint ones, also after many rounds.

Blocks sit at fixed places of the mission, so a mask does not depend on how a mission is cut: give
`flag` the samples of `reach` and keep those in the middle.
"""

from itertools import pairwise

import numpy as np
from scipy import ndimage
from scipy.special import ndtri

from crab.errors import CrabError

BLOCK_SAMPLES = 8192
# The median of |x| of a normal distribution, in units of its standard deviation.
_MAD_OF_NORMAL = float(ndtri(0.75))
# Fewer at an end of the data tell no deviation (that of n samples is off by 1.17/sqrt(n)): the
# block beside them does.
_FEW_SAMPLES = 512


def flag(
    tod: np.ndarray,
    threshold_sigma: float = 5.0,
    *,
    pairs: np.ndarray | None = None,
    singles: bool = True,
    start_sample: int = 0,
    before_samples: int = 1,
    after_samples: int = 4,
    highpass_samples: int | None = None,
    noise: np.ndarray | float = 0.0,
    block_samples: int = BLOCK_SAMPLES,
    max_iterations: int = 20,
) -> tuple[np.ndarray, np.ndarray]:
    """Flag the samples of glitches.

    In each block, samples further from the median than ``threshold_sigma`` robust standard
    deviations (1.4826 times the median absolute deviation) are clipped, and both numbers are taken
    again from the rest, until no more samples are clipped.

    Parameters
    ----------
    tod : ndarray, shape (n_det, n_samples)
        In any unit.
    threshold_sigma : float
        Usual are 3 to 5. Of Gaussian noise alone a share of about ``erfc(threshold/sqrt(2))`` is
        clipped, and then widened by the margins.
    pairs : ndarray of int, shape (n_pair, 2), optional
        Their differences, free of what both feel, are searched too, and what is flagged in one is
        flagged in the other.
    singles : bool
        Search the detectors themselves too; False leaves what cancels in pairs.
    start_sample : int
        Absolute index of the first sample in the mission.
    before_samples, after_samples : int
        Margins around every clipped sample: a pulse begins before its peak and has a tail.
    highpass_samples : int, optional
        Odd length of a running median that is taken off first; default: none. Needed where the
        signal drifts by more than its noise within a block.
    noise : float or array-like, shape (n_det,)
        Standard deviation of noise that is not in ``tod`` and would hide glitches: added in
        quadrature to the one measured.
    block_samples : int
        Length of the blocks; block b begins at sample ``b * block_samples`` of the mission.
    max_iterations : int
        Stop clipping after so many rounds.

    Returns
    -------
    mask : ndarray of bool, shape (n_det, n_samples)
        True for samples to leave out.
    loss : ndarray, shape (n_det,)
        Share of the samples that are left out.

    Raises
    ------
    CrabError
        For a value that is not allowed, or samples that are NaN or infinite.
    """
    tod = np.asarray(tod)
    _check(tod, threshold_sigma, before_samples, after_samples, highpass_samples, block_samples)
    noise = np.broadcast_to(np.asarray(noise, dtype=float), tod.shape[:1])
    if highpass_samples is not None:
        tod = tod - ndimage.median_filter(tod, size=(1, highpass_samples), mode="nearest")
    edges = _edges(start_sample, tod.shape[1], block_samples)
    core = np.zeros(tod.shape, dtype=bool)
    if singles or pairs is None:
        for row, (values, hidden) in enumerate(zip(tod, noise, strict=True)):
            core[row] = _clipped(values, edges, threshold_sigma, hidden, max_iterations)
    for a, b in () if pairs is None else pairs:
        difference, hidden = tod[a] - tod[b], np.hypot(noise[a], noise[b])
        found = _clipped(difference, edges, threshold_sigma, hidden, max_iterations)
        core[[a, b]] = core[a] | core[b] | found
    mask = _widened(core, before_samples, after_samples)
    return mask, mask.mean(axis=1) if tod.shape[1] else np.zeros(len(tod))


def sigma_flags(
    tod: np.ndarray,
    n_sigma: float,
    groups: np.ndarray | None = None,
    singles: bool = True,
    spread: int = 1,
    max_rounds: int = 20,
    start_sample: int = 0,
) -> np.ndarray:
    """The mask of `flag`, with the same margin on either side.

    Parameters
    ----------
    tod : ndarray, shape (n_det, n_samples)
        As measured, with its noise.
    n_sigma : float
    groups : ndarray of int, shape (n_pair, 2), optional
        ``pairs`` of `flag`.
    singles : bool
    spread : int
        Samples to flag on either side as well.
    max_rounds : int
    start_sample : int
        Absolute index of the first sample in the mission.

    Returns
    -------
    ndarray of bool, shape (n_det, n_samples)

    Raises
    ------
    CrabError
        As `flag`.
    """
    options = {"pairs": groups, "singles": singles, "start_sample": start_sample}
    options |= {"before_samples": spread, "after_samples": spread, "max_iterations": max_rounds}
    return flag(tod, n_sigma, **options)[0]


def reach(
    start_sample: int,
    stop_sample: int,
    *,
    before_samples: int = 1,
    after_samples: int = 4,
    highpass_samples: int | None = None,
    block_samples: int = BLOCK_SAMPLES,
) -> tuple[int, int]:
    """Samples that `flag` needs for the flags of a stretch not to depend on its ends.

    Parameters
    ----------
    start_sample, stop_sample : int
        The stretch, absolute.
    before_samples, after_samples, highpass_samples, block_samples
        As given to `flag`.

    Returns
    -------
    low, high : int
        Absolute; ``low`` >= 0.
    """
    low = (start_sample - after_samples) // block_samples * block_samples
    high = -(-(stop_sample + before_samples) // block_samples) * block_samples
    wings = (highpass_samples or 1) // 2
    return max(0, low - wings), high + wings


def count(mask: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """Number of flagged stretches that begin in a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (n_det, n_samples)
    before : ndarray of bool, shape (n_det,), optional
        Flags of the sample before the first; default: not flagged.

    Returns
    -------
    ndarray of int, shape (n_det,)
    """
    before = np.zeros(len(mask), dtype=bool) if before is None else before
    earlier = np.concatenate([before[:, None], mask[:, :-1]], axis=1)
    return (mask & ~earlier[:, : mask.shape[1]]).sum(axis=1)


def _edges(start_sample: int, n_samples: int, block_samples: int) -> list[int]:
    first = -(start_sample % block_samples)
    inner = [edge for edge in range(first, n_samples, block_samples) if edge > 0]
    return [0, *inner, n_samples]


def _clipped(
    row: np.ndarray, edges: list[int], threshold: float, noise: float, max_iterations: int
) -> np.ndarray:
    # float64, as squares of watts leave the range of float32.
    row = row.astype(float)
    parts = [slice(low, high) for low, high in pairwise(edges)]
    limits = [_limits(row[part], threshold, noise, max_iterations) for part in parts]
    few = min(_FEW_SAMPLES, max(part.stop - part.start for part in parts))
    for end, beside in ((0, 1), (-1, -2)):
        if parts[end].stop - parts[end].start < few:
            limits[end] = limits[beside]
    out = np.empty(row.shape, dtype=bool)
    for part, (middle, limit) in zip(parts, limits, strict=True):
        out[part] = np.abs(row[part] - middle) > limit
    return out


def _limits(
    values: np.ndarray, threshold: float, noise: float, max_iterations: int
) -> tuple[float, float]:
    """Median of the samples that are not clipped, and how far from it they may be."""
    kept, middle, limit = values, 0.0, np.inf
    for _ in range(max_iterations):
        if not len(kept):
            break
        middle = np.median(kept)
        distance = np.abs(kept - middle)
        limit = threshold * np.hypot(np.median(distance) / _MAD_OF_NORMAL, noise)
        inside = distance <= limit
        if inside.all():
            break
        kept = kept[inside]
    return middle, limit


def _widened(core: np.ndarray, before: int, after: int) -> np.ndarray:
    size = before + after + 1
    if size == 1:
        return core
    wide = ndimage.maximum_filter1d(
        core.view(np.uint8), size, axis=1, mode="constant", cval=0, origin=after - size // 2
    )
    return wide.astype(bool)


def _check(tod, threshold, before, after, highpass, block) -> None:
    if tod.ndim != 2 or not np.isfinite(tod).all():
        raise CrabError(
            f"tod of shape {tod.shape}: allowed are finite numbers of shape (n_det, n_samples)"
        )
    if not threshold > 0:
        raise CrabError(f"threshold_sigma = {threshold}: allowed are numbers > 0, usual are 3 to 5")
    for key, value, least in (
        ("before_samples", before, 0),
        ("after_samples", after, 0),
        ("block_samples", block, 2),
    ):
        if value < least:
            raise CrabError(f"{key} = {value}: allowed are integers >= {least}")
    if highpass is not None and (highpass < 3 or highpass % 2 == 0):
        raise CrabError(f"highpass_samples = {highpass}: allowed are null and odd integers >= 3")
