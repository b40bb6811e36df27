"""The one exception that CRAB raises for bad input."""


class CrabError(ValueError):
    """Bad input: the message names the file, key or variable, the value and what is allowed."""
