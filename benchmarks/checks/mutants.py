"""Mutated models with right hashes: how many crash this process, hang it, or answer wrongly.

    python benchmarks/checks/mutants.py BUNDLE --backend ort
    python benchmarks/checks/mutants.py BUNDLE --backend openvino --count 5000
    python benchmarks/checks/mutants.py BUNDLE --backend trt-rtx
    python benchmarks/checks/mutants.py BUNDLE --kind manifest --count 5000

Changes bits, bytes and pages of the bundle's fp32 artifact, and the operators, attributes, edges, shapes and values of
an ONNX graph; gives each mutant right hashes and opens it as a new bundle on a device without onnx. A mutant that opens
must then pass all golden windows. A worker process does this; if it ends by a signal, that is a crash, and another
continues. With `--log FILE` an interrupted run continues. Needs `mmkd-edge[export]`.

`trt-rtx` is TensorRT-RTX (`mmkd-edge[trt-rtx]`), which builds without a GPU: an engine is built of each mutant, and not
run.

With `--kind` it changes what both Python and C read, and gives who opens each mutant: `BAD` if one alone does, without
a reason that the check knows (`REASONS` in `verdicts.py`). `sidecar` needs a student of normal data, `derivation` one
of a derived sensor.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from checks.mutations import mutated_bytes, mutated_graph
from checks.script import head, row, script_parser
from checks.verdicts import KINDS, Mutants
from mmkd_edge import Bundle, EdgePredictor, GateError, MmkdError
from mmkd_edge.apart import ProcessLimits
from mmkd_edge.backends.base import BACKENDS
from mmkd_edge.bundle.bundle import write_bundle
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.manifest import Manifest, member_files
from mmkd_export.plan import PlatformName, platform_named
from mmkd_export.targets.trt import build_engines_apart

HANG_S = 60.0
"""An opening that takes longer hangs: the limits of a sandbox check, and what a loaded machine adds."""

RTX: PlatformName = "trt-rtx"
RTX_LIMITS = ProcessLimits(step_s=20.0, memory_bytes=2 << 30, file_bytes=1 << 28)
"""For a build that takes a fraction of a second."""


def main() -> None:
    """Open all mutants and print how many had each outcome."""
    parser = script_parser(__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--backend", default="ort", choices=(*BACKENDS, RTX))
    parser.add_argument("--kind", choices=KINDS, help="compare Python with C on mutants of this instead")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, metavar="FILE", help="keeps a line for each mutant")
    parser.add_argument("--numbers", type=int, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        options.backend = "native"
    if options.numbers:
        for number, outcome in outcomes(options):
            print(json.dumps([number, outcome]), flush=True)
        return
    try:  # a backend that is absent would refuse every mutant
        if options.backend != RTX:
            EdgePredictor.open(options.bundle, backend=options.backend).close()
    except MmkdError as error:
        parser.error(f"the bundle itself must open: {error}")
    found = run_workers(options)
    print(head("outcome", "mutants"))
    for outcome, count in sorted(found.items(), key=lambda item: (-item[1], item[0])):
        print(row(outcome, f"{count:,}"))
    bad = {name: count for name, count in found.items() if name.startswith("BAD")}
    print(f"{options.kind or options.backend}: {sum(found.values()):,} mutants, {sum(bad.values())} bad")
    sys.exit(4 if bad else 0)


def run_workers(options: argparse.Namespace) -> Counter[str]:
    """Count the outcomes that a worker reports; replace one that dies."""
    log: Path | None = options.log
    found = log.read_text(encoding="utf-8").splitlines() if log is not None and log.exists() else []

    def note(outcome: str) -> None:
        found.append(outcome)
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{outcome}\n")

    remaining = list(range(len(found), options.count))
    given = [options.bundle, "--backend", options.backend, "--seed", str(options.seed)]
    given += ["--kind", options.kind] if options.kind else []
    limit_s = 2 * HANG_S
    while remaining:
        command = [sys.executable, __file__, *given, "--numbers", *map(str, remaining)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            for line in read_lines(worker, limit_s=limit_s):
                note(json.loads(line)[1])
                remaining.pop(0)
            is_hung = worker.poll() is None and bool(remaining)
            if is_hung:
                worker.kill()
        if is_hung:
            remaining.pop(0)
            note(f"BAD: the process that opened it hung for {limit_s:.0f} s")
        elif worker.returncode != 0 and remaining:
            remaining.pop(0)
            note(f"BAD: the process that opened it ended with {worker.returncode}")
    return Counter(found)


def read_lines(worker: subprocess.Popen[bytes], *, limit_s: float) -> Iterator[bytes]:
    """Yield a process's lines until it ends or writes nothing for `limit_s`."""
    assert worker.stdout is not None
    rest, descriptor = b"", worker.stdout.fileno()
    while select.select([descriptor], [], [], limit_s)[0]:
        part = os.read(descriptor, 1 << 16)
        if not part:
            worker.wait()
            return
        *lines, rest = (rest + part).split(b"\n")
        yield from lines


