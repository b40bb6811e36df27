"""Detectors from the instrument database: counts, positions, errors."""

import numpy as np
import pytest

from crab import params
from crab.errors import CrabError
from crab.physics import instrument


@pytest.fixture(scope="module")
def mission():
    return params.load().missions["litebird_lft"]


def changed(mission, **values):
    return mission.model_copy(update={"instrument": mission.instrument.model_copy(update=values)})


def test_counts_of_the_whole_instrument():
    """4508 detectors on 18 wafers, 54 to 508 each (LiteBIRD PTEP, arXiv:2202.02773)."""
    tables = [instrument._telescope(t) for t in ("LFT", "MFT", "HFT")]
    sizes = [len(entries) for table in tables for entries in table.values()]
    assert len(sizes) == 18
    assert sum(sizes) == 4508
    assert (min(sizes), max(sizes)) == (54, 508)


def test_default_subset_is_twelve_detectors_in_three_pixels(mission):
    """NET of L4-140 is 38.44 uK sqrt(s) in the vPTEP database."""
    table = instrument.detectors(mission)
    assert table.sizes["detector"] == 12
    assert list(table.detector.values) == mission.instrument.detectors
    assert np.unique(table.pixel, return_counts=True)[1].tolist() == [4, 4, 4]
    assert set(table.wafer.values) == {mission.instrument.wafer}
    net = table.net_ukrts.values[table.channel.values == "L4-140"]
    np.testing.assert_allclose(net, 38.44)


def test_square_grid_is_centred_with_the_given_pitch(mission):
    """Row-major 6 x 6 at 16 mm: pixels 7 and 8 are neighbours, 7 and 16 are not."""
    centres = instrument.pixel_centres_mm("LFT", 36, 16.0)
    np.testing.assert_allclose(centres.mean(axis=0), 0, atol=1e-12)
    assert np.hypot(*(centres[7] - centres[8])) == pytest.approx(16.0)
    assert np.hypot(*(centres[7] - centres[16])) == pytest.approx(16.0 * np.hypot(3, 1))
    table = instrument.detectors(mission)
    ring = np.hypot(
        table.x_mm - centres[table.pixel.values, 0], table.y_mm - centres[table.pixel.values, 1]
    )
    np.testing.assert_allclose(ring, mission.instrument.sensor_ring_radius_mm)


@pytest.mark.parametrize("n_pixels", [61, 127, 169])
def test_hexagonal_grid(n_pixels):
    """Every pixel has its nearest neighbour one pitch away; the middle index is the centre."""
    centres = instrument.pixel_centres_mm("MFT", n_pixels, 10.0)
    distance = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_allclose(distance.min(axis=1), 10.0)
    np.testing.assert_allclose(centres[n_pixels // 2], 0, atol=1e-12)


def test_position_does_not_depend_on_the_selection(mission):
    whole = instrument.detectors(changed(mission, detectors=None))
    assert whole.sizes["detector"] == 216
    some = instrument.detectors(mission)
    picked = whole.sel(detector=some.detector)
    np.testing.assert_array_equal(picked.x_mm, some.x_mm)
    np.testing.assert_array_equal(picked.y_mm, some.y_mm)
    spacing = np.hypot(
        whole.x_mm.values[:, None] - whole.x_mm.values,
        whole.y_mm.values[:, None] - whole.y_mm.values,
    )
    np.fill_diagonal(spacing, np.inf)
    assert spacing.min() > 2 * mission.geometry.absorbers["tes"].boxes[0].size_mm[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wafer": "L99"}, ["wafer = 'L99'", "L00", "L07"]),
        ({"detectors": ["000_001_007_UB_100_X"]}, ["000_001_007_UB_100_X", "000_001_007_UB_100_T"]),
        ({"detectors": ["000_002_007_UB_100_T"]}, ["not on wafer L01"]),
        ({"detectors": ["000_001_007_UB_100_T"] * 2}, ["more than once"]),
        ({"detectors": []}, ["at least one"]),
        ({"pixel_pitch_mm": 19.9}, ["wafer_side_mm = 100", "at least 105.", "pixel_pitch_mm"]),
    ],
)
def test_bad_input_is_named(mission, change, words):
    if "pixel_pitch_mm" in change:
        change = {**change, "detectors": None}
    with pytest.raises(CrabError) as error:
        instrument.detectors(changed(mission, **change))
    for word in words:
        assert word in str(error.value)


def test_grid_that_cannot_be_filled():
    with pytest.raises(CrabError, match="35 pixels do not fill a square grid"):
        instrument.pixel_centres_mm("LFT", 35, 16.0)
