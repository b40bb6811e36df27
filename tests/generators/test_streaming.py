"""Conditional generators by name: training, registry, parameters and command line agree."""

from types import SimpleNamespace

import pytest

from crab import CrabError, cli, generators, params, paths
from crab.generators import streaming


def test_kinds_are_registered_and_have_settings():
    settings = params.load()
    for name, kind in streaming.KINDS.items():
        assert generators.get(name) is kind.generator
        for profile in settings.profiles.values():
            held_out = profile.conditional[name].held_out_environment
            assert held_out not in getattr(profile, kind.section)[name].environments
    for profile in settings.profiles.values():
        assert set(profile.conditional) == set(streaming.KINDS)


@pytest.fixture
def called(monkeypatch):
    """The arguments that the trainer of events gets; nothing is trained."""
    got = SimpleNamespace()

    def train(*names, seed, path):
        got.names, got.seed, got.path = names, seed, path
        return path

    monkeypatch.setattr(streaming.event_training, "train_events", train)
    return got


def test_train_passes_the_section_of_the_profile(called):
    settings = params.load()
    path = streaming.train("stream_events", "smoke", "planck_hfi", settings)
    assert path == called.path == paths.model("smoke", "planck_hfi", "stream_events")
    section = settings.profiles["smoke"].train_events["stream_events"]
    assert called.names == ("stream_events", "smoke", "planck_hfi", section)
    assert called.seed == settings.seed
    other = streaming.train("stream_events", "full", "litebird_lft", settings, 0, "second")
    assert called.seed == 0 and other == paths.model("full", "litebird_lft", "second")
    assert called.names[3] == settings.profiles["full"].train_events["stream_events"]


def test_unknown_names_are_named(called):
    settings = params.load()
    with pytest.raises(CrabError, match=r"model = 'stream_event': allowed are stream_events"):
        streaming.train("stream_event", "smoke", "planck_hfi", settings)
    with pytest.raises(CrabError, match=r"mission = 'planck': allowed are"):
        streaming.train("stream_events", "smoke", "planck", settings)
    with pytest.raises(CrabError, match=r"profile = 'big': allowed are full, smoke"):
        streaming.train("stream_events", "big", "planck_hfi", settings)
    with pytest.raises(CrabError, match=r"model = 'gan_paired': allowed are"):
        streaming.ready("gan_paired", "smoke", "planck_hfi")


def test_command_line_trains_them_like_any_network(called, capsys):
    assert cli.main(["train", "stream_events", "--mission", "planck_hfi", "--seed", "7"]) == 0
    assert capsys.readouterr().out == "data/models/smoke/planck_hfi/stream_events.keras\n"
    assert called.seed == 7
    assert cli.main(["train", "stream_events", "--environment", "solar_min_2009"]) == 2
    assert "stream_events follows any environment" in capsys.readouterr().err
