"""Glitches: samples that stand out of their neighbourhood, found by iterative clipping.

All is defined on blocks at fixed places of the mission, so a mask does not depend on how a mission
is cut: give `flag` the samples of `reach` and keep those in the middle.
"""

import numpy as np
from scipy import ndimage
from scipy.special import ndtri

from crab.errors import CrabError

BLOCK_SAMPLES = 8192
# The median of |x| of a normal distribution, in units of its standard deviation.
_MAD_OF_NORMAL = float(ndtri(0.75))


def flag(
    tod: np.ndarray,
    threshold_sigma: float = 5.0,
    *,
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
    core = np.zeros(tod.shape, dtype=bool)
    n_samples = tod.shape[1]
    first = -(start_sample % block_samples)
    for low in range(first, n_samples, block_samples):
        part = slice(max(low, 0), min(low + block_samples, n_samples))
        core[:, part] = _clipped(tod[:, part], threshold_sigma, noise, max_iterations)
    mask = _widened(core, before_samples, after_samples)
    return mask, mask.mean(axis=1) if n_samples else np.zeros(len(tod))


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


def _clipped(
    tod: np.ndarray, threshold: float, noise: np.ndarray, max_iterations: int
) -> np.ndarray:
    out = np.zeros(tod.shape, dtype=bool)
    # float64, as squares of watts leave the range of float32.
    values = tod.astype(float)
    for _ in range(max_iterations):
        kept = np.where(out, np.nan, values)
        middle = np.nanmedian(kept, axis=1, keepdims=True)
        sigma = np.nanmedian(np.abs(kept - middle), axis=1) / _MAD_OF_NORMAL
        limit = threshold * np.hypot(sigma, noise)[:, None]
        # A sample once clipped stays so: the limit shrinks only.
        found = out | (np.abs(values - middle) > limit)
        if (found == out).all():
            break
        out = found
    return out


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
