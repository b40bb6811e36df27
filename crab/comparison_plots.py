"""Figures that compare a generator with the Monte Carlo, and the panel of its training's health.

Sets are given as a dict of label to TOD in W, at most three; the last is the generated one and the
one before it the held-out Monte Carlo, which it is compared with.
"""

import numpy as np
from matplotlib.ticker import FixedLocator, LogLocator
from scipy import signal

from crab import plots
from crab.generators import health

STYLES = (("0.55", "--"), ("C0", "-"), ("C1", "-"))
LIMIT_SCALES = 10.0
_LARGE_RATIO = 2.5
_FW = 1e15  # W in fW


def in_scales(tod_w: np.ndarray, normalisation) -> np.ndarray:
    """TOD about its median in units of each detector's scale, hits downwards.

    Parameters
    ----------
    tod_w : ndarray, shape (n_det, n_samples)
    normalisation : crab.generators.normalise.Normalisation

    Returns
    -------
    ndarray of float64, shape (n_det, n_samples)
    """
    location, scale = normalisation.location_w[:, None], normalisation.scale_w[:, None]
    return -normalisation.sign * (np.asarray(tod_w, dtype=np.float64) - location) / scale


def limited(tod_w: np.ndarray, normalisation, limit_scales: float = LIMIT_SCALES) -> np.ndarray:
    """TOD in W about its median, cut at some scales: no single hit is then the whole spectrum."""
    u = np.clip(in_scales(tod_w, normalisation), -limit_scales, limit_scales)
    return u * normalisation.scale_w[:, None]


def spectrum(tod_w: np.ndarray, normalisation, sampling_rate_hz: float, n_segment: int):
    """Welch spectrum of the `limited` TOD, mean over detectors, in logarithmic bins.

    Parameters
    ----------
    tod_w : ndarray, shape (n_det, n_samples)
    normalisation : crab.generators.normalise.Normalisation
    sampling_rate_hz : float
    n_segment : int
        Samples of a segment.

    Returns
    -------
    (ndarray, ndarray)
        Frequency in Hz and power spectral density in W^2/Hz.
    """
    f, p = signal.welch(limited(tod_w, normalisation), sampling_rate_hz, nperseg=n_segment, axis=1)
    f, p = f[1:], p[:, 1:].mean(axis=0)
    index = np.digitize(f, np.geomspace(f[0] * 0.99, f[-1] * 1.01, 21))
    return tuple(np.array([a[index == i].mean() for i in np.unique(index)]) for a in (f, p))


