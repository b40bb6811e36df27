"""`params.yaml`: the project's own file is valid, and every kind of fault is named."""

import re

import pytest
import yaml

from crab import CrabError, params, paths


@pytest.fixture
def raw():
    return yaml.safe_load((paths.root() / "params.yaml").read_text())


WAFER = {
    "bath_temperature_k": 0.1,
    "debye_temperature_k": 645.0,
    "bath_conductance_w_per_k": 1e-6,
    "diffusivity_m2_per_s": 1.0,
    "modes_per_axis": 4,
}


def load(raw, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return params.load(path)


def test_own_file_is_valid_and_complete():
    settings = params.load()
    assert {"smoke", "full"} <= set(settings.profiles)
    assert {"solar_min_2009", "solar_max_2014", "litebird_2032"} <= set(settings.environments)
    # PyYAML reads 1e5 as text; a number that became text would not have passed the types.
    assert isinstance(settings.profiles["smoke"].deposits.energy_max_mev_per_nucleon, float)


def test_defaults_of_the_repository_build_the_smoke_profile_only():
    assert params.load().active_profiles == ["smoke"]


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (
            ("environments", "litebird_2032", "phi_mv"),
            -5,
            r"litebird_2032\.phi_mv = -5: .*equal to 0",
        ),
        (("environments", "litebird_2032", "phi_mv"), "600 MV", r"phi_mv = '600 MV'"),
        (("environments", "litebird_2032", "lis"), "burger", r"\.lis = 'burger': .*'helmod_2017'"),
        (
            ("missions", "litebird_lft", "instrument", "telescope"),
            "XFT",
            r"instrument\.telescope = 'XFT': .*'LFT', 'MFT'",
        ),
        (("missions", "litebird_lft", "instrument", "kind"), "list", r"'database', 'table'"),
        (("missions", "planck_hfi", "sensor", "pulses", "die", "energy_share"), 1.2, "equal to 1"),
        (("missions", "planck_hfi", "geometry", "absorbers"), {}, "absorbers"),
        (("missions", "planck_hfi", "wafer_thermal"), WAFER, "wafer_thermal goes with"),
        (("missions", "planck_hfi", "sensor"), None, "geometry and sensor"),
        (("survey_missions",), ["litebird_lft"], r"survey_missions = 'litebird_lft': .*active"),
        (("survey_environment",), "mars", r"survey_environment = 'mars': allowed are"),
        (("missions", "litebird_lft", "sampling_rate_hz"), float("nan"), "sampling_rate_hz = nan"),
        (("missions", "litebird_lft", "internal_rate_hz"), 0, "greater than 0"),
        (("active_profiles",), ["smok"], r"active_profiles = 'smok'.*did you mean 'smoke'"),
        (("active_environments",), ["mars"], r"active_environments = 'mars': allowed are litebird"),
        (("active_missions",), [], "active_missions"),
        (
            ("profiles", "smoke", "conditional", "stream_events", "held_out_environment"),
            "mars",
            r"conditional\.stream_events\.held_out_environment = 'mars': allowed are",
        ),
        (
            ("profiles", "full", "train_events", "stream_events", "environments"),
            ["solar_min_2009", "mars"],
            r"train_events\.stream_events\.environments = 'mars': allowed are",
        ),
        (
            ("profiles", "smoke", "conditional", "stream_events", "seam_window_samples"),
            33,
            r"seam_window_samples = 33: .*multiple of 2",
        ),
        (("seed",), -1, r"seed = -1"),
    ],
)
def test_each_fault_names_file_key_value_and_choices(raw, tmp_path, keys, value, message):
    section = raw
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    with pytest.raises(CrabError, match=message) as caught:
        load(raw, tmp_path)
    assert "params.yaml" in str(caught.value)


def test_unknown_and_missing_keys(raw, tmp_path):
    section = raw["profiles"]["smoke"]["train_gan"]["gan_paired"]
    section["batchsize"] = section.pop("batch_size")
    with pytest.raises(CrabError) as caught:
        load(raw, tmp_path)
    text = str(caught.value)
    assert re.search(r"profiles\.smoke\.train_gan\.gan_paired\.batch_size: missing", text)
    assert re.search(r"batchsize = \d+: unknown key; did you mean 'batch_size'\?", text)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(CrabError, match=r"none\.yaml: no such file"):
        params.load(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,\n")
    with pytest.raises(CrabError, match=r"broken\.yaml: not valid YAML"):
        params.load(broken)
    broken.write_text("- 1\n")
    with pytest.raises(CrabError, match=r"broken\.yaml"):
        params.load(broken)


def test_choose_lists_the_choices():
    with pytest.raises(CrabError, match=r"mission = 'litebird': allowed are .*litebird_lft"):
        params.choose("mission", "litebird", params.load().missions)


def test_root_is_found_from_a_subfolder_and_named_if_absent(tmp_path, monkeypatch):
    monkeypatch.delenv("CRAB_ROOT", raising=False)
    monkeypatch.chdir(paths.root() / "tests")
    assert (paths.root() / "params.yaml").is_file()
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "crab" / "paths.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CrabError, match=r"no CRAB project around .*params\.yaml"):
        paths.root()
