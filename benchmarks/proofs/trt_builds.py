"""Does TensorRT-RTX build an engine of every kind of student, in every precision? Ahead of time, without a GPU.

    python benchmarks/proofs/trt_builds.py transformer=student.edge rocket=rocket.edge hybrid=hybrid.edge
    python benchmarks/proofs/trt_builds.py --untrained

Builds every ONNX artifact of bundles, by the runtime's own builder; with `--untrained` those of a windowed and a causal
camera student, 16 frames of 96 x 96, and of such microphone students, one second at 16 kHz, whose weights are random
and whose INT8 ranges are of noise: neither changes which layers there are. Needs `mmkd-edge[trt-rtx]`. Nothing runs on
a GPU: that the parser takes the graph, strongly typed, and that the builder finds an implementation of every layer is
all that is shown.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from mmkd_edge.backends.trt.needs import load_library
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import BackendError
from mmkd_edge.spec import ModalitySpec
from mmkd_export.plan import ExportPlan
from mmkd_export.platforms import platform_named
from mmkd_export.run import export
from mmkd_export.targets.trt import build_engines
from mmkd_models.networks.config import student_config
from mmkd_models.training.checkpoint import write_student
from proofs.front_end_latency import CAM, MIC, TASK, WINDOWS
from proofs.script import head, parser_of, row
from proofs.students import untrained

MEAN, STD = 127.0, 40.0
"""Of the bytes of noise in place of frames (`proofs.students`)."""


def main() -> None:
    """Build and print."""
    parser = parser_of(__doc__)
    parser.add_argument("students", nargs="*", metavar="NAME=BUNDLE.edge")
    parser.add_argument("--untrained", action="store_true", help="also build students of cameras and microphones")
    options = parser.parse_args()
    print(f"tensorrt_rtx {load_library('tensorrt_rtx').__version__}\n")
    print(head("student", "sensor", "parameters", "precision", "ONNX, kB", "engine, kB", texts=2), flush=True)
    for student in options.students:
        name, _, file = student.partition("=")
        print("\n".join(rows_of(name, Path(file))), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for modality in (CAM, MIC) if options.untrained else ():
            for causal in (False, True):
                file = untrained_bundle(modality, causal=causal, folder=Path(folder))
                print("\n".join(rows_of("causal" if causal else "windowed", file)), flush=True)


def untrained_bundle(modality: ModalitySpec, *, causal: bool, folder: Path) -> Path:
    """A tiny student of this modality in every precision."""
    student = untrained(modality, TASK, student_config("tiny", causal=causal), carried=WINDOWS)
    if modality.kind == "video":  # the export compares what calibrates with what the graph was normalised by
        front = "encoder.front.frames" if causal else "encoder.front"
        seen = {f"{front}.mean": torch.tensor([MEAN]), f"{front}.std": torch.tensor([STD])}
        student = replace(student, state=dict(student.state) | seen)
    checkpoint = folder / f"{modality.name}-{causal}.ckpt"
    write_student(checkpoint, student)
    plan = ExportPlan(
        source=checkpoint,
        output=checkpoint.with_suffix(".edge"),
        targets=("onnx",),
        platform="trt-rtx",
        precisions=("fp16", "int8"),
        max_drop_points=100.0,
        accept_unjudged=True,
    )
    return export(plan).path


def rows_of(name: str, file: Path) -> list[str]:
    """A row for each ONNX artifact of one student."""
    with Bundle.open(file) as bundle:
        entry = bundle.manifest.models[0]
    found = []
    for artifact in entry.artifacts:
        if artifact.format != "onnx":
            continue
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copy(file, folder))
            try:
                (engine,) = build_engines(copy, platform_named("trt-rtx"), precisions=(artifact.precision,))
                size = f"{engine.sidecar.size_bytes / 1e3:,.0f}"
            except BackendError as error:
                size = str(error).splitlines()[0]
        stored = f"{artifact.size_bytes / 1e3:,.0f}"
        found.append(row(name, entry.modality.kind, f"{entry.parameters:,}", artifact.precision, stored, size))
    return found


if __name__ == "__main__":
    main()
