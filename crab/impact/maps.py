"""Maps of a background along LiteBIRD's scan, by litebird_sim's own map-makers.

Scan, half-wave plate, detectors and their angles are the instrument database's (vPTEP); its
detectors all look along the boresight. The TOD comes through a source (`crab.impact.signals`). An
observation is one chunk of it and asks for its TOD and its pointing when the map-maker does:
memory holds two chunks, whatever the mission's length.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache

import healpy as hp
import litebird_sim as lbs
import numpy as np
import xarray as xr

from crab.errors import CrabError
from crab.impact.signals import Source
from crab.physics.instrument import RELEASE

CHUNK_S = 3600.0
_QUATERNION_STEP_S = 60.0
# litebird_sim's map-makers know no flags. Flagged samples go to one direction, whose pixel is
# dropped from the map: all others hold the unflagged samples and nothing else.
_DROPPED = (np.pi / 2, 0.0)
_MIN_CONDITION = 0.1  # smallest over largest eigenvalue; 0.5 for well-spread angles, 1 for Q, U


@lru_cache(maxsize=1)
def database() -> lbs.Imo:
    """The instrument database that comes with litebird_sim."""
    return lbs.Imo(flatfile_location=lbs.PTEP_IMO_LOCATION)


@lru_cache(maxsize=1)
def mission_facts() -> dict:
    """Scanning parameters of the database: angles, rates, duration, duty cycle and losses."""
    return dict(database().query(f"{RELEASE}/scanning_parameters").metadata)


def mission_time_s() -> float:
    """Time of observation of the whole mission: three years less dead time and losses, in s."""
    facts = mission_facts()
    share = facts["observation_duty_cycle"] * facts["cosmic_ray_loss"] * facts["margin"]
    return facts["mission_duration_year"] * 365.25 * 86400 * share


@lru_cache(maxsize=3)
def telescope_info(telescope: str) -> lbs.InstrumentInfo:
    """Telescope of the database: angles, rotation of the half-wave plate, channels.

    Raises
    ------
    CrabError
        For an unknown telescope.
    """
    if telescope not in ("LFT", "MFT", "HFT"):
        raise CrabError(f"telescope = {telescope!r}: allowed are LFT, MFT, HFT")
    return lbs.InstrumentInfo.from_imo(database(), f"{RELEASE}/{telescope}/instrument_info")


def hwp_frequency_hz(telescope: str) -> float:
    """Frequency at which polarisation arrives: four times the half-wave plate's."""
    return 4 * telescope_info(telescope).hwp_rpm / 60


@lru_cache(maxsize=8)
def detector_infos(telescope: str, names: tuple[str, ...], channels: tuple[str, ...]) -> list[dict]:
    """Database entries of detectors, as litebird_sim's observations want them."""
    base = f"{RELEASE}/{telescope}"
    return [
        asdict(lbs.DetectorInfo.from_imo(database(), f"{base}/{channel}/{name}/detector_info"))
        for name, channel in zip(names, channels, strict=True)
    ]


class _Observation(lbs.Observation):
    """One chunk: makes its TOD when asked for it, and sends flagged samples out of the way."""

    source: Source
    flags: Callable[[int, int], np.ndarray] | None
    sky: lbs.HealpixMap | None
    first_sample: int
    _flagged: np.ndarray | None = None
    _boresight: np.ndarray | None = None

    @property
    def background(self) -> np.ndarray:
        """TOD of this chunk in uK, float32: what the map-maker reads."""
        self._scanned = np.asarray(
            1e6 * self.source(self.first_sample, self.n_samples), dtype=np.float32
        )
        if self.sky is not None:
            lbs.scan_map_in_observations(self, self.sky, component="_scanned")
        scanned = self._scanned
        del self._scanned
        return scanned

    def get_pointings(self, detector_idx, *, compute_hwp_angle=True, **settings):
        """As litebird_sim's, for one detector, with flagged samples in the dropped direction."""
        same = self.quat[detector_idx].is_close_to(self.quat[0])
        if self._boresight is None or not same:
            angles, hwp = super().get_pointings(
                detector_idx, compute_hwp_angle=compute_hwp_angle, **settings
            )
            if same:
                self._boresight = angles
        else:
            # All detectors that look the same way share one computation.
            angles = self._boresight
            hwp = self.get_hwp_angle() if compute_hwp_angle else None
        if self.flags is not None:
            if self._flagged is None:
                self._flagged = self.flags(self.first_sample, self.n_samples)
            angles = angles.copy()
            angles[self._flagged[detector_idx], :2] = _DROPPED
        if detector_idx == self.n_detectors - 1:
            self._boresight = self._flagged = None
        return angles, hwp


