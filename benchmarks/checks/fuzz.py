"""Give every reader of files what nobody has thought of, and report what it neither reads nor refuses.

    python benchmarks/checks/fuzz.py --minutes 10
    python benchmarks/checks/fuzz.py --minutes 1 --target manifest --target graph

`native` is the C engine: its models, bundles and predictions, by libFuzzer (clang) under AddressSanitizer and
UndefinedBehaviorSanitizer. With atheris (pip install atheris) each other reader runs in a process of its own that is
guided by what the code does; without it, seeded mutations take its place, and the first line says so. What breaks a
reader is kept in the folder of `--findings`. Needs `mmkd-edge[export,import]`.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FunctionType

from checks.fuzzing.targets import TARGETS, FuzzTarget, fault_of
from checks.mutations import mutated_bytes
from checks.script import head, row, script_parser
from mmkd_edge.native.build import FOLDER, SOURCES

NATIVE = "native"
_TEXTS = (b"null", b"-1", b"1e999", b"9" * 40, b"[]", b"{}", b'""', b"NaN", b"true", b"\xff", b"\\ud800", b"[" * 500)
_MOST_BYTES = 1 << 18
_SEEDS = Path(__file__).with_name("fuzzing") / "seeds"
_LIMITS = ("-timeout=20", "-rss_limit_mb=4096")


def main() -> None:
    """Fuzz all readers and print what came."""
    parser = script_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="of all readers together")
    parser.add_argument("--target", action="append", choices=[*sorted(TARGETS), NATIVE], help="repeatable; else all")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"), help="where what breaks a reader is kept")
    parser.add_argument("--guided", choices=sorted(TARGETS), help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.guided is not None:
        guided(options.guided, rest)
        return
    names = options.target or [*TARGETS, NATIVE]
    if NATIVE in names and shutil.which("clang") is None:
        print("clang is not installed (apt-get install clang): the C engine is left out")
        names.remove(NATIVE)
    seconds = 60 * options.minutes / len(names)
    is_guided = importlib.util.find_spec("atheris") is not None
    if not is_guided:
        print("atheris is not installed (pip install atheris): seeded mutations take its place")
    options.findings.mkdir(parents=True, exist_ok=True)
    print(head("reader", "inputs", "broken by"))
    broken = 0
    for name in names:
        fuzzed = fuzz_native if name == NATIVE else fuzz_guided if is_guided else fuzz_seeded
        inputs, found = fuzzed(name, seconds=seconds, findings=options.findings)
        broken += len(found)
        print(row(name, f"{inputs:,}", len(found)), *found, flush=True)
    sys.exit(1 if broken else 0)


def fuzz_seeded(name: str, *, seconds: float, findings: Path, most: int | None = None) -> tuple[int, list[str]]:
    """Mutate the seeds of a reader for so long; gives how many inputs there were, and what broke it."""
    target, dice, found = TARGETS[name], random.Random(name), dict[str, str]()
    seeds, inputs, end = target.seeds(), 0, time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end and inputs != most:
            data = mutated(dice.choice(seeds), dice)
            fault = fault_of(target, data, Path(folder))
            inputs += 1
            if fault is not None and type(fault).__name__ not in found:
                path = findings / f"{name}-{type(fault).__name__}"
                path.write_bytes(data)
                found[type(fault).__name__] = str(path)
    return inputs, list(found.values())


def fuzz_native(name: str, *, seconds: float, findings: Path) -> tuple[int, list[str]]:
    """Compile the C engine with libFuzzer, and let it look for inputs."""
    instrument = ["clang", "-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
    define = ["-DMMKD_ONE_ISA", "-Wno-psabi", "-Wno-unknown-pragmas"]
    sources = [FOLDER / name for name in SOURCES if name.endswith(".c")]
    with tempfile.TemporaryDirectory() as folder:
        program, corpus = Path(folder) / "fuzz", Path(folder) / "corpus"
        subprocess.run([*instrument, *define, *sources, _SEEDS.with_name("native.c"), "-lm", "-o", program], check=True)
        shutil.copytree(_SEEDS, corpus)
        limits = [f"-max_total_time={max(1, round(seconds))}", "-max_len=200000", *_LIMITS]
        return _run_fuzzer([str(program), *limits], name, corpus=corpus, findings=findings)


def mutated(data: bytes, dice: random.Random) -> bytes:
    """A file with some of its bytes changed, or with another text in the place of a number, a name or a list."""
    if dice.random() < 0.5:
        return mutated_bytes(data, dice)
    changed = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        marks = [place for place, byte in enumerate(changed[:_MOST_BYTES]) if byte in b'":,[]{}0123456789']
        if marks:
            place = dice.choice(marks)
            changed[place : place + dice.randint(0, 4)] = dice.choice(_TEXTS)
    return bytes(changed)


def fuzz_guided(name: str, *, seconds: float, findings: Path) -> tuple[int, list[str]]:
    """Let atheris look for inputs in a process of its own."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(TARGETS[name].seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        limits = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={_MOST_BYTES}", *_LIMITS]
        command = [sys.executable, __file__, "--guided", name, *limits]
        return _run_fuzzer(command, name, corpus=Path(corpus), findings=findings)


def _run_fuzzer(command: list[str], name: str, *, corpus: Path, findings: Path) -> tuple[int, list[str]]:
    before = set(findings.iterdir())
    command = [*command, f"-artifact_prefix={findings / name}-", str(corpus)]
    environment = os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = sorted(str(path) for path in set(findings.iterdir()) - before)
    if done.returncode != 0 and not found:
        found = [done.stderr.strip().splitlines()[-1]]
    runs = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("Done ")]
    return int(runs[0]) if runs else 0, found


def guided(name: str, arguments: list[str]) -> None:
    """One reader under atheris, until it is broken or its time is up."""
    import atheris

    target: FuzzTarget = TARGETS[name]
    with tempfile.TemporaryDirectory() as folder:  # imports what the reader imports late
        fault_of(target, target.seeds()[0], Path(folder))
    for one in gc.get_objects():  # all that is imported would take a minute
        if isinstance(one, FunctionType) and str(one.__module__).startswith("mmkd_"):
            atheris.instrument_func(one)
    with tempfile.TemporaryDirectory() as folder:

        def read(data: bytes) -> None:
            fault = fault_of(target, data, Path(folder))
            if fault is not None:
                raise fault

        atheris.Setup([sys.argv[0], *arguments], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
