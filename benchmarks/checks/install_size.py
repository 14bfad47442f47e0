"""What the runtime puts on a disk, beside the engine alone: packages, size, and time to import.

    python benchmarks/checks/install_size.py
    python benchmarks/checks/install_size.py --extra ort --extra openvino --extra litert --repeats 0
    python benchmarks/checks/install_size.py --resolve

Each row is installed by pip into an empty folder, for this machine's Python, from the registry that pip knows; the
project's own wheel is built from this checkout. Size is the sum of the files, without compiled caches. The time is the
median of fresh interpreters, less that of an interpreter that imports nothing; `--repeats 0` leaves it out.
`--resolve` installs nothing: it asks pip which distributions every extra would bring, alone and all of them together,
to every Python from 3.10 to 3.13 on PATH.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from checks.script import head, parser_of, row

ROOT = Path(__file__).parents[2]
_MEGABYTE = 1e6


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What one call of pip brought.

    Attributes:
        size_bytes: of all files.
        own_bytes: of those in `mmkd_*` folders.
        packages: names of the distributions, the project's own among them.
    """

    size_bytes: int
    own_bytes: int
    packages: Sequence[str]


def main() -> None:
    """Install, weigh, import and print a table."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--extra", action="append", metavar="NAME", help="else ort, and with --resolve each that there is (repeat)"
    )
    parser.add_argument("--repeats", type=int, default=11, help="interpreters that are started for each import")
    parser.add_argument("--resolve", action="store_true", help="count what each extra brings, and install nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel = wheel_of(ROOT, Path(folder) / "wheel")
        if options.resolve:
            print_resolved(wheel, options.extra)
            return
        rows = [("onnxruntime alone", "onnxruntime", "onnxruntime"), ("mmkd-edge", str(wheel), "mmkd_edge.predictor")]
        rows += [
            (f"mmkd-edge[{extra}]", f"{wheel}[{extra}]", "mmkd_edge.predictor") for extra in options.extra or ["ort"]
        ]
        print(head("installed", "packages", "MB", "of it mmkd_*, MB", "import, ms"))
        for number, (name, requirement, module) in enumerate(rows):
            target = Path(folder) / str(number)
            pip("install", "--target", target, "--no-compile", "--no-warn-conflicts", requirement)
            found = weigh(target)
            import_ms = f"{import_time_ms(target, module, options.repeats):.0f}" if options.repeats else "-"
            size, own = found.size_bytes / _MEGABYTE, found.own_bytes / _MEGABYTE
            print(row(name, len(found.packages), f"{size:.1f}", f"{own:.1f}", import_ms))
            print(f"{name}: {', '.join(found.packages)}", file=sys.stderr)


def pip(*arguments: object) -> None:
    """Runs pip and ends the program with what it says where it fails."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"pip {arguments[0]} failed; see above")


def wheel_of(root: Path, folder: Path) -> Path:
    """The project's wheel, built from its checkout."""
    pip("wheel", "--no-deps", "--wheel-dir", folder, root)
    (path,) = folder.glob("*.whl")
    return path


def print_resolved(wheel: Path, asked: Sequence[str] | None) -> None:
    """A row for each extra alone, and one for all together; a column for each Python. None asked for are all."""
    pythons = pythons_here()
    names = asked or extras_of(wheel)
    print(head("extra", *(f"Python {version}" for version in pythons)))
    together = ",".join(name for name in names if name != "docs")  # which Python 3.10 cannot have
    for name, extras in (*((one, one) for one in names), ("all but docs together", together)):
        counts = [counted(f"{wheel}[{extras}]", python) for python in pythons.values()]
        print(row(name, *counts), flush=True)


def pythons_here() -> dict[str, str]:
    """The Pythons from 3.10 to 3.13 that are on PATH and run, by their versions."""
    found = {}
    for minor in range(10, 14):
        name = shutil.which(f"python3.{minor}")
        program = "import platform, sys; print(platform.python_version(), sys.executable)"
        done = name and subprocess.run([name, "-c", program], capture_output=True, text=True, check=False)
        if done and done.returncode == 0:
            version, path = done.stdout.strip().split(" ", 1)
            found[version] = path
    return found


def counted(requirement: str, python: str) -> int | str:
    """How many distributions pip would install; "none" where it finds no wheels that go together."""
    try:
        return len(resolved(requirement, python=python))
    except LookupError as error:
        sys.stderr.write(f"{error}\n")
        return "none"


def extras_of(wheel: Path) -> tuple[str, ...]:
    """The extras that a wheel offers, in its own order."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    return tuple(re.findall(r"^Provides-Extra: (\S+)$", text, flags=re.MULTILINE))


def resolved(requirement: str, *, python: str = sys.executable) -> dict[str, str]:
    """The distributions that pip would install into an empty environment of a Python, name to version.

    Raises:
        LookupError: pip finds none that go together; the message is its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        line = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python, "install"]
        line += ["--dry-run", "--ignore-installed", "--prefer-binary", "--report", str(report), requirement]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LookupError(done.stderr.strip())
        document = json.loads(report.read_bytes())
    return {entry["metadata"]["name"]: entry["metadata"]["version"] for entry in document["install"]}


def weigh(folder: Path) -> Installed:
    """Size and distributions of a folder that pip installed into."""
    sizes = {path.relative_to(folder).parts: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return Installed(
        size_bytes=sum(sizes.values()),
        own_bytes=sum(size for parts, size in sizes.items() if parts[0].startswith("mmkd_") and len(parts) > 1),
        packages=sorted(path.name.partition("-")[0] for path in folder.glob("*.dist-info")),
    )


def import_time_ms(folder: Path, module: str, repeats: int) -> float:
    """Median milliseconds that importing a module adds to a fresh interpreter."""
    with_it, without = (
        statistics.median(_run_ms(folder, program) for _ in range(repeats)) for program in (f"import {module}", "pass")
    )
    return with_it - without


def _run_ms(folder: Path, program: str) -> float:
    # -S -s: neither this machine's packages nor the user's; PYTHONPATH has the folder alone.
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-S", "-s", "-c", program], env=os.environ | {"PYTHONPATH": str(folder)}, check=True
    )
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
