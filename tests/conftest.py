"""What holds for every test."""

import contextlib
import functools
import hashlib
import io
import os
import pickle
import shlex
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmkd_edge.errors import UnavailableError
from mmkd_edge.native import library
from mmkd_edge.native.build import build
from mmkd_edge.predict.student import OpenStudent

# Compiling MiniRocket without optimisation takes half as long; the result is kept apart from what users run.
os.environ["NUMBA_OPT"] = "0"
os.environ["NUMBA_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "numba")

# Processes that tests start reuse compiled modules, also where the environment forbids to write them.
os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "", False

# A run in the background may inherit an ignored SIGINT, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


LONG = {
    *("adapt", "c_library", "c_sources", "committee", "comparison", "databases", "demo", "export_student_kinds"),
    *("normal", "resume", "run", "study", "task_kinds", "train_options", "twins"),
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begins with the files that take half a minute, so that no process is alone with one at the end."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)


@pytest.fixture(scope="session", autouse=True)
def _no_profiles(tmp_path_factory):
    """What was tuned on this machine must not decide how tests run, in their processes either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def native_engine():
    """The native engine, built from the sources as they are; without a C compiler its tests are skipped."""
    try:
        library()
    except UnavailableError:
        library.cache_clear()
        try:
            subprocess.run([*shlex.split(os.environ.get("CC", "cc")), "--version"], check=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("needs a C compiler")
        assert build() == ""


@pytest.fixture(scope="session")
def gpu_double():
    from tests.edge import gpu_double

    return gpu_double


@pytest.fixture(scope="session")
def converted_graphs(tmp_path_factory):
    """A folder of ONNX graphs by the hash of the network that they were converted from, and torch's table of operators.

    All processes of a run share the folder.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    base, run = tmp_path_factory.getbasetemp(), os.environ.get("PYTEST_XDIST_TESTRUNUID")
    folder = base.parent / f"graphs-{run}" if run else base / "graphs"
    folder.mkdir(exist_ok=True)
    return folder, functools.cache(ONNXRegistry.from_torchlib)


@pytest.fixture(scope="module")
def quick_exports(converted_graphs):
    """Has torch convert equal networks once, and makes its table of operators, a third of each conversion, once."""
    import msgspec
    import onnx
    import torch
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    from mmkd_edge.spec import ModalitySpec

    class Content(pickle.Pickler):
        def reducer_override(self, value):
            if isinstance(value, torch.Tensor):
                return str, (f"{value.dtype} {tuple(value.shape)} {value.detach().numpy().tobytes().hex()}",)
            if isinstance(value, ModalitySpec):  # no network looks at what bundles tell of it beside its shape and rate
                names = tuple(map(str, range(len(value.channels))))
                told = {"range": None, "unit": "", "normalise": "none", "channels": names}
                return msgspec.structs.replace(value, **told).__reduce__()
            return NotImplemented

    convert, (folder, operators) = torch.onnx.export, converted_graphs

    def convert_once(module, examples, **options):
        content = io.BytesIO()
        pickler = Content(content)
        pickler.fast = True  # equal networks have equal bytes
        try:
            pickler.dump((module, examples, options))
        except (AttributeError, TypeError, ValueError, pickle.PicklingError):  # a class inside a function, a circle
            return convert(module, examples, **options)
        file = folder / hashlib.sha256(content.getvalue()).hexdigest()
        if not file.exists():
            part = file.with_suffix(f".{os.getpid()}")
            part.write_bytes(convert(module, examples, **options).model_proto.SerializeToString())
            part.replace(file)
        return SimpleNamespace(model_proto=onnx.load_from_string(file.read_bytes()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.onnx.export", convert_once)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(operators))
        yield


@contextlib.contextmanager
def _opened_here():
    """Runs sandbox checks in this process: starting one of its own takes a second for each new bundle and engine."""
    from mmkd_edge.opening import sandbox, sandbox_process

    def check_here(request, **_):
        opened = dict[str, OpenStudent]()
        yield from [sandbox_process._open(request, *config, opened) for config in request.configs]
        for student in opened.values():
            student.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "_results", check_here)
        yield


@pytest.fixture(scope="module")  # modules that follow in this process hold the sandbox itself
def quick_openings():
    with _opened_here():
        yield


@pytest.fixture
def quick_opening():
    with _opened_here():
        yield


@pytest.fixture(scope="session")
def quick_rocket():
    """A context with spectra in place of MiniRocket's features, which take half a minute to compile."""

    class Spectra:
        def __init__(self, *, random_state):
            pass

        def transform(self, series):
            return np.abs(np.fft.rfft(series)).reshape(len(series), -1)

        fit_transform = transform

    @contextlib.contextmanager
    def context():
        with pytest.MonkeyPatch.context() as patch:
            if find_spec("aeon"):
                patch.setattr("aeon.transformations.collection.convolution_based.MiniRocket", Spectra)
            yield

    return context


@pytest.fixture
def ran(monkeypatch, capsys):
    """Runs the `main` of the command of a name with arguments, in this process; gives exit code, stdout and stderr."""

    def ran(main, name, *arguments):
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return ran
