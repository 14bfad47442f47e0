"""Samples that arrive in an event loop, and their predictions: asyncio, without threads.

    python examples/asyncio_stream.py [student.edge]

Without a bundle the shipped one answers. Needs `mmkd-edge[ort]`.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmkd_edge import EdgePredictor, example_bundle

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES_AT_ONCE = 25


async def sensor(
    recording: NDArray[np.float32], rate_hz: float
) -> AsyncIterator[tuple[NDArray[np.float32], NDArray[np.float64]]]:
    """What a driver gives: samples, and when each was taken."""
    for start in range(0, len(recording), SAMPLES_AT_ONCE):
        samples = recording[start : start + SAMPLES_AT_ONCE]
        yield samples, (start + np.arange(len(samples))) / rate_hz
        await asyncio.sleep(0)  # a real sensor lets other tasks run here


async def watch(bundle: Path) -> Counter[str]:
    """Count what the predictions say until the sensor ends."""
    said: Counter[str] = Counter()
    with EdgePredictor.open(bundle) as predictor:
        assert predictor.bundle is not None
        windows = predictor.bundle.golden(predictor.entry.name).windows  # stand for what the sensor measures
        recording = windows[:10].reshape(-1, windows.shape[2])
        stream = predictor.stream(hop=predictor.modality.samples // 2)
        async for prediction in stream.over(sensor(recording, predictor.modality.rate_hz)):
            said[prediction.label or prediction.status] += 1
    return said


def main() -> None:
    """Watch, and say what was seen."""
    bundle = Path(sys.argv[1]) if len(sys.argv) > 1 else example_bundle()
    for what, count in asyncio.run(watch(bundle)).most_common():
        print(f"{what}: {count} predictions")


if __name__ == "__main__":
    main()
