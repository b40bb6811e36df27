"""From a few detectors and hours to a focal plane and a mission: what averages down and what not.

A rotating half-wave plate brings polarisation to four times its frequency, and a map-maker adds up
``sum_d w_d n_d(t) exp(i 4 omega t)`` with ``w_d = exp(2 i psi_d)/N``. So the noise of polarisation
maps is the spectrum of that one complex sum at that frequency, with all correlations between the
detectors in it: heat of the wafer that two detectors of a pixel, 90 degrees apart, feel alike
drops out; what only one of them feels does not. Time makes N_ell fall as 1/t; detectors of another
wafer are independent; for those of the same wafer the sum says what they bring. Pairs in different
pixels share noise as far as their polarisations are aligned: those of orientations U and Q do not.
"""

import itertools
from typing import NamedTuple

import numpy as np
import xarray as xr

from crab.errors import CrabError
from crab.impact.spectra import Level

HALF_WIDTH_HZ = 0.3
SEGMENT_SAMPLES = 1024
# cos(2 dpsi): projected on the sky, the database's pairs are 63 to 117 degrees apart.
_OPPOSITE = -0.5


class Blocks(NamedTuple):
    """Noise in each of several stretches of time.

    Attributes
    ----------
    covariance : ndarray, shape (n_block, n_det, n_det)
        Cross-spectra of the detectors at the polarisation's frequency, two-sided, uK^2 s: the
        diagonal is NET^2.
    kept : ndarray, shape (n_det,)
        Share of samples that is not flagged.
    """

    covariance: np.ndarray
    kept: np.ndarray


def covariance_blocks(
    tod_uk: np.ndarray,
    sampling_rate_hz: float,
    frequency_hz: float,
    *,
    flags: np.ndarray | None = None,
    n_blocks: int = 20,
    segment_samples: int = SEGMENT_SAMPLES,
    half_width_hz: float = HALF_WIDTH_HZ,
) -> Blocks:
    """Cross-spectra between detectors at the frequency of polarisation, stretch by stretch.

    Parameters
    ----------
    tod_uk : ndarray, shape (n_det, n_samples)
        In uK_CMB.
    sampling_rate_hz : float
    frequency_hz : float
        Four times the half-wave plate's: `maps.hwp_frequency_hz`.
    flags : ndarray of bool, shape (n_det, n_samples), optional
        Samples that do not go into maps. They count as zero, and the result is divided by the
        shares that are left, squared: the noise of a map of what is left, for the whole time.
    n_blocks : int
        Stretches, for the error.
    segment_samples : int
        Of a Fourier transform, with a Hann window; half of it overlaps.
    half_width_hz : float
        Band about the frequency over which to average.

    Returns
    -------
    Blocks

    Raises
    ------
    CrabError
        If the samples do not fill two blocks or the band lies above the Nyquist frequency.
    """
    n_det, n_samples = tod_uk.shape
    step = segment_samples // 2
    n_segments = (n_samples - segment_samples) // step + 1
    n_blocks = min(n_blocks, n_segments)
    if n_blocks < 2:
        raise CrabError(
            f"segment_samples = {segment_samples}: {n_samples} samples hold fewer than 2 segments"
        )
    if frequency_hz + half_width_hz > sampling_rate_hz / 2:
        raise CrabError(
            f"frequency_hz = {frequency_hz:g}: with half_width_hz = {half_width_hz:g} it must lie "
            f"below the Nyquist frequency, {sampling_rate_hz / 2:g}"
        )
    window = np.hanning(segment_samples + 1)[:-1]
    bins = np.fft.rfftfreq(segment_samples, 1 / sampling_rate_hz)
    band = np.abs(bins - frequency_hz) <= half_width_hz
    norm = sampling_rate_hz * np.sum(window**2) * band.sum()
    edges = np.linspace(0, n_segments, n_blocks + 1).round().astype(int)
    kept = np.ones(tod_uk.shape, bool) if flags is None else ~flags
    share = kept.mean(axis=1)
    mean = np.mean(tod_uk, axis=1, keepdims=True, dtype=float, where=kept)
    centred = np.where(kept, tod_uk - mean, 0.0)
    covariance = np.empty((n_blocks, n_det, n_det), complex)
    for b, (first, last) in enumerate(itertools.pairwise(edges)):
        total = np.zeros((n_det, n_det), complex)
        for k in range(first, last):
            piece = centred[:, k * step : k * step + segment_samples]
            modes = np.fft.rfft(piece * window, axis=1)[:, band]
            total += np.conj(modes) @ modes.T
        covariance[b] = total / (last - first) / norm
    return Blocks(covariance / np.outer(share, share), share)


