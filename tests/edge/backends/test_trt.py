"""TensorRT as a backend, on a GPU made of host memory: what it answers, what it checks, and what it gives back."""

import inspect
import re
import sys
import threading

import numpy as np
import pytest

from mmkd_edge import BackendError, EdgePredictor, UnavailableError
from mmkd_edge.backends.base import why_absent
from mmkd_edge.backends.trt.backend import TrtBackend
from tests.edge.said import said


@pytest.fixture(autouse=True)
def trt_absent():
    """It is present here, in one form or another."""


@pytest.fixture
def tensorrt(gpu_double, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return gpu_double.install(monkeypatch, tmp_path)


@pytest.fixture
def backend(kit, tensorrt):
    opened = TrtBackend(kit.model(kit.modality))
    yield opened
    opened.close()


VERSION = "tensorrt 10.3.0 on Double"


def test_a_bundle_runs_and_passes_its_self_test(bundle_path, tensorrt):
    with EdgePredictor.open(bundle_path, backend="trt") as predictor:
        assert predictor.selftest().windows == 4
        info = predictor.info()
    assert (info.backend, info.backend_version, info.threads, info.precision) == ("trt", VERSION, 1, "fp32")
    assert info.reason == "backend 'trt' as requested; no profile of this bundle on this machine"
    assert tensorrt.cuda.live == {}


def test_threads_get_their_own_answers_from_a_bounded_number_of_contexts(kit, tensorrt):
    backend = TrtBackend(kit.model(kit.modality))
    kit.check_threads(backend, 16)
    assert 1 <= tensorrt.contexts <= 8
    backend.close()
    assert tensorrt.cuda.live == {}


def test_calls_share_what_there_is_where_no_further_context_can_be_made(kit, tensorrt):
    tensorrt.most_contexts = 2
    backend = TrtBackend(kit.model(kit.modality))
    held = [backend._take(), backend._take()]
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(backend.run(kit.feeds())[1]))
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive()
    backend._give_back(held.pop())
    waiting.join(timeout=10)
    np.testing.assert_allclose(answers[0][0], kit.answer(kit.feeds()["acc"][0])[1], atol=2e-6)
    backend._give_back(held.pop())
    backend.close()


def test_a_closed_backend_says_so_and_gives_everything_back(kit, tensorrt):
    backend = TrtBackend(kit.model(kit.modality))
    running = backend._take()  # by another thread
    backend.close()
    backend.close()
    assert said(BackendError, lambda: backend.run(kit.feeds())) == "backend 'trt' is closed; open it again"
    np.testing.assert_allclose(running.answer(kit.feeds())[1][0], kit.answer(kit.feeds()["acc"][0])[1], atol=2e-6)
    backend._give_back(running)
    assert tensorrt.cuda.live == {}


def test_another_gpu_that_a_thread_chose_is_its_choice_again_afterwards(kit, tensorrt):
    tensorrt.cuda.devices, tensorrt.cuda.device = 2, 1
    backend = TrtBackend(kit.model(kit.modality))
    backend.run(kit.feeds())
    assert (tensorrt.cuda.devices_at_run, tensorrt.cuda.device) == ({0}, 1)


@pytest.mark.parametrize(
    ("graphs", "empty", "reason"),
    [
        ("are refused", False, "CUDA records no graph of the call: TensorRT refuses the call: not while recording"),
        (
            "are not supported",
            False,
            "CUDA records no graph of the call: cudaErrorStreamCaptureUnsupported: text of 900",
        ),
        ("work", True, "the CUDA graph gives other answers than the call that it was recorded from"),
    ],
)
def test_a_graph_that_does_not_do_what_the_call_does_is_not_used(kit, tensorrt, graphs, empty, reason):
    tensorrt.cuda.graphs, tensorrt.graphs_are_empty = graphs, empty
    backend = TrtBackend(kit.model(kit.modality))
    assert backend.plain_reason == reason
    assert repr(backend) == f"TrtBackend({VERSION}, plain calls)"
    for seed in range(3):
        given = kit.feeds(seed=seed)
        np.testing.assert_allclose(backend.run(given)[1][0], kit.answer(given["acc"][0])[1], atol=2e-6)
    backend.close()
    assert tensorrt.cuda.live == {}


