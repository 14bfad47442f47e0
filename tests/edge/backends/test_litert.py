"""LiteRT where it is not installed; what it answers is tested with the `.tflite` that an export writes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mmkd_edge import UnavailableError
from mmkd_edge.backends.base import BACKENDS, check_backend, open_backend


def test_it_is_asked_for_by_name_and_runs_tflite_alone() -> None:
    assert check_backend("litert") == "litert"
    assert BACKENDS["litert"].formats == ("tflite",)
    assert BACKENDS["ort"].formats == ("onnx",)


def test_without_litert_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ai_edge_litert", "ai_edge_litert.interpreter"):  # as if it were not installed
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnavailableError) as caught:
        open_backend("litert", b"", threads=1)
    assert str(caught.value) == (
        "backend 'litert' needs ai-edge-litert, which is not installed; install it with pip install 'mmkd-edge[litert]'"
    )


def test_naming_it_imports_no_engine() -> None:
    script = "import sys, mmkd_edge.backends.litert; print('ai_edge_litert' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
