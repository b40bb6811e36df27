"""Indicators are computed from what notebooks left on disk."""

import numpy as np
import pandas as pd
import pytest

from crab import CrabError, params, paths
from crab.metrics import kpis, scorecard
from crab.metrics.kpis import TARGETS

SPEED, PRODUCTION = [name for name in TARGETS if name.startswith("generation")]
FAMILIES = "network families trained (GAN, VAE)"
MISSION = "share of a mission of 3 years that was generated"
PAIRS = "share of missions and environments with valid samples"
CORRELATION = "correlation between generated samples"
IMPACT = "impact on the measurement: full reports with a generated background"
MISSION_S = 3 * 365.25 * 86400


@pytest.fixture
def project(tmp_path, monkeypatch):
    settings = params.load()
    monkeypatch.setenv("CRAB_ROOT", str(tmp_path))
    return settings


def scores(sample_correlation=0.002, excess=0.004, generation_time=1e-5, profile="smoke"):
    return pd.DataFrame(
        {
            "profile": profile,
            "mission": "litebird_lft",
            "metric": ["sample_correlation", "sample_correlation_excess", "generation_time"],
            "value": [sample_correlation, excess, generation_time],
            "error": [1e-4, 2e-4, 1e-6],
        }
    )


def leave(report, name, rows):
    folder = paths.tables("smoke", report)
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


def stretch(duration_s, environment="litebird_2032", mission="litebird_lft"):
    row = dict.fromkeys(kpis.COVERAGE_COLUMNS, 1)
    return row | {
        "mission": mission,
        "environment": environment,
        "generator": "g",
        "duration_s": duration_s,
    }


def reached(project, **changes):
    return kpis.kpis(scores(**changes), project, kpis.evidence("smoke")).set_index("kpi")


def test_nothing_made_yet(project):
    table = reached(project)
    assert table[table["pass"]].index.tolist() == [SPEED, PRODUCTION, CORRELATION]
    assert (table["value"][~table["pass"]] == 0).all()
    found = kpis.evidence("smoke")
    assert found.read.empty and found.scores.empty


def test_families(project):
    for name in ("gan_reference", "gan_wasserstein"):
        model = paths.model("smoke", "litebird_lft", name)
        model.parent.mkdir(parents=True, exist_ok=True)
        model.touch()
    assert reached(project).loc[FAMILIES, "value"] == 1
    paths.model("smoke", "litebird_lft", "vae_gaussian").touch()
    assert reached(project).loc[FAMILIES, "pass"]


def impact(profile, sources, report="10_impact-litebird_lft", finished=True, bias=1e-5):
    folder = paths.tables(profile, report)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"source": source, "auto_bias": bias} for source in sources]
    pd.DataFrame(rows).to_csv(folder / "delta_r.csv", index=False)
    if finished:
        (folder / "numbers.json").write_text("{}")


def met(project, profile):
    table = kpis.kpis(scores(profile=profile), project, kpis.evidence(profile))
    return bool(table.set_index("kpi").loc[IMPACT, "pass"])


def test_an_impact_counts_at_full_size_with_a_generated_background(project):
    impact("smoke", ["monte_carlo", "stream_events"])
    assert not met(project, "smoke")
    found = kpis.impact_reports("smoke").iloc[0]
    assert found["generators"] == "stream_events" and not found["counts"]
    impact("full", ["monte_carlo"])
    assert not met(project, "full")
    impact("full", ["monte_carlo", "stream_events"], finished=False, report="10_impact-half")
    assert not met(project, "full")
    impact("full", ["monte_carlo", "stream_events"], bias=np.nan)
    assert not met(project, "full")
    impact("full", ["monte_carlo", "stream_events"])
    assert met(project, "full") and not met(project, "smoke")
    assert kpis.impact_reports("full")["counts"].tolist() == [True]


