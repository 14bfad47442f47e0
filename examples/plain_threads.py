"""Several sensors, one predictor, plain threads: the shape of a station's program, without any framework.

    python examples/plain_threads.py

One thread per sensor puts windows into a queue, two threads take them out and ask the shared predictor, and the main
thread reads the answers. Needs `mmkd-edge[ort]`.
"""

import queue
import threading
from collections import Counter
from collections.abc import Iterable

from mmkd_edge import EdgePredictor, example_bundle

SENSORS = ("press 1", "press 2", "press 3")
ASKING_THREADS = 2

recorded: queue.Queue = queue.Queue(maxsize=8)  # (sensor, window); None ends a thread
answers: queue.Queue = queue.Queue(maxsize=8)  # (sensor, prediction), or the error that ended a thread


def record(sensor: str, windows: Iterable[object]) -> None:
    """Stand for the driver of a sensor, which delivers window by window."""
    for window in windows:
        recorded.put((sensor, window))  # waits while the queue is full; who must not wait drops a window and counts it


def ask(predictor: EdgePredictor) -> None:
    """Answer until None comes; an error goes to the main thread, which knows what to do about it."""
    try:
        while (item := recorded.get()) is not None:
            sensor, window = item
            answers.put((sensor, predictor.predict(window)))
    except Exception as error:
        answers.put(error)


counts = {sensor: Counter() for sensor in SENSORS}
with EdgePredictor.open(example_bundle()) as predictor:
    windows = predictor.bundle.golden(predictor.entry.name).windows  # stand for what the sensors measure
    share = len(windows) // len(SENSORS)
    for number, sensor in enumerate(SENSORS):
        part = windows[number * share : (number + 1) * share]
        threading.Thread(target=record, args=(sensor, part), daemon=True).start()
    askers = [threading.Thread(target=ask, args=(predictor,), daemon=True) for _ in range(ASKING_THREADS)]
    for thread in askers:
        thread.start()
    for _ in range(share * len(SENSORS)):
        if isinstance(answer := answers.get(), Exception):
            raise answer
        counts[answer[0]][answer[1].label] += 1
    for _ in askers:  # all end before the predictor closes
        recorded.put(None)
    for thread in askers:
        thread.join()
for sensor, labels in counts.items():
    print(f"{sensor}: {labels.total()} windows, mostly {labels.most_common(1)[0][0]}")
