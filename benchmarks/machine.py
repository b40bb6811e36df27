"""What the machine gives right now: printed beside every timing."""

import time
from statistics import median

import numpy as np


def seconds(call, repeats: int = 1) -> float:
    """Median wall-clock time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def rows() -> list[tuple]:
    """Matrix product and memory copy, float32."""
    a = np.random.default_rng(0).standard_normal((2048, 2048), dtype=np.float32)
    a @ a
    gflops = 2 * 2048**3 / seconds(lambda: a @ a, 9) / 1e9
    big = np.ones(2**27, dtype=np.float32)
    copy = 2 * big.nbytes / seconds(big.copy, 5) / 1e9
    return [
        ("machine: sgemm 2048", gflops, "GFLOP/s", None, None),
        ("machine: memory copy", copy, "GB/s", None, None),
    ]
