"""OpenVINO as a backend: what it answers, what it refuses, and what it must not do to the process around it."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("openvino", reason="needs pip install 'mmkd-edge[openvino]'")

from mmkd_edge.backends.openvino import OpenVinoBackend

PRESENT = ("openvino",)


def test_a_call_leaves_the_threads_cores_alone(kit):
    # By default OpenVINO ties the calling thread to a core for the time of a call, however busy that core is.
    compiled = OpenVinoBackend(kit.model(kit.modality))._compiled
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


PROCESS = """
import os, signal, socket, sys

def refuse(*_, **__):
    raise AssertionError("a socket was opened")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from mmkd_edge import EdgePredictor, UnavailableError

path = sys.argv[1]
opened = [EdgePredictor.open(path, backend="openvino") for _ in range(2)]
while opened:
    opened.pop(0).close()
if os.fork() == 0:
    try:
        EdgePredictor.open(path, backend="openvino")
    except UnavailableError as error:
        print(str(error).replace(str(os.getppid()), "PARENT").replace(str(os.getpid()), "CHILD"), flush=True)
    with EdgePredictor.open(path) as predictor:
        print(predictor.backend.name, flush=True)
    os._exit(0)
os.wait()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_process_sends_and_writes_nothing_ends_with_130_and_the_child_of_its_fork_finds_another_backend(
    bundle_path, tmp_path
):
    home = tmp_path / "home"
    home.mkdir()
    # From Python 3.12 on the script's own fork warns.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", PROCESS, bundle_path]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"HOME": str(home)}
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.splitlines() == [
        (
            "backend 'openvino': OpenVINO was started in process PARENT and cannot be used in its child CHILD; "
            "start workers with multiprocessing's 'spawn', or open bundles only in them"
        ),
        "ort",
    ]
    assert list(home.iterdir()) == []  # its telemetry keeps an identifier in ~/intel