def test_a_call_is_one_graph_where_graphs_work(kit, backend, tensorrt):
    tensorrt.refuses = True  # whatever is not in the graph
    given = kit.feeds()
    np.testing.assert_allclose(backend.run(given)[1][0], kit.answer(given["acc"][0])[1], atol=2e-6)
    assert backend.plain_reason == ""


def test_an_engine_is_built_once_and_taken_from_the_cache_then(kit, tensorrt, tmp_path):
    model = kit.model(kit.modality)
    with_cache = [TrtBackend(model), TrtBackend(model)]
    assert tensorrt.built == 1
    (engine,) = (tmp_path / "cache/mmkd-edge/engines").glob("*.engine")
    assert with_cache[0].engine_origin == "built at this start: none was in the cache"
    assert with_cache[1].engine_origin == f"from the cache: {engine}"
    np.testing.assert_array_equal(*(opened.run(kit.feeds())[0] for opened in with_cache))
    tensorrt.cuda.memory_bytes += 16 << 20  # a kernel keeps more memory after a restart
    assert TrtBackend(model).engine_origin == f"from the cache: {engine}"


def test_an_engine_that_tensorrt_refuses_is_built_again_and_an_error_where_that_does_not_help(kit, tensorrt):
    TrtBackend(kit.model(kit.modality)).close()
    tensorrt.loads = False
    assert said(BackendError, lambda: TrtBackend(kit.model(kit.modality))) == (
        f"backend 'trt' ({VERSION}) cannot open the artifact: TensorRT does not load the engine: built for another GPU"
    )
    assert (tensorrt.built, len(tensorrt.loaded)) == (2, 3)


def test_a_refused_call_is_an_error_and_the_next_one_is_right(kit, tensorrt):
    tensorrt.cuda.graphs = "are refused"
    backend = TrtBackend(kit.model(kit.modality))
    tensorrt.refuses = True
    assert said(BackendError, lambda: backend.run(kit.feeds())) == (
        f"backend 'trt' ({VERSION}) failed to run: TensorRT refuses the call: not while recording"
    )
    tensorrt.refuses = False
    np.testing.assert_allclose(backend.run(kit.feeds())[1][0], kit.answer(kit.feeds()["acc"][0])[1], atol=2e-6)
    assert tensorrt.contexts == 2  # what the failed call left in the first is not known
    backend.close()
    assert tensorrt.cuda.live == {}


def test_an_error_that_takes_cuda_from_the_process_says_so_then_and_afterwards(kit, tensorrt, gpu_double):
    backend = TrtBackend(kit.model(kit.modality))
    tensorrt.breaks = gpu_double.Error.cudaErrorIllegalAddress
    lost = "; CUDA is lost to this process: start it again"
    with pytest.raises(BackendError) as caught:
        backend.run(kit.feeds())
    fault = "cudaErrorIllegalAddress: text of 700"
    assert str(caught.value) == f"backend 'trt' ({VERSION}) failed to run: {fault}{lost}"
    assert said(BackendError, lambda: backend.run(kit.feeds())) == f"backend 'trt' ({VERSION}) failed before{lost}"
    assert (
        said(BackendError, lambda: TrtBackend(kit.model(kit.modality)))
        == f"backend 'trt' ({VERSION}) cannot open the artifact: {fault}{lost}"
    )


def check_of(path):
    with EdgePredictor.open(path, backend="trt") as predictor:
        return predictor.info().sandbox_check


def test_an_engine_is_first_built_and_asked_in_a_process_of_its_own_and_taken_from_there(bundle_path, tensorrt):
    assert check_of(bundle_path) == "passed now"
    assert (tensorrt.built, len(tensorrt.loaded)) == (0, 1)
    assert check_of(bundle_path) == "passed at an earlier start"
    assert (tensorrt.built, len(tensorrt.loaded)) == (0, 2)


