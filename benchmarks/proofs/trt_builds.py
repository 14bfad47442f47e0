"""Does TensorRT-RTX build an engine of every kind of student, in every precision? Ahead of time, without a GPU.

    python benchmarks/proofs/trt_builds.py transformer=student.edge rocket=rocket.edge hybrid=hybrid.edge

Builds every ONNX artifact of bundles, by the runtime's own builder. Needs `mmkd-edge[trt-rtx]`. Nothing runs on a GPU:
that the parser takes the graph, strongly typed, and that the builder finds an implementation of every layer is all that
is shown.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mmkd_edge.backends.trt.needs import load_library
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import BackendError
from mmkd_export.platforms import platform_named
from mmkd_export.targets.trt import build_engines
from proofs.script import head, parser_of, row


def main() -> None:
    """Build and print."""
    parser = parser_of(__doc__)
    parser.add_argument("students", nargs="+", metavar="NAME=BUNDLE.edge")
    options = parser.parse_args()
    print(f"tensorrt_rtx {load_library('tensorrt_rtx').__version__}\n")
    print(head("student", "sensor", "parameters", "precision", "ONNX, kB", "engine, kB", texts=2), flush=True)
    for student in options.students:
        name, _, file = student.partition("=")
        print("\n".join(rows_of(name, Path(file))), flush=True)


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
