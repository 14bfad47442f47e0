"""The runtime beside its rivals on students of every size, one thread: one table.

    python benchmarks/proofs/rivals_by_size.py FOLDER --prepare
    python benchmarks/proofs/rivals_by_size.py FOLDER

Trains a student of every preset on the labels of a dataset (without `--data` the shipped recordings), for so few steps
that it takes minutes: weights do not change how long an answer takes, but INT8 has to pass its gate. Exports them,
converts them for the other engines and tunes them, all in FOLDER; what is there is taken as it is. Then every engine
answers in turn in the same processes, through `mmkd-bench rivals`. `--prepare` ends before the measurement, which wants
a quiet machine. Needs `mmkd-edge[bench,export]`; takes whatever other engines are installed: OpenVINO, LiteRT.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import msgspec

from mmkd_models.data import shipped_dataset
from mmkd_models.networks.config import Preset
from mmkd_report.documents.bench_others import RivalEngine, RivalsReport
from proofs.script import head, parser_of, row

PRESETS: tuple[Preset, ...] = get_args(Preset)
PLAIN, BACKEND, LOWER = "onnxruntime", "mmkd-edge backend", "mmkd-edge lower precision"
OTHER_PRECISION = (LOWER, "openvino in its own precision")


def main() -> None:
    """Prepare what is missing, measure, and print the table as Markdown."""
    parser = parser_of(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="keeps students, bundles, conversions and profiles")
    parser.add_argument("--data", type=Path, default=shipped_dataset(), help="what students are trained on")
    parser.add_argument("--modality", default="acc", help="of that dataset")
    parser.add_argument("--steps", type=int, default=60, help="of the training")
    parser.add_argument("--size", action="append", choices=PRESETS, help="only these; repeatable")
    parser.add_argument("--prepare", action="store_true", help="end before the measurement")
    parser.add_argument("--duration-s", type=float, default=30.0, help="measured time of each size")
    parser.add_argument("--launches", type=int, default=3, help="processes of each size")
    options = parser.parse_args()
    sizes = [preset for preset in PRESETS if preset in (options.size or PRESETS)]
    for preset in sizes:
        learning = (options.data.absolute(), "--modality", options.modality, "--steps", options.steps)
        prepare(options.folder / preset, learning, preset)
    if not options.prepare:
        reports = [measure(options.folder / preset, options.duration_s, options.launches) for preset in sizes]
        print_table(sizes, reports)


def prepare(folder: Path, learning: Sequence[object], preset: Preset) -> None:
    """The student of one size: its checkpoint, its bundle, what other engines read, and its profile."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "student.ckpt").exists():
        command(folder, "mmkd-train", "student", *map(str, learning), "--preset", preset, "-o", "student.ckpt")
    if not (folder / "student.edge").exists():
        libraries = {"openvino": "openvino", "litert": "litert_torch"}
        targets = ["onnx", *(target for target, library in libraries.items() if find_spec(library) is not None)]
        options = [option for target in targets for option in ("--target", target)]
        command(folder, "mmkd-export", "student.ckpt", "--precision", "auto", *options)
    if not (folder / "cache" / "mmkd-edge" / "profiles").exists():
        command(folder, "mmkd-bench", "tune", "student.edge", "--threads", "1")
    if not (folder / "converted").exists():
        measure(folder, 0.3, 1)


def command(folder: Path, name: str, *arguments: str) -> str:
    """What a command of this project prints; its profiles stay in the folder."""
    program = Path(sys.executable).with_name(name)
    environment = {**os.environ, "XDG_CACHE_HOME": str((folder / "cache").absolute())}
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def measure(folder: Path, duration_s: float, launches: int) -> RivalsReport:
    """All engines in turn on the student of one size."""
    options: dict[str, Any] = {
        "checkpoint": "student.ckpt", "converted": "converted", "duration-s": duration_s, "launches": launches
    }  # fmt: skip
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return msgspec.json.decode(
        command(folder, "mmkd-bench", "rivals", "student.edge", *arguments, "--json"), type=RivalsReport
    )


def print_table(sizes: Sequence[str], reports: Sequence[RivalsReport]) -> None:
    """p50 and p99 of every engine, and what the backend's call is to the others."""
    names = [rival.name for rival in reports[0].rivals]
    print(head("p50, p99 in µs", *sizes))
    for number, name in enumerate(names):
        found = [report.rivals[number] for report in reports]
        print(row(name, *map(cell, found)))
    rows = {
        "backend: GFLOP/s (of this core's peak)": [rate(report, rival(report, BACKEND)) for report in reports],
        "onnxruntime over backend": [times(rival(report, PLAIN), rival(report, BACKEND)) for report in reports],
        "fastest float32 rival over backend": [times(fastest(report), rival(report, BACKEND)) for report in reports],
        "onnxruntime over lower precision": [times(rival(report, PLAIN), rival(report, LOWER)) for report in reports],
    }
    for name, cells in rows.items():
        print(row(name, *cells))
    print()
    for size, report in zip(sizes, reports, strict=True):
        versions = ", ".join(f"{one.name} {one.version}" for one in report.rivals if one.p50_us is not None)
        print(f"- {size}: {report.subject.parameters:,} parameters, {report.mflops:.1f} MFLOP; {versions}")
        for one in report.rivals:
            if one.reason:
                print(f"- {size}: {one.name}: {one.reason}")


def rival(report: RivalsReport, name: str) -> RivalEngine:
    """One engine of a report."""
    return next(one for one in report.rivals if one.name == name)


def fastest(report: RivalsReport) -> RivalEngine:
    """The fastest engine in float32 that is not this project's."""
    timed = [
        one
        for one in report.rivals
        if one.p50_us is not None and not one.name.startswith("mmkd-edge") and one.name not in OTHER_PRECISION
    ]
    return min(timed, key=lambda one: p50_us(one))


def p50_us(one: RivalEngine) -> float:
    """Its median latency; infinite where it was not timed."""
    return float("inf") if one.p50_us is None else one.p50_us.median


def cell(one: RivalEngine) -> str:
    """p50 and p99; a dash where it was not timed."""
    if one.p50_us is None or one.p99_us is None:
        return "-"
    return f"{one.p50_us.median:.0f}, {one.p99_us.median:.0f}"


def times(other: RivalEngine, ours: RivalEngine) -> str:
    """How many times as long the other takes: the median over repeats, both held against the same calls."""
    if other.ratio is None or ours.ratio is None:
        return "-"
    return f"{other.ratio.median / ours.ratio.median:.2f} ({other.name})"


def rate(report: RivalsReport, one: RivalEngine) -> str:
    """Operations per second, and their share of what the core does in a product of matrices."""
    gflops = report.mflops * 1e3 / p50_us(one)
    return f"{gflops:.0f} ({gflops / report.peak_gflops:.0%} of {report.peak_gflops:.0f})"


if __name__ == "__main__":
    main()