def in_children(code, folder):
    """Have the sandbox process run this where it would import TensorRT."""
    (folder / "nvidia" / "tensorrt.py").write_text(code)


def test_what_ends_tensorrt_ends_the_sandbox_process_alone(bundle_path, tensorrt, tmp_path):
    in_children("import os; os.abort()", tmp_path)
    assert said(BackendError, lambda: check_of(bundle_path)) == (
        f"{bundle_path}: the sandbox check of backend 'trt' failed: it crashed: SIGABRT; do not use this bundle with it"
    )
    with EdgePredictor.open(bundle_path) as predictor:
        info = predictor.info()
    assert (info.backend, info.sandbox_check) == ("ort", "passed now")
    assert "the sandbox check of backend 'trt' failed: it crashed: SIGABRT" in info.rejected[0]
    assert tensorrt.loaded == []


def test_everything_that_is_missing_is_named_with_its_command(bundle_path, monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx", "cuda"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("mmkd_edge.backends.trt.needs._DRIVER", "libnone.so.1")
    lacks = (
        "this machine lacks TensorRT (on a Jetson: sudo apt-get install python3-libnvinfer, in an environment made "
        "with --system-site-packages; for GeForce RTX: pip install 'mmkd-edge[trt-rtx]'), "
        "cuda-python (pip install 'mmkd-edge[trt]'), an NVIDIA GPU with its driver (libnone.so.1 does not load)"
    )
    assert why_absent("trt") == lacks
    with pytest.raises(UnavailableError) as caught:
        EdgePredictor.open(bundle_path, backend="trt")
    assert (str(caught.value), caught.value.exit_code) == (f"backend 'trt' cannot run here: {lacks}", 3)


def test_auto_takes_tensorrt_where_a_gpu_answers_and_says_why_not_elsewhere(kit, bundle_path, tensorrt, monkeypatch):
    def info():
        with EdgePredictor.open(bundle_path) as predictor:
            return predictor.info()

    reason = "no profile of this bundle on this machine; tensorrt and a GPU's driver are installed"
    assert (info().backend, info().reason) == ("trt", reason)
    tensorrt.cuda.driver = 0
    no_gpu = (
        "backend 'trt' cannot run here: no GPU answers: cudaErrorInsufficientDriver: text of 35; "
        "check the driver with nvidia-smi or tegrastats"
    )
    assert said(UnavailableError, lambda: TrtBackend(kit.model(kit.modality))) == no_gpu
    assert (info().backend, info().rejected[0]) == ("ort", no_gpu)
    monkeypatch.setattr("mmkd_edge.backends.trt.needs._DRIVER", "libnone.so.1")
    assert info().rejected[0] == (
        "backend 'trt': this machine lacks an NVIDIA GPU with its driver (libnone.so.1 does not load)"
    )
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    assert info().rejected[0] == "backend 'trt': tensorrt is not installed"


def test_the_double_takes_the_parameters_of_the_published_bindings(gpu_double):
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs pip install 'mmkd-edge[trt]'")
    for name, function in inspect.getmembers(gpu_double.Cuda, inspect.isfunction):
        if name.startswith("cuda"):
            line = getattr(runtime, name).__doc__.splitlines()[0]
            published = re.findall(r"(\w+)(?::[^,)]*)?(?=[,)])", line.partition("(")[2])
            assert list(inspect.signature(function).parameters)[1:] == published, line
    for error in gpu_double.Error:
        assert int(getattr(runtime.cudaError_t, error.name)) == error
    assert int(runtime.cudaStreamNonBlocking) == gpu_double.Cuda.cudaStreamNonBlocking
    assert runtime.cudaMemcpyKind.cudaMemcpyHostToDevice.name == "cudaMemcpyHostToDevice"
    assert runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost.name == "cudaMemcpyDeviceToHost"
    assert runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal.name == "cudaStreamCaptureModeThreadLocal"
