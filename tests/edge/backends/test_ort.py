import os
import subprocess
import sys

import onnxruntime
import pytest

from mmkd_edge import BackendError
from mmkd_edge.backends.ort import OrtBackend


def test_the_session_has_the_threads_asked_for_and_does_not_spin(kit):
    backend = OrtBackend(kit.model(kit.modality), threads=2)
    assert backend.threads == 2
    options = backend.session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.load_model_format") == "ONNX"


def test_truncated_models_are_refused_with_no_other_error(kit):
    model = kit.model(kit.modality)
    refused = 0
    for kept in range(1, len(model), 37):
        try:
            OrtBackend(model[:kept])
        except BackendError:
            refused += 1
    # A cut between two fields can leave a valid, smaller model; that no bundle carries one is the hash's work.
    assert refused >= len(model) // 37 - 2


def test_a_model_that_fails_writes_nothing_on_stdout(kit, monkeypatch, capfd):
    def fail(*arguments, **options):
        raise RuntimeError("no memory")  # as pybind11 hands on what C++ throws: onnxruntime then tries once more

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(BackendError):
        OrtBackend(kit.model(kit.modality))
    assert capfd.readouterr() == ("", "")


WATCH_THE_IMPORT = """
import os, sys

def watch(event, arguments):
    if event == "import" and arguments[0] == "onnxruntime":
        print(os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.addaudithook(watch)
from mmkd_edge.backends.ort import import_onnxruntime
import_onnxruntime()
"""


@pytest.mark.parametrize(("users", "expected"), [(None, "1"), ("0", "0")], ids=["by itself", "as the user says"])
def test_onnxruntime_is_told_to_report_nothing_before_its_import(users, expected):
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {} if users is None else {"ORT_DISABLE_TELEMETRY": users}
    command = [sys.executable, "-c", WATCH_THE_IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == f"{expected}\n"


PREDICT_AND_WATCH = """
import os, sys, time
import numpy
from mmkd_edge import EdgePredictor, example_bundle

def sockets():
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            yield target

with EdgePredictor.open(example_bundle(), backend="ort") as predictor:
    window = numpy.zeros(predictor.modality.shape, numpy.float32)
    before, found, end = set(sockets()), set(), time.monotonic() + 14
    while time.monotonic() < end:
        predictor.predict(window)
        found |= set(sockets()) - before
        time.sleep(0.005)
print(len(found))
"""


@pytest.mark.slow
def test_predictions_open_no_socket_and_leave_no_file(tmp_path):
    # The first report of onnxruntime 1.32 comes 9 s after its import; a look-up of a name waits for seconds.
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", PREDICT_AND_WATCH]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "0\n"
    assert [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name] == []
