"""The whole scorecard: it lets the Monte Carlo pass and stops generators that are broken."""

import numpy as np
import pytest
from synthetic_cubes import WINDOW, make_tod, to_cube

from crab import CrabError, seeds
from crab.metrics import diversity, first_look, scorecard

SETTINGS = {
    "seed": 3,
    "window_samples": WINDOW,
    "classifier_windows": (WINDOW, 10**6),
    "segment_samples": WINDOW,
    "n_bins": 15,
    "hwp_rpm": 46.0,
}
SPEED = {"generation_time": (1e-5, 1e-6), "generation_time_per_detector": (3e-6, 3e-7)}
# The synthetic cubes are too short for the bins of the spectrum.
SHARPNESS = set(scorecard.SHARPNESS)
# Rows that need more than two pairs of cubes.
OPTIONAL = {"fpd_over_gaussian", "kpd_over_gaussian", "memorisation_p"}

# Rows that need more than two cubes: notebooks 08, 09 and 10.
_KINDS = ("seam_", "conditioning_", "generation_", "downstream_")
ELSEWHERE = {m for m in scorecard.LIMITS if m.startswith(_KINDS)}
ELSEWHERE -= set(SPEED)


@pytest.fixture(scope="module")
def null(real):
    return scorecard.compare(real[1], real[2], **SETTINGS)


def judge(tod, real, null):
    """Scorecard of a TOD by metric."""
    ours = scorecard.compare(to_cube(tod), real[0], **SETTINGS)
    table = scorecard.tabulate(
        ours,
        null,
        profile="smoke",
        mission="litebird_lft",
        environment="litebird_2032",
        generator="test",
        **SPEED,
    )
    return table.set_index("metric")


def failed(table):
    return set(table.index[(table["pass"] == False).fillna(False)])  # noqa: E712


def test_a_second_monte_carlo_passes(real, null):
    table = judge(real[1]["tod"].values, real, null)
    # For the largest of their coherences too: it is within its error of the limit.
    assert failed(table) - SHARPNESS <= {"coherence_error_continuum"}
    coherence = table.loc["coherence_error_continuum"]
    assert coherence["value"] < coherence["must"] + 2 * coherence["error"]
    assert table.reset_index().columns.tolist()[0] == "metric"
    for metric in ("c2st_auc", "w1", "psd_ratio", "rho_error", "sample_correlation"):
        assert table.loc[metric, "value"] >= 0
        assert table.loc[metric, "error"] > 0
        assert np.isfinite(table.loc[metric, "real_vs_real"])
    # What lies beyond the data is said, and what has no limit neither passes nor fails.
    assert table.loc["psd_bin_error", "value"] > table.loc["psd_bin_error", "must"]
    assert table["pass"].isna()[["skewness", "kurtosis", "quantile_1e-03"]].all()


def test_five_percent_too_large(real, null):
    """The reference itself, 5 % too large: power 1.05^2 - 1 too high in every bin."""
    table = judge(np.float32(1.05) * real[0]["tod"].values, real, null)
    assert {"w1", "psd_ratio"} <= failed(table)
    assert table.loc["psd_ratio", "value"] == pytest.approx(0.1025, rel=1e-4)


def test_shuffled_detectors(real, null):
    table = judge(real[1]["tod"].values[[2, 0, 1]], real, null)
    assert {"rho_error", "rho_error_continuum"} <= failed(table)
    assert table.loc["w1", "pass"]


def test_independent_detectors(real, null):
    """A generator of one detector at a time: right in everything but the correlation."""
    rows = [make_tod(f"independent {i}")[i] for i in range(3)]
    table = judge(np.array(rows), real, null)
    assert {"rho_error", "rho_error_continuum"} <= failed(table)
    assert table.loc[["c2st_auc", "w1", "sample_correlation"], "pass"].all()
    assert table.loc["rho_error_continuum", "value"] > 0.5


def test_repeated_windows(real, null):
    tod = np.tile(make_tod("d", 16 * WINDOW), (1, 8))
    table = judge(tod, real, null)
    assert {"sample_correlation", "sample_correlation_excess"} <= failed(table)
    assert table.loc["sample_correlation", "value"] == pytest.approx(7 / 127, rel=0.15)
    assert table.loc["sample_correlation", "real_vs_real"] < 0.01


def test_wrong_tail(real, null):
    """The reference with random phases: its variance and spectrum, but Gaussian, without hits."""
    spectrum = np.fft.rfft(real[0]["tod"].values)
    phase = seeds.rng(3, "phases").uniform(0, 2 * np.pi, spectrum.shape)
    table = judge(np.fft.irfft(np.abs(spectrum) * np.exp(1j * phase)), real, null)
    assert {"c2st_auc", "w1"} <= failed(table)
    assert table.loc["psd_ratio", "pass"]
    assert table.loc["quantile_1e-03", "value"] < -0.2


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")
def test_a_dead_generator_fails_every_test(real, null):
    table = judge(np.zeros((3, 32 * WINDOW)), real, null)
    limits = {m for m, limit in scorecard.LIMITS.items() if limit.met(0.0) is not None}
    assert failed(table) >= limits - SHARPNESS - set(SPEED) - OPTIONAL - ELSEWHERE


