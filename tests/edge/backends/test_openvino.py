"""OpenVINO as a backend: what it answers, what it refuses, and what it must not do to the process around it."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("openvino", reason="needs pip install 'mmkd-edge[openvino]'")

from mmkd_edge.backends.openvino import OpenVinoBackend

PRESENT = ("openvino",)


def in_a_process(script, *arguments, **environment):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


def test_a_call_leaves_the_threads_cores_alone(kit):
    # By default OpenVINO ties the calling thread to a core for the time of a call, however busy that core is.
    compiled = OpenVinoBackend(kit.model(kit.modality))._compiled
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


OFFLINE = """
import os, signal, socket, sys

def refuse(*_, **__):
    raise AssertionError("a socket was opened")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from mmkd_edge import EdgePredictor, example_bundle
opened = [EdgePredictor.open(example_bundle(), backend="openvino") for _ in range(2)]
while opened:
    opened.pop(0).close()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_nothing_is_sent_or_printed_no_folder_is_made_and_ctrl_c_ends_a_process_that_closed_several_with_130(tmp_path):
    done = in_a_process(OFFLINE, HOME=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert list(tmp_path.iterdir()) == []  # its telemetry keeps an identifier in ~/intel


IN_A_CHILD = """
import os, sys
from mmkd_edge import EdgePredictor, UnavailableError

path = sys.argv[1]
EdgePredictor.open(path, backend="openvino").close()
if os.fork() == 0:
    try:
        EdgePredictor.open(path, backend="openvino")
    except UnavailableError as error:
        print(str(error).replace(str(os.getppid()), "PARENT").replace(str(os.getpid()), "CHILD"), flush=True)
    with EdgePredictor.open(path) as predictor:
        print(predictor.backend.name, flush=True)
    os._exit(0)
os.wait()
"""


def test_the_child_of_a_fork_is_refused_and_finds_another_backend_by_itself(bundle_path):
    done = in_a_process(IN_A_CHILD, bundle_path)
    assert done.stdout.splitlines() == [
        (
            "backend 'openvino': OpenVINO was started in process PARENT and cannot be used in its child CHILD; "
            "start workers with multiprocessing's 'spawn', or open bundles only in them"
        ),
        "ort",
    ]
