"""Row 13 of the scorecard: how long generating takes, over the length of the TOD."""

from collections.abc import Sequence

import numpy as np

from crab.errors import CrabError
from crab.metrics.windows import Estimate

# LiteBIRD's three telescopes.
FOCAL_PLANE_DETECTORS = 4508


def rows(
    generate_s: Sequence[float],
    duration_s: float,
    n_detectors: int,
    write_s: Sequence[float] | None = None,
    n_focal_plane: int = FOCAL_PLANE_DETECTORS,
) -> dict[str, Estimate]:
    """Times that a caller measured, as rows.

    Parameters
    ----------
    generate_s : sequence of float
        Wall times of the same request, all detectors of one cube; compilation left out.
    duration_s : float
        Length of the generated TOD.
    n_detectors : int
        In the cube.
    write_s : sequence of float, optional
        Wall times of writing it.
    n_focal_plane : int
        Detectors of a focal plane: its time is that of as many cubes after each other, on the
        machine that was measured.

    Returns
    -------
    dict of str to Estimate
        ``generation_time``, and if ``write_s`` is given ``generation_and_writing_time``: for the
        cube, with ``_per_detector`` for one detector, with ``_focal_plane`` for all. Median, and
        the standard deviation of the repeats (NaN for a single one).

    Raises
    ------
    CrabError
        If nothing was measured, or a time, length or number is not positive.
    """
    given = {"duration_s": duration_s, "n_detectors": n_detectors, "n_focal_plane": n_focal_plane}
    for key, value in given.items():
        if not value > 0:
            raise CrabError(f"{key} = {value}: allowed are numbers > 0")
    generating = _measured("generate_s", generate_s)
    found = {"generation_time": generating}
    if write_s is not None:
        writing = _measured("write_s", write_s)
        found["generation_and_writing_time"] = Estimate(
            generating.value + writing.value, np.hypot(generating.error, writing.error)
        )
    scales = {
        "": 1.0,
        "_per_detector": 1 / n_detectors,
        "_focal_plane": n_focal_plane / n_detectors,
    }
    return {
        name + ending: Estimate(seconds * scale / duration_s, error * scale / duration_s)
        for name, (seconds, error) in found.items()
        for ending, scale in scales.items()
    }


def _measured(key: str, times_s: Sequence[float]) -> Estimate:
    times = np.asarray(times_s, dtype=float)
    if times.ndim != 1 or not times.size or not (times > 0).all():
        raise CrabError(f"{key} = {times.tolist()}: allowed are one or more times > 0 s")
    return Estimate(float(np.median(times)), times.std(ddof=1) if times.size > 1 else np.nan)