def test_slow_generation_fails(null):
    """Geant4 and the detector simulation took 30 times the TOD of 12 detectors."""
    table = scorecard.tabulate(
        null, null, profile="p", mission="m", environment="e", generator="g",
        generation_time=(30.0, 1.0), generation_time_per_detector=(2.5, 0.1),
    ).set_index("metric")  # fmt: skip
    assert failed(table) >= set(SPEED)


def test_score_gives_the_columns_that_others_read(real, null):
    short = [cube.isel(time=slice(0, 20 * WINDOW)) for cube in real]
    table = scorecard.score(
        short[1], short[0], short[0], short[2],
        profile="smoke", generator="gan_reference", **SPEED, **SETTINGS,
    )  # fmt: skip
    assert tuple(table.columns) == scorecard.COLUMNS
    assert set(scorecard.LIMITS) - OPTIONAL - ELSEWHERE <= set(table["metric"])
    assert set(table["generator"]) == {"gan_reference"}
    assert set(table["environment"]) == {"litebird_2032"}


def test_one_detector_has_no_correlation_row_that_passes(real):
    one = [cube.isel(detector=[0], time=slice(0, 20 * WINDOW)) for cube in real]
    ours = scorecard.compare(one[1], one[0], **SETTINGS)
    assert ours.rho is None
    assert np.isnan(ours.rows["rho_error"].value)


def test_too_short_for_every_window(real):
    short = [cube.isel(time=slice(0, 18 * WINDOW)) for cube in real]
    with pytest.raises(CrabError, match=r"classifier_windows = \[1060\]: none fits 16 times"):
        scorecard.compare(short[0], short[1], **SETTINGS | {"classifier_windows": [1060]})


def test_cubes_of_different_environments(real):
    other = real[1].assign_attrs(environment="solar_min_2009")
    with pytest.raises(CrabError, match="real_b: environment = 'solar_min_2009'"):
        scorecard.score(
            real[0], real[0], real[0], other,
            profile="p", generator="g", **SPEED, **SETTINGS,
        )  # fmt: skip


def test_light_settings_fit_the_shortest_cube(real):
    """17 windows of 128 samples in the shortest: segments of 128, and no test is left out."""
    short = real[1].isel(time=slice(0, 17 * 128))
    settings = first_look.light(real[0], short)
    assert settings["segment_samples"] == 128
    found = scorecard.compare(short, real[0], seed=3, **settings)
    full = scorecard.compare(real[1], real[0], seed=3, **first_look.light(*real))
    assert set(found.classifiers) == {"boosting_128"} and set(full.classifiers) == {"boosting_256"}
    classifiers = {name for name in full.rows if name.startswith("c2st_auc_boosting")}
    tails = {name for name in full.rows if name.startswith("quantile")}
    assert set(full.rows) - set(found.rows) <= classifiers | tails
    assert first_look.light(*real)["segment_samples"] == 1024
    with pytest.raises(CrabError, match="the light settings need at least 2048"):
        first_look.light(real[0], real[1].isel(time=slice(0, 2000)))


def test_cubes_are_thinned_to_the_same_first_part(real):
    thin, other = first_look.thinned(*real[:2], max_values=3000)
    assert dict(thin.sizes) == dict(other.sizes) == {"detector": 3, "time": 1000}
    assert np.array_equal(thin["tod"], real[0]["tod"][:, :1000])
    short = real[1].isel(time=slice(0, 500))
    assert [c.sizes["time"] for c in first_look.thinned(real[0], short)] == [500, 500]


def test_rows_of_other_tests(real):
    """Their own goals, and no real-vs-real where there is none."""
    table = scorecard.table(
        {"seam_auc": (0.53, 0.01), "held_out_of_training": (1.0, np.nan)},
        {"seam_auc": (0.51, 0.01)},
        profile="p", mission="m", environment="e", generator="g", goals={"seam_auc": 0.515},
    ).set_index("metric")  # fmt: skip
    row = table.loc["seam_auc"]
    assert (row["must"], row["goal"], row["real_vs_real"]) == (0.52, 0.515, 0.51)
    assert not row["pass"] and table["pass"].isna()["held_out_of_training"]
    assert np.isnan(table.loc["held_out_of_training", "real_vs_real"])


def test_sense_of_a_limit():
    at_most, at_least = (scorecard.Limit(0.9, 0.98, "", sense) for sense in ("<=", ">="))
    assert at_most.met(0.9) and at_least.met(0.9)
    assert at_most.met(0.5) and not at_least.met(0.5)
    assert at_least.met(1.5) and not at_most.met(1.5)
    assert at_most.met(np.nan) is False and at_least.met(np.nan) is False
    assert scorecard.Limit(np.nan, None, "reported").met(0.5) is None


