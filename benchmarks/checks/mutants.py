"""Mutated models with right hashes: how many crash this process, hang it, or answer wrongly.

    python benchmarks/checks/mutants.py BUNDLE --backend ort
    python benchmarks/checks/mutants.py BUNDLE --backend openvino --count 5000
    python benchmarks/checks/mutants.py BUNDLE --backend trt-rtx

Changes bits, bytes and pages of the bundle's fp32 artifact, and the operators, attributes, edges, shapes and values of
an ONNX graph; gives each mutant right hashes and opens it as a device does that meets it for the first time, and has no
onnx to check it with. Whatever opens must then pass all golden windows. A worker does so; when it ends by a signal,
that is a crash, and another continues. With `--log FILE` an interrupted run continues. Needs `mmkd-edge[export]`.

`trt-rtx` is TensorRT-RTX (`mmkd-edge[trt-rtx]`), which builds without a GPU: an engine is built of each mutant, as
mmkd-export does so, and nothing is asked of it.
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
from checks.script import head, parser_of, row
from mmkd_edge import Bundle, EdgePredictor, GateError, MmkdError, write_bundle
from mmkd_edge.apart import ProcessLimits
from mmkd_edge.backends.base import BACKENDS
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.manifest import Manifest, member_files
from mmkd_export.plan import PlatformName, platform_named
from mmkd_export.targets.trt import build_engines_apart

HANG_S = 60.0
"""From this on an opening counts as a hang: two ways, their limits, and what a loaded machine adds."""

RTX: PlatformName = "trt-rtx"
RTX_LIMITS = ProcessLimits(step_s=20.0, memory_bytes=2 << 30, file_bytes=1 << 28)
"""Of a build that takes a fraction of a second."""


def main() -> None:
    """Open all mutants and print what came of them."""
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--backend", default="ort", choices=(*BACKENDS, RTX))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, metavar="FILE", help="keeps a line for each mutant")
    parser.add_argument("--numbers", type=int, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.numbers:
        for number, outcome in outcomes(options):
            print(json.dumps([number, outcome]), flush=True)
        return
    found = watched(options)
    print(head("outcome", "mutants"))
    for outcome, count in sorted(found.items(), key=lambda item: (-item[1], item[0])):
        print(row(outcome, f"{count:,}"))
    bad = {name: count for name, count in found.items() if name.startswith("BAD")}
    print(f"{options.backend}: {sum(found.values()):,} mutants, {sum(bad.values())} bad")
    sys.exit(4 if bad else 0)


def watched(options: argparse.Namespace) -> Counter[str]:
    """What a worker tells; one that dies is replaced."""
    log: Path | None = options.log
    found = log.read_text(encoding="utf-8").splitlines() if log is not None and log.exists() else []

    def note(outcome: str) -> None:
        found.append(outcome)
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{outcome}\n")

    wanted = list(range(len(found), options.count))
    given = [options.bundle, "--backend", options.backend, "--seed", str(options.seed)]
    limit_s = 2 * HANG_S
    while wanted:
        command = [sys.executable, __file__, *given, "--numbers", *map(str, wanted)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            for line in lines_of(worker, limit_s=limit_s):
                note(json.loads(line)[1])
                wanted.pop(0)
            is_hung = worker.poll() is None and bool(wanted)
            if is_hung:
                worker.kill()
        if is_hung:
            wanted.pop(0)
            note(f"BAD: the process that opened it hung for {limit_s:.0f} s")
        elif worker.returncode != 0 and wanted:
            wanted.pop(0)
            note(f"BAD: the process that opened it ended with {worker.returncode}")
    return Counter(found)


def lines_of(worker: subprocess.Popen[bytes], *, limit_s: float) -> Iterator[bytes]:
    """The lines of a process, until it ends or says nothing for too long."""
    assert worker.stdout is not None
    seen, descriptor = b"", worker.stdout.fileno()
    while select.select([descriptor], [], [], limit_s)[0]:
        part = os.read(descriptor, 1 << 16)
        if not part:
            worker.wait()
            return
        *lines, seen = (seen + part).split(b"\n")
        yield from lines


def outcomes(options: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """The number of each mutant, and what came of it."""
    import onnx  # noqa: F401 - before it is hidden from the trials

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        (Path(folder) / "onnx.py").write_text("raise ImportError")
        sys.path.insert(0, folder)  # a trial imports from where this process does, which has its onnx already
        path = Path(folder) / "mutant.edge"
        for number in options.numbers:
            write_mutant(options.bundle, path, backend=options.backend, seed=options.seed, number=number)
            begun = time.monotonic()
            outcome = outcome_of_build(path) if options.backend == RTX else outcome_of(path, options.backend)
            took_s = time.monotonic() - begun
            yield number, outcome if took_s < HANG_S else f"BAD: took {took_s:.0f} s"


def outcome_of(path: Path, backend: str) -> str:
    """What opening a mutant comes to, and what its answers are worth where it opens."""
    try:
        predictor = EdgePredictor.open(path, backend=backend)  # type: ignore[arg-type]
    except MmkdError as error:
        return refusal_of(error)
    except Exception as error:
        return f"BAD: {type(error).__name__}"
    with predictor:
        try:
            predictor.selftest()
        except GateError:
            return "BAD: opened, and answers otherwise than the checkpoint"
        return "opened, and answers all golden windows as the checkpoint did"


def outcome_of_build(path: Path) -> str:
    """What building an engine of a mutant comes to."""
    try:
        build_engines_apart(path, platform_named(RTX), precisions=("fp32",), limits=RTX_LIMITS)
    except MmkdError as error:
        return refusal_of(error)
    except Exception as error:
        return f"BAD: {type(error).__name__}"
    return "an engine was built"


def refusal_of(error: MmkdError) -> str:
    """An error in a few words, the same for all of a kind."""
    text = str(error)
    if "no engine is given this" in text:
        return "refused: read by us"
    if "in a process of its own failed: " in text:
        return "refused: in the trial: " + text.partition("failed: ")[2].partition(";")[0]
    if "the process that built it failed: " in text:
        return "refused: in the process of its build: " + text.partition("it failed: ")[2].partition(";")[0]
    if "not valid ONNX" in text:
        return "refused: in the trial: by onnx.checker"
    if isinstance(error, GateError):
        return "refused: in the trial: answers otherwise than the checkpoint"
    return f"refused: {type(error).__name__}"


def write_mutant(bundle: Path, path: Path, *, backend: str, seed: int, number: int) -> None:
    """Write the bundle with a changed artifact, whose hashes are right."""
    dice = random.Random(f"{seed} {number}")
    wanted = {"litert": "tflite", "native": "native"}.get(backend, "onnx")
    mutated = mutated_graph if wanted == "onnx" and number % 2 else mutated_bytes
    manifest, members = with_model(bundle, wanted, lambda model: mutated(model, dice))
    write_bundle(path, manifest=manifest, members=members)


def with_model(bundle: Path, wanted: str, changed: Callable[[bytes], bytes]) -> tuple[Manifest, dict[str, bytes]]:
    """The parts of a bundle whose fp32 artifact of a format was changed, with right hashes."""
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
        members = {one.file: opened.read(one.file) for one in member_files(manifest)}
    entry = manifest.models[0]
    artifact = next(one for one in entry.artifacts if (one.format, one.precision) == (wanted, "fp32"))
    data = members[artifact.file] = changed(members[artifact.file])
    fresh = msgspec.structs.replace(artifact, sha256=new_sha256(data).hexdigest(), size_bytes=len(data))
    artifacts = tuple(fresh if one is artifact else one for one in entry.artifacts)
    models = (msgspec.structs.replace(entry, artifacts=artifacts), *manifest.models[1:])
    return msgspec.structs.replace(manifest, models=models), members


if __name__ == "__main__":
    main()
