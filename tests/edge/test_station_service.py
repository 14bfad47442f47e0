"""The example for systemd: what it tells the watchdog, and when it stays silent."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import ModalitySpec
from mmkd_edge.testing import fake_predictor

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "station_service.py"


@pytest.fixture
def watchdog(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        yield listening


def test_the_program_tells_systemd_when_it_is_ready_alive_and_ending(watchdog, tmp_path):
    environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, SCRIPT], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        states = [""]
        while states[-1] != "STOPPING=1":  # read as it comes: a socket that nobody reads makes its sender wait
            states.append(watchdog.recv(4096).decode())
        output, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert (child.returncode, errors) == (0, "")
    _, ready, *alive, _ = states
    assert ready == "READY=1"
    assert all(state.startswith("WATCHDOG=1\nSTATUS=") for state in alive)
    assert len(alive) == 24 + 1  # 1,200 samples at a hop of 50, and one sign of life for the silent sensor
    assert output == "the sensor is silent after 21 answers\n"


def test_an_engine_that_fails_for_ever_sends_no_sign_of_life():
    is_alive = runpy.run_path(str(SCRIPT))["is_alive"]
    acc = ModalitySpec(name="acc", channels=("x",), rate_hz=10.0, samples=10)

    def fail(feeds):
        raise RuntimeError("hung up")

    def alive(predictor):
        found = predictor.stream(hop=10).push(np.ones(10))
        return is_alive(found, silent=False)

    assert not alive(fake_predictor(fail, modality=acc, labels=("a", "b")))
    assert alive(fake_predictor([1.0, 0.0], modality=acc, labels=("a", "b")))
    assert is_alive([], silent=True)
    assert not is_alive([], silent=False)
