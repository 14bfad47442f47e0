import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import msgspec
import pytest

from mmkd_edge import BundleError
from mmkd_edge.apart import ProcessLimits
from mmkd_edge.backends.trt.build import engine_from_onnx, workspace_bytes
from mmkd_edge.backends.trt.cache import DeviceFacts
from mmkd_edge.backends.trt.cuda import load_runtime
from mmkd_edge.bundle.bundle import Bundle, example_bundle
from mmkd_edge.errors import ArtifactError, BackendError, UnavailableError, UsageError
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan, platform_named
from mmkd_export.targets import trt
from mmkd_export.targets.trt import build_engines, build_engines_apart, engine_device, engine_key, read_sidecar

MIB = 1 << 20


def _load(name):
    path = Path(__file__).parents[1] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trt_rtx():
    """TensorRT-RTX builds ahead of time, without a GPU; it is not part of the development installation."""
    return pytest.importorskip("tensorrt_rtx", reason="needs pip install 'mmkd-edge[trt-rtx]'")


@pytest.fixture
def bundle(exported, tmp_path):
    return Path(shutil.copy(exported.path, tmp_path / "student.edge"))


@pytest.mark.parametrize("wheel", ["tensorrt_cu12_bindings-10.3.0", "tensorrt_cu13_bindings-11.", "cuda_python-12.6."])
def test_every_name_that_is_used_is_in_the_published_bindings(wheel):
    reader = _load("read_trt_names")
    recorded = json.loads(reader.NAMES_FILE.read_text())
    (names,) = [entry["names"] for name, entry in recorded.items() if name.startswith(wheel)]
    assert names == reader.names_of(cuda=wheel.startswith("cuda"))


def test_a_name_that_the_bindings_lack_would_be_found():
    reader = _load("read_trt_names")
    source = "config.set_flag(module.BuilderFlag.FP16)\nother.thing()"
    assert reader.used_names(source, of={"config", "module"}) == ["BuilderFlag", "FP16", "set_flag"]
    assert reader.present_names(b"x\0set_flag\0getBuilderFlag\0FP16x\0", ["BuilderFlag", "FP16", "set_flag"]) == [
        "BuilderFlag",
        "set_flag",
    ]


def test_the_workspace_is_bounded_and_given_to_the_builder_with_its_cache(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8000000 kB\nMemAvailable:  400 kB\n")
    assert workspace_bytes(meminfo) == 100 * 1024
    meminfo.write_text("MemTotal:  64000000 kB\nMemAvailable:  32000000 kB\n")
    assert workspace_bytes(meminfo) == 1 << 30
    assert workspace_bytes(meminfo, gpu_free_bytes=400 * MIB) == 100 * MIB
    library = Tensorrt()
    built = engine_from_onnx(b"", library, workspace_bytes=MIB, timing_cache=b"before")
    assert (built.plan, built.timing_cache) == (b"plan", b"measured")
    assert library.asked == [
        ("network", 2),
        ("workspace", 0, MIB),
        ("off", "tf32"),
        ("timing cache", b"before"),
        ("set timing cache", "cache", False),
    ]


ORIN = DeviceFacts(
    name="Orin (nvgpu)",
    compute_capability="8.7",
    multiprocessors=8,
    memory_bytes=8 << 30,
    cuda_runtime=12060,
    cuda_driver=12060,
)


class Tensorrt(ModuleType):
    """A double of TensorRT's Python interface that writes down what it is asked for; TensorRT itself needs a GPU."""

    __version__ = "10.3.0"

    class ILogger:
        Severity = SimpleNamespace(VERBOSE=0, ERROR=1, INTERNAL_ERROR=2)

    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    MemoryPoolType = SimpleNamespace(WORKSPACE=0)
    BuilderFlag = SimpleNamespace(TF32="tf32")

    def __init__(self):
        super().__init__("tensorrt")
        self.asked: list[tuple[object, ...]] = []

    def _note(self, *what, gives=None):
        def note(*arguments):
            self.asked.append((*what, *arguments))
            return gives

        return note

    def Builder(self, logger):  # noqa: N802 - TensorRT's name
        config = SimpleNamespace(
            set_memory_pool_limit=self._note("workspace"),
            clear_flag=self._note("off"),
            create_timing_cache=self._note("timing cache", gives="cache"),
            set_timing_cache=self._note("set timing cache"),
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"measured"),
        )
        return SimpleNamespace(
            create_network=self._note("network"),
            create_builder_config=lambda: config,
            build_serialized_network=lambda network, config: b"plan",
        )

    def OnnxParser(self, network, logger):  # noqa: N802 - TensorRT's name
        return SimpleNamespace(parse=lambda model: True)


