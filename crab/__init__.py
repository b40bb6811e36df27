"""CRAB: simulate, learn and extend the cosmic-ray background of space bolometers."""

from crab.errors import CrabError
from crab.io import open_tod

__all__ = ["CrabError", "open_tod"]
