"""Small real students for the tests of the runtime: a graph that means over time, its bundle, and its parts."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mmkd_edge import ModalitySpec, TaskSpec
from mmkd_edge.bundle.bundle import Golden, golden_bytes, write_bundle
from mmkd_edge.bundle.manifest import Artifact, FileEntry, Manifest, ModelEntry, Parity, graph_inputs, graph_outputs

LABELS = ("rest", "raise", "turn")
WEIGHTS = np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 0.5], [0.5, -1.0, 1.0]], dtype=np.float32)  # (C, K)
BIAS = np.array([0.1, 0.0, -0.1], dtype=np.float32)  # (K,)


def expected_answer(window):
    """Logits and probabilities (K,) of the test student for a window (T, C), computed without the runtime."""
    means = np.where(np.isfinite(window), window, 0.0).astype(np.float64).mean(axis=0)  # (C,)
    logits = means @ WEIGHTS.astype(np.float64) + BIAS
    shares = np.exp(logits - logits.max())
    return logits, shares / shares.sum()


def student_model(modality, *, weights=WEIGHTS):
    """An ONNX model: mean over time of values times presence, then one linear layer and a softmax."""
    name, shape = modality.name, [1, *modality.shape]
    nodes = [
        helper.make_node("Mul", [name, f"{name}_present"], ["seen"]),
        helper.make_node("ReduceMean", ["seen", "axes"], ["means"], keepdims=0),
        helper.make_node("Gemm", ["means", "weights", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in (name, f"{name}_present")]
    return graph_bytes(nodes, inputs, {"axes": np.array([1], dtype=np.int64), "weights": weights, "bias": BIAS})


def graph_bytes(nodes, inputs, constants):
    """A checked ONNX model of these nodes, with logits and probabilities of three classes."""
    graph = helper.make_graph(
        nodes,
        "student",
        inputs,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in ("logits", "probabilities")],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def unrunnable_model(modality):
    """Valid ONNX for which onnxruntime has no kernel: Sigmoid in bfloat16."""
    model = onnx.load_from_string(student_model(modality))
    model.graph.node[2].output[0] = "floats"
    steps = [
        helper.make_node("Cast", ["floats"], ["short"], to=TensorProto.BFLOAT16),
        helper.make_node("Sigmoid", ["short"], ["shares"]),
        helper.make_node("Cast", ["shares"], ["logits"], to=TensorProto.FLOAT),
    ]
    for place, node in enumerate(steps, 3):
        model.graph.node.insert(place, node)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@dataclass(frozen=True, kw_only=True)
class Parts:
    manifest: Manifest
    members: Mapping[str, bytes]

    def with_model(self, **changes):
        entry = msgspec.structs.replace(self.manifest.models[0], **changes)
        return replace(self, manifest=msgspec.structs.replace(self.manifest, models=(entry,)))

    def with_manifest(self, **changes):
        return replace(self, manifest=msgspec.structs.replace(self.manifest, **changes))

    def write(self, path):
        write_bundle(path, manifest=self.manifest, members=self.members)
        return path


def file_entry(name, data):
    return FileEntry(file=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def manifest_of(entry):
    """A valid manifest of one student, whose files nobody looks for."""
    files = tuple(FileEntry(file=name, sha256="0" * 64, size_bytes=1) for name in ("report.json", "README.md"))
    return Manifest(model_id="fake", models=(entry,), tools={}, licence="none", files=files)


def golden_windows(modality, *, tolerance=1e-5):
    """Four windows, one with missing values, with the answers of the test student."""
    windows = np.random.default_rng(3).normal(size=(4, *modality.shape)).astype(np.float32)
    windows[1, :2] = np.nan
    answers = [expected_answer(window) for window in windows]
    return Golden(
        windows=windows,
        labels=np.array([0, 1, 2, -1], dtype=np.int64),
        logits=np.array([logits for logits, _ in answers], dtype=np.float32),
        probabilities=np.array([shares for _, shares in answers], dtype=np.float32),
        judge=np.array([True, False, True, False]),
        tolerance=tolerance,
    )


def bundle_parts(modality, *, model=None, golden=None, name="acc", labels=LABELS):
    model = student_model(modality) if model is None else model
    members = {
        "report.json": b'{"made": "for a test"}\n',
        "README.md": b"# A student\n",
        f"{name}/model.fp32.onnx": model,
        f"{name}/golden.npz": golden_bytes(golden or golden_windows(modality)),
    }
    task = TaskSpec(labels=labels)
    parity = Parity(windows=4, max_abs_error=1e-7, mean_abs_error=1e-8, label_agreement=1.0, tolerance=1e-4)
    stored = msgspec.structs.asdict(file_entry(f"{name}/model.fp32.onnx", model))
    artifact = Artifact(format="onnx", precision="fp32", opset=20, parity=parity, **stored)
    entry = ModelEntry(
        name=name,
        modality=modality,
        task=task,
        inputs=graph_inputs(modality),
        outputs=graph_outputs(task),
        preset="tiny",
        parameters=12,
        mflops=0.001,
        validation_metric="balanced_accuracy",
        validation_score=0.75,
        dataset_name="made_up",
        dataset_sha256="a" * 64,
        teacher_sha256="b" * 64,
        artifacts=(artifact,),
        golden=file_entry(f"{name}/golden.npz", members[f"{name}/golden.npz"]),
    )
    manifest = Manifest(
        model_id="made-up-acc",
        models=(entry,),
        tools={"mmkd-edge": "0.1.0"},
        licence="Apache-2.0",
        files=tuple(file_entry(file, members[file]) for file in ("report.json", "README.md")),
    )
    return Parts(manifest=manifest, members=members)


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What tests build bundles with; here because test files cannot import each other."""

    modality: ModalitySpec
    parts: Callable[..., Parts] = field(default=bundle_parts)
    model: Callable[..., bytes] = field(default=student_model)
    unrunnable: Callable[..., bytes] = field(default=unrunnable_model)
    golden: Callable[..., Golden] = field(default=golden_windows)
    answer: Callable[..., tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default=expected_answer)
    file_entry: Callable[[str, bytes], FileEntry] = field(default=file_entry)

    def feeds(self, *, seed=0):
        shape = (1, *self.modality.shape)
        window = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        return {"acc": window, "acc_present": np.ones(shape, dtype=np.float32)}

    def check_answers(self, backend, *, atol=2e-6):
        """Hold answers against the graph, and see that they belong to the caller."""
        kept = []
        for seed in range(5):
            given = self.feeds(seed=seed)
            logits, probabilities = backend.run(given)
            for got, expected in zip((logits, probabilities), self.answer(given["acc"][0]), strict=True):
                # float32 sums of 20 numbers near 1 against float64: some 2**-24 each.
                np.testing.assert_allclose(got[0], expected, atol=atol)
            kept.append((probabilities, probabilities.copy()))
        assert all((answer == copy).all() for answer, copy in kept)

    def check_threads(self, backend, count):
        """See that so many threads at once each get the answers that one alone gets."""
        given = [self.feeds(seed=seed) for seed in range(count)]
        expected = [backend.run(feeds)[0] for feeds in given]
        together = threading.Barrier(count)

        def ask(feeds, answer):
            together.wait()
            return all(np.array_equal(backend.run(feeds)[0], answer) for _ in range(50))

        with ThreadPoolExecutor(count) as pool:
            assert list(pool.map(ask, given, expected)) == [True] * count


