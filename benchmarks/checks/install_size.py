"""What an installation puts on a disk, beside the engine alone: packages, size, time to install and to import.

    python benchmarks/checks/install_size.py
    python benchmarks/checks/install_size.py --extra ort --extra openvino --extra litert --repeats 0

Each row is installed by pip into an empty folder, for this machine's Python, from the registry that pip knows; the
project's own wheel is built from this checkout. Size is the sum of the files, without compiled caches. The time is the
median of fresh interpreters, less that of an interpreter that imports nothing; `--repeats 0` leaves it out.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from checks.script import head, row, script_parser

ROOT = Path(__file__).parents[2]
_MEGABYTE = 1e6


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What one call of pip brought; `own_bytes` are those in `mmkd_*` folders."""

    size_bytes: int
    own_bytes: int
    packages: Sequence[str]


def main() -> None:
    """Install, weigh, import and print a table."""
    parser = script_parser(__doc__)
    parser.add_argument("--extra", action="append", metavar="NAME", help="else ort (repeat)")
    parser.add_argument("--repeats", type=int, default=11, help="interpreters that are started for each import")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel = wheel_of(ROOT, Path(folder) / "wheel")
        rows = [("onnxruntime alone", "onnxruntime", "onnxruntime"), ("mmkd-edge", str(wheel), "mmkd_edge.predictor")]
        rows += [
            (f"mmkd-edge[{extra}]", f"{wheel}[{extra}]", "mmkd_edge.predictor") for extra in options.extra or ["ort"]
        ]
        print(head("installed", "packages", "MB", "of it mmkd_*, MB", "install, s", "import, ms"))
        for number, (name, requirement, module) in enumerate(rows):
            target = Path(folder) / str(number)
            begun_s = time.monotonic()
            pip("install", "--target", target, "--no-compile", "--no-warn-conflicts", requirement)
            install_s, found = time.monotonic() - begun_s, weigh(target)
            import_ms = f"{import_time_ms(target, module, options.repeats):.0f}" if options.repeats else "-"
            size, own = found.size_bytes / _MEGABYTE, found.own_bytes / _MEGABYTE
            print(row(name, len(found.packages), f"{size:.1f}", f"{own:.1f}", f"{install_s:.0f}", import_ms))
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
