"""Leave out samples that stand out: the simplest deglitching, with its loss stated."""

import numpy as np


def sigma_flags(
    tod: np.ndarray,
    n_sigma: float,
    groups: np.ndarray | None = None,
    singles: bool = True,
    spread: int = 1,
    max_rounds: int = 20,
) -> np.ndarray:
    """Samples further from the median than some sigma, found again until none is new.

    Parameters
    ----------
    tod : ndarray, shape (n_det, n_samples)
        As measured, with its noise.
    n_sigma : float
    groups : ndarray of int, shape (n_pair, 2), optional
        Pairs: their difference, free of what both feel, is searched too, and what is flagged in
        one is flagged in the other.
    singles : bool
        Search the detectors themselves too; False leaves what cancels in pairs.
    spread : int
        Samples to flag on either side as well.
    max_rounds : int

    Returns
    -------
    ndarray of bool, shape (n_det, n_samples)
    """
    found = np.zeros(tod.shape, bool)
    if singles or groups is None:
        found[:] = [_outliers(row, n_sigma, max_rounds) for row in tod]
    if groups is not None:
        for a, b in groups:
            difference = _outliers(tod[a] - tod[b], n_sigma, max_rounds)
            found[[a, b]] = found[a] | found[b] | difference
    out = found.copy()
    for shift in range(1, spread + 1):
        out[:, shift:] |= found[:, :-shift]
        out[:, :-shift] |= found[:, shift:]
    return out


def _outliers(row: np.ndarray, n_sigma: float, max_rounds: int) -> np.ndarray:
    flagged = np.zeros(row.shape, bool)
    for _ in range(max_rounds):
        kept = row[~flagged]
        distance = np.abs(row - np.median(kept))
        new = distance > n_sigma * kept.std(dtype=float)
        if not (new & ~flagged).any():
            break
        flagged |= new
    return flagged
