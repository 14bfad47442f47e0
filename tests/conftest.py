"""What holds for every test."""

from __future__ import annotations

import functools
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from mmkd_edge.errors import UnavailableError
from mmkd_edge.native import library
from mmkd_edge.native.build import build

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
def one_operator_table() -> Iterator[None]:
    """Lets torch make its table of ONNX operators once; making it takes a third of each export."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        made = ONNXRegistry.from_torchlib
    except (ImportError, AttributeError):  # nothing but time is lost
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(made)))
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
