"""Indicators are computed from what is on disk."""

import numpy as np
import pandas as pd
import pytest
from synthetic_cubes import RATE_HZ, make_tod, to_cube

from crab import io, params, paths
from crab.metrics.kpis import TARGETS, kpis

SPEED, PRODUCTION = [name for name in TARGETS if name.startswith("generation")]
MISSION_YEARS_S = 3 * 365.25 * 86400


@pytest.fixture
def project(tmp_path, monkeypatch):
    settings = params.load()
    monkeypatch.setenv("CRAB_ROOT", str(tmp_path))
    return settings


def scores(sample_correlation=0.002, excess=0.004, generation_time=1e-5):
    return pd.DataFrame(
        {
            "profile": "smoke",
            "mission": "litebird_lft",
            "metric": ["sample_correlation", "sample_correlation_excess", "generation_time"],
            "value": [sample_correlation, excess, generation_time],
            "error": [1e-4, 2e-4, 1e-6],
        }
    )


def test_nothing_made_yet(project):
    table = kpis(scores(), project).set_index("kpi")
    reached = table[table["pass"]].index.tolist()
    assert reached == [SPEED, PRODUCTION, "correlation between generated samples"]
    assert (table["value"][~table["pass"]] == 0).all()


def test_what_is_on_disk_counts(project):
    n_time = 1910
    cube = to_cube(make_tod("k", n_time))
    io.write(cube, paths.cube("smoke", "litebird_lft", "litebird_2032", "gan_reference"))
    io.write(cube, paths.cube("smoke", "litebird_lft", "litebird_2032", "another"))
    for name in ("gan_reference", "gan_wasserstein"):
        model = paths.model("smoke", "litebird_lft", name)
        model.parent.mkdir(parents=True, exist_ok=True)
        model.touch()
    table = kpis(scores(), project).set_index("kpi")
    pairs = len(project.active_missions) * len(project.active_environments)
    covered = table.loc["mission and environment pairs with generated samples"]
    assert covered["value"] == pytest.approx(1 / pairs)
    assert table.loc["network families trained (GAN, VAE)", "value"] == 1
    longest = table.loc["longest generated TOD / mission of 3 years", "value"]
    assert longest == pytest.approx(n_time / RATE_HZ / MISSION_YEARS_S)

    paths.model("smoke", "litebird_lft", "vae_gaussian").touch()
    impact = paths.tables("smoke", "10_impact-litebird_lft")
    impact.mkdir(parents=True)
    (impact / "numbers.json").write_text("{}")
    table = kpis(scores(), project).set_index("kpi")
    assert table.loc["network families trained (GAN, VAE)", "pass"]
    assert table.loc["impact on the measurement: reports published", "pass"]


def test_the_worse_of_two_correlations_counts_and_nan_never_passes(project):
    table = kpis(scores(excess=0.02), project).set_index("kpi")
    row = table.loc["correlation between generated samples"]
    assert (row["value"], row["error"], row["pass"]) == (0.02, 2e-4, False)
    table = kpis(scores(sample_correlation=np.nan), project).set_index("kpi")
    assert not table.loc["correlation between generated samples", "pass"]


def test_speed_has_two_targets(project):
    table = kpis(scores(generation_time=2e-3), project).set_index("kpi")
    assert table.loc[SPEED, "pass"]
    assert not table.loc[PRODUCTION, "pass"]
    assert table.loc[SPEED, "target"] == "<= 0.01"
