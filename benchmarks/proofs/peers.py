"""What engines and readers do by themselves under attacks that a bundle must withstand, each in a process of its own.

    python benchmarks/proofs/peers.py tests/before/student.edge tests/before/student.ckpt
    python benchmarks/proofs/peers.py tests/before/student.edge tests/before/student.ckpt --item C2

Mutated models and flipped weights are `mutants.py --alone` and `flipped_weights.py`; here stand the attacks that are
one file or one call each, beside what mmkd-edge makes of the same. Needs `mmkd-edge[train,export,openvino,litert]`.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmkd_edge import Bundle, EdgePredictor, MmkdError, prepare, write_bundle
from mmkd_edge.backends.openvino import shared_core
from mmkd_edge.backends.ort import import_onnxruntime
from mmkd_edge.errors import first_line
from proofs.memory import resident_bytes
from proofs.mutants import with_model
from proofs.script import head, parser_of, row

LIMIT_S = 40.0
MEMORY_BYTES = 3 << 30
LARGE = 128 << 20


def main() -> None:
    """Run every case and print what came of it."""
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path, metavar="STUDENT.edge")
    parser.add_argument("checkpoint", type=Path, metavar="STUDENT.ckpt")
    parser.add_argument("--item", help="of the acceptance list")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(CASES[options.case](options))
        return
    print(head("item", "attack", "who", "what came of it", texts=4))
    for name in CASES:
        item, attack, who = name.split(": ")
        if options.item in (None, item):
            print(row(item, attack, who, outcome_of(name, options)), flush=True)


def outcome_of(name: str, options: argparse.Namespace) -> str:
    """What a case came to: what it says, or how its process ended."""
    command = [sys.executable, __file__, str(options.bundle), str(options.checkpoint), "--case", name]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=LIMIT_S, preexec_fn=limited, env=environment
            )
        except subprocess.TimeoutExpired:
            return f"**hung**: nothing after {LIMIT_S:.0f} s"
    if done.returncode < 0:
        return f"**crashed**: {signal.Signals(-done.returncode).name}"
    if done.returncode:
        return f"an error: {done.stderr.strip().splitlines()[-1].partition(':')[0].rpartition('.')[2]}"
    return done.stdout.strip().splitlines()[-1]


# ---- A: checkpoints


class Executed:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, ("import builtins; builtins.executed = True",)


def _written(data: bytes, folder: str, name: str = "student.ckpt") -> Path:
    path = Path(folder) / name
    path.write_bytes(data)
    return path


def _pickled(read: Callable[[Path], object]) -> Callable[[argparse.Namespace], str]:
    def case(_: argparse.Namespace) -> str:
        import builtins

        with tempfile.TemporaryDirectory() as folder:
            try:
                read(_written(pickle.dumps(Executed(), protocol=2), folder))
            except Exception as error:
                told = f"refused: {type(error).__name__}"
            else:
                told = "read"
        return "**ran what the file said**" if hasattr(builtins, "executed") else told

    return case


def _bomb(read: Callable[[Path], object]) -> Callable[[argparse.Namespace], str]:
    def case(_: argparse.Namespace) -> str:
        import torch

        saved = io.BytesIO()
        torch.save({"w": torch.zeros(LARGE // 4)}, saved)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "student.ckpt"
            with zipfile.ZipFile(saved) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
                for name in stored.namelist():
                    packed.writestr(name, stored.read(name))
            size = path.stat().st_size
            del saved
            return _told_of_memory(lambda: read(path), size)

    return case


def _told_of_memory(call: Callable[[], object], size: int) -> str:
    before = resident_bytes()
    try:
        kept = call()
    except Exception as error:
        return f"refused: {type(error).__name__}"
    grown = resident_bytes() - before
    del kept
    return f"**took {grown / 1e6:.0f} MB** for a file of {size / 1e6:.1f} MB"


def _cut_short(read: Callable[[Path], Mapping[str, Any]]) -> Callable[[argparse.Namespace], str]:
    """A file that is overwritten in place by a shorter one after it was opened."""

    def case(options: argparse.Namespace) -> str:
        from mmkd_models.tensors import read_tensors

        tensors, _ = read_tensors(options.checkpoint, kind="student")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "student.ckpt"
            if read is _torch_mapped:
                import torch

                torch.save(tensors, path)
            else:
                path.write_bytes(options.checkpoint.read_bytes())
            found = read(path)
            os.truncate(path, 1000)
            return f"read on: {sum(float(one.sum()) for one in found.values() if one.ndim) != 0}"

    return case


def _torch_mapped(path: Path) -> Mapping[str, Any]:
    import torch

    found: Mapping[str, Any] = torch.load(path, mmap=True, weights_only=True)
    return found


def _ours_mapped(path: Path) -> Mapping[str, Any]:
    from mmkd_models.tensors import read_tensors

    return read_tensors(path, kind="student")[0]


def _torch(path: Path, *, weights_only: bool) -> object:
    import torch

    return torch.load(path, weights_only=weights_only)


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    return load_file(path)


def _checkpoint(path: Path) -> object:
    from mmkd_models.training.checkpoint import read_student

    return read_student(path)


# ---- C: engines


def _killer(name: str) -> bytes:
    """A small model that the standard allows, and that asks for the impossible."""
    from onnx import TensorProto, helper, numpy_helper

    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])]
    inner: list[Any]
    weights = []
    if name == "one left-out input":
        inner = [helper.make_node("LayerNormalization", ["x", "s", ""], ["y"])]
        weights = [numpy_helper.from_array(np.ones(4, np.float32), "s")]
    elif name == "a loop of 2^62 rounds":
        body = helper.make_graph(
            [helper.make_node("Identity", ["on"], ["on2"]), helper.make_node("Relu", ["v"], ["w"])],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 4]),
            ],
            [
                helper.make_tensor_value_info("on2", TensorProto.BOOL, []),
                helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 4]),
            ],
        )
        inner = [helper.make_node("Loop", ["n", "yes", "x"], ["y"], body=body)]
        weights = [
            numpy_helper.from_array(np.array(1 << 62, np.int64), "n"),
            numpy_helper.from_array(np.array(True), "yes"),
        ]
    else:  # a kilobyte that asks for gigabytes
        inner = [
            helper.make_node("Expand", ["x", "large"], ["z"]),
            helper.make_node("ReduceMax", ["z"], ["y"], keepdims=1),
        ]
        weights = [numpy_helper.from_array(np.array([1 << 28, 4], np.int64), "large")]
    graph = helper.make_graph(inner, "g", given, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def _by_ort(name: str) -> Callable[[argparse.Namespace], str]:
    def case(_: argparse.Namespace) -> str:
        session = import_onnxruntime().InferenceSession(_killer(name), providers=["CPUExecutionProvider"])
        return _told_of_memory(lambda: session.run(None, {"x": np.ones((1, 4), np.float32)}), len(_killer(name)))

    return case


def _by_openvino(name: str) -> Callable[[argparse.Namespace], str]:
    def case(_: argparse.Namespace) -> str:
        core = shared_core()
        compiled = core.compile_model(core.read_model(_killer(name), b""), "CPU")
        return _told_of_memory(lambda: compiled([np.ones((1, 4), np.float32)]), len(_killer(name)))

    return case


def _by_us(name: str) -> Callable[[argparse.Namespace], str]:
    def case(options: argparse.Namespace) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "student.edge"
            manifest, members = with_model(options.bundle, "onnx", lambda _: _killer(name))
            write_bundle(path, manifest=manifest, members=members)
            try:
                EdgePredictor.open(path)
            except MmkdError as error:
                return f"refused: {type(error).__name__}"
            return "**opened**"

    return case


def _shared_openvino(options: argparse.Namespace) -> str:
    """Threads that share what `compile_model` gives, as its `__call__` invites to."""
    with Bundle.open(options.bundle) as bundle:
        entry = bundle.manifest.models[0]
        golden = bundle.golden(entry.name)
        model = bundle.read(entry.artifacts[0].file)
    core = shared_core()
    compiled = core.compile_model(core.read_model(model, b""), "CPU")
    feeds = [list(prepare(window, entry.modality)) for window in golden.windows[:16]]
    return _of_threads(lambda number: compiled(feeds[number])[0][0], golden)


def _shared_by_us(options: argparse.Namespace) -> str:
    with EdgePredictor.open(options.bundle, backend="openvino") as predictor:
        assert predictor.bundle is not None
        golden = predictor.bundle.golden(predictor.entry.name)
        return _of_threads(lambda number: predictor.predict(golden.windows[number]).probabilities, golden, shares=True)


def _of_threads(call: Callable[[int], Any], golden: Any, *, shares: bool = False) -> str:
    expected = golden.probabilities if shares else golden.logits
    right = [call(number).copy() for number in range(16)]
    assert all(np.abs(one - other).max() < 1e-2 for one, other in zip(right, expected, strict=False))
    wrong, calls = [0] * 8, 2000
    errors: list[str] = []

    def ask(place: int) -> None:
        for turn in range(calls // 8):
            number = (turn + place) % 16
            try:
                wrong[place] += bool(np.abs(call(number) - right[number]).max() > 1e-3)
            except Exception as error:
                errors.append(f"{type(error).__name__}: {first_line(error)}")

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = f"{'**' if sum(wrong) else ''}{sum(wrong)} of {calls} answers wrong{'**, silently' if sum(wrong) else ''}"
    return f"{told}; {len(errors)} calls raised, first {errors[0]}" if errors else told


# ---- F: sensors


def _nan_alone(options: argparse.Namespace) -> str:
    """A program that hands over what the sensor sent: its presence is 1, as nobody says otherwise."""
    with Bundle.open(options.bundle) as bundle:
        entry = bundle.manifest.models[0]
        model = bundle.read(entry.artifacts[0].file)
    session = import_onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"])
    window = np.full((1, *entry.modality.shape), np.nan, np.float32)
    first, second = (tensor.name for tensor in entry.inputs)
    logits = session.run(None, {first: window, second: np.ones_like(window)})[0]
    return f"**class {int(logits.argmax())}**, from logits of {logits[0][0]:.3g}"


def _nan_by_us(options: argparse.Namespace) -> str:
    with EdgePredictor.open(options.bundle, backend="ort") as predictor:
        prediction = predictor.predict(np.full(predictor.modality.shape, np.nan, np.float32))
        return f"{prediction.status}: {prediction.reason}"


_KILLERS = ("one left-out input", "a loop of 2^62 rounds", "600 bytes that ask for 4 GiB")
CASES: Mapping[str, Callable[[argparse.Namespace], str]] = {
    "A1: a pickle that runs code: torch.load": _pickled(lambda path: _torch(path, weights_only=True)),
    "A1: a pickle that runs code: torch.load, weights_only=False": _pickled(lambda p: _torch(p, weights_only=False)),
    "A1: a pickle that runs code: safetensors": _pickled(_safetensors),
    "A1: a pickle that runs code: mmkd-edge": _pickled(_checkpoint),
    "A4: a compressed checkpoint of zeros: torch.load": _bomb(lambda path: _torch(path, weights_only=True)),
    "A4: a compressed checkpoint of zeros: safetensors": _bomb(_safetensors),
    "A4: a compressed checkpoint of zeros: mmkd-edge": _bomb(_checkpoint),
    "D6: a file that is cut short in use: torch.load, mmap": _cut_short(_torch_mapped),
    "D6: a file that is cut short in use: safetensors": _cut_short(_safetensors),
    "D6: a file that is cut short in use: mmkd-edge": _cut_short(_ours_mapped),
    **{f"C2: {name}: onnxruntime": _by_ort(name) for name in _KILLERS},
    **{f"C2: {name}: OpenVINO": _by_openvino(name) for name in _KILLERS},
    **{f"C2: {name}: mmkd-edge": _by_us(name) for name in _KILLERS},
    "E1: one model, eight threads: OpenVINO": _shared_openvino,
    "E1: one model, eight threads: mmkd-edge, on OpenVINO": _shared_by_us,
    "F1: a window of NaN: onnxruntime": _nan_alone,
    "F1: a window of NaN: mmkd-edge": _nan_by_us,
}


if __name__ == "__main__":
    main()
