"""TensorRT on a real GPU, not run yet: `python -m pytest -m gpu tests/export/targets/test_trt_gpu.py`."""

import threading
import time
from typing import cast

import numpy as np
import pytest

from mmkd_edge import Bundle, EdgePredictor, example_bundle
from mmkd_edge.backends.base import why_absent
from mmkd_edge.backends.trt.backend import MAX_EXECUTIONS, TrtBackend
from mmkd_edge.backends.trt.cuda import Execution, free_bytes, load_runtime
from mmkd_edge.predict.preprocess import prepare

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(why_absent("trt")), reason="needs TensorRT, cuda-python and an NVIDIA GPU"),
]

PRECISIONS = ("fp32", "fp16", "int8")
THREADS = 8
SECONDS = 20.0
# What one execution keeps may stay with CUDA's allocator; a leak in each of ten openings is more.
MOST_LEFT_BYTES = 8 << 20


@pytest.fixture(scope="module")
def bundle(mixed):
    """A small student in every precision."""
    return mixed.path


@pytest.fixture(scope="module", params=PRECISIONS)
def predictor(bundle, request):
    with EdgePredictor.open(bundle, backend="trt", precision=request.param) as opened:
        yield opened


def backend_of(predictor):
    return cast(TrtBackend, predictor.backend)


def graph_feeds(bundle):
    with Bundle.open(bundle) as opened:
        entry = opened.manifest.models[0]
        windows = opened.golden(entry.name).windows
    names = [tensor.name for tensor in entry.inputs]
    return [dict(zip(names, prepare(window, entry.modality), strict=True)) for window in windows]


def test_golden_answers_are_those_of_the_export_and_auto_takes_tensorrt(predictor):
    with EdgePredictor.open(example_bundle()) as shipped:
        for result in (predictor.selftest(), shipped.selftest()):
            assert result.max_abs_error <= result.tolerance
        info = shipped.info()
    assert info.backend == "trt"
    assert "and a GPU's driver are installed" in info.reason


def test_the_cuda_graph_gives_the_answers_of_the_plain_call(predictor, bundle):
    backend = backend_of(predictor)
    assert backend.plain_reason == ""
    plain = Execution(
        backend._engine, backend._runtime, inputs=backend.inputs, outputs=backend.outputs, logger=backend._logger
    )
    for feeds in graph_feeds(bundle):
        for one, other in zip(backend.run(feeds), plain.answer(feeds), strict=True):
            np.testing.assert_array_equal(one, other)
    plain.close()


def test_threads_get_the_answers_of_one_thread(predictor, bundle):
    backend, feeds = backend_of(predictor), graph_feeds(bundle)
    expected = [backend.run(one)[0] for one in feeds]
    calls, wrong = [0] * THREADS, [0] * THREADS
    end = time.monotonic() + SECONDS

    def ask(number):
        while time.monotonic() < end:
            which = (number + calls[number]) % len(feeds)
            wrong[number] += not np.array_equal(backend.run(feeds[which])[0], expected[which])
            calls[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(wrong) == 0
    assert min(calls) > 0
    assert backend._count <= MAX_EXECUTIONS


def test_opening_and_closing_leaves_no_memory_behind(bundle):
    runtime = load_runtime()
    left = []
    for _ in range(12):
        with EdgePredictor.open(bundle, backend="trt", precision="fp32"):
            pass
        left.append(free_bytes(runtime))
    assert left[1] - left[-1] < MOST_LEFT_BYTES
