"""What holds for every test."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import pickle
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from mmkd_edge.errors import UnavailableError
from mmkd_edge.native import library
from mmkd_edge.native.build import build
from mmkd_edge.predict.student import OpenStudent

# A run in the background may inherit an ignored SIGINT, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What was tuned on this machine must not decide how tests run, in their processes either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def native_engine() -> None:
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
def gpu_double() -> ModuleType:
    """Doubles of cuda-python and TensorRT; `install` lets a test find a GPU."""
    from tests.edge import gpu_double

    return gpu_double


@pytest.fixture(scope="session")
def converted_graphs() -> dict[bytes, bytes]:
    """ONNX graphs by the hash of the network that they were converted from."""
    return {}


@pytest.fixture(scope="module")
def quick_exports(converted_graphs: dict[bytes, bytes]) -> Iterator[None]:
    """Converts equal networks to ONNX once, and makes torch's table of operators, a third of each conversion, once."""
    import torch
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    from mmkd_export.graph import onnx_from_student as conversion

    class Content(pickle.Pickler):
        def reducer_override(self, value: object) -> object:
            if isinstance(value, torch.Tensor):
                return str, (f"{value.dtype} {tuple(value.shape)} {value.detach().numpy().tobytes().hex()}",)
            return NotImplemented

    convert, graphs = conversion._onnx_from_module, converted_graphs

    def convert_once(module: torch.nn.Module, **options: Any) -> bytes:
        content = io.BytesIO()
        pickler = Content(content)
        pickler.fast = True  # equal networks have equal bytes
        try:
            pickler.dump((module.eval().cpu(), options))
        except (AttributeError, TypeError, ValueError, pickle.PicklingError):  # a class inside a function, a circle
            return convert(module, **options)
        key = hashlib.sha256(content.getvalue()).digest()
        if key not in graphs:
            graphs[key] = convert(module, **options)
        return graphs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "_onnx_from_module", convert_once)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="module")  # modules that follow in this process hold the sandbox itself
def quick_openings() -> Iterator[None]:
    """Runs sandbox checks in this process: starting one of its own takes a second for each new bundle and engine."""
    from mmkd_edge.opening import sandbox, sandbox_process

    def check_here(request: sandbox_process.SandboxRequest, **_: float) -> Iterator[sandbox_process.SandboxResult]:
        opened = dict[str, OpenStudent]()
        yield from [sandbox_process._open(request, *config, opened) for config in request.configs]
        for student in opened.values():
            student.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "_results", check_here)
        yield


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """Runs the `main` of the command of a name with arguments, in this process; gives exit code, stdout and stderr."""

    def ran(main: Callable[[], None], name: str, *arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return ran
