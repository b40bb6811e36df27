"""Counter-based random numbers: any block of any stream can be drawn alone and is always the same.

The key of a Philox generator is a hash of what the numbers are for (seed, mission, environment,
wafer, realisation, stream); its counter is the absolute block index. No global state, no rank:
the draws do not depend on order, chunking or the number of workers (the idea of Salmon et al.
2011, doi:10.1145/2063384.2063405, as used by TOAST).
"""

import hashlib
import json

import numpy as np


def philox_key(seed: int, *labels: str | int) -> int:
    """128-bit Philox key of a named stream.

    Parameters
    ----------
    seed : int
        The run's seed, >= 0.
    *labels : str or int
        What the stream is for, outermost first, e.g. ``"litebird_lft", "litebird_2032", "noise"``.

    Returns
    -------
    int
        Key in [0, 2**128). Labels are hashed as a JSON list, so ``("a", "bc")`` and ``("ab", "c")``
        differ, and so do ``1`` and ``"1"``.

    Raises
    ------
    ValueError
        If the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed = {seed}: allowed are integers >= 0")
    text = json.dumps([int(seed), *labels])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def rng(seed: int, *labels: str | int, block: int = 0) -> np.random.Generator:
    """Generator of one block of a named stream.

    Parameters
    ----------
    seed, *labels
        See `philox_key`.
    block : int
        Absolute block index, >= 0. Blocks are 2**128 draws apart and never overlap.

    Returns
    -------
    numpy.random.Generator
        Philox generator at the start of that block.
    """
    if block < 0:
        raise ValueError(f"block = {block}: allowed are integers >= 0")
    # The block index sits in the upper half of the 256-bit counter.
    counter = int(block) << 128
    return np.random.Generator(np.random.Philox(key=philox_key(seed, *labels), counter=counter))


def integer(seed: int, *labels: str | int) -> int:
    """31-bit integer seed of a named stream, for libraries (Geant4, Keras) that want one."""
    return philox_key(seed, *labels) % (2**31 - 1) + 1
