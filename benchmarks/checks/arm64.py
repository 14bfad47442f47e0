"""Does ARM64 answer as x86-64 does? The bundles in a Debian root for ARM64 under qemu-user, beside this machine.

    python benchmarks/checks/arm64.py --root build/arm64
    python benchmarks/checks/arm64.py --root build/arm64 --bundle student.edge --bundle causal.edge
    python benchmarks/checks/arm64.py --root build/arm64 --bundle student.edge --backend ort --backend litert

Makes the root with debootstrap where it is not there yet, installs the release wheel for ARM64 with
`[ort,litert,openvino]` in it, and runs the same program in it and here. Prints Markdown; the exit code is 1 where a
self-test fails, a damaged file is taken, or an answer differs from that of this machine by more than the bundle's own
tolerance, and 3 where a tool is missing. Downloads some 270 MB, and takes minutes: an emulator is tens of times slower.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from checks.emulation import answers
from checks.emulation.answers import EmulatedWay, MachineAnswers
from checks.emulation.root import TOOLS, Root, install, make_root, missing_tools
from checks.install_size import ROOT as CHECKOUT
from checks.install_size import wheel_of
from checks.script import head, row, script_parser
from mmkd_edge import example_bundle

EXTRAS = ("ort", "litert", "openvino")
BACKENDS = ("native", *EXTRAS)
"""Backends with wheels for ARM64."""

SLOWER = 60.0
"""Factor on the time limits of a sandbox check under an emulator."""


def main() -> None:
    """Make the machine, ask both, compare and print."""
    parser = script_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True, metavar="FOLDER", help="the root; made where it is missing")
    parser.add_argument("--bundle", action="append", type=Path, default=[], help="beside the shipped one")
    parser.add_argument("--backend", action="append", default=[], choices=BACKENDS, help="to ask, else each (repeat)")
    parser.add_argument("--suite", default="trixie", help="Debian's release")
    parser.add_argument("--mirror", metavar="URL", help="of Debian's packages; else debootstrap's choice")
    options = parser.parse_args()
    if missing := missing_tools():
        sys.stderr.write(f"arm64: {', '.join(TOOLS)} are needed; run: apt-get install {' '.join(missing)}\n")
        sys.exit(3)
    root = make_root(options.root, suite=options.suite, mirror=options.mirror)
    os.environ["MMKD_WHEEL"] = "aarch64"
    with tempfile.TemporaryDirectory() as folder:
        install(root, f"{wheel_of(CHECKOUT, Path(folder))}[{','.join(EXTRAS)}]")
    bundles = [example_bundle(), *options.bundle]
    there, here = asked_there(root, bundles, options.backend), asked_here(bundles, options.backend)
    print(table(there, here))
    if faults := faults_of(there, here):
        sys.exit("\n".join(faults))


def asked_there(root: Root, bundles: Sequence[Path], backends: Sequence[str]) -> MachineAnswers:
    """What the root makes of the bundles; of no backends it asks all."""
    work = root.folder / "srv"
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(root.folder / "root", ignore_errors=True)  # and what an earlier call remembered
    (root.folder / "root").mkdir()
    work.mkdir()
    for path in (Path(answers.__file__), *bundles):
        shutil.copy(path, work)
    names = [f"/srv/{path.name}" for path in bundles]
    line = [*_words(backends), *names]
    return msgspec.json.decode(root.python("/srv/answers.py", *line), type=MachineAnswers)


def asked_here(bundles: Sequence[Path], backends: Sequence[str]) -> MachineAnswers:
    """What this machine makes of them."""
    line = [sys.executable, answers.__file__, *_words(backends), *map(str, bundles)]
    return msgspec.json.decode(subprocess.run(line, stdout=subprocess.PIPE, check=True).stdout, type=MachineAnswers)


def _words(backends: Sequence[str]) -> list[str]:
    return ["--slow", str(SLOWER), *(word for name in backends for word in ("--backend", name))]


def table(there: MachineAnswers, here: MachineAnswers) -> str:
    """Both machines, way by way, and the damaged files."""
    lines = [
        f"{there.machine}, Python {there.python}; beside it {here.machine}, Python {here.python}",
        "",
        head("bundle", "engine", "precision", "self-test, windows", "its error", "tolerance",
             "windows against x86-64", "stream against x86-64", texts=3),
    ]  # fmt: skip
    for way in there.ways:
        engine = way.version or way.backend
        if way.selftest is None:
            lines.append(row(way.bundle, engine, way.precision, "-", "-", "-", "-", "-"))
            continue
        windows, streamed = (
            "not run there" if difference is None else f"{difference:.1e}" for difference in differences(way, here)
        )
        test = way.selftest
        cells = (test.windows, f"{test.max_abs_error:.1e}", f"{test.tolerance:g}", windows, streamed)
        lines.append(row(way.bundle, engine, way.precision, *cells))
    damaged = [f"{name} {refused} of {offered}" for name, (offered, refused) in there.damaged.items()]
    refusals = [f"{way.bundle}, {way.precision}: {way.refusal}" for way in there.ways if way.refusal]
    return "\n".join([*lines, "", *refusals, f"damaged copies refused with exit code 6: {', '.join(damaged)}"])


def differences(way: EmulatedWay, here: MachineAnswers) -> tuple[float | None, float | None]:
    """The largest differences of a probability from the same way here, of windows and of a stream."""
    same = [
        one for one in here.ways if (one.bundle, one.backend, one.precision) == (way.bundle, way.backend, way.precision)
    ]
    if not same or same[0].selftest is None:
        return None, None
    return _largest(way.probabilities, same[0].probabilities), _largest(way.streamed, same[0].streamed)


def _largest(one: list[list[float]], other: list[list[float]]) -> float:
    return float(np.abs(np.subtract(one, other)).max())


def faults_of(there: MachineAnswers, here: MachineAnswers) -> list[str]:
    """What is not as it should be."""
    found = []
    for way in there.ways:
        if way.failed:
            found.append(f"arm64: {way.bundle} in {way.backend}, {way.precision}: {way.refusal}")
        if way.selftest is None:
            continue
        for what, difference in zip(("a window", "a stream"), differences(way, here), strict=True):
            if difference is not None and not difference <= way.selftest.tolerance:
                found.append(
                    f"arm64: {way.bundle} in {way.backend}, {way.precision}: {what}: expected the answer of this "
                    f"machine within {way.selftest.tolerance:g}, got a difference of {difference:.1e}"
                )
    for name, (offered, refused) in there.damaged.items():
        if refused != offered:
            found.append(f"arm64: {name}: expected {offered} damaged copies refused, got {refused}")
    return found


if __name__ == "__main__":
    main()
