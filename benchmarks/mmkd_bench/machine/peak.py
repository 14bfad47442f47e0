"""What one core can do: the rate of a product of float32 matrices, to compare an engine's rate with.

Measured in a process of its own, because the library behind NumPy takes its number of threads from the environment
when it is loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys

from mmkd_edge.errors import BackendError

SIZES = (256, 384, 512, 768)
LIMIT_S = 60.0
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")
_MEASURE = """
import sys, time
import numpy as np
best = 0.0
for size in map(int, sys.argv[1:]):
    a, b = np.random.default_rng(0).random((2, size, size), dtype=np.float32)
    out = np.empty_like(a)
    end = time.perf_counter() + 0.4
    while (begin := time.perf_counter()) < end:
        np.matmul(a, b, out=out)
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
print(best / 1e9)
"""


def sgemm_peak_gflops() -> float:
    """The fastest of many products on one thread, in 10^9 floating-point operations per second.

    Raises:
        BackendError: the measurement did not end as it should.
    """
    environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1")}
    command = [sys.executable, "-c", _MEASURE, *map(str, SIZES)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=True)
        return float(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise BackendError(f"the rate of one core could not be measured: {error}") from error