def observations(
    source: Source,
    detectors: list[dict],
    telescope: str,
    sampling_rate_hz: float,
    n_samples: int,
    *,
    start_sample: int = 0,
    flags: Callable[[int, int], np.ndarray] | None = None,
    sky: np.ndarray | None = None,
    chunk_s: float = CHUNK_S,
) -> list[lbs.Observation]:
    """Observations along LiteBIRD's scan, chunk by chunk, for litebird_sim's map-makers.

    Parameters
    ----------
    source : callable
        Samples count from the start of the data.
    detectors : list of dict
        From `detector_infos`, in the source's order.
    telescope : {"LFT", "MFT", "HFT"}
    sampling_rate_hz : float
    n_samples : int
        To be mapped.
    start_sample : int
        Where in the mission the data begin: sets the pointing.
    flags : callable, optional
        As a source; True for samples to leave out.
    sky : ndarray, shape (3, n_pix), optional
        I, Q, U in uK, in ecliptic coordinates, to scan along with it.
    chunk_s : float
        Longest observation. All are of one length to a sample: litebird_sim's destriper asks for
        the same number of baselines in each.

    Returns
    -------
    list of litebird_sim.Observation
        Their attribute ``background`` is the TOD in uK.
    """
    info = telescope_info(telescope)
    strategy = lbs.SpinningScanningStrategy.from_imo(database(), f"{RELEASE}/scanning_parameters")
    speed = 2 * np.pi * info.hwp_rpm / 60
    if sky is not None:
        sky = lbs.HealpixMap(np.asarray(sky, float), coordinates=lbs.CoordinateSystem.Ecliptic)
    n_chunks = math.ceil(n_samples / max(1, round(chunk_s * sampling_rate_hz)))
    edges = np.linspace(0, n_samples, n_chunks + 1).round().astype(int).tolist()
    found = []
    for first, end in itertools.pairwise(edges):
        time_s = (start_sample + first) / sampling_rate_hz
        obs = _Observation(
            detectors=detectors,
            n_samples_global=end - first,
            start_time_global=time_s,
            sampling_rate_hz=sampling_rate_hz,
            allocate_tod=False,
        )
        obs.source, obs.flags, obs.sky, obs.first_sample = source, flags, sky, first
        # litebird_sim counts the plate's angle from the start of an observation.
        hwp = lbs.IdealHWP(speed, start_angle_rad=speed * time_s % (2 * np.pi))
        obs.prepare_pointings(
            info,
            strategy.generate_spin2ecl_quaternions(
                start_time=time_s,
                time_span_s=obs.n_samples / sampling_rate_hz + _QUATERNION_STEP_S,
                delta_time_s=_QUATERNION_STEP_S,
            ),
            hwp,
        )
        obs.set_hwp(hwp)
        found.append(obs)
    return found


def binned_map(nside: int, chunks: list[lbs.Observation]) -> xr.Dataset:
    """I, Q, U, each sample weighted by its detector's noise.

    Parameters
    ----------
    nside : int
    chunks : list of litebird_sim.Observation
        From `observations`.

    Returns
    -------
    xarray.Dataset
        ``sky`` in uK on dimensions ``stokes`` (I, Q, U) and ``pixel`` (RING, ecliptic), NaN where
        unseen; ``hits``: samples of detectors, by which polarisation is weighted.
    """
    result = lbs.make_binned_map(
        nside,
        chunks,
        output_coordinate_system=lbs.CoordinateSystem.Ecliptic,
        components="background",
    )
    return _as_dataset(result.binned_map, result.invnpp, "IQU", chunks, 1.0)


def pair_map(nside: int, chunks: list[lbs.Observation]) -> xr.Dataset:
    """Q, U from the differences of the two detectors of each pixel, of one channel.

    Parameters
    ----------
    nside : int
    chunks : list of litebird_sim.Observation
        From `observations`: pairs of one channel, flagged together.

    Returns
    -------
    xarray.Dataset
        As `binned_map`; ``hits`` are samples of pairs.
    """
    result = lbs.make_pair_differenced_map(
        nside,
        chunks,
        output_coordinate_system=lbs.CoordinateSystem.Ecliptic,
        components="background",
    )
    return _as_dataset(result.binned_map, result.invnpp, "QU", chunks, 4.0)


def destriped_map(nside: int, chunks: list[lbs.Observation], baseline_s: float) -> xr.Dataset:
    """I, Q, U less a baseline for each detector and stretch (for 1/f noise).

    The destriper keeps pixel and angle of every sample, 12 bytes each: for days, not for years.

    Parameters
    ----------
    nside : int
    chunks : list of litebird_sim.Observation
    baseline_s : float
        Length of a baseline.

    Returns
    -------
    xarray.Dataset
        As `binned_map`.
    """
    result = lbs.make_destriped_map(
        nside,
        chunks,
        params=lbs.DestriperParameters(
            output_coordinate_system=lbs.CoordinateSystem.Ecliptic,
            samples_per_baseline=max(1, round(baseline_s * chunks[0].sampling_rate_hz)),
        ),
        components="background",
        callback=None,
    )
    covariance = result.nobs_matrix_cholesky.get_invnpp()
    return _as_dataset(result.destriped_map, covariance, "IQU", chunks, 1.0)


def _as_dataset(values, covariance, stokes: str, chunks, per_hit: float) -> xr.Dataset:
    seen = covariance[:, 0, 0] > 0  # else UNSEEN, or 0 in the destriper's
    if any(obs.flags is not None for obs in chunks):
        seen[hp.ang2pix(hp.npix2nside(seen.size), *_DROPPED)] = False
    # Few samples with nearly the same angle give I, Q, U with huge errors: they are dropped.
    width = np.linalg.eigvalsh(covariance[seen])
    seen[seen] = width[:, 0] > _MIN_CONDITION * width[:, -1]
    sky = np.where(seen, values, np.nan)
    weight_uk2 = np.mean(chunks[0].sampling_rate_hz * np.asarray(chunks[0].net_ukrts) ** 2)
    information = np.linalg.inv(covariance[seen])
    hits = np.zeros(seen.size)
    hits[seen] = weight_uk2 / per_hit * (information[:, -1, -1] + information[:, -2, -2])
    return xr.Dataset(
        {
            "sky": (("stokes", "pixel"), sky, {"units": "uK_CMB"}),
            "hits": ("pixel", hits),
        },
        coords={"stokes": list(stokes)},
        attrs={"ordering": "RING", "coordinates": "ecliptic"},
    )
