import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from mmkd_edge import BundleError
from mmkd_edge.apart import ProcessLimits
from mmkd_edge.backends.trt.build import EngineFacts, engine_from_onnx, workspace_bytes
from mmkd_edge.backends.trt.cuda import load_runtime
from mmkd_edge.bundle.bundle import Bundle, example_bundle, write_bundle
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.manifest import member_files
from mmkd_edge.errors import ArtifactError, BackendError, UnavailableError, UsageError
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan, platform_named
from mmkd_export.targets import trt
from mmkd_export.targets.table import resolve
from mmkd_export.targets.trt import build_engines, build_engines_apart, engine_device, read_sidecar
from tests.edge.said import said

MIB = 1 << 20


@pytest.fixture
def trt_rtx():
    """TensorRT-RTX builds ahead of time, without a GPU; it is not part of the development installation."""
    return pytest.importorskip("tensorrt_rtx", reason="needs pip install 'mmkd-edge[trt-rtx]'")


@pytest.fixture
def bundle(exported, tmp_path):
    return Path(shutil.copy(exported.path, tmp_path / "student.edge"))


@pytest.mark.parametrize("wheel", ["tensorrt_cu12_bindings-10.3.0", "tensorrt_cu13_bindings-11.", "cuda_python-12.6."])
def test_every_name_that_is_used_is_in_the_published_bindings(wheel):
    path = Path(__file__).parents[1] / "read_trt_names.py"
    spec = importlib.util.spec_from_file_location("read_trt_names", path)
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    recorded = json.loads(reader.NAMES_FILE.read_text())
    (names,) = [entry["names"] for name, entry in recorded.items() if name.startswith(wheel)]
    assert names == reader.names_of(cuda=wheel.startswith("cuda"))