def test_rows_beside_real_vs_real(real, null):
    table = judge(real[1]["tod"].values, real, null)
    row = table.loc["fpd"]
    assert row["real_vs_real"] == null.rows["fpd"].value
    assert row["goal"] == pytest.approx(null.rows["fpd"].value + 2 * null.rows["fpd"].error)
    assert np.isnan(row["must"]) and table["pass"].isna()["fpd"]
    # The percentile is real-vs-real's own; one AUC of these cubes has an error near 0.02.
    chance = table.loc["c2st_auc_null_95"]
    assert chance["value"] == chance["real_vs_real"] == null.rows["c2st_auc_null_95"].value
    assert 0.5 < chance["value"] < 0.58
    assert table.loc["c2st_auc_boosting_256", "value"] == table.loc["c2st_auc", "value"]
    assert table.loc["coverage_ratio", "sense"] == ">="
    assert table.loc["coverage_ratio", "real_vs_real"] == 1


def test_physics_distances_in_parts_of_the_gaussian(real, null):
    """The Gaussian itself is one whole; where it cannot be told from real, there is no ratio."""
    spectrum = np.fft.rfft(real[0]["tod"].values)
    phase = seeds.rng(3, "phases").uniform(0, 2 * np.pi, spectrum.shape[1])
    surrogate = np.fft.irfft(spectrum * np.exp(1j * phase))
    settings = SETTINGS | {"classifiers": ()}
    gaussian = scorecard.compare(to_cube(surrogate), real[0], **settings)
    labels = {"profile": "p", "mission": "m", "environment": "e", "generator": "g"}

    def table(ours, gaussian):
        rows = scorecard.tabulate(ours, null, **labels, **SPEED, gaussian=gaussian)
        return rows.set_index("metric")

    own = table(gaussian, gaussian)
    honest = table(scorecard.compare(real[1], real[0], **settings), gaussian)
    for name in ("fpd_over_gaussian", "kpd_over_gaussian"):
        assert own.loc[name, "value"] == pytest.approx(1) and not own.loc[name, "pass"]
        assert honest.loc[name, "value"] < 0.1 and honest.loc[name, "pass"]
    assert honest.loc["fpd", "value"] <= honest.loc["fpd", "goal"] < own.loc["fpd", "value"]
    order = list(own.index)
    assert order.index("fpd_over_gaussian") == order.index("fpd") + 1
    unresolved = table(gaussian, null)
    assert np.isnan(unresolved.loc["fpd_over_gaussian", "value"])
    assert not unresolved.loc["fpd_over_gaussian", "pass"]


def test_coverage_is_compared_at_equal_numbers_of_windows(real):
    """A generated cube of 128 windows and real ones of 64: both at 64."""
    half = [cube.isel(time=slice(0, 64 * WINDOW)) for cube in real]
    settings = SETTINGS | {"classifiers": ()}
    ours = scorecard.compare(real[1], real[0], **settings)
    null = scorecard.compare(half[1], half[2], **settings)
    table = scorecard.tabulate(
        ours, null, profile="p", mission="m", environment="e", generator="g", **SPEED
    ).set_index("metric")
    thinned = diversity.neighbours(*ours.features, 64)["coverage"].value
    expected = thinned / null.rows["coverage"].value
    assert table.loc["coverage_ratio", "value"] == pytest.approx(expected)
    assert thinned != ours.rows["coverage"].value


def test_hits_are_looked_for_on_the_side_of_the_power_convention(real):
    """Hits of this cube are negative, as Joule power has them; turned round nothing is left."""
    settings = SETTINGS | {"classifiers": ()}
    turned = [
        cube.assign_attrs(power_convention="optical_equivalent").assign(tod=-cube["tod"])
        for cube in real[:2]
    ]
    right = scorecard.compare(real[1], real[0], **settings).rows["multiplicity_error"]
    same = scorecard.compare(turned[1], turned[0], **settings).rows["multiplicity_error"]
    assert right.value == pytest.approx(same.value) and 0 < right.value < 0.05
    wrong = [c.assign_attrs(power_convention="optical_equivalent") for c in real[:2]]
    none = scorecard.compare(wrong[1], wrong[0], **settings).rows["multiplicity_error"]
    assert not none.value < 0.05


def test_all_classifiers_and_the_largest_of_their_aucs(real):
    short = [cube.isel(time=slice(0, 32 * WINDOW)) for cube in real]
    settings = SETTINGS | {"classifier_windows": (WINDOW, 128), "classifier_epochs": 2}
    found = scorecard.compare(
        short[1], short[0], **settings, classifiers=("boosting", "resnet", "stft")
    )
    names = [f"{c}_{n}" for c in ("boosting", "resnet", "stft") for n in (WINDOW, 128)]
    assert list(found.classifiers) == names
    aucs = [found.rows[f"c2st_auc_{name}"].value for name in names]
    assert found.rows["c2st_auc"].value == max(aucs)
    with pytest.raises(CrabError, match="classifier = 'svm'"):
        scorecard.compare(short[1], short[0], **settings, classifiers=("boosting", "svm"))


def test_a_training_cube_of_something_else_is_refused(real):
    other = real[2].assign_attrs(environment="solar_min_2009")
    with pytest.raises(CrabError, match="training: environment = 'solar_min_2009'"):
        scorecard.compare(real[1], real[0], **SETTINGS, training=other)