def test_builds_for_one_device_share_a_timing_cache(bundle, monkeypatch):
    library = Tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setattr("mmkd_export.targets.trt.load_runtime", lambda: None)
    monkeypatch.setattr("mmkd_export.targets.trt.device_facts", lambda runtime: ORIN)
    monkeypatch.setattr("mmkd_export.targets.trt.free_bytes", lambda runtime: 400 * MIB)
    build_engines(bundle, platform_named("jp6.2"))
    (engine,) = build_engines(bundle, platform_named("jp6.2"))
    timings = bundle.with_name("tensorrt-10.3.0-orin-nvgpu-cuda12060.timing")
    assert timings.read_bytes() == b"measured"
    assert [asked[1] for asked in library.asked if asked[0] == "timing cache"] == [b"", b"measured"]
    assert engine_device(engine.sidecar) == ORIN
    assert sorted(path.name for path in bundle.parent.iterdir()) == [
        "student.edge",
        "student.fp32.engine",
        "student.fp32.engine.json",
        "student.fp32.engine.log",
        "tensorrt-10.3.0-orin-nvgpu-cuda12060.timing",
    ]
    assert engine.sidecar.key == engine_key(engine.sidecar)


@pytest.mark.parametrize(
    "change",
    [
        {"onnx_sha256": "0" * 64},
        {"library_version": "10.4.0"},
        {"tf32": True},
        {"architecture": "riscv64"},
        {"device": None},
        {"device": msgspec.structs.replace(ORIN, cuda_driver=13000)},
        {"device": msgspec.structs.replace(ORIN, multiprocessors=16)},
    ],
)
def test_the_key_is_another_where_another_engine_is_needed(bundle, monkeypatch, change):
    monkeypatch.setitem(sys.modules, "tensorrt", Tensorrt())
    monkeypatch.setattr("mmkd_export.targets.trt.load_runtime", lambda: None)
    monkeypatch.setattr("mmkd_export.targets.trt.device_facts", lambda runtime: ORIN)
    monkeypatch.setattr("mmkd_export.targets.trt.free_bytes", lambda runtime: 400 * MIB)
    (engine,) = build_engines(bundle, platform_named("jp6.2"))
    assert engine_key(msgspec.structs.replace(engine.sidecar, **change)) != engine.sidecar.key
    same = msgspec.structs.replace(engine.sidecar, workspace_bytes=1, platform="jp7", bundle_sha256="0" * 64)
    assert engine_key(same) == engine.sidecar.key


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="this machine has TensorRT")
def test_without_tensorrt_the_bundle_is_written_and_the_command_for_the_device_is_given(exported, tmp_path):
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
        load_runtime()
    assert str(error.value) == (
        "TensorRT engines need cuda-python, which is not installed; install it with pip install 'mmkd-edge[trt]'"
    )


def test_engines_of_every_precision_are_built_with_sidecars_and_logs(trt_rtx, mixed, tmp_path):
    output = tmp_path / "student.edge"
    plan = ExportPlan(
        source=mixed.path, output=output, targets=("trt",), precisions=("fp16", "int8"), platform="trt-rtx"
    )
    result = export(plan)
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


