"""Writes `trt_names.json`: which names that `mmkd_export/trt.py` uses are in TensorRT's published Python bindings.

TensorRT needs a GPU to run, but an API that a version lacks can be found without one: every name of the bindings stands
in their shared object, ended by a NUL. Run it again after a change of `trt.py`:

    pip download --no-deps tensorrt-cu12-bindings==10.3.0 tensorrt-cu13-bindings -d wheels
    python tests/export/read_trt_names.py wheels/tensorrt_*.whl
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
NAMES_FILE = HERE / "trt_names.json"
SOURCE = HERE.parents[1] / "export" / "mmkd_export" / "trt.py"

# Variables of trt.py that hold objects of the library.
_LIBRARY_OBJECTS = {"module", "builder", "network", "parser", "config", "profile", "cache", "severity"}


def used_names(source: str) -> list[str]:
    """Every attribute that `trt.py` reads from an object of the library, its nested classes included."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and _root(node) in _LIBRARY_OBJECTS:
            names.add(node.attr)
    return sorted(names - {"__init__", "__name__", "__version__"})


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def present_names(shared_object: bytes, names: list[str]) -> list[str]:
    """Those of the names that the shared object holds, whole or as the end of a longer string."""
    return [name for name in names if name.encode() + b"\0" in shared_object]


def _main(wheels: list[str]) -> None:
    names = used_names(SOURCE.read_text())
    found = {}
    for wheel in sorted(wheels):
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith("/tensorrt.so")]
            present = present_names(archive.read(member), names)
        digest = hashlib.sha256(Path(wheel).read_bytes()).hexdigest()
        found[Path(wheel).name] = {"sha256": digest, "names": present}
    NAMES_FILE.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1:])
