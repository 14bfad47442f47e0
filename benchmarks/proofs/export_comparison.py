"""mmkd-export beside what people run today on the same checkpoint: accuracy, size, latency, and does TensorRT take it.

    python benchmarks/proofs/export_comparison.py STUDENT.ckpt DATA [--fold N]

Ours are the artifacts of one bundle: fp32, fp16 and int8, and where litert-torch is installed the `.tflite` files.
Theirs are `torch.onnx.export` and, on its file, onnxruntime's `quantize_static` and, where it is installed, Olive's
static quantisation, all with their defaults and with the same calibration windows.

Accuracy is on the test split of the dataset directory DATA, which neither export has seen. Points are lost against our
fp32 graph in onnxruntime; of several backends the worst counts. Latency is the median of one run on one thread, all
models and backends in turns: the middle one of five repeats, and their range.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import Backend, BackendName, is_installed, open_backend
from mmkd_edge.backends.ort import import_onnxruntime
from mmkd_edge.backends.trt.build import engine_from_onnx
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import BackendError, MmkdError
from mmkd_edge.spec import ModalitySpec
from mmkd_export.graph.calibration import Feeds
from mmkd_export.judge.gate import gate_summary
from mmkd_export.judge.latency import paired_latency_us, processor_name
from mmkd_export.judge.parity import answers_from_backend
from mmkd_export.judge.proof_set import feeds_of
from mmkd_export.plan import ExportPlan
from mmkd_export.run import export
from mmkd_export.targets.litert import missing_libraries
from mmkd_models.compare.one_fold import fold_data
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.labelled import ALL
from mmkd_models.training.checkpoint import StudentCheckpoint, read_student
from mmkd_report.documents.export import ExportReport
from proofs.script import head, parser_of, row

WORKSPACE_BYTES = 1 << 30
REPEATS = 5
BACKENDS: tuple[BackendName, ...] = ("ort", "openvino", "litert")
COLUMNS = (
    "model",
    "kB",
    "accuracy %",
    "points lost",
    "same label",
    "onnxruntime us",
    "OpenVINO us",
    "LiteRT us",
    "TensorRT-RTX",
)
OLIVE = "Olive"
TFLITE = " .tflite"


def main() -> None:
    """Print the table as Markdown."""
    parser = parser_of(__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="STUDENT.ckpt", help="a student's checkpoint")
    parser.add_argument("data", type=Path, metavar="DATA", help="the dataset directory; its test split scores")
    parser.add_argument(
        "--fold", type=int, help="the test windows of this grouped fold, as of mmkd-train and mmkd-demo"
    )
    options = parser.parse_args()
    checkpoint = read_student(options.checkpoint)
    dataset = open_dataset(options.data)
    fold = options.fold
    test = dataset.split("test") if fold is None else fold_data(dataset, seed=fold, labelled=ALL).test
    windows, labels = test.take(np.arange(len(test)))[checkpoint.modality.name], test.labels
    with tempfile.TemporaryDirectory() as folder:
        models, report = ours(options.checkpoint, Path(folder))
        models |= theirs(checkpoint, Path(folder))
        with contextlib.ExitStack() as stack:
            opened = {key: stack.enter_context(contextlib.closing(found)) for key, found in backends(models)}
            versions = sorted({backend.version for backend in opened.values()})
            print(f"{len(labels)} test windows, {processor_name()}, one thread; {', '.join(versions)}\n")
            print_table(models, opened, checkpoint.modality, windows, labels)
    for artifact in report.artifacts:
        for attempt in artifact.attempts:
            print(f"int8, {attempt.remedy}: {gate_summary(attempt.gate)}")


def ours(checkpoint: Path, folder: Path) -> tuple[dict[str, bytes], ExportReport]:
    """Every artifact of a bundle; precisions that are named are kept however fast they are."""
    targets = ("onnx",) if missing_libraries() else ("onnx", "litert")
    plan = ExportPlan(
        source=checkpoint,
        output=folder / "ours.edge",
        targets=targets,
        precisions=("fp16", "int8"),
        platform="cpu-x86",
    )
    result = export(plan)
    with Bundle.open(plan.output) as bundle:
        models = {
            f"ours {artifact.precision}{'' if artifact.format == 'onnx' else TFLITE}": bundle.read(artifact.file)
            for artifact in bundle.manifest.models[0].artifacts
        }
    return models, result.report


def theirs(checkpoint: StudentCheckpoint, folder: Path) -> dict[str, bytes]:
    """The exporter of torch and the quantiser of onnxruntime, as their documentation starts."""
    import_onnxruntime()  # before its parts, so that it reports nothing over the network
    import torch
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    from mmkd_export.judge.windows import judging_half
    from mmkd_models.networks.student import ExportStudent

    assert checkpoint.carried is not None
    name = checkpoint.modality.name
    calibration = checkpoint.carried.windows[~judging_half(checkpoint.carried.labels)]

    class Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime ships no types
        """The same windows as ours."""

        def __init__(self) -> None:
            self.left = iter(list(feeds_of(calibration, checkpoint.modality)))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            """Gives the next window."""
            return next(self.left, None)  # type: ignore[return-value]

    plain, quantised = folder / "plain.onnx", folder / "quantised.onnx"
    samples, channels = checkpoint.modality.shape
    example = (torch.zeros(1, samples, channels), torch.ones(1, samples, channels))
    with quiet():
        torch.onnx.export(
            ExportStudent(checkpoint.network()).eval(),
            example,
            plain,
            input_names=[name, f"{name}_present"],
            output_names=["logits", "probabilities"],
            external_data=False,
        )
        quantize_static(plain, quantised, Reader())
    models = {"torch.onnx.export": plain.read_bytes(), "quantize_static": quantised.read_bytes()}
    with contextlib.suppress(ImportError):  # the table then says so
        models[OLIVE] = olives(plain, list(feeds_of(calibration, checkpoint.modality)), folder / "olive")
    return models


def olives(plain: Path, feeds: list[Feeds], folder: Path) -> bytes:
    """Olive's pass `OnnxStaticQuantization` for a CPU with its defaults, on the file of torch.onnx.export."""
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"  # read where olive is imported
    names = list(feeds[0])
    for name in names:
        (folder / "windows" / name).mkdir(parents=True)
        for number, window in enumerate(feeds):
            window[name].tofile(folder / "windows" / name / f"{number:04}.bin")
    windows = {
        "name": "windows",
        "type": "RawDataContainer",
        "load_dataset_config": {
            "data_dir": str(folder / "windows"),
            "input_names": names,
            "input_shapes": [list(feeds[0][name].shape) for name in names],
        },
    }
    with quiet():
        import olive  # type: ignore[import-not-found] # installed by whoever compares with it

        found = olive.run(
            {
                "input_model": {"type": "ONNXModel", "model_path": str(plain)},
                "data_configs": [windows],
                "passes": {"quantise": {"type": "OnnxStaticQuantization", "data_config": "windows"}},
                "output_dir": str(folder / "output"),
                "cache_dir": str(folder / "cache"),
            }
        )
    return Path(found.get_best_candidate().model_path).read_bytes()


