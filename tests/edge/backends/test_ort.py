import os
import subprocess
import sys

import onnxruntime
import pytest

from mmkd_edge import BackendError
from mmkd_edge.backends.ort import OrtBackend
from tests.edge.said import said


def test_the_session_has_the_threads_asked_for_and_does_not_spin(kit):
    backend = OrtBackend(kit.model(kit.modality), threads=2)
    assert backend.threads == 2
    options = backend.session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.load_model_format") == "ONNX"


def test_a_model_that_fails_writes_nothing_on_stdout(kit, monkeypatch, capfd):
    def fail(*arguments, **options):
        raise RuntimeError("no memory")  # as pybind11 hands on what C++ throws: onnxruntime then tries once more

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    said(BackendError, OrtBackend, kit.model(kit.modality))
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
