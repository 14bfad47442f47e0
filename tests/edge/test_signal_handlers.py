"""A signal may arrive between any two lines of a call, and its handler may call the same predictor."""

import subprocess
import sys
from pathlib import Path

import pytest

PRESENT = ("openvino",)
BUNDLE = Path(__file__).parents[1] / "files" / "litert" / "transformer.edge"


SCRIPT = """
import signal, sys
import numpy as np
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge import Bundle, EdgePredictor, UsageError
from mmkd_edge.backends.base import choose_artifact
from mmkd_edge.backends.base import open_backend
from mmkd_edge.health.monitor import Watched

path, backend, *calls = sys.argv[1:]
bundle = Bundle.open(path)
entry = bundle.manifest.models[0]
model = bundle.read(choose_artifact(entry, "fp32", backend).file)
first, second = np.random.default_rng(0).normal(size=(2, *entry.modality.shape))

def opened():
    engine = open_backend(backend, model, threads=1)
    predictor = EdgePredictor.with_backend(entry, engine, options=OpenOptions(observe_every=1))
    return predictor, Watched(predictor)

predictor, watched = opened()
expected = [predictor.predict(window).probabilities for window in (first, second)]

def handle(*_):
    if call == "predict":
        found.append(watched.predict(second).probabilities)
    elif call == "health":
        found.append(watched.health())
    else:
        predictor.close()

signal.signal(signal.SIGUSR1, handle)

def interrupted_at(number):
    seen = 0
    def trace(frame, event, argument):
        nonlocal seen
        if event == "line" and "mmkd_edge" in frame.f_code.co_filename:
            seen += 1
            if seen == number:
                signal.raise_signal(signal.SIGUSR1)
        return trace
    sys.settrace(trace)
    try:
        return watched.predict(first).probabilities, seen >= number
    except UsageError as error:
        sys.settrace(None)
        assert str(error) == "the predictor is closed; open the bundle again", error
        return expected[0], True
    finally:
        sys.settrace(None)

for call in calls:
    step = 1 if call != "close" else 23  # opening takes long
    number, goes_on, found = 0, True, []
    while goes_on:
        number += step
        if call == "close":
            predictor, watched = opened()
        answer, goes_on = interrupted_at(number)
        assert (answer == expected[0]).all(), number
    if call == "predict":
        assert all((answer == expected[1]).all() for answer in found)
    assert number - 1 == len(found) or call == "close"
    assert number > 60
"""


@pytest.mark.parametrize(
    ("backend", "calls"),
    [
        ("ort", ("predict", "health", "close")),
        ("openvino", ("predict",)),
        ("litert", ("predict",)),
        pytest.param("openvino", ("health", "close"), marks=pytest.mark.slow),
        pytest.param("litert", ("health", "close"), marks=pytest.mark.slow),
    ],
)
def test_a_handler_may_call_the_predictor_at_every_line_of_a_prediction(backend, calls):
    module = {"ort": "onnxruntime", "litert": "ai_edge_litert"}.get(backend, backend)
    pytest.importorskip(module, reason=f"needs pip install 'mmkd-edge[{backend}]'")
    command = [sys.executable, "-c", SCRIPT, BUNDLE, backend, *calls]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
