"""Stretches of time: errors, cross-spectra and agreement, on noise whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from crab import seeds
from crab.errors import CrabError
from crab.impact import channel_levels, focal_plane, spectra, splits
from crab.impact.channel_levels import ChannelLevels

NSIDE = 16


def maps_of(rng, hits, shared, sigma=1.0):
    """Q and U of white noise of variance 1/hits, and of something that maps share."""
    own = sigma * rng.standard_normal((2, hits.size)) / np.sqrt(np.maximum(hits, 1))
    return np.where(hits > 0, own + shared, np.nan)


def test_a_cross_spectrum_has_what_two_maps_share_and_an_honest_error():
    """White noise of variance v in each pixel has C_ell = 4 pi v/n_pix, shared or not."""
    rng = seeds.rng(1, "test", "cross")
    n_pix = 12 * NSIDE**2
    theta = np.linspace(0, 1, n_pix)
    hits = [np.where(theta < 0.6, 20 + 100 * theta, 0), np.where(theta > 0.2, 80.0, 0)]
    pulls, levels, shared_sigma = [], [], 0.15
    for common in (0.0, shared_sigma):
        for _ in range(40):
            shared = common * rng.standard_normal((2, n_pix))
            found, own = spectra.cross_level(
                *(maps_of(rng, h, shared) for h in hits), tuple(hits), 2 * NSIDE
            )
            if common == 0:
                pulls.append(found.value / found.error)
            else:
                levels.append(found.value)
            assert own > 0
    assert abs(np.mean(pulls)) < 4 / np.sqrt(40)
    # Standard deviation of 40 pulls: 1 within 11 %.
    assert np.std(pulls) == pytest.approx(1, abs=0.4)
    expected = 4 * np.pi * shared_sigma**2 / n_pix
    assert abs(np.mean(levels) - expected) < 4 * np.std(levels) / np.sqrt(40)
    assert np.std(levels) / np.sqrt(40) < 0.2 * expected


def test_probabilities_of_exchanges_are_even_and_a_change_is_found():
    """Heavy tails, correlated numbers: p is uniform if nothing differs, small if the level does."""
    rng = seeds.rng(2, "test", "exchanges")

    def blocks(level):
        common = rng.exponential(1, (12, 1)) ** 2
        return level * common * rng.exponential(1, (12, 5))

    null = [splits.agreement(blocks(1.0), blocks(1.0), 3, 300).p for _ in range(200)]
    for share in (0.1, 0.5):
        # Binomial error of 200 draws; exchanges of 12 blocks come in steps.
        error = np.sqrt(share * (1 - share) / 200)
        assert abs(np.mean(np.array(null) <= share) - share) < 4 * error
    gauss = rng.normal(1, 0.1, (2, 12, 5)) * [[[1.0]], [[1.3]]]
    found = splits.agreement(*gauss, 3)
    assert found.n == 5 and found.chi2 > 30 and found.p < 0.01


def test_mean_of_blocks():
    values = seeds.rng(4, "test", "blocks").normal(3.0, 2.0, (50, 400))
    found = splits.mean(values)
    np.testing.assert_allclose(found.error, 2 / np.sqrt(400), rtol=0.2)
    assert np.mean(np.abs(found.value - 3) < found.error) == pytest.approx(0.683, abs=0.27)


def test_pairs_share_as_far_as_they_point_the_same_way():
    """Heat felt along one direction: what two pairs share goes as the cosine between them."""
    angles = np.deg2rad([0, 90, 45, 135, 10, 100, 0, 90.0])
    members = np.arange(8).reshape(4, 2)
    direction = focal_plane.directions(angles, members)
    # 2 psi: 0, 90, 20, 0 degrees.
    np.testing.assert_allclose(np.angle(direction), np.deg2rad([0, 90, 20, 0]), atol=1e-12)
    cosine = (direction.conj()[:, None] * direction).real
    assert focal_plane.alignment(direction) == pytest.approx((cosine.sum() - 4) / 12)
    own, shared = 7.0, 2.0
    table = (shared * cosine + (own - shared) * np.eye(4))[None]
    names = np.array(["a"] * 4)
    wafer = focal_plane.Wafer(table, direction, names, np.arange(4))
    # From the first three pairs to all four, measured as the sum of all: no number was put in.
    three = focal_plane.Wafer(table[:, :3, :3], direction[:3], names[:3], np.arange(3))
    a = {"a": focal_plane.alignment(direction)}
    found = focal_plane.focal_plane_net2(three, {"a": 4}, 1, a)
    np.testing.assert_allclose(found[0, 0, 0], table.mean())
    two = focal_plane.focal_plane_net2(wafer, {"a": 4}, 2, a)
    np.testing.assert_allclose(two[0, 0, 0], table.mean() / 2)
    # Pairs of U and of Q that share nothing, were they taken as alike, would look independent.
    pair = focal_plane.Wafer(table[:, :2, :2], direction[:2], names[:2], np.arange(2))
    assert focal_plane.alignment(pair.direction) == pytest.approx(0, abs=1e-12)


def test_half_of_a_wafers_pairs_of_the_database_share_half():
    """Orientations U and Q in equal numbers: the mean cosine of many pairs is about a half."""
    for telescope, channel in (("LFT", "L4-140"), ("HFT", "H3-402")):
        found = channel_levels.channels(telescope).loc[channel, "alignment"]
        assert found == pytest.approx(0.5, abs=0.06)


def levels_of(telescope, names, value, n_blocks=6):
    channels = pd.DataFrame(
        {"telescope": telescope, "loss": 0.05}, index=pd.Index(names, name="channel")
    )
    rng = seeds.rng(5, "test", telescope)
    n_ell = value * np.eye(len(names)) * rng.uniform(0.9, 1.1, (n_blocks, 1, 1))
    return ChannelLevels(channels, n_ell, 0.3 * n_ell)


def test_levels_survive_their_table():
    levels = levels_of("LFT", ["L4-140", "L4-100"], 1e-7)
    back = channel_levels.from_table(channel_levels.as_table(levels))
    assert list(back.channels.index) == ["L4-140", "L4-100"]
    np.testing.assert_array_equal(back.n_ell, levels.n_ell)
    np.testing.assert_array_equal(back.shared, levels.shared)
    with pytest.raises(CrabError, match="no column 'shared'"):
        channel_levels.from_table(channel_levels.as_table(levels).drop(columns="shared"))
    with pytest.raises(CrabError, match="allowed are 24"):
        channel_levels.from_table(channel_levels.as_table(levels).iloc[:-1])


def test_telescopes_are_independent_and_their_noise_adds_up():
    """Noise of all channels: the inverse of the sum of the inverses, at the largest scales."""
    low = levels_of("LFT", ["L4-140"], 1e-7)
    high = levels_of("HFT", ["H1-195", "H1-280"], 4e-7, n_blocks=13)
    both = channel_levels.joined([low, high])
    assert both.n_ell.shape == (6, 3, 3)
    assert (both.n_ell[:, 0, 1:] == 0).all()
    noise, _ = both.instrument()
    level, instrument = channel_levels.combined(both.n_ell[0], noise, np.ones((3, 1)))
    np.testing.assert_allclose(instrument, 1 / np.sum(1 / noise))
    share = (1 / noise) / np.sum(1 / noise)
    np.testing.assert_allclose(level, np.sum(share**2 * np.diag(both.n_ell[0])))
    with pytest.raises(CrabError, match="more than once"):
        channel_levels.joined([low, low])
