"""Times of the samples of a long cube: known by a rule, so that no memory holds them."""

import numpy as np
import pandas as pd
import xarray as xr
from xarray.core.indexing import IndexSelResult
from xarray.indexes import PandasIndex, RangeIndex
from xarray.indexes.range_index import RangeCoordinateTransform

ATTRS = {"units": "s", "long_name": "time since the start of the mission"}
_TOLERANCE = 1e-3  # of a sample: a label that is nearer than this to a sample means it


class SampleTimes(RangeCoordinateTransform):
    """``time = sample / sampling_rate_hz``, the same floats however a cube was cut.

    Parameters
    ----------
    first : int
        Absolute index of the first sample.
    size : int
        Number of samples.
    rate_hz : float
        Sampling rate.
    stride : int
        Absolute samples from one to the next.
    """

    # No call to the parent's: it would keep a start and a step in seconds, which cuts round.
    def __init__(self, first: int, size: int, rate_hz: float, stride: int = 1):
        self.first, self.rate_hz, self.stride = int(first), float(rate_hz), int(stride)
        stop = self.first + size * self.stride
        step_s = self.stride / self.rate_hz
        ends_s = (self.first / self.rate_hz, stop / self.rate_hz)
        super().__init__(*ends_s, int(size), "time", "time", step=step_s)

    def forward(self, dim_positions: dict) -> dict:
        """Times in s of positions in the cube."""
        samples = self.first + np.asarray(dim_positions["time"]) * self.stride
        return {"time": samples / self.rate_hz}

    def reverse(self, coord_labels: dict) -> dict:
        """Positions in the cube, with fractions, of times in s."""
        samples = np.asarray(coord_labels["time"], dtype=float) * self.rate_hz
        return {"time": (samples - self.first) / self.stride}

    def slice(self, sl: slice) -> "SampleTimes":
        """Times of a slice."""
        kept = range(self.size)[sl]
        first = self.first + kept.start * self.stride
        return type(self)(first, len(kept), self.rate_hz, kept.step * self.stride)

    def equals(self, other, exclude=None, *, exact: bool = False) -> bool:
        """Whether all times are the same."""
        mine = (self.first, self.size, self.rate_hz, self.stride)
        return isinstance(other, SampleTimes) and mine == (
            other.first,
            other.size,
            other.rate_hz,
            other.stride,
        )


class TimeIndex(RangeIndex):
    """Index of a lazy time coordinate; selects like the index of times that are held.

    A slice holds both of its ends. A single time must be that of a sample, unless
    ``method="nearest"``.
    """

    def isel(self, indexers):
        """Index of what positions select; lists of positions give times that are held."""
        wanted = indexers[self.dim]
        if isinstance(wanted, slice):
            return TimeIndex(self.transform.slice(wanted))
        values = getattr(wanted, "values", wanted)
        if np.ndim(values) != 1:
            return None
        times_s = self.transform.forward({"time": _positions(values, self.size)})["time"]
        dim = wanted.dims[0] if isinstance(wanted, xr.Variable) else self.dim
        return PandasIndex(pd.Index(times_s, name="time"), dim)

    def sel(self, labels, method=None, tolerance=None) -> IndexSelResult:
        """Positions of times; `KeyError` for a time that is no sample's."""
        label = labels["time"]
        if isinstance(label, slice):
            if label.step is not None:
                raise ValueError("time: a slice of times has no step; use isel(time=...) for one")
            ends = [label.start, label.stop]
            low, high = (None if end is None else self._place(end) for end in ends)
            start = 0 if low is None else max(0, int(np.ceil(low - _TOLERANCE)))
            stop = self.size if high is None else int(np.floor(high + _TOLERANCE)) + 1
            return IndexSelResult({"time": slice(start, max(start, min(stop, self.size)))})
        places = self._place(getattr(label, "values", label))
        nearest = np.rint(places).astype(int)
        if method == "nearest":
            nearest = np.clip(nearest, 0, self.size - 1)
        elif method is not None or tolerance is not None:
            raise ValueError("time: allowed is method='nearest' without a tolerance")
        elif (abs(places - nearest) > _TOLERANCE).any() or not _inside(nearest, self.size):
            raise KeyError(f"no sample at time = {label} s; use a slice, or method='nearest'")
        if isinstance(label, xr.Variable | xr.DataArray):
            nearest = xr.Variable(label.dims, nearest)
        return IndexSelResult({"time": nearest})

    @classmethod
    def concat(cls, indexes, dim, positions=None):
        """Index of cubes side by side; times that do not go on where others end are held."""
        rules = [index.transform for index in indexes]
        first, size = rules[0], sum(rule.size for rule in rules)
        whole = SampleTimes(first.first, size, first.rate_hz, first.stride)
        begins = np.cumsum([0, *(rule.size for rule in rules[:-1])])
        if all(
            rule.equals(whole.slice(slice(begin, begin + rule.size)))
            for rule, begin in zip(rules, begins, strict=True)
        ):
            return cls(whole)
        times_s = np.concatenate([rule.generate_coords()["time"] for rule in rules])
        return PandasIndex(pd.Index(times_s, name="time"), dim)

    def _place(self, time_s) -> np.ndarray:
        return self.transform.reverse({"time": time_s})["time"]


def coordinates(start_sample: int, n_samples: int, rate_hz: float) -> xr.Coordinates:
    """Time coordinate of a cube that is not held in memory.

    Parameters
    ----------
    start_sample : int
        Absolute index of the first sample.
    n_samples : int
    rate_hz : float
        Sampling rate.

    Returns
    -------
    xarray.Coordinates
        ``time`` in s, on a `TimeIndex`.
    """
    index = TimeIndex(SampleTimes(start_sample, n_samples, rate_hz))
    coords = xr.Coordinates.from_xindex(index)
    coords["time"].attrs.update(ATTRS)
    return coords


def rule(ds: xr.Dataset) -> SampleTimes | None:
    """Rule behind a cube's times, or None if they are held.

    Parameters
    ----------
    ds : xarray.Dataset

    Returns
    -------
    SampleTimes or None
    """
    index = ds.xindexes.get("time")
    return index.transform if isinstance(index, TimeIndex) else None


def _inside(positions: np.ndarray, size: int) -> bool:
    return bool(((positions >= 0) & (positions < size)).all())


def _positions(values, size: int) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype == bool:
        return np.flatnonzero(values)
    return np.where(values < 0, values + size, values)
