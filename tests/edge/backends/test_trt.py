"""TensorRT as a backend, on a GPU made of host memory: what it answers, what it checks, and what it gives back."""

import inspect
import re
import sys
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest

from mmkd_edge import BackendError, EdgePredictor, UnavailableError
from mmkd_edge.backends.base import why_absent
from mmkd_edge.backends.trt.backend import TrtBackend
from tests.edge.said import said

PRESENT = ("tensorrt", "tensorrt_rtx")


@pytest.fixture
def tensorrt(gpu_double, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return gpu_double.install(monkeypatch, tmp_path)


@pytest.fixture
def open_trt(kit, tensorrt):
    """Opens a backend, which answers right, and afterwards sees that nothing is left of any."""
    opened = []

    def opens():
        opened.append(TrtBackend(kit.model(kit.modality)))
        return opened[-1]

    yield opens
    for backend in opened:
        backend.close()
    assert tensorrt.cuda.live == {}


@pytest.fixture
def check_answer(kit):

    def check(run, *, seed=0):
        given = kit.feeds(seed=seed)
        np.testing.assert_allclose(run(given)[1][0], kit.answer(given["acc"][0])[1], atol=2e-6)

    return check


VERSION = "tensorrt 10.3.0 on Double"
NO_GRAPH = "CUDA records no graph of the call"


def test_a_bundle_passes_its_self_test_in_a_process_of_its_own_and_here(bundle_path, tensorrt):
    with EdgePredictor.open(bundle_path, backend="trt") as predictor:
        assert predictor.selftest().windows == 4
        info = predictor.info()
    assert (info.backend, info.backend_version, info.threads, info.precision) == ("trt", VERSION, 1, "fp32")
    assert info.reason == "backend 'trt' as requested; no profile of this bundle on this machine"
    assert tensorrt.cuda.live == {}
    # The engine is first built and asked there, and taken from there.
    assert (info.sandbox_check, tensorrt.built, len(tensorrt.loaded)) == ("passed now", 0, 1)
    assert check_of(bundle_path) == "passed at an earlier start"
    assert (tensorrt.built, len(tensorrt.loaded)) == (0, 2)


def test_threads_get_their_own_answers_from_a_bounded_number_of_contexts(kit, tensorrt, open_trt):
    kit.check_threads(open_trt(), 16)
    assert 1 <= tensorrt.contexts <= 8


def test_calls_share_what_there_is_where_no_further_context_can_be_made(tensorrt, open_trt, check_answer):
    tensorrt.most_contexts = 2
    backend = open_trt()
    held = [backend._take(), backend._take()]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(check_answer, backend.run)
        assert wait([waiting], timeout=0.2).not_done
        backend._give_back(held.pop())
        waiting.result(timeout=60)
    backend._give_back(held.pop())


def test_a_closed_backend_says_so_and_gives_everything_back(kit, open_trt, check_answer):
    backend = open_trt()
    running = backend._take()  # by another thread
    backend.close()
    backend.close()
    assert said(BackendError, backend.run, kit.feeds()) == "backend 'trt' is closed; open it again"
    check_answer(running.answer)
    backend._give_back(running)


def test_another_gpu_that_a_thread_chose_is_its_choice_again_afterwards(tensorrt, open_trt, check_answer):
    tensorrt.cuda.devices, tensorrt.cuda.device = 2, 1
    check_answer(open_trt().run)
    assert (tensorrt.cuda.devices_at_run, tensorrt.cuda.device) == ({0}, 1)


@pytest.mark.parametrize(
    ("graphs", "empty", "reason"),
    [
        ("are refused", False, f"{NO_GRAPH}: TensorRT refuses the call: not while recording"),
        ("are not supported", False, f"{NO_GRAPH}: cudaErrorStreamCaptureUnsupported: text of 900"),
        ("work", True, "the CUDA graph gives other answers than the call that it was recorded from"),
    ],
)
def test_a_graph_that_does_not_do_what_the_call_does_is_not_used(
    tensorrt, open_trt, check_answer, graphs, empty, reason
):
    tensorrt.cuda.graphs, tensorrt.graphs_are_empty = graphs, empty
    backend = open_trt()
    assert backend.plain_reason == reason
    assert repr(backend) == f"TrtBackend({VERSION}, plain calls)"
    for seed in range(3):
        check_answer(backend.run, seed=seed)


def test_a_call_is_one_graph_where_graphs_work(tensorrt, open_trt, check_answer):
    backend = open_trt()
    tensorrt.refuses = True  # whatever is not in the graph
    check_answer(backend.run)
    assert backend.plain_reason == ""


def test_an_engine_is_built_once_and_taken_from_the_cache_then(tensorrt, open_trt, tmp_path):
    first, second = open_trt(), open_trt()
    assert tensorrt.built == 1
    (engine,) = (tmp_path / "cache/mmkd-edge/engines").glob("*.engine")
    assert first.engine_origin == "built at this start: none was in the cache"
    assert second.engine_origin == f"from the cache: {engine}"
    tensorrt.cuda.memory_bytes += 16 << 20  # a kernel keeps more memory after a restart
    assert open_trt().engine_origin == f"from the cache: {engine}"


def test_an_engine_that_tensorrt_refuses_is_built_again_and_an_error_where_that_does_not_help(tensorrt, open_trt):
    open_trt()
    tensorrt.loads = False
    assert said(BackendError, open_trt) == (
        f"backend 'trt' ({VERSION}) cannot open the artifact: TensorRT does not load the engine: built for another GPU"
    )
    assert (tensorrt.built, len(tensorrt.loaded)) == (2, 3)


def test_a_refused_call_is_an_error_and_the_next_one_is_right(kit, tensorrt, open_trt, check_answer):
    tensorrt.cuda.graphs = "are refused"
    backend = open_trt()
    tensorrt.refuses = True
    told = f"backend 'trt' ({VERSION}) failed to run: TensorRT refuses the call: not while recording"
    assert said(BackendError, backend.run, kit.feeds()) == told
    tensorrt.refuses = False
    check_answer(backend.run)
    assert tensorrt.contexts == 2  # what the failed call left in the first is not known


def test_an_error_that_takes_cuda_from_the_process_says_so_then_and_afterwards(kit, tensorrt, gpu_double):
    backend = TrtBackend(kit.model(kit.modality))
    tensorrt.breaks = gpu_double.Error.cudaErrorIllegalAddress
    begin, lost = f"backend 'trt' ({VERSION})", "; CUDA is lost to this process: start it again"
    fault = "cudaErrorIllegalAddress: text of 700"
    assert said(BackendError, backend.run, kit.feeds()) == f"{begin} failed to run: {fault}{lost}"
    assert said(BackendError, backend.run, kit.feeds()) == f"{begin} failed before{lost}"
    told = said(BackendError, TrtBackend, kit.model(kit.modality))
    assert told == f"{begin} cannot open the artifact: {fault}{lost}"


def check_of(path):
    with EdgePredictor.open(path, backend="trt") as predictor:
        return predictor.info().sandbox_check


def test_what_ends_tensorrt_ends_the_sandbox_process_alone(bundle_path, tensorrt, tmp_path):
    (tmp_path / "nvidia" / "tensorrt.py").write_text("import os; os.abort()")  # which the sandbox process imports
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
    told = said(UnavailableError, EdgePredictor.open, bundle_path, backend="trt")
    assert told == f"backend 'trt' cannot run here: {lacks}"


def test_auto_takes_tensorrt_where_a_gpu_answers_and_says_why_not_elsewhere(kit, bundle_path, tensorrt, monkeypatch):
    def info():
        with EdgePredictor.open(bundle_path) as predictor:
            return predictor.info()

    reason = "no profile of this bundle on this machine; tensorrt and a GPU's driver are installed"
    found = info()
    assert (found.backend, found.reason) == ("trt", reason)
    tensorrt.cuda.driver = 0
    no_gpu = (
        "backend 'trt' cannot run here: no GPU answers: cudaErrorInsufficientDriver: text of 35; "
        "check the driver with nvidia-smi or tegrastats"
    )
    assert said(UnavailableError, lambda: TrtBackend(kit.model(kit.modality))) == no_gpu
    found = info()
    assert (found.backend, found.rejected[0]) == ("ort", no_gpu)
    monkeypatch.setattr("mmkd_edge.backends.trt.needs._DRIVER", "libnone.so.1")
    told = "backend 'trt': this machine lacks an NVIDIA GPU with its driver (libnone.so.1 does not load)"
    assert info().rejected[0] == told
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