def test_a_bias_of_unknown_origin_is_refused(project):
    impact("full", ["monte_carlo"])
    path = paths.tables("full", "10_impact-litebird_lft") / "delta_r.csv"
    path.write_text("auto_bias\n1e-5\n")
    with pytest.raises(CrabError, match="no column 'source'"):
        kpis.impact_reports("full")


def test_stretches_of_one_mission_add_up(project):
    """Those of other missions or other environments do not."""
    report = "09_generate-litebird_lft-litebird_2032"
    leave(report, "coverage", [stretch(MISSION_S / 4), stretch(MISSION_S / 2)])
    leave("09_generate-b", "coverage", [stretch(MISSION_S, mission="planck_hfi")])
    leave("09_generate-c", "coverage", [stretch(MISSION_S / 2, environment="solar_min_2009")])
    row = reached(project).loc[MISSION]
    assert row["value"] == pytest.approx(0.75) and not row["pass"]
    leave("09_generate-d", "coverage", [stretch(MISSION_S / 4)])
    assert reached(project).loc[MISSION, "pass"]
    # No mission is covered more than once.
    leave("09_generate-e", "coverage", [stretch(MISSION_S)])
    assert reached(project).loc[MISSION, "value"] == 1


def test_pairs_with_valid_samples(project):
    simulated = [m for m, mission in project.missions.items() if mission.geometry]
    n = len(simulated) * len(project.environments)
    rows = [
        {"mission": m, "environment": e, "generator": "g", "ok": ok}
        for m, e, ok in (
            ("litebird_lft", "litebird_2032", True),
            ("litebird_lft", "litebird_2032", True),
            ("planck_hfi", "solar_min_2009", True),
            ("planck_hfi", "solar_max_2014", False),
            ("somewhere", "else", True),
        )
    ]
    leave("09_generate-a", "grid", rows)
    assert reached(project).loc[PAIRS, "value"] == pytest.approx(2 / n)
    pairs = kpis.valid_pairs(kpis.evidence("smoke").grid, project)
    assert pairs.loc["planck_hfi", "solar_min_2009"]
    assert not pairs.loc["planck_hfi", "solar_max_2014"]
    leave(
        "09_generate-a",
        "grid",
        [
            {"mission": m, "environment": e, "generator": "g", "ok": True}
            for m in simulated
            for e in project.environments
        ],
    )
    assert reached(project).loc[PAIRS, "pass"]


def test_the_later_notebook_counts_and_all_that_is_read_is_listed(project):
    def rows(value):
        table = scorecard.table(
            {"generation_time": (value, 0.0)}, {},
            profile="smoke", mission="m", environment="e", generator="g",
        )  # fmt: skip
        return table.to_dict("list")

    leave("07_compare-m", "scorecard", rows(1e-3))
    leave("09_generate-m", "scorecard", rows(1e-5))
    leave("13_experiments-m", "scorecard", rows(1.0))
    found = kpis.evidence("smoke")
    assert found.scores["value"].tolist() == [1e-5]
    assert found.scores["pass"].tolist() == [True]
    names = [name.split("/")[-2] for name in found.read["table"]]
    assert names == ["07_compare-m", "09_generate-m"]


def test_a_table_without_a_column_is_refused(project):
    leave("09_generate-a", "grid", [{"mission": "m", "environment": "e", "generator": "g"}])
    with pytest.raises(CrabError, match=r"grid.csv: no column 'ok'"):
        kpis.evidence("smoke")


def test_the_worse_of_two_correlations_counts_and_nan_never_passes(project):
    row = reached(project, excess=0.02).loc[CORRELATION]
    assert (row["value"], row["error"], row["pass"]) == (0.02, 2e-4, False)
    assert not reached(project, sample_correlation=np.nan).loc[CORRELATION, "pass"]


def test_speed_has_two_targets(project):
    table = reached(project, generation_time=2e-3)
    assert table.loc[SPEED, "pass"]
    assert not table.loc[PRODUCTION, "pass"]
    assert table.loc[SPEED, "target"] == "<= 0.01"
