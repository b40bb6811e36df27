"""Models that generate a background: one protocol, one registry, one file for each model."""

from crab.generators.base import Generator, get, names

__all__ = ["Generator", "get", "names"]