def print_table(
    models: dict[str, bytes],
    opened: dict[tuple[str, str], Backend],
    modality: ModalitySpec,
    windows: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> None:
    """One row for each model."""
    got = {key: answers_from_backend(found, windows, modality).logits.argmax(1) for key, found in opened.items()}
    latencies = repeated_latencies(opened, list(feeds_of(windows[:50], modality)))
    expected = got["ours fp32", "ort"]
    print(head(*COLUMNS))
    for name, model in models.items():
        answers = [got[name, kind] for kind in BACKENDS if (name, kind) in got]
        cells = [*answer_texts(answers, labels, expected)]
        cells += [latency_text(latencies.get((name, kind))) for kind in BACKENDS]
        cells += ["-" if name.endswith(TFLITE) else built(model)]
        print(row(name, f"{len(model) / 1000:.0f}", *cells))
    if OLIVE not in models:
        print(f"| {OLIVE} | cannot be imported {'| ' * (len(COLUMNS) - 2)}|")
    print_speedup(latencies)


def answer_texts(
    answers: list[NDArray[np.int64]], labels: NDArray[np.int64], expected: NDArray[np.int64]
) -> tuple[str, str, str]:
    """Accuracy in the first backend, points lost and share of equal labels in the worst."""
    if not answers:
        return "does not load", "-", "-"
    accuracy = [100 * float((got == labels).mean()) for got in answers]
    lost = 100 * float((expected == labels).mean()) - min(accuracy)
    same = min(float((got == expected).mean()) for got in answers)
    return f"{accuracy[0]:.2f}", f"{lost:.2f}", f"{same:.4f}"


def latency_text(repeats_us: list[float] | None) -> str:
    """Median over the repeats, lowest and highest."""
    return "-" if repeats_us is None else f"{median(repeats_us):.0f} ({min(repeats_us):.0f}..{max(repeats_us):.0f})"


def repeated_latencies(
    opened: dict[tuple[str, str], Backend], feeds: list[Feeds]
) -> dict[tuple[str, str], list[float]]:
    """Median latency of every model in every backend, once for each repeat."""
    repeats = [paired_latency_us(opened, feeds) for _ in range(REPEATS)]
    return {key: [repeat[key] for repeat in repeats] for key in opened}


def print_speedup(latencies: dict[tuple[str, str], list[float]]) -> None:
    """How many times faster INT8 is than the fp32 graph of torch.onnx.export in onnxruntime, repeat by repeat."""
    before = latencies["torch.onnx.export", "ort"]
    print()
    for kind in BACKENDS:
        found = latencies.get(("ours int8", kind), latencies.get((f"ours int8{TFLITE}", kind)))
        if found is not None:
            ratios = [one / other for one, other in zip(before, found, strict=True)]
            spread = f"{median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
            print(f"ours int8 in {kind}: {spread} times as fast as torch.onnx.export in ort")


def backends(models: dict[str, bytes]) -> Iterator[tuple[tuple[str, str], Backend]]:
    """Every model in every backend that opens it."""
    for name, model in models.items():
        for kind in BACKENDS:
            if is_installed(kind) and (kind == "litert") == name.endswith(TFLITE):
                with contextlib.suppress(BackendError):
                    yield (name, kind), open_backend(kind, model, threads=1)


def built(model: bytes) -> str:
    """Whether TensorRT-RTX builds the graph, strongly typed."""
    try:
        import tensorrt_rtx
    except ImportError:
        return "not installed"
    started = time.perf_counter()
    try:
        engine_from_onnx(model, tensorrt_rtx, workspace_bytes=WORKSPACE_BYTES)
    except MmkdError:
        return "refuses it"
    return f"builds, {time.perf_counter() - started:.1f} s"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The tools' own warnings and progress are not part of the comparison."""
    for name in ("", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    main()