def traces(sets: dict, normalisation, sampling_rate_hz: float, window_samples: int, n_shown=3):
    """Windows of the first detector, one column a set, on one scale.

    Parameters
    ----------
    sets : dict of str to ndarray, shape (n_det, n_samples)
    normalisation : crab.generators.normalise.Normalisation
    sampling_rate_hz : float
    window_samples, n_shown : int

    Returns
    -------
    (matplotlib.figure.Figure, float)
        And where the axis ceases to be linear, in fW.
    """
    fig, axes = plots.figure(
        "double", 0.5, nrows=n_shown, ncols=len(sets), sharex=True, sharey=True, squeeze=False
    )
    time_s = np.arange(window_samples) / sampling_rate_hz
    for column, (label, tod, colour, _) in zip(axes.T, _styled(sets), strict=True):
        pick = np.linspace(0, tod.shape[1] // window_samples - 1, n_shown).astype(int)
        for ax, window in zip(column, pick, strict=True):
            cut = tod[0, window * window_samples : (window + 1) * window_samples]
            ax.plot(time_s, (cut - normalisation.location_w[0]) * _FW, color=colour, lw=0.7)
        column[0].set_title(label)
        column[-1].set_xlabel("time in window [s]")
    linear = 3 * normalisation.scale_w[0] * _FW
    asinh_axis(axes[0, 0], linear)
    axes[0, 0].set_xlim(0, time_s[-1])
    fig.supylabel("power about its median [fW]", fontsize=8)
    return fig, linear


def asinh_axis(ax, linear: float) -> None:
    """Vertical axis: linear to `linear`, then logarithmic, with decades as ticks."""
    ax.set_yscale("asinh", linear_width=linear)
    decades = [d for d in 10.0 ** np.arange(-6, 7) if d > 2 * linear]
    ax.yaxis.set_major_locator(FixedLocator([0, *decades, *(-d for d in decades)]))
    ax.yaxis.set_major_formatter("{x:g}")


def amplitudes(sets: dict, normalisation):
    """Density of the continuum, and share of samples deeper than a depth.

    Parameters
    ----------
    sets : dict of str to ndarray, shape (n_det, n_samples)
    normalisation : crab.generators.normalise.Normalisation

    Returns
    -------
    matplotlib.figure.Figure
    """
    fig, axes = plots.figure("double", 0.42, ncols=2)
    edges = np.linspace(-8, 5, 66)
    for label, tod, colour, line in _styled(sets):
        u = in_scales(tod, normalisation)
        density = np.histogram(u, edges)[0] / u.size / np.diff(edges)
        axes[0].stairs(density, edges, color=colour, ls=line, label=label, lw=1.1)
        depth = np.sort(-u, axis=None)
        deeper = 1 - np.arange(depth.size) / depth.size
        # A point for each sample would make a file of megabytes.
        keep = np.unique(depth.size - np.geomspace(1, depth.size, 2000).astype(int))
        keep = keep[depth[keep] > 0.5]
        axes[1].plot(depth[keep], deeper[keep], color=colour, ls=line)
    axes[0].set(yscale="log", ylim=(1e-5, 5), xlabel="power about its median [scales]")
    axes[0].set(ylabel="density [1/scale]", title="continuum")
    axes[1].set(xscale="log", yscale="log", xlabel="depth below the median [scales]")
    axes[1].set(ylabel="fraction of samples deeper", title="tail of hits")
    axes[0].legend(loc="upper left")
    return fig


def spectra(sets: dict, normalisation, sampling_rate_hz: float, n_segment: int):
    """Spectra, and their ratio to the held-out one.

    Parameters
    ----------
    sets : dict of str to ndarray, shape (n_det, n_samples)
    normalisation, sampling_rate_hz, n_segment
        As in `spectrum`.

    Returns
    -------
    (matplotlib.figure.Figure, dict of str to float)
        And the median of \\|ratio - 1\\| of each other set.
    """
    found = {k: spectrum(v, normalisation, sampling_rate_hz, n_segment) for k, v in sets.items()}
    held_out = list(sets)[-2]
    reference = found[held_out][1]
    fig, axes = plots.figure("single", 1.0, nrows=2, sharex=True, height_ratios=[2, 1])
    for label, (f, p), colour, line in _styled(found):
        axes[0].plot(f, np.sqrt(p) * 1e18, color=colour, ls=line, label=label)
        axes[1].plot(f, p / reference, color=colour, ls=line)
    axes[0].set(xscale="log", yscale="log", ylabel=r"amplitude density [aW Hz$^{-1/2}$]")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_formatter("")
    levels = np.sqrt([p for _, p in found.values()]) * 1e18
    axes[0].set_ylim(0.5 * levels.min(), 1.2 * levels.max())
    axes[0].legend(loc="lower left")
    axes[1].set(xlabel="frequency [Hz]", ylabel="power / held out")
    if max((p / reference).max() for _, p in found.values()) < _LARGE_RATIO:
        axes[1].set_ylim(0, _LARGE_RATIO)
    else:
        axes[1].set_yscale("log")
    errors = {
        k: float(np.median(np.abs(p / reference - 1)))
        for k, (_, p) in found.items()
        if k != held_out
    }
    return fig, errors


def correlations(sets: dict, normalisation, absent: bool = False):
    """Correlation of detectors: first and last set, and their difference.

    Parameters
    ----------
    sets : dict of str to ndarray, shape (n_det, n_samples)
    normalisation : crab.generators.normalise.Normalisation
    absent : bool
        The generator makes one detector at a time; the figure then says so.

    Returns
    -------
    (matplotlib.figure.Figure, dict of str to ndarray)
        And the matrices of all sets.
    """
    found = {k: np.corrcoef(limited(v, normalisation)) for k, v in sets.items()}
    labels = list(sets)
    first, last = found[labels[0]], found[labels[-1]]
    off = ~np.eye(len(first), dtype=bool)
    limit = max(0.01, float(np.abs((last - first)[off]).max()))
    low = min(0.0, float(first.min()), float(last.min()))
    names = [name.split("_", 2)[-1] for name in normalisation.detectors]
    fig, axes = plots.figure("double", 0.38, ncols=3)
    for ax, matrix, title in zip(axes[:2], (first, last), (labels[0], labels[-1]), strict=True):
        image = plots.correlation_matrix(ax, matrix, names, vmin=low, vmax=1.0)
        ax.set_title(title)
    fig.colorbar(image, ax=axes[:2], shrink=0.6, label="correlation")
    image = plots.correlation_matrix(axes[2], last - first, names, vmin=-limit, vmax=limit)
    axes[2].set_title("difference")
    fig.colorbar(image, ax=axes[2], shrink=0.6)
    if absent:
        axes[1].text(
            0.5,
            0.5,
            "absent by construction",
            transform=axes[1].transAxes,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none"},
        )
    return fig, found


def health_panel(history, colours: dict):
    """Every quantity of `crab.generators.health.RULES` over the epochs; its ill side in red.

    Parameters
    ----------
    history : pandas.DataFrame
    colours : dict of str to str
        Shade of each stage's background; stages that are not in it have none.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rules = {k: v for k, v in health.RULES.items() if v[0] in history}
    n_columns = min(3, len(rules))
    n_rows = -(-len(rules) // n_columns)
    fig, axes = plots.figure(
        "double", 0.27 * n_rows, nrows=n_rows, ncols=n_columns, sharex=True, squeeze=False
    )
    epoch = history["epoch"].to_numpy()
    for ax, (illness, (column, limit, side, _)) in zip(axes.flat, rules.items(), strict=False):
        values = history[column].to_numpy(dtype=float)
        ax.plot(epoch, values, color="C0", marker="." if len(epoch) < 40 else None)
        both = [*values[np.isfinite(values)], limit, 0.0]
        low, high = min(both), max(both)
        low, high = low - 0.08 * (high - low), high + 0.08 * (high - low)
        ax.axhspan(*((low, limit) if side == "<" else (limit, high)), color="C1", alpha=0.12, lw=0)
        ax.axhline(limit, color="C1", lw=0.8, ls="--")
        for stage, colour in colours.items():
            for e in epoch[(history["stage"] == stage).to_numpy()]:
                ax.axvspan(e - 0.5, e + 0.5, color=colour, lw=0, zorder=0)
        ax.set(title=illness, ylabel=column.replace("_", " "), ylim=(low, high))
        ax.set_xlim(0.5, epoch[-1] + 0.5)
    for ax in axes.flat[len(rules) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    return fig


def _styled(sets: dict):
    styles = STYLES[len(STYLES) - len(sets) :]
    return [(k, v, *s) for (k, v), s in zip(sets.items(), styles, strict=True)]
