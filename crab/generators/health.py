"""Known illnesses of adversarial training, each as a number that is logged while training.

The authors of the reference network saw five: mode collapse in a loop of wins and losses, a
discriminator that wins outright, a generator that has everything called measured, measured windows
called generated, and a Wasserstein loss that drifts. `diagnose` says which of them a history shows.
"""

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

_N_BANDS = 4
_K = 5
_PLAIN = 0.9
# Illness: (column, limit, side that is ill, what it says).
RULES = {
    "mode collapse": ("coverage_ratio", 0.5, "<", "generated windows cover few of the measured"),
    "discriminator dominates": ("score_gap", 8.0, ">", "scores of the two kinds lie far apart"),
    "generator dominates": ("fooled", 0.75, ">", "called measured although plainly different"),
    "measured called generated": ("auc_real_error", 0.2, ">", "training windows learned by heart"),
    "critic drifts": ("score_drift", 10.0, ">", "mean score far from zero for its spread"),
    "amplitude lost": ("amplitude_error", 0.5, ">", "spread wrong by this factor, logarithmic"),
}
# A single bad epoch is no illness.
_N_EPOCHS = 2


def of_scores(real: np.ndarray, fake: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    """Signs in the discriminator's scores.

    Parameters
    ----------
    real, fake, seen : ndarray, shape (n, 1)
        Scores of held-out, generated and training windows.

    Returns
    -------
    dict of str to float
        ``score_gap``: difference of the medians; ``score_drift``: distance of the mean of all from
        zero over their spread; ``auc_real_error``: how far the area under the ROC curve of
        training against held-out windows is from 1/2; ``called_real``: share of generated windows
        that score above the median of the held-out.
    """
    real, fake, seen = (np.ravel(x).astype(float) for x in (real, fake, seen))
    both = np.concatenate([real, fake])
    labels = np.repeat([0, 1], [real.size, seen.size])
    auc = roc_auc_score(labels, np.concatenate([real, seen]))
    return {
        "score_gap": float(np.median(real) - np.median(fake)),
        "score_drift": float(abs(both.mean()) / (both.std() + 1e-12)),
        "auc_real_error": float(abs(auc - 0.5)),
        "called_real": float(np.mean(fake > np.median(real))),
    }


def of_windows(fake: np.ndarray, real: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    """Signs in the windows themselves, which no discriminator judges.

    Parameters
    ----------
    fake, real, seen : ndarray, shape (n, window_samples, n_channels)
        Generated, held-out and training windows in network units.

    Returns
    -------
    dict of str to float
        ``coverage``: share of held-out windows that have a generated one nearer than their own
        fifth neighbour (Naeem et al. 2020, arXiv:2002.09797);
        ``coverage_ratio``: over what training windows cover; ``separability``: largest area under
        a ROC curve of a single feature; ``amplitude_error``: ln of the ratio of core widths,
        absolute; ``psd_error``: median \\|ln\\| of the ratio of power spectra; and
        ``generated_``, ``held_out_`` ``std``, ``skewness``, ``pair_correlation``.
    """
    ours, held, known = (fingerprint(x) for x in (fake, real, seen))
    scale = np.diff(np.quantile(held, [0.16, 0.84], axis=0), axis=0) / 2 + 1e-9
    ours, held, known = ((x - np.median(held, axis=0)) / scale for x in (ours, held, known))
    coverage, null = (_coverage(held, x) for x in (ours, known))
    labels = np.repeat([0, 1], [len(held), len(ours)])
    values = np.nan_to_num(np.concatenate([held, ours]), posinf=1e9, neginf=-1e9)
    aucs = [roc_auc_score(labels, v) for v in values.T]
    width = [np.diff(np.quantile(x, [0.158655, 0.841345]))[0] for x in (fake, real)]
    spectra = [np.log(_power(x) + 1e-12) for x in (fake, real)]
    found = {
        "coverage": float(coverage),
        "coverage_ratio": float(coverage / max(null, 1e-9)),
        "separability": float(max(max(a, 1 - a) for a in aucs)),
        "amplitude_error": float(abs(np.log((width[0] + 1e-9) / width[1]))),
        "psd_error": float(np.median(np.abs(spectra[0] - spectra[1]))),
    }
    for name, x in (("generated", fake), ("held_out", real)):
        found |= {
            f"{name}_std": float(x.std()),
            f"{name}_skewness": float(stats.skew(x, axis=None)),
            f"{name}_pair_correlation": mean_pair_correlation(x[..., 0]),
        }
    return found


def fooled(called_real: float, separability: float, **_) -> float:
    """Share of generated windows called measured, where a single feature tells them apart.

    Parameters
    ----------
    called_real, separability : float
        Of `of_scores` and `of_windows`.

    Returns
    -------
    float
        0 if no feature separates with an area of more than 0.9.
    """
    return called_real if separability > _PLAIN else 0.0


def fingerprint(windows: np.ndarray) -> np.ndarray:
    """A few features of every window.

    Parameters
    ----------
    windows : ndarray, shape (n, window_samples, n_channels)

    Returns
    -------
    ndarray, shape (n, n_features)
        Means over channels of: median, logarithms of core width, of largest value and of power in
        four bands; and the mean correlation between channels if there are several.
    """
    low, middle, high = np.quantile(windows, [0.158655, 0.5, 0.841345], axis=1)
    power = np.abs(np.fft.rfft(windows - windows.mean(axis=1, keepdims=True), axis=1)[:, 1:]) ** 2
    bands = np.stack([b.mean(axis=1) for b in np.array_split(power, _N_BANDS, axis=1)], axis=-1)
    columns = [
        middle.mean(axis=1),
        np.log(high - low + 1e-9).mean(axis=1),
        np.log(np.abs(windows).max(axis=1) + 1e-9).mean(axis=1),
        *np.log(bands + 1e-12).mean(axis=1).T,
    ]
    n_channels = windows.shape[2]
    if n_channels > 1:
        z = windows - windows.mean(axis=1, keepdims=True)
        z /= z.std(axis=1, keepdims=True) + 1e-9
        total = (z.sum(axis=2) ** 2).mean(axis=1)
        columns.append((total - n_channels) / (n_channels * (n_channels - 1)))
    return np.stack(columns, axis=1).astype(float)


def diagnose(history: pd.DataFrame) -> pd.DataFrame:
    """Which illnesses a training shows.

    Parameters
    ----------
    history : pandas.DataFrame
        One row for each epoch, with the columns of `of_scores` and `of_windows`.

    Returns
    -------
    pandas.DataFrame
        Columns ``illness, quantity, value, limit, ill, first_epoch, meaning``: the value at the
        end, whether the last two epochs are on the ill side of the limit, and the first epoch
        that was, with the one after it (NaN if none).
    """
    rows = []
    for illness, (column, limit, side, meaning) in RULES.items():
        if column not in history:
            continue
        values = history[column].to_numpy(dtype=float)
        over = values < limit if side == "<" else values > limit
        spell = over[1:] & over[:-1] if len(over) > 1 else over[:0]
        first = history["epoch"].iloc[int(np.argmax(spell))] if spell.any() else np.nan
        ill = len(over) >= _N_EPOCHS and bool(over[-_N_EPOCHS:].all())
        rows.append((illness, column, values[-1], f"{side} {limit:g}", ill, first, meaning))
    columns = ["illness", "quantity", "value", "limit", "ill", "first_epoch", "meaning"]
    return pd.DataFrame(rows, columns=columns)


def mean_pair_correlation(values: np.ndarray) -> float:
    """Mean \\|r\\| (Pearson) over all pairs of windows: near 1 after a mode collapse.

    Parameters
    ----------
    values : ndarray, shape (n, n_samples)

    Returns
    -------
    float
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.corrcoef(values)
    return float(np.abs(matrix[np.triu_indices(len(values), 1)]).mean())


def _coverage(real: np.ndarray, other: np.ndarray) -> float:
    n = min(_K + 1, len(real))
    among = NearestNeighbors(n_neighbors=n).fit(real).kneighbors(real)[0][:, -1]
    nearest = NearestNeighbors(n_neighbors=1).fit(other).kneighbors(real)[0][:, 0]
    return float(np.mean(nearest <= among))


def _power(windows: np.ndarray) -> np.ndarray:
    x = windows - windows.mean(axis=1, keepdims=True)
    return (np.abs(np.fft.rfft(x, axis=1)) ** 2)[:, 1:].mean(axis=(0, 2))
