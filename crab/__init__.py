"""CRAB: simulate, learn and extend the cosmic-ray background of space bolometers."""

from importlib import import_module

from crab.errors import CrabError
from crab.io import open_tod

__all__ = ["CrabError", "inject", "open_mission", "open_tod"]

# Imported when asked for: they need what a machine that only trains may not have.
_LATER = {"inject": "crab.impact.inject", "open_mission": "crab.mission"}


def __getattr__(name: str):
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
