"""Straight lines against boxes and points."""

import numpy as np


def box_lines(rng: np.random.Generator, n: int, half_mm) -> tuple[np.ndarray, np.ndarray]:
    """Straight lines of an isotropic flux that cross a box: uniform on its surface, cosine law.

    In a flux J the box of surface S is crossed at ``pi J S``, so n lines stand for S/4 each n.

    Parameters
    ----------
    rng : numpy.random.Generator
    n : int
    half_mm : array-like, shape (3,)
        Half lengths of the box, centred on the origin.

    Returns
    -------
    point, direction : ndarray, shape (n, 3)
        Where a line enters, mm, and its unit direction.
    """
    half = np.asarray(half_mm, dtype=float)
    faces = np.prod(half) / half
    axis = rng.choice(3, n, p=faces / faces.sum())
    sign = rng.choice([-1.0, 1.0], n)
    point = rng.uniform(-1, 1, (n, 3)) * half
    rows = np.arange(n)
    point[rows, axis] = sign * half[axis]
    cosine2, azimuth = rng.uniform(size=n), rng.uniform(0, 2 * np.pi, n)
    sine = np.sqrt(1 - cosine2)
    direction = np.empty((n, 3))
    direction[rows, axis] = -sign * np.sqrt(cosine2)
    direction[rows, (axis + 1) % 3] = sine * np.cos(azimuth)
    direction[rows, (axis + 2) % 3] = sine * np.sin(azimuth)
    return point, direction


def crosses_box(point: np.ndarray, direction: np.ndarray, half_mm) -> np.ndarray:
    """Whether straight lines cross a box centred on the origin.

    Parameters
    ----------
    point, direction : ndarray, shape (n, 3)
        A point on each line, mm, and its direction.
    half_mm : array-like, shape (3,)

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    with np.errstate(divide="ignore"):
        inverse = 1 / direction
    near = -point * inverse - np.abs(inverse) * half_mm
    far = -point * inverse + np.abs(inverse) * half_mm
    return near.max(axis=1) < far.min(axis=1)


def line_distance_mm(point: np.ndarray, direction: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Distance of straight lines from centres: shapes (..., 3) that broadcast."""
    return np.linalg.norm(np.cross(point - centre, direction), axis=-1)
