"""Real bundles around small real graphs: what the benchmark measures in these tests."""

from dataclasses import replace

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mmkd_bench.measuring.timing import summarise
from mmkd_bench.run import join_launches, judge_stability
from mmkd_documents.bench import (
    STAGES,
    BenchReport,
    Configuration,
    Interference,
    MachineFacts,
    ProcessStart,
    Stage,
    Subject,
    TimeWindow,
    WarmUp,
)
from mmkd_edge.bundle.bundle import Golden
from mmkd_edge.spec import ModalitySpec
from tests.edge.conftest import bundle_parts

SAMPLES, CHANNELS, CLASSES, GOLDEN_WINDOWS = 40, 3, 4, 6
TOLERANCE = 1e-4


def _nodes(repeats, name):
    """Logits from the masked window; each repeat is one more matrix product of 120 x 120."""
    nodes = [
        helper.make_node("Mul", [name, f"{name}_present"], ["masked"]),
        helper.make_node("Flatten", ["masked"], ["hidden_0"]),
    ]
    for number in range(repeats):
        nodes += [
            helper.make_node("MatMul", [f"hidden_{number}", "square"], [f"product_{number}"]),
            helper.make_node("Tanh", [f"product_{number}"], [f"hidden_{number + 1}"]),
        ]
    return [
        *nodes,
        helper.make_node("MatMul", [f"hidden_{repeats}", "head"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]


def onnx_model(repeats=1, *, name="acc"):
    """A graph with the signature of a student; more `repeats` make it slower."""
    random = np.random.default_rng(0)
    width = SAMPLES * CHANNELS
    square = random.standard_normal((width, width)).astype(np.float32) / np.float32(width**0.5)
    head = random.standard_normal((width, CLASSES)).astype(np.float32) / np.float32(width**0.5)
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        _nodes(repeats, name),
        "student",
        [helper.make_tensor_value_info(name, float32, (1, SAMPLES, CHANNELS)) for name in (name, f"{name}_present")],
        [helper.make_tensor_value_info(name, float32, (1, CLASSES)) for name in ("logits", "probabilities")],
        [numpy_helper.from_array(square, "square"), numpy_helper.from_array(head, "head")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _golden(graph, name):
    """Windows and what the graph answers to them, by onnx's own reference."""
    windows = np.random.default_rng(1).standard_normal((GOLDEN_WINDOWS, SAMPLES, CHANNELS)).astype(np.float32)
    windows[0, 3, 1] = np.nan
    evaluator = ReferenceEvaluator(onnx.load_model_from_string(graph))
    answers = [
        evaluator.run(None, {name: np.nan_to_num(one)[None], f"{name}_present": np.isfinite(one)[None].astype("f4")})
        for one in windows
    ]
    logits, probabilities = (np.concatenate(found).astype(np.float32) for found in zip(*answers, strict=True))
    return Golden(
        windows=windows,
        labels=np.zeros(GOLDEN_WINDOWS, dtype=np.int64),
        logits=logits,
        probabilities=probabilities,
        judge=np.arange(GOLDEN_WINDOWS) % 2 == 0,
        tolerance=TOLERANCE,
    )


def make_bundle(path, *, repeats=1, normalise="none", model=None, second=None):
    """Write a bundle around a small graph.

    `second` is the modality of a second student.
    """
    members = {}
    entries = []
    for folder, name in (("student", "acc"), *([] if second is None else [("other", second)])):
        graph = model or onnx_model(repeats, name=name)
        modality = ModalitySpec(
            name=name, channels=("x", "y", "z"), unit="g", rate_hz=20.0, samples=SAMPLES, normalise=normalise
        )
        parts = bundle_parts(modality, model=graph, golden=_golden(graph, name), name=folder, labels=tuple("abcd"))
        members |= parts.members
        entries += parts.manifest.models
    replace(parts, members=members).with_manifest(models=tuple(entries)).write(path)
    return path


def make_launch(p50_us=100.0, *, p90_us=None, spread=0.0, seed=0):
    """A launch whose time windows lie around `p50_us` with the relative standard deviation `spread`."""
    random = np.random.default_rng(seed)
    p90_us = 1.2 * p50_us if p90_us is None else p90_us
    factors = 1 + spread * random.standard_normal(20)
    latencies_ns = np.linspace(2 * p50_us - p90_us, p90_us, 1001) * 1e3
    return ProcessStart(
        complete=True,
        import_ms=60.0,
        load_ms=30.0,
        first_call_ms=0.2,
        warm_up=WarmUp(calls=100, seconds=0.15, stable=True),
        latency=summarise(latencies_ns.astype(np.int64)),
        windows=tuple(TimeWindow(count=500, p50_us=p50_us * f, p90_us=p90_us * f) for f in factors.tolist()),
        thirds_p50_us=(p50_us, p50_us, p50_us),
        stages=tuple(Stage(name=name, p50_us=1.0, p90_us=3.0) for name in STAGES),
        throughput_hz=1e6 / p50_us,
        cpu_cores=1.0,
        rss_mb=70.0,
        rss_peak_mb=72.0,
        interference=Interference(**dict.fromkeys(Interference.__struct_fields__)),
    )


def make_report(launches):
    """A report of these launches on a small machine."""
    latency_ns = np.repeat([round(launch.windows[0].p50_us * 1e3) for launch in launches], 1000)
    machine = MachineFacts(
        cpu="A processor",
        board=None,
        architecture="aarch64",
        cores=4,
        usable_cores=4,
        cpu_quota=None,
        memory_mb=4096.0,
        governors=("performance",),
        virtual=False,
        power_mode=None,
        os="Linux 6.1",
        python="3.10.12",
        versions={"mmkd-edge": "0.1.0", "onnxruntime": "1.32.0"},
    )
    return BenchReport(
        created_utc="2026-01-02T03:04:05+00:00",
        complete=True,
        subject=Subject(
            bundle="student.edge",
            sha256="ab" * 32,
            size_bytes=300_000,
            model="student",
            modality="acc",
            rate_hz=50.0,
            window_s=4.0,
            artifact="student/model.fp32.onnx",
            artifact_size_bytes=250_000,
            parameters=60_000,
        ),
        configuration=Configuration(
            backend="ort", precision="fp32", threads=1, launches=len(launches), duration_s=10.0
        ),
        machine=machine,
        result=join_launches(launches, latency_ns),
        stability=judge_stability(launches, machine),
        energy=None,
        energy_note="no sensor",
        launches=tuple(launches),
    )


def write_report(path, report):
    """Write a report as `run -o` does."""
    path.write_bytes(msgspec.json.encode(report))
