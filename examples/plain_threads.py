"""Several sensors, one predictor, plain threads: the shape of a station's program, without any framework.

    python examples/plain_threads.py

One thread per sensor puts windows into a queue, two threads take them out and ask the shared predictor, and the main
thread gets the answers. Needs `mmkd-edge[ort]`.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmkd_edge import EdgePredictor, Prediction, example_bundle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SENSORS = ("press 1", "press 2", "press 3")
ASKING_THREADS = 2


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A window and the sensor that it comes from."""

    sensor: str
    window: NDArray[np.float32]


def record(sensor: str, windows: NDArray[np.float32], recorded: queue.Queue[Recorded | None]) -> None:
    """What the driver of a sensor does: it delivers window by window."""
    for window in windows:
        # Waits while the queue is full. A station that must not wait drops a window here, and counts it.
        recorded.put(Recorded(sensor=sensor, window=window))


def ask(
    predictor: EdgePredictor,
    recorded: queue.Queue[Recorded | None],
    answers: queue.Queue[tuple[str, Prediction] | Exception],
) -> None:
    """Answers until None comes. An error goes to the main thread, which knows what to do about it."""
    try:
        while (item := recorded.get()) is not None:
            answers.put((item.sensor, predictor.predict(item.window)))
    except Exception as error:
        answers.put(error)


def main() -> None:
    """Serve all sensors until they end."""
    recorded: queue.Queue[Recorded | None] = queue.Queue(maxsize=8)
    answers: queue.Queue[tuple[str, Prediction] | Exception] = queue.Queue(maxsize=8)
    with EdgePredictor.open(example_bundle()) as predictor:
        assert predictor.bundle is not None
        windows = predictor.bundle.golden(predictor.entry.name).windows  # stand for what the sensors measure
        share = len(windows) // len(SENSORS)
        parts = [windows[number * share : (number + 1) * share] for number in range(len(SENSORS))]
        sensors = [
            threading.Thread(target=record, args=(name, part, recorded), daemon=True)
            for name, part in zip(SENSORS, parts, strict=True)
        ]
        askers = [
            threading.Thread(target=ask, args=(predictor, recorded, answers), daemon=True)
            for _ in range(ASKING_THREADS)
        ]
        for thread in (*sensors, *askers):
            thread.start()

        counts: dict[str, Counter[str]] = {name: Counter() for name in SENSORS}
        for _ in range(share * len(SENSORS)):
            answer = answers.get()
            if isinstance(answer, Exception):
                raise answer
            sensor, prediction = answer
            counts[sensor][prediction.label] += 1

        for _ in askers:
            recorded.put(None)
        for thread in askers:  # before the predictor closes
            thread.join()
    for sensor, labels in counts.items():
        print(f"{sensor}: {labels.total()} windows, mostly {labels.most_common(1)[0][0]}")


if __name__ == "__main__":
    main()
