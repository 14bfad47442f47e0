"""A station's program for systemd: answers for a sensor, and tells the watchdog only what is true.

    python examples/station_service.py

`READY=1` goes out after the bundle has passed its self-test, `WATCHDOG=1` after a good answer or while the sensor is
known to be silent. An engine that hangs or fails forever sends nothing, and systemd restarts the program: see
`systemd/mmkd-station.service`. Started by hand it only prints. Needs `mmkd-edge[ort]`.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator

import numpy as np

from mmkd_edge import EdgePredictor, Prediction, example_bundle

SAMPLES_AT_ONCE, RATE_HZ = 25, 50.0
GOOD = ("ok", "degraded", "warming_up")
stop = threading.Event()


def notify(state: str) -> None:
    """Send one message to systemd; do nothing where systemd did not start the program. See sd_notify(3)."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            # An address that begins with @ is in the abstract name space.
            channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def sensor(recording: np.ndarray) -> Iterator[tuple[np.ndarray, float] | None]:
    """Stand for a driver: give samples and the time of the first, or None when the sensor was silent for a while."""
    for start in range(0, len(recording), SAMPLES_AT_ONCE):
        if stop.is_set():
            return
        yield recording[start : start + SAMPLES_AT_ONCE], start / RATE_HZ
    yield None  # a cable is pulled: the driver knows it


def is_alive(predictions: list[Prediction], *, silent: bool) -> bool:
    """Whether the watchdog may hear that all is well: an answer came, or there was nothing to answer for."""
    return silent or any(prediction.status in GOOD for prediction in predictions)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    with EdgePredictor.open(example_bundle(), stale_s=2.0) as predictor:
        predictor.selftest()
        windows = predictor.bundle.golden(predictor.entry.name).windows[:6]  # stand for what the sensor measures
        stream = predictor.stream(hop=50)
        notify("READY=1")
        for delivery in sensor(windows.reshape(-1, windows.shape[2])):
            predictions = [] if delivery is None else stream.push(*delivery)
            if is_alive(predictions, silent=delivery is None):
                notify(f"WATCHDOG=1\nSTATUS={predictor.health().predictions['ok']} answers")
        notify("STOPPING=1")
        print(f"the sensor is silent after {predictor.health().predictions['ok']} answers")