def test_engines_from_a_bundle_leave_it_as_it_is(trt_rtx, bundle):
    before = bundle.read_bytes()
    result = export(ExportPlan(source=bundle, output=bundle, targets=("trt",), platform="trt-rtx"))
    assert [engine.sidecar.precision for engine in result.engines] == ["fp32"]
    assert bundle.read_bytes() == before
    with pytest.raises(UsageError) as error:
        build_engines(bundle, platform_named("trt-rtx"), ("fp32", "int8"))
    assert str(error.value) == (
        f"{bundle}: --precision int8: expected a graph of it to build an engine of, got fp32; export the checkpoint "
        "with --precision int8"
    )


def test_engines_from_a_bundle_need_neither_onnx_nor_torch(trt_rtx, bundle):
    script = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'onnxscript', 'openvino', 'sklearn'): sys.modules[name] = None\n"
        "from mmkd_export.commands.export import main\n"
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
    with pytest.raises(BackendError) as error:
        build_engines(bundle, platform_named("trt-rtx"))
    first, second = str(error.value).splitlines()
    assert first.startswith("no engine was built: tensorrt_rtx ")
    assert "cannot build the graph with 0 MiB of workspace" in first
    assert second == (
        f"{bundle} is written and complete; on the device run: mmkd-export student.edge --target trt --platform trt-rtx"
    )
    assert [path.name for path in bundle.parent.iterdir()] == ["student.edge"]


def test_a_sidecar_with_other_keys_is_refused(tmp_path):
    path = tmp_path / "student.fp32.engine.json"
    path.write_text("{}")
    with pytest.raises(ArtifactError) as error:
        read_sidecar(path)
    assert str(error.value) == (
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


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os; os.abort()", "it crashed: SIGABRT"),
        ("import os; os._exit(3)", "it ended with exit code 3"),
        ("import time; time.sleep(60)", "it takes too long"),
        ("while True: pass", "it takes too long"),
    ],
)
def test_however_the_process_of_a_build_ends_this_one_goes_on(code, told, bundle, tmp_path, monkeypatch):
    in_place_of_tensorrt(code, tmp_path, monkeypatch)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    with pytest.raises(BackendError) as caught:
        build_engines_apart(bundle, RTX, limits=ProcessLimits(step_s=2.0, memory_bytes=1 << 30))
    assert str(caught.value) == (
        f"{bundle}: no engine was built: the process that built it failed: {told}; do not use this bundle with TensorRT"
    )
    assert "tensorrt_rtx" not in sys.modules


def test_memory_is_bounded(bundle, tmp_path, monkeypatch):
    in_place_of_tensorrt("bytearray(1 << 32)", tmp_path, monkeypatch)
    with pytest.raises(BackendError) as caught:
        build_engines_apart(bundle, RTX, limits=LIMITS)
    assert str(caught.value) == f"{bundle}: no engine was built: it takes too much memory"


def test_a_graph_that_our_reading_refuses_reaches_no_parser(bundle, tmp_path, monkeypatch):
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


def test_a_process_that_cannot_be_started_is_told(bundle, monkeypatch):
    def refused(function, request):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(trt, "start_apart", refused)
    with pytest.raises(UnavailableError) as caught:
        build_engines_apart(bundle, RTX)
    assert str(caught.value) == (
        f"{bundle}: no engine was built: cannot start a process: Resource temporarily unavailable"
    )


def test_what_is_built_there_lies_beside_the_bundle(bundle):
    pytest.importorskip("tensorrt_rtx", reason="needs pip install 'mmkd-edge[trt-rtx]'")
    (engine,) = build_engines_apart(bundle, RTX, precisions=("fp32",))
    assert engine.path == str(bundle.with_name("student.fp32.engine"))
    assert Path(engine.path).stat().st_size == engine.sidecar.size_bytes > 10_000