def weights(pol_angle_rad: np.ndarray, share: np.ndarray | None = None) -> np.ndarray:
    """Weights with which a map-maker adds up detectors.

    Parameters
    ----------
    pol_angle_rad : ndarray, shape (n_det,)
    share : ndarray, shape (n_det,), optional
        Relative weight of each; even by default.

    Returns
    -------
    ndarray of complex, shape (n_det,)
        Moduli add up to 1.
    """
    share = np.ones(len(pol_angle_rad)) if share is None else np.asarray(share, float)
    return share / share.sum() * np.exp(2j * np.asarray(pol_angle_rad))


def pair_weights(pol_angle_rad: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Weights with which a map-maker adds up differences of pairs.

    Parameters
    ----------
    pol_angle_rad : ndarray, shape (n_det,)
    members : ndarray of int, shape (n_pair, 2)
        From `pairs`.

    Returns
    -------
    ndarray of complex, shape (n_det,)
        Those of `weights` if the pairs' angles are 90 degrees apart. If they are not, the two of a
        pair still cancel for what both detectors feel, which those of `weights` do not.
    """
    unit = np.exp(2j * np.asarray(pol_angle_rad))
    response = unit[members[:, 0]] - unit[members[:, 1]]
    out = np.zeros(len(unit), complex)
    total = np.sum(np.abs(response) ** 2)
    out[members[:, 0]] = response / total
    out[members[:, 1]] = -response / total
    return out


def net2(blocks: Blocks, weight: np.ndarray) -> Level:
    """Squared noise-equivalent temperature of weighted detectors together, polarisation.

    Parameters
    ----------
    blocks : Blocks
    weight : ndarray, shape (n_det,)
        From `weights`.

    Returns
    -------
    Level
        ``w* S w`` in uK^2 s, with its standard error from the scatter of the blocks. N_ell of an
        even map of the full sky is ``8 pi`` times it over the time.
    """
    each = np.einsum("i,bij,j->b", np.conj(weight), blocks.covariance.conj(), weight).real
    return Level(float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each))))


def effective_detectors(blocks: Blocks, weight: np.ndarray) -> float:
    """How many independent detectors of the same mean noise would do as well.

    Parameters
    ----------
    blocks : Blocks
    weight : ndarray, shape (n_det,)

    Returns
    -------
    float
        Mean of NET^2 over `net2`: their number if they are independent, more where a common mode
        drops out between pairs, 1 if it is common and does not.
    """
    single = np.einsum("bii->i", blocks.covariance).real / len(blocks.covariance)
    return float(single.mean() / net2(blocks, weight).value)


def pairs(cube: xr.Dataset) -> np.ndarray:
    """Pairs of detectors of one channel in one pixel, with polarisations about 90 degrees apart.

    Parameters
    ----------
    cube : xarray.Dataset
        With the coordinates of a TOD cube.

    Returns
    -------
    ndarray of int, shape (n_pair, 2)

    Raises
    ------
    CrabError
        If detectors do not come in such pairs.
    """
    keys = list(
        zip(cube["wafer"].values, cube["pixel"].values, cube["channel"].values, strict=True)
    )
    found = []
    for key in dict.fromkeys(keys):
        members = [i for i, other in enumerate(keys) if other == key]
        angles = cube["pol_angle_rad"].values[members]
        if len(members) != 2 or np.cos(2 * (angles[1] - angles[0])) > _OPPOSITE:
            raise CrabError(
                f"detectors of wafer {key[0]}, pixel {key[1]}, channel {key[2]}: {len(members)} "
                "with these angles are no pair about 90 degrees apart"
            )
        found.append(members)
    return np.array(found)


def directions(pol_angle_rad: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Direction in the plane of Q and U in which the difference of a pair is measured.

    Parameters
    ----------
    pol_angle_rad : ndarray, shape (n_det,)
    members : ndarray of int, shape (n_pair, 2)
        From `pairs`.

    Returns
    -------
    ndarray of complex, shape (n_pair,)
        Of modulus 1: ``exp(2 i psi_1) - exp(2 i psi_2)``, normalised.
    """
    unit = np.exp(2j * np.asarray(pol_angle_rad))
    response = unit[members[:, 0]] - unit[members[:, 1]]
    return response / np.abs(response)


def alignment(direction: np.ndarray) -> float:
    """Mean cosine between two different pairs' directions; 1 if all are the same."""
    n = len(direction)
    return float((np.abs(np.sum(direction)) ** 2 - n) / (n * (n - 1))) if n > 1 else 0.0


def pair_table(blocks: Blocks, pol_angle_rad: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Noise of half-differences of pairs, and what two pairs share, with their angles in it.

    Parameters
    ----------
    blocks : Blocks
    pol_angle_rad : ndarray, shape (n_det,)
    members : ndarray of int, shape (n_pair, 2)
        From `pairs`.

    Returns
    -------
    ndarray, shape (n_block, n_pair, n_pair)
        In uK^2 s; the diagonal is NET^2 of a pair.
    """
    weight = np.zeros((len(members), len(pol_angle_rad)), complex)
    for row, pair in zip(weight, members, strict=True):
        row += pair_weights(pol_angle_rad, pair[None])
    return np.einsum("pi,bij,qj->bpq", weight.conj(), blocks.covariance.conj(), weight).real


class Wafer(NamedTuple):
    """Pairs of one wafer and what they share.

    Attributes
    ----------
    table : ndarray, shape (n_block, n_pair, n_pair)
        From `pair_table`.
    direction : ndarray of complex, shape (n_pair,)
        From `directions`.
    channel, pixel : ndarray, shape (n_pair,)
    """

    table: np.ndarray
    direction: np.ndarray
    channel: np.ndarray
    pixel: np.ndarray


def wafer_of(cube: xr.Dataset, blocks: Blocks) -> Wafer:
    """Pairs of a cube, which must be of one wafer.

    Raises
    ------
    CrabError
        If detectors are of several wafers or come in no pairs.
    """
    wafers = np.unique(cube["wafer"].values)
    if len(wafers) != 1:
        raise CrabError(f"wafers {', '.join(map(str, wafers))}: allowed is one")
    members, angles = pairs(cube), cube["pol_angle_rad"].values
    of_pair = (cube[key].values[members[:, 0]] for key in ("channel", "pixel"))
    return Wafer(pair_table(blocks, angles, members), directions(angles, members), *of_pair)


def focal_plane_net2(
    wafer: Wafer,
    pairs_per_wafer: dict[str, float],
    n_wafers: float,
    aligned: dict[str, float],
    wafer_shares: bool = True,
) -> np.ndarray:
    """Squared NET of whole channels: pairs of a wafer may share noise, wafers do not.

    Two channels have in common what two pairs of one pixel share, and of different pixels of a
    wafer: ``(same + (K - 1) a g)/(K W)`` with K pixels on each of W wafers. Within a channel
    ``same`` is a pair's own noise. ``g`` is what two pairs of the same direction share, from all
    there are (least squares: two of other directions share ``g cos``), and ``a`` the mean cosine
    on a whole wafer. What few pixels say of ``g`` stands for all.

    Parameters
    ----------
    wafer : Wafer
    pairs_per_wafer : dict of str to float
        K by channel.
    n_wafers : float
    aligned : dict of str to float
        Mean cosine by channel: `alignment` of the pairs of a wafer; `channels` has the database's.
    wafer_shares : bool
        False: as if pairs in different pixels were independent.

    Returns
    -------
    ndarray, shape (n_block, n_channel, n_channel)
        In uK^2 s, channels in the order of their first pairs.
    """
    table, direction, channel, pixel = wafer
    names = list(dict.fromkeys(channel))
    out = np.empty((len(table), len(names), len(names)))
    same_pixel = pixel[:, None] == pixel[None, :]
    cosine = (direction.conj()[:, None] * direction[None, :]).real
    for i, one in enumerate(names):
        for j, two in enumerate(names):
            chosen = (channel == one)[:, None] & (channel == two)[None, :]
            same = table[:, chosen & same_pixel].mean(axis=1)
            apart = chosen & ~same_pixel
            shared = 0.0
            if wafer_shares and apart.any():
                shared = table[:, apart] @ cosine[apart] / np.sum(cosine[apart] ** 2)
            k = max(pairs_per_wafer[one], pairs_per_wafer[two])
            # Two channels of a wafer sit in the same pixels, so have nearly one alignment.
            a = (aligned[one] + aligned[two]) / 2
            out[:, i, j] = (same + (k - 1) * a * shared) / (k * n_wafers)
    return out
