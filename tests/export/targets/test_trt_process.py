"""Engines are built in a process of their own: what TensorRT does to it, it does to that one alone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from mmkd_edge import BackendError, Bundle, BundleError, UnavailableError
from mmkd_edge.apart import ProcessLimits
from mmkd_export.pipeline import ExportResult
from mmkd_export.plan import platform_named
from mmkd_export.targets import trt
from mmkd_export.targets.trt import build_engines_apart

RTX = platform_named("trt-rtx")
LIMITS = ProcessLimits(step_s=20.0, memory_bytes=1 << 30)


@pytest.fixture
def bundle(exported: ExportResult, tmp_path: Path) -> Path:
    return Path(shutil.copy(exported.path, tmp_path / "student.edge"))


def in_place_of_tensorrt(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "tensorrt_rtx.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "first")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os; os.abort()", "it crashed: SIGABRT"),
        ("import os; os._exit(3)", "it ended with exit code 3"),
        ("import time; time.sleep(60)", "it takes too long"),
        ("while True: pass", "it takes too long"),
    ],
)
def test_however_the_process_of_a_build_ends_this_one_goes_on(
    code: str, told: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place_of_tensorrt(code, tmp_path, monkeypatch)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    with pytest.raises(BackendError) as caught:
        build_engines_apart(bundle, RTX, limits=ProcessLimits(step_s=2.0, memory_bytes=1 << 30))
    assert str(caught.value) == (
        f"{bundle}: no engine was built: the process that built it failed: {told}; do not use this bundle with TensorRT"
    )
    assert "tensorrt_rtx" not in sys.modules


def test_memory_is_bounded(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_tensorrt("bytearray(1 << 32)", tmp_path, monkeypatch)
    with pytest.raises(BackendError) as caught:
        build_engines_apart(bundle, RTX, limits=LIMITS)
    assert str(caught.value) == f"{bundle}: no engine was built: it takes too much memory"


def test_a_graph_that_our_reading_refuses_reaches_no_parser(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import msgspec
    import onnx

    from mmkd_edge import write_bundle
    from mmkd_edge.bundle.files import new_sha256
    from mmkd_edge.bundle.manifest import member_files

    in_place_of_tensorrt(f"open({str(tmp_path / 'asked')!r}, 'w')", tmp_path, monkeypatch)
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
        members = {one.file: opened.read(one.file) for one in member_files(manifest)}
    (artifact,) = manifest.models[0].artifacts
    graph = onnx.load_from_string(members[artifact.file])
    graph.graph.node[0].op_type = "Loop"
    data = members[artifact.file] = graph.SerializeToString()
    fresh = msgspec.structs.replace(artifact, sha256=new_sha256(data).hexdigest(), size_bytes=len(data))
    model = msgspec.structs.replace(manifest.models[0], artifacts=(fresh,))
    write_bundle(bundle, manifest=msgspec.structs.replace(manifest, models=(model,)), members=members)
    with pytest.raises(BundleError, match="no engine is given this: the graph has the operator 'Loop'"):
        build_engines_apart(bundle, RTX, limits=LIMITS)


def test_a_process_that_cannot_be_started_is_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(function: str, request: bytes) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(trt, "start_apart", refused)
    with pytest.raises(UnavailableError) as caught:
        build_engines_apart(bundle, RTX)
    assert str(caught.value) == (
        f"{bundle}: no engine was built: cannot start a process: Resource temporarily unavailable"
    )


def test_what_is_built_there_lies_beside_the_bundle(bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs pip install 'mmkd-edge[trt-rtx]'")
    (engine,) = build_engines_apart(bundle, RTX, precisions=("fp32",))
    assert engine.path == str(bundle.with_name("student.fp32.engine"))
    assert Path(engine.path).stat().st_size == engine.sidecar.size_bytes > 10_000
