"""Conditional generators, which follow any environment of a mission: trained and read by name."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from crab import params, paths
from crab.generators import event_training, marked, stream_training, streaming_gan
from crab.generators.base import Generator
from crab.params import Params


class Kind(NamedTuple):
    """What belongs to one of them.

    Attributes
    ----------
    section : str
        Of a profile, where its settings are, by the model's name.
    train : callable
        ``train(name, profile, mission, settings, seed=..., path=...)`` -> path of the model, with
        the whole of params.yaml.
    generator : type
        As in `crab.generators.base.REGISTRY`.
    """

    section: str
    train: Callable[..., Path]
    generator: type[Generator]


def _train_events(name: str, profile: str, mission: str, settings: Params, **options) -> Path:
    own = settings.profiles[profile].train_events[name]
    return event_training.train_events(name, profile, mission, own, **options)


# A further one is a line here, and one in `crab.generators.base.REGISTRY`.
KINDS = {
    "stream_events": Kind("train_events", _train_events, marked.MarkedEvents),
    "stream_gan": Kind("train_stream", stream_training.train_stream, streaming_gan.StreamingGan),
}


def train(
    model: str,
    profile: str,
    mission: str,
    settings: Params,
    seed: int | None = None,
    name: str | None = None,
) -> Path:
    """Train a conditional generator, or take over one that is finished.

    Parameters
    ----------
    model : str
        Key of `KINDS`.
    profile, mission : str
    settings : Params
    seed : int, optional
        Default: that of ``settings``.
    name : str, optional
        Of the file, if not the model's: for more than one seed.

    Returns
    -------
    pathlib.Path
        ``<model>.keras``; its record is beside it.

    Raises
    ------
    CrabError
        If a name is unknown, or there are no data to learn from.
    """
    kind = params.choose("model", model, KINDS)
    chosen = params.choose("profile", profile, settings.profiles)
    params.choose(f"profiles.{profile}.{kind.section}", model, getattr(chosen, kind.section))
    params.choose("mission", mission, settings.missions)
    seed = settings.seed if seed is None else seed
    path = paths.model(profile, mission, name or model)
    return kind.train(model, profile, mission, settings, seed=seed, path=path)


def ready(model: str, profile: str, mission: str, environment: str | None = None) -> Generator:
    """Trained generator, to be asked for samples of any environment.

    Parameters
    ----------
    model : str
        Key of `KINDS`.
    profile, mission : str
    environment : str, optional
        One that shall be possible.

    Returns
    -------
    Generator

    Raises
    ------
    CrabError
        If the model is unknown, its file is missing, or it was trained for something else.
    """
    kind = params.choose("model", model, KINDS)
    return kind.generator.load(paths.model(profile, mission, model), mission, environment)
