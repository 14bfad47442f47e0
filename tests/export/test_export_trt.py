from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from mmkd_edge.errors import ArtifactError, BackendError, UnavailableError
from mmkd_export.plan import ExportPlan
from mmkd_export.platforms import platform_named
from mmkd_export.run import ExportResult, export
from mmkd_export.trt import build_engines, device_facts, engine_from_onnx, read_sidecar, workspace_bytes

MIB = 1 << 20


def _load(name: str) -> ModuleType:
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trt_rtx() -> ModuleType:
    """TensorRT-RTX builds ahead of time, without a GPU; it is not part of the development installation."""
    return pytest.importorskip("tensorrt_rtx", reason="needs pip install 'mmkd-edge[trt-rtx]'")


@pytest.fixture
def bundle(exported: ExportResult, tmp_path: Path) -> Path:
    return Path(shutil.copy(exported.path, tmp_path / "student.edge"))


@pytest.mark.parametrize("version", ["tensorrt_cu12_bindings-10.3.0", "tensorrt_cu13_bindings-11."])
def test_every_name_that_is_used_is_in_the_published_bindings(version: str):
    reader = _load("read_trt_names")
    recorded = json.loads(reader.NAMES_FILE.read_text())
    (names,) = [entry["names"] for wheel, entry in recorded.items() if wheel.startswith(version)]
    assert names == reader.used_names(reader.SOURCE.read_text())


def test_a_name_that_the_bindings_lack_would_be_found():
    reader = _load("read_trt_names")
    source = "config.set_flag(module.BuilderFlag.FP16)\nother.thing()"
    assert reader.used_names(source) == ["BuilderFlag", "FP16", "set_flag"]
    assert reader.present_names(b"x\0set_flag\0getBuilderFlag\0FP16x\0", ["BuilderFlag", "FP16", "set_flag"]) == [
        "BuilderFlag",
        "set_flag",
    ]


def test_the_workspace_is_a_quarter_of_free_memory_up_to_a_gibibyte(tmp_path: Path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8000000 kB\nMemAvailable:  400 kB\n")
    assert workspace_bytes(meminfo) == 100 * 1024
    meminfo.write_text("MemTotal:  64000000 kB\nMemAvailable:  32000000 kB\n")
    assert workspace_bytes(meminfo) == 1 << 30


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="this machine has TensorRT")
def test_without_tensorrt_the_bundle_is_written_and_the_command_for_the_device_is_given(
    exported: ExportResult, tmp_path: Path
):
    output = tmp_path / "my student.edge"
    with pytest.raises(UnavailableError) as error:
        export(ExportPlan(source=exported.path, output=output, targets=("trt",)))
    assert str(error.value) == (
        "no engine was built: tensorrt is not installed on this machine (it comes with JetPack)\n"
        f"{output} is written and complete; on the device run: "
        "mmkd-export 'my student.edge' --target trt --platform jp6.2"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my student.edge"]


@pytest.mark.skipif(importlib.util.find_spec("cuda") is not None, reason="this machine has cuda-python")
def test_without_cuda_python_the_extra_is_named():
    with pytest.raises(UnavailableError) as error:
        device_facts()
    assert str(error.value) == (
        "TensorRT engines need cuda-python to say what GPU they are for; run: pip install 'mmkd-edge[trt]'"
    )


def test_engines_of_every_precision_are_built_with_sidecars_and_logs(
    trt_rtx: ModuleType, exported: ExportResult, tmp_path: Path
):
    output = tmp_path / "student.edge"
    plan = ExportPlan(
        source=exported.path,
        output=output,
        targets=("trt",),
        precisions=("fp16", "int8"),
        platform="trt-rtx",
    )
    result = export(plan)
    assert [engine.path.name for engine in result.engines] == ["student.fp16.engine", "student.int8.engine"]
    for engine in result.engines:
        sidecar = read_sidecar(engine.path.with_name(engine.path.name + ".json"))
        assert sidecar == engine.sidecar
        data = engine.path.read_bytes()
        assert (sidecar.size_bytes, sidecar.engine_sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert sidecar.bundle_sha256 == result.sha256
        assert sidecar.shapes == {"acc": (1, 64, 3), "acc_present": (1, 64, 3)}
        assert sidecar.library_version == trt_rtx.__version__
        assert sidecar.device is None
        assert "logits" in sidecar.layers
        log = engine.path.with_name(engine.path.name + ".log").read_text()
        assert "Opset version:    20" in log
        assert "VERBOSE" not in log


def test_engines_from_a_bundle_leave_it_as_it_is(trt_rtx: ModuleType, bundle: Path):
    before = bundle.read_bytes()
    result = export(ExportPlan(source=bundle, output=bundle, targets=("trt",), platform="trt-rtx"))
    assert [engine.sidecar.precision for engine in result.engines] == ["fp32"]
    assert bundle.read_bytes() == before


def test_engines_from_a_bundle_need_neither_onnx_nor_torch(trt_rtx: ModuleType, bundle: Path):
    import subprocess
    import sys

    script = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'onnxscript', 'openvino', 'sklearn'): sys.modules[name] = None\n"
        "from mmkd_export.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, str(bundle), "--target", "trt", "--platform", "trt-rtx"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "1/2 verify the bundle\n2/2 build engines\n")
    assert done.stdout.splitlines()[-1] == (
        f"wrote {bundle.with_name('student.fp32.engine')}; next: mmkd-bench run {bundle}"
    )


def test_a_graph_that_the_parser_refuses_gives_its_own_words(trt_rtx: ModuleType):
    with pytest.raises(BackendError, match=r"^tensorrt_rtx .* cannot read the graph: "):
        engine_from_onnx(b"not a graph", trt_rtx, workspace_bytes=64 * MIB)


def test_a_failed_build_says_that_the_bundle_is_complete(trt_rtx: ModuleType, bundle: Path, monkeypatch):
    monkeypatch.setattr("mmkd_export.trt.workspace_bytes", lambda: 0)  # a machine without free memory
    monkeypatch.setattr(trt_rtx.Builder, "build_serialized_network", lambda *_: None)
    with pytest.raises(BackendError) as error:
        build_engines(bundle, platform_named("trt-rtx"))
    first, second = str(error.value).splitlines()
    assert first.startswith("no engine was built: tensorrt_rtx ")
    assert "cannot build the graph with 0 MiB of workspace" in first
    assert second == (
        f"{bundle} is written and complete; on the device run: mmkd-export student.edge --target trt --platform trt-rtx"
    )
    assert [path.name for path in bundle.parent.iterdir()] == ["student.edge"]


def test_a_sidecar_with_other_keys_is_refused(tmp_path: Path):
    path = tmp_path / "student.fp32.engine.json"
    path.write_text("{}")
    with pytest.raises(ArtifactError) as error:
        read_sidecar(path)
    assert str(error.value) == (
        f"{path}: expected the sidecar of an engine: Object missing required field `model_id`; build the engine again"
    )