def outcomes(options: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """Yield the number and the outcome of each mutant."""
    import onnx  # noqa: F401 - before it is hidden from the sandbox checks

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        (Path(folder) / "onnx.py").write_text("raise ImportError")
        sys.path.insert(0, folder)  # a sandbox check imports from the same folders
        path = Path(folder) / "mutant.edge"
        mutants = Mutants(options.bundle, options.kind, Path(folder)) if options.kind else None
        for number in options.numbers:
            if mutants is not None:
                yield number, mutants.compare(random.Random(f"{options.seed} {number}"))
                continue
            write_mutant(options.bundle, path, backend=options.backend, seed=options.seed, number=number)
            begun = time.monotonic()
            outcome = outcome_of_build(path) if options.backend == RTX else outcome_of(path, options.backend)
            took_s = time.monotonic() - begun
            yield number, outcome if took_s < HANG_S else f"BAD: took {took_s:.0f} s"


def outcome_of(path: Path, backend: str) -> str:
    """Open a mutant and, if that succeeds, run its golden windows; return the outcome."""
    try:
        predictor = EdgePredictor.open(path, backend=backend)  # type: ignore[arg-type]
    except MmkdError as error:
        return describe_refusal(error)
    except Exception as error:
        return f"BAD: {type(error).__name__}"
    with predictor:
        try:
            predictor.selftest()
        except GateError:
            return "BAD: opened, and answers otherwise than the checkpoint"
        return "opened, and answers all golden windows as the checkpoint did"


def outcome_of_build(path: Path) -> str:
    """Build an engine of a mutant; return the outcome."""
    try:
        build_engines_apart(path, platform_named(RTX), precisions=("fp32",), limits=RTX_LIMITS)
    except MmkdError as error:
        return describe_refusal(error)
    except Exception as error:
        return f"BAD: {type(error).__name__}"
    return "an engine was built"


def describe_refusal(error: MmkdError) -> str:
    """Return an error's kind: where the mutant was refused, and why."""
    text = str(error)
    if "no engine is given this" in text:
        return "refused: read by us"
    if "the sandbox check of backend " in text:
        return "refused: in the sandbox check: " + text.partition(" failed: ")[2].partition(";")[0]
    if "the process that built it failed: " in text:
        return "refused: in the process of its build: " + text.partition("it failed: ")[2].partition(";")[0]
    if "not valid ONNX" in text:
        return "refused: in the sandbox check: by onnx.checker"
    if isinstance(error, GateError):
        return "refused: in the sandbox check: answers otherwise than the checkpoint"
    return f"refused: {type(error).__name__}"


def write_mutant(bundle: Path, path: Path, *, backend: str, seed: int, number: int) -> None:
    """Write the bundle with a changed artifact, whose hashes are right."""
    dice = random.Random(f"{seed} {number}")
    file_format = {"litert": "tflite", "native": "native"}.get(backend, "onnx")
    mutated = mutated_graph if file_format == "onnx" and number % 2 else mutated_bytes
    manifest, members = with_model(bundle, file_format, lambda model: mutated(model, dice))
    write_bundle(path, manifest=manifest, members=members)


def with_model(bundle: Path, file_format: str, change: Callable[[bytes], bytes]) -> tuple[Manifest, dict[str, bytes]]:
    """Return manifest and members of a bundle after `change` of its fp32 artifact of a format, with right hashes."""
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
        members = {entry.file: opened.read(entry.file) for entry in member_files(manifest)}
    entry = manifest.models[0]
    artifact = next(each for each in entry.artifacts if (each.format, each.precision) == (file_format, "fp32"))
    data = members[artifact.file] = change(members[artifact.file])
    fresh = msgspec.structs.replace(artifact, sha256=new_sha256(data).hexdigest(), size_bytes=len(data))
    artifacts = tuple(fresh if each is artifact else each for each in entry.artifacts)
    models = (msgspec.structs.replace(entry, artifacts=artifacts), *manifest.models[1:])
    return msgspec.structs.replace(manifest, models=models), members


if __name__ == "__main__":
    main()
