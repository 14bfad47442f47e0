"""Writes `trt_names.json`: which names of TensorRT and CUDA that we use are in their published Python bindings.

TensorRT needs a GPU to run, but an API that a version lacks can be found without one: every name of the bindings stands
in their shared object, ended by a NUL. Run it again after a change of the files below:

    pip download --no-deps tensorrt-cu12-bindings==10.3.0 tensorrt-cu13-bindings cuda-python==12.6.2.post1 -d wheels
    python tests/export/read_trt_names.py wheels/*.whl
"""

import ast
import hashlib
import json
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
NAMES_FILE = HERE / "trt_names.json"
RUNTIME = HERE.parents[1] / "mmkd_edge"
SOURCES = tuple(RUNTIME / "backends" / "trt" / f"{name}.py" for name in ("build", "cuda", "backend"))

# Variables there that hold objects of TensorRT, and of cuda-python.
TENSORRT_OBJECTS = frozenset(
    {"module", "builder", "network", "parser", "config", "profile", "cache", "severity", "loader", "engine", "context"}
)
CUDA_OBJECTS = frozenset({"runtime"})
_PYTHONS_OWN = {"__init__", "__name__", "__version__"}


def used_names(source, *, of):
    """Every attribute that a source reads from the variables `of`, those of their attributes included."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and _root(node) in of:
            names.add(node.attr)
    return sorted(names - _PYTHONS_OWN)


def names_of(*, cuda):
    """What the sources use of cuda-python, or of TensorRT."""
    found, of = set(), CUDA_OBJECTS if cuda else TENSORRT_OBJECTS
    for path in SOURCES:
        found.update(used_names(path.read_text(), of=of))
    return sorted(found)


def _root(node):
    """The variable whose attribute, or whose attribute's attribute, this is: `x` of `x.a.b`, and of `self._x.a`."""
    names = []
    inner = node
    while isinstance(inner, ast.Attribute):
        names.append(inner.attr)
        inner = inner.value
    if not isinstance(inner, ast.Name):
        return ""
    return names[-1].removeprefix("_") if inner.id == "self" and len(names) > 1 else inner.id


def present_names(shared_object, names):
    """Those of the names that the shared object holds, whole or as the end of a longer string."""
    return [name for name in names if name.encode() + b"\0" in shared_object]


def _main(wheels):
    found = {}
    for wheel in sorted(wheels):
        cuda = Path(wheel).name.startswith("cuda")
        start, names = "cuda/bindings/runtime." if cuda else "tensorrt", names_of(cuda=cuda)
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [
                name
                for name in archive.namelist()
                if name.startswith(start) and name.endswith(".so" if cuda else "/tensorrt.so")
            ]
            present = present_names(archive.read(member), names)
        found[Path(wheel).name] = {"sha256": hashlib.sha256(Path(wheel).read_bytes()).hexdigest(), "names": present}
    NAMES_FILE.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1:])