def test_builds_have_a_bounded_workspace_and_share_timings(bundle, gpu_double, monkeypatch, tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8000000 kB\nMemAvailable:  400 kB\n")
    assert workspace_bytes(meminfo) == 100 * 1024
    meminfo.write_text("MemTotal:  64000000 kB\nMemAvailable:  32000000 kB\n")
    assert workspace_bytes(meminfo) == 1 << 30
    assert workspace_bytes(meminfo, gpu_free_bytes=400 * MIB) == 100 * MIB
    tensorrt = gpu_double.install(monkeypatch, tmp_path / "double")
    tensorrt.cuda.name = b"Orin (nvgpu)"
    folder = tmp_path / "bundle"
    folder.mkdir()
    path = Path(shutil.move(bundle, folder))
    build_engines(path, platform_named("jp6.2"))
    (engine,) = build_engines(path, platform_named("jp6.2"))
    timings = "tensorrt-10.3.0-orin-nvgpu-cuda12060.timing"
    assert (folder / timings).read_bytes() == b"measured"
    (_, _, memory), *_ = [asked for asked in tensorrt.asked if asked[0] == "memory"]
    assert memory <= 1 << 30
    builds = [
        ("network", 2), ("memory", 0, memory), ("off", "tf32"), ("timings", b""), ("set", "cache", False),
        ("network", 2), ("memory", 0, memory), ("off", "tf32"), ("timings", b"measured"), ("set", "cache", False),
    ]  # fmt: skip
    assert [(*asked[:2], memory) if asked[0] == "memory" else asked for asked in tensorrt.asked] == builds
    files = ("student.edge", *(f"student.fp32.engine{suffix}" for suffix in ("", ".json", ".log")), timings)
    assert tuple(sorted(path.name for path in folder.iterdir())) == files
    sidecar, device = engine.sidecar, engine_device(engine.sidecar)
    names = ("onnx_sha256", "library", "library_version", "architecture", "strongly_typed", "tf32")
    facts = EngineFacts(**{name: getattr(sidecar, name) for name in names}, device=device)
    assert (device.name, sidecar.key) == ("Orin (nvgpu)", facts.key)
    for changes in (
        {"onnx_sha256": "0" * 64},
        {"library_version": "10.4.0"},
        {"tf32": True},
        {"architecture": "riscv64"},
        {"device": None},
        {"device": msgspec.structs.replace(device, cuda_driver=13000)},
    ):
        assert msgspec.structs.replace(facts, **changes).key != sidecar.key, changes


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="this machine has TensorRT")
@pytest.mark.parametrize(
    ("has_rtx", "advice"),
    [
        (False, "for a GeForce RTX run pip install 'mmkd-edge[trt-rtx]' and give --platform trt-rtx"),
        (True, "this machine has TensorRT-RTX: give --platform trt-rtx"),
    ],
)
def test_without_tensorrt_the_bundle_is_written_and_the_command_for_the_device_is_given(
    exported, tmp_path, monkeypatch, has_rtx, advice
):
    if not has_rtx and importlib.util.find_spec("tensorrt_rtx") is not None:
        pytest.skip("this machine has TensorRT-RTX")
    if has_rtx:
        (tmp_path / "wheel" / "tensorrt_rtx").mkdir(parents=True)
        monkeypatch.syspath_prepend(tmp_path / "wheel")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "wheel"))
    output = tmp_path / "out" / "my student.edge"
    output.parent.mkdir()
    plan = ExportPlan(source=exported.path, output=output, targets=("trt",), platform="jp6.2")
    assert said(UnavailableError, export, plan) == (
        f"no engine was built: tensorrt is not installed on this machine (it comes with JetPack); {advice}\n"
        f"{output} is written and complete; on the device run: "
        "mmkd-export 'my student.edge' --target trt --platform jp6.2"
    )
    assert sorted(path.name for path in output.parent.iterdir()) == ["my student.edge"]


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({}, "jp6.2"),
        ({"tensorrt_rtx": "1.7.1.116"}, "trt-rtx"),
        ({"tensorrt": "10.3.0", "tensorrt_rtx": "1.7.1.116"}, "jp6.2"),
        ({"tensorrt": "10.16.1"}, "jp7"),
        ({"tensorrt": "11.4.0"}, "jp7"),
    ],
)
def test_the_platform_is_that_of_the_tensorrt_which_is_installed(exported, tmp_path, monkeypatch, installed, expected):
    for name in ("tensorrt", "tensorrt_rtx"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__version__ = installed.get(name, "")
        monkeypatch.setitem(sys.modules, name, module if name in installed else None)
    plan = ExportPlan(source=exported.path, output=tmp_path / "student.edge", targets=("trt",))
    assert resolve(plan).platform.name == expected


@pytest.mark.skipif(importlib.util.find_spec("cuda") is not None, reason="this machine has cuda-python")
def test_without_cuda_python_the_extra_is_named():
    assert said(UnavailableError, load_runtime) == (
        "TensorRT engines need cuda-python, which is not installed; install it with pip install 'mmkd-edge[trt]'"
    )


def test_engines_of_every_precision_are_built_with_sidecars_and_logs(trt_rtx, mixed, tmp_path):
    options = {"targets": ("trt",), "precisions": ("fp16", "int8"), "platform": "trt-rtx"}
    result = export(ExportPlan(source=mixed.path, output=tmp_path / "student.edge", **options))
    assert [Path(engine.path).name for engine in result.engines] == ["student.fp16.engine", "student.int8.engine"]
    for engine in result.engines:
        sidecar = read_sidecar(Path(engine.path + ".json"))
        assert sidecar == engine.sidecar
        data = Path(engine.path).read_bytes()
        assert (sidecar.size_bytes, sidecar.engine_sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert sidecar.bundle_sha256 == result.sha256
        assert sidecar.shapes == {"acc": (1, 64, 3), "acc_present": (1, 64, 3)}
        assert sidecar.library_version == trt_rtx.__version__
        assert sidecar.device is None
        assert "logits" in sidecar.layers
        log = Path(engine.path + ".log").read_text()
        assert "Opset version:    20" in log
        assert "VERBOSE" not in log


def test_engines_of_a_checkpoint_are_of_every_artifact_and_of_a_bundle_those_asked_for(student_file, bundle):
    for source, expected in ((student_file, None), (bundle, ("fp16", "int8"))):
        plan = ExportPlan(source=source, output=bundle, targets=("trt",), precisions=("fp16", "int8"), platform="jp7")
        assert resolve(plan).built_precisions == expected


def test_a_checkpoint_exported_in_three_precisions_has_three_engines(trt_rtx, student_file, tmp_path):
    options = {"targets": ("trt",), "precisions": ("fp16", "int8"), "accept_unjudged": True}
    result = export(ExportPlan(source=student_file, output=tmp_path / "student.edge", **options))
    assert [Path(engine.path).name for engine in result.engines] == [
        *("student.fp32.engine", "student.fp16.engine", "student.int8.engine"),
    ]


def test_engines_from_a_bundle_leave_it_as_it_is(trt_rtx, bundle):
    before = bundle.read_bytes()
    result = export(ExportPlan(source=bundle, output=bundle, targets=("trt",), platform="trt-rtx"))
    assert [engine.sidecar.precision for engine in result.engines] == ["fp32"]
    assert bundle.read_bytes() == before
    assert said(UsageError, lambda: build_engines(bundle, platform_named("trt-rtx"), ("fp32", "int8"))) == (
        f"{bundle}: --precision int8: expected a graph of it to build an engine of, got fp32; export the checkpoint "
        "with --precision int8"
    )


def test_engines_from_a_bundle_need_neither_onnx_nor_torch(trt_rtx, bundle):
    script = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'onnxscript', 'openvino', 'sklearn'): sys.modules[name] = None\n"
        "from mmkd_app.commands.export import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, str(bundle), "--target", "trt", "--platform", "trt-rtx"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "1/2 verify the bundle\n2/2 build engines\n")
    assert done.stdout.splitlines()[-1] == (
        f"wrote {bundle.with_name('student.fp32.engine')}; next: mmkd-bench run {bundle}"
    )


def test_graphs_and_builds_that_fail_say_so_and_leave_the_bundle(trt_rtx, bundle, monkeypatch):
    with pytest.raises(BackendError, match=r"^tensorrt_rtx .* cannot read the graph: "):
        engine_from_onnx(b"not a graph", trt_rtx, workspace_bytes=64 * MIB)
    monkeypatch.setattr("mmkd_export.targets.trt.workspace_bytes", lambda **_: 0)  # a machine without free memory
    monkeypatch.setattr(trt_rtx.Builder, "build_serialized_network", lambda *_: None)
    first, second = said(BackendError, build_engines, bundle, RTX).splitlines()
    assert first.startswith("no engine was built: tensorrt_rtx ")
    assert "cannot build the graph with 0 MiB of workspace" in first
    assert second == (
        f"{bundle} is written and complete; on the device run: mmkd-export student.edge --target trt --platform trt-rtx"
    )
    assert [path.name for path in bundle.parent.iterdir()] == ["student.edge"]


def test_a_sidecar_with_other_keys_is_refused(tmp_path):
    path = tmp_path / "student.fp32.engine.json"
    path.write_text("{}")
    assert said(ArtifactError, read_sidecar, path) == (
        f"{path}: expected the sidecar of an engine: Object missing required field `model_id`; build the engine again"
    )


def test_the_commands_for_other_tools_fit_the_shipped_student():
    document = (Path(__file__).parents[3] / "docs" / "devices.md").read_text()
    with Bundle.open(example_bundle("watch_acc")) as bundle:
        entry = bundle.manifest.models[0]
    (triton,) = [block for block in document.split("```")[1::2] if 'platform: "tensorrt_plan"' in block]
    for tensor in (*entry.inputs, *entry.outputs):
        sizes = ", ".join(map(str, tensor.shape))
        assert f'{{ name: "{tensor.name}", data_type: TYPE_FP32, dims: [ {sizes} ] }}' in triton


RTX = platform_named("trt-rtx")
LIMITS = ProcessLimits(step_s=20.0, memory_bytes=1 << 30)


def in_place_of_tensorrt(code, tmp_path, monkeypatch):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "tensorrt_rtx.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "first")


def test_a_build_that_ends_its_process_leaves_this_one(bundle, tmp_path, monkeypatch):
    in_place_of_tensorrt("import os; os.abort()", tmp_path, monkeypatch)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    assert said(BackendError, lambda: build_engines_apart(bundle, RTX, limits=LIMITS)) == (
        f"{bundle}: no engine was built: the process that built it failed: it crashed: SIGABRT; do not use this bundle "
        "with TensorRT"
    )
    assert "tensorrt_rtx" not in sys.modules


def test_memory_is_bounded(bundle, tmp_path, monkeypatch):
    in_place_of_tensorrt("bytearray(1 << 32)", tmp_path, monkeypatch)
    assert said(BackendError, build_engines_apart, bundle, RTX, limits=LIMITS) == (
        f"{bundle}: no engine was built: it takes too much memory"
    )


def test_a_graph_that_our_reading_refuses_reaches_no_parser(bundle, tmp_path, monkeypatch):
    import onnx

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


def test_a_process_that_cannot_be_started_is_told(bundle, monkeypatch):
    def refused(function, request):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(trt, "start_apart", refused)
    assert said(UnavailableError, build_engines_apart, bundle, RTX) == (
        f"{bundle}: no engine was built: cannot start a process: Resource temporarily unavailable"
    )


def test_what_is_built_there_lies_beside_the_bundle(bundle):
    pytest.importorskip("tensorrt_rtx", reason="needs pip install 'mmkd-edge[trt-rtx]'")
    (engine,) = build_engines_apart(bundle, RTX, precisions=("fp32",))
    assert engine.path == str(bundle.with_name("student.fp32.engine"))
    assert Path(engine.path).stat().st_size == engine.sidecar.size_bytes > 10_000
