"""What all generators do with a request: refuse a bad one, fill it from fixed blocks."""

from collections.abc import Callable

import numpy as np

from crab.errors import CrabError


def check_request(
    name: str, record: dict, environment: str, start_sample: int, n_samples: int
) -> None:
    """Refuse a request that a generator cannot answer.

    Parameters
    ----------
    name : str
        The generator's name.
    record : dict
        Its record; ``environment`` is looked at.
    environment : str
        Asked for.
    start_sample, n_samples : int
        Asked for.

    Raises
    ------
    CrabError
        For another environment or a negative start or length.
    """
    if environment != record["environment"]:
        raise CrabError(
            f"environment = {environment!r}: this {name} was trained for "
            f"{record['environment']!r}; train one for {environment!r}"
        )
    for key, value in (("start_sample", start_sample), ("n_samples", n_samples)):
        if value < 0:
            raise CrabError(f"{key} = {value}: allowed are integers >= 0")


def from_blocks(
    block: Callable[[int], np.ndarray],
    block_samples: int,
    n_detectors: int,
    start_sample: int,
    n_samples: int,
) -> np.ndarray:
    """Fill a request from blocks that sit at fixed places of the mission.

    Each block is computed whole, so the numbers do not depend on how a mission is cut.

    Parameters
    ----------
    block : callable
        Absolute index of a block -> ndarray of shape (n_detectors, block_samples).
    block_samples : int
        Block b holds the samples from ``b * block_samples`` on.
    n_detectors : int
    start_sample, n_samples : int
        Both >= 0.

    Returns
    -------
    ndarray of float32, shape (n_detectors, n_samples)
    """
    tod = np.empty((n_detectors, n_samples), dtype=np.float32)
    stop = start_sample + n_samples
    first, last = start_sample // block_samples, -(-stop // block_samples)
    for index in range(first, last if n_samples else first):
        begin = index * block_samples
        low, high = max(start_sample, begin), min(stop, begin + block_samples)
        tod[:, low - start_sample : high - start_sample] = block(index)[
            :, low - begin : high - begin
        ]
    return tod
