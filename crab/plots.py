"""Figures in one style and in journal column widths."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

_STYLE = Path(__file__).with_name("crab.mplstyle")
WIDTH_MM = {"single": 88.0, "double": 180.0}


def style() -> None:
    """Use CRAB's figure style from here on."""
    plt.style.use(_STYLE)


def figure(width: str = "single", aspect: float = 0.68, **subplots):
    """New figure of a journal column's width.

    Parameters
    ----------
    width : {"single", "double"}
        88 mm or 180 mm (Astronomy & Astrophysics).
    aspect : float
        Height over width.
    **subplots
        Passed to `matplotlib.pyplot.subplots`.

    Returns
    -------
    (matplotlib.figure.Figure, matplotlib.axes.Axes or ndarray of them)
    """
    style()
    inches = WIDTH_MM[width] / 25.4
    return plt.subplots(figsize=(inches, inches * aspect), **subplots)


def correlation_matrix(ax, matrix, names, vmin: float = -1.0, vmax: float = 1.0):
    """Draw a correlation matrix with its detectors' names.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    matrix : array-like, shape (n, n)
    names : sequence of str, length n
    vmin, vmax : float
        Colour limits; a diverging map if they are symmetric.

    Returns
    -------
    matplotlib.image.AxesImage
    """
    cmap = "RdBu_r" if np.isclose(vmin, -vmax) else "cividis"
    image = ax.imshow(np.asarray(matrix), vmin=vmin, vmax=vmax, cmap=cmap)
    ticks = range(len(names))
    ax.set_xticks(ticks, names, rotation=90)
    ax.set_yticks(ticks, names)
    ax.tick_params(length=0, labelsize=5.5)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return image
