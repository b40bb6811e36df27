"""Seams: do windows across the boundary of two blocks look like windows inside one?

Generators compute blocks at fixed places of a mission. Where the blocks do not join, a classifier
tells windows centred on a boundary from windows inside. It needs many boundaries: an AUC from n
windows and m times as many others has an error of ``sqrt((1 + 1 / m) / 12 n)`` at 0.5 (Hanley &
McNeil 1982, doi:10.1148/radiology.143.1.7063747), 0.0072 for 2000 boundaries and m = 4. Detectors
of one time are no more windows: they share their background.

The same test with boundaries that are none, at random places in the same blocks, stands beside it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from crab import seeds
from crab.errors import CrabError
from crab.metrics import twosample
from crab.metrics.windows import Estimate
from crab.progress import tqdm

Sample = Callable[[int, int], np.ndarray]
# Samples of one detector in a request: little memory, and few blocks that are made twice.
_REQUEST_SAMPLES = 2**17
# A block holds the seam's window and, between it and the next boundary's, others.
_MIN_WINDOWS_PER_BLOCK = 4
_SCALES = (1, 2, 4, 8, 16, 32)


class Windows(NamedTuple):
    """Windows of one generator, in units of their core width, in the order of time.

    Attributes
    ----------
    seam : ndarray, shape (n_detector, n_boundaries, window_samples)
        Centred on boundaries of blocks.
    fake : ndarray, same shape
        Centred on random places, each in the block next to its boundary.
    interior : ndarray, shape (n_detector, n_boundaries * n_interior, window_samples)
        As ``fake``, other places.
    """

    seam: np.ndarray
    fake: np.ndarray
    interior: np.ndarray


class Seams(NamedTuple):
    """Result of the test, by classifier.

    Attributes
    ----------
    tests : dict of str to twosample.TwoSample
        Windows on seams against interior ones.
    null : dict of str to twosample.TwoSample
        Windows at places that are no seams against the same interior ones.
    null_95 : float
        What the largest AUC of ``tests`` stays below in 95 % of all cases if there are no seams.
    n_boundaries, window_samples : int
    """

    tests: dict[str, twosample.TwoSample]
    null: dict[str, twosample.TwoSample]
    null_95: float
    n_boundaries: int
    window_samples: int


def cut(
    sample: Sample,
    block_samples: int,
    *,
    seed: int,
    window_samples: int = 64,
    n_boundaries: int = 2000,
    n_interior: int = 4,
    first_boundary: int = 1,
) -> Windows:
    """Windows on boundaries and inside blocks.

    Boundaries follow each other, so that each costs one block, not two.

    Parameters
    ----------
    sample : callable
        ``sample(start_sample, n_samples)`` -> ndarray, shape (n_detector, n_samples) in W; the
        generator's ``sample`` with its environment and seed.
    block_samples : int
        Boundaries are the multiples of it: a streaming generator's block, a windowed one's window.
    seed : int
        For the places inside blocks.
    window_samples : int
        Even. Short against a block, and long enough for what a seam breaks.
    n_boundaries, n_interior : int
        Boundaries, and interior windows for each of them.
    first_boundary : int
        Index of the first one, at least 1.

    Returns
    -------
    Windows

    Raises
    ------
    CrabError
        If a setting is out of range, a block has no room for interior windows, or a detector's
        windows have no width.
    """
    allowed = {
        "window_samples": (window_samples, 16),
        "n_boundaries": (n_boundaries, twosample.MIN_TIMES),
        "n_interior": (n_interior, 1),
        "first_boundary": (first_boundary, 1),
        "block_samples": (block_samples, _MIN_WINDOWS_PER_BLOCK * window_samples),
    }
    for key, (value, least) in allowed.items():
        if value < least:
            raise CrabError(f"{key} = {value}: allowed are integers >= {least}")
    if window_samples % 2:
        raise CrabError(f"window_samples = {window_samples}: allowed are even numbers")
    places = _places(block_samples, window_samples, n_boundaries, n_interior + 1, seed)
    run = max(1, _REQUEST_SAMPLES // block_samples)
    parts = []
    for begin in tqdm(range(0, n_boundaries, run), desc="boundaries"):
        n = min(run, n_boundaries - begin)
        start = (first_boundary + begin) * block_samples - block_samples // 2
        tod = np.asarray(sample(start, n * block_samples), dtype=np.float64)
        middle = np.arange(n)[:, np.newaxis] * block_samples + block_samples // 2
        first = middle + places[begin : begin + n] - window_samples // 2
        parts.append(tod[:, first[..., np.newaxis] + np.arange(window_samples)])
    found = np.concatenate(parts, axis=1)
    # Medians over all kinds of windows together: one scale for all, and hits do not move it.
    flat = found.reshape(len(found), -1)
    width = stats.median_abs_deviation(flat, axis=1, scale="normal")
    if not (width > 0).all():
        raise CrabError(f"tod of detector {int(np.argmin(width))} has width 0 W: needs a width > 0")
    found -= np.median(flat, axis=1)[:, np.newaxis, np.newaxis, np.newaxis]
    found /= width[:, np.newaxis, np.newaxis, np.newaxis]
    inside = found[:, :, 2:].reshape(len(found), -1, window_samples)
    return Windows(found[:, :, 0], found[:, :, 1], inside)


def features(windows: np.ndarray) -> pd.DataFrame:
    """Features of windows that a seam in their middle changes, with those of any window.

    Parameters
    ----------
    windows : ndarray, shape (n_detector, n_windows, window_samples)
        Standardised samples.

    Returns
    -------
    pandas.DataFrame
        `twosample.features`; steps, products and differences of widths of the averages of 1 to 32
        samples before and after the middle; and the largest step between neighbours there over
        that anywhere.
    """
    table = twosample.features(windows)
    x = windows.reshape(-1, windows.shape[2])
    middle = x.shape[1] // 2
    for n in (n for n in _SCALES if n <= middle):
        before, after = x[:, middle - n : middle], x[:, middle : middle + n]
        a, b = before.mean(axis=1), after.mean(axis=1)
        table[f"step_{n}"] = b - a
        table[f"step_size_{n}"] = np.abs(b - a)
        table[f"product_{n}"] = a * b
        table[f"bend_{n}"] = np.abs(2 * x[:, middle] - a - b)
        if n > 1:
            table[f"width_{n}"] = after.std(axis=1) - before.std(axis=1)
    return table


def seams(
    windows: Windows,
    seed: int,
    classifiers: Sequence[str] = ("boosting", "stft"),
    epochs: int = twosample.DEFAULT_EPOCHS,
) -> Seams:
    """Tell windows on seams from interior ones, and fake seams from the same.

    Parameters
    ----------
    windows : Windows
        As `cut` gives them.
    seed : int
    classifiers : sequence of str
        Of `twosample.CLASSIFIERS`. Boosting has features of its own here; "stft" finds a break in
        a short window sooner than "resnet".
    epochs : int
        Of the networks among them, at most.

    Returns
    -------
    Seams

    Raises
    ------
    CrabError
        If a classifier is not known.
    """
    for name in classifiers:
        twosample.check_classifier(name)
    tables = [features(w) for w in windows] if "boosting" in classifiers else [None] * 3

    def judged(which: int) -> dict[str, twosample.TwoSample]:
        pair = None if tables[2] is None else (tables[which], tables[2])
        return {
            name: twosample.classifier_auc(
                windows[which],
                windows.interior,
                seed,
                name,
                epochs,
                pair if name == "boosting" else None,
            )
            for name in classifiers
        }

    tests, null = judged(0), judged(1)
    return Seams(
        tests,
        null,
        twosample.null_percentile(null.values(), seed),
        windows.seam.shape[1],
        windows.seam.shape[2],
    )


def rows(result: Seams) -> tuple[dict[str, Estimate], dict[str, Estimate], dict[str, float]]:
    """Row 10 of the scorecard.

    Parameters
    ----------
    result : Seams

    Returns
    -------
    values, beside : dict of str to Estimate
        Rows, and the same with fake boundaries. ``seam_auc`` is the largest AUC and
        ``seam_auc_error`` its error: is the test sharp enough?
    goals : dict of str to float
        For ``seam_auc`` the 95th percentile without seams.
    """
    values, beside = (
        {"seam_auc": _largest(tests)}
        | {"seam_auc_error": Estimate(_largest(tests).error, np.nan)}
        | {f"seam_auc_{name}": test.auc for name, test in tests.items()}
        for tests in (result.tests, result.null)
    )
    extra = {
        "seam_auc_null_95": Estimate(result.null_95, np.nan),
        "seam_boundaries": Estimate(float(result.n_boundaries), np.nan),
    }
    return values | extra, beside | extra, {"seam_auc": result.null_95}


def _largest(tests: dict[str, twosample.TwoSample]) -> Estimate:
    return max((t.auc for t in tests.values()), key=lambda auc: auc.value)


def _places(block: int, window: int, n_boundaries: int, n_inside: int, seed: int) -> np.ndarray:
    """Middles of windows about each boundary: 0, one fake seam, the others; in a random order.

    Shape (n_boundaries, 1 + n_inside). Between one window's length from the boundary and the
    middle of a block, a stratum for each, so that they hardly overlap.
    """
    rng = seeds.rng(seed, "places inside blocks")
    # Window and neighbouring window of the seam do not touch; nor do those of two boundaries.
    side = block // 2 - window // 2 - window
    along = (np.arange(n_inside) + rng.random((n_boundaries, n_inside))) / n_inside * 2 * side
    along = np.floor(rng.permuted(along, axis=1)).astype(int)
    inside = np.where(along < side, along - side - window, along - side + window)
    return np.concatenate([np.zeros((n_boundaries, 1), dtype=int), inside], axis=1)