@pytest.fixture(scope="session")
def verdicts(tmp_path_factory):
    """What has passed a sandbox check: for all tests, since a check starts a process."""
    return tmp_path_factory.mktemp("verdicts")


@pytest.fixture(autouse=True)
def _cache_of_one_test(verdicts, tmp_path_factory, monkeypatch):
    """Made-up bundles are alike to the last byte: a profile that one test writes would decide another."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "mmkd-edge").mkdir()
    (cache / "mmkd-edge" / "verdicts").symlink_to(verdicts)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def _hide(monkeypatch, module, names):
    """What `auto` says does not hang on what is installed; `PRESENT` of a module of tests names what stays."""
    for name in names:
        if name not in getattr(module, "PRESENT", ()):
            monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(autouse=True)
def openvino_absent(monkeypatch, request):
    _hide(monkeypatch, request.module, ["openvino"])


@pytest.fixture(autouse=True)
def trt_absent(monkeypatch, request):
    _hide(monkeypatch, request.module, ["tensorrt", "tensorrt_rtx"])


@pytest.fixture(scope="session")
def acc():
    return ModalitySpec(name="acc", channels=("x", "y", "z"), unit="m/s^2", rate_hz=10.0, samples=20)


@pytest.fixture(scope="session")
def kit(acc):
    return Kit(modality=acc)


@pytest.fixture
def bundle_path(kit, tmp_path):
    return kit.parts(kit.modality).write(tmp_path / "student.edge")
