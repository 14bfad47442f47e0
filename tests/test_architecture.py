"""Which package may import what, read from the code itself and tried in fresh interpreters."""

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from mmkd_edge.backends.base import BACKENDS

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "mmkd_app": ROOT / "app" / "mmkd_app",
    "mmkd_bench": ROOT / "benchmarks" / "mmkd_bench",
    "mmkd_documents": ROOT / "documents" / "mmkd_documents",
    "mmkd_edge": ROOT / "mmkd_edge",
    "mmkd_export": ROOT / "export" / "mmkd_export",
    "mmkd_models": ROOT / "models" / "mmkd_models",
    "mmkd_station": ROOT / "station" / "mmkd_station",
}
MAY_IMPORT = {
    "mmkd_app": set(PACKAGES),
    "mmkd_bench": {"mmkd_edge", "mmkd_documents"},
    "mmkd_documents": set[str](),
    "mmkd_edge": set[str](),
    "mmkd_export": {"mmkd_edge", "mmkd_models", "mmkd_documents"},
    "mmkd_models": {"mmkd_edge", "mmkd_documents"},
    "mmkd_station": {"mmkd_edge"},
}
# The root of errors is for everybody.
ROOT_OF_ERRORS = "mmkd_documents.errors"
# What a module may import while it is being imported, the standard library and the project aside.
AT_THE_TOP = {
    "mmkd_app": {"numpy", "msgspec", "typer", "rich", "torch"},
    "mmkd_bench": {"numpy", "msgspec", "psutil"},
    "mmkd_documents": {"msgspec"},
    "mmkd_edge": {"numpy", "msgspec"},
    "mmkd_export": {"numpy", "msgspec"},
    "mmkd_models": {"numpy", "msgspec", "torch", "safetensors", "lightning", "lightning_fabric"},
    "mmkd_station": {"numpy", "msgspec"},
}
HEIRS = {"mmkd_app/estimators.py": "sklearn"}  # their classes inherit from a library's
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
BLOCKED = ("torch", "onnx", "onnxruntime", "openvino", "cv2")
MOST_MODULES = 15

FILES = [(package, path) for package, folder in PACKAGES.items() for path in sorted(folder.rglob("*.py"))]
FOLDERS = sorted({path.parent for _, path in FILES})


def label(path):
    """`mmkd_bench/rivals.py`: a file as its package sees it."""
    folder = next(folder for folder in PACKAGES.values() if folder in (path, *path.parents))
    return path.relative_to(folder.parent).as_posix()


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path):
    """The first part of each imported name, and whether importing the module is enough to import it."""

    def walk(node, at_the_top):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name.split(".")[0], at_the_top, child
            elif isinstance(child, ast.ImportFrom):
                yield (child.module or "").split(".")[0], at_the_top, child
            elif not isinstance(child, ast.expr):  # none imports
                late = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                late = late or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING")
                yield from walk(child, at_the_top and not late)

    return list(walk(tree_of(path), True))


def strays(package, path):
    for name, at_the_top, node in imports(path):
        where = f"{label(path)}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{where}: a relative import"
        elif name in PACKAGES:
            is_root = isinstance(node, ast.ImportFrom) and node.module == ROOT_OF_ERRORS
            if not (name == package or name in MAY_IMPORT[package] or is_root):
                yield f"{where}: {package} may not import {name}"
        elif at_the_top and name not in sys.stdlib_module_names | AT_THE_TOP[package] | {HEIRS.get(label(path))}:
            yield f"{where}: {name} is imported at the top, not inside the function that uses it"


def test_a_module_imports_only_what_its_package_may():
    assert [stray for package, path in FILES for stray in strays(package, path)] == []


def test_one_place_imports_onnxruntime_and_one_makes_openvinos_root_object():
    # The first must be told before its import that it reports nothing over the network.
    found = [label(path) for _, path in FILES for name, _, _ in imports(path) if name == "onnxruntime"]
    assert found == ["mmkd_edge/backends/ort.py"]
    # A second root object makes the next signal a crash on processors with AMX: mmkd_edge/backends/openvino.py.
    files = [path for _, path in FILES] + sorted((ROOT / "benchmarks" / "checks").rglob("*.py"))
    assert [path.name for path in files if ".Core()" in path.read_text(encoding="utf-8")] == ["openvino.py"]


def test_a_station_opens_no_bundle_and_runs_no_engine_but_by_the_predictor():
    files = [path for package, path in FILES if package == "mmkd_station"]
    found = {
        node.module
        for path in files
        for name, _, node in imports(path)
        if name == "mmkd_edge" and isinstance(node, ast.ImportFrom) and node.module
    }
    files = {f"mmkd_edge{part}" for part in ("", ".errors", ".frames", ".machine", ".outputs", ".shadow", ".spec")}
    values = ("bundle.manifest", "health.monitor", "predict.postprocess", "predict.sensors")
    assert found == files | {f"mmkd_edge.{part}" for part in (*values, "stream.stream")}


def test_a_new_source_or_sink_touches_its_file_and_the_table_alone():
    shared = {f"mmkd_station.protocols.{name}" for name in ("base", "broker", "http", "samples", "table")}
    protocols = {name for name in module_graph() if name.startswith("mmkd_station.protocols.")} - shared
    importers = {module for module, targets in module_graph().items() if targets & protocols}
    assert (len(protocols) >= 7, importers) == (True, {"mmkd_station.protocols.table"})


def module_of(path):
    """`mmkd_edge.predict.student`; of an `__init__.py` its folder."""
    return ".".join(Path(label(path)).with_suffix("").parts).removesuffix(".__init__")


@cache
def module_graph():
    """Every module of the packages, and those that it imports anywhere, for types alone too."""
    paths = {module_of(path): path for _, path in FILES}
    return {name: frozenset(modules_imported(path, paths)) - {name} for name, path in paths.items()}


def modules_imported(path, known):
    for _, _, node in imports(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in names if {name, node.module} & known.keys())


def below(graph, start):
    found, waiting = set[str](), list(graph[start] - {start})
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(graph[node] - {node})
    return found


def room_of(module):
    """The first folder below the package, with all that is in it; a module of the package's own is a room."""
    return ".".join(module.split(".")[:2])


def on_circles(graph):
    """Every node from which a way of two steps or more leads back to it."""
    return sorted(node for node in graph if node in below(graph, node))


def import_graphs(package):
    own = {module for module in module_graph() if module.split(".")[0] == package}
    files = {module: set(module_graph()[module] & own) for module in own}
    rooms = {}
    for module, targets in files.items():
        rooms.setdefault(room_of(module), set()).update(room_of(target) for target in targets)
    return files, rooms


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_no_import_goes_round_in_a_circle(package):
    files, rooms = import_graphs(package)
    assert (on_circles(files), on_circles(rooms)) == ([], [])


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_room_imports_only_rooms_above_it_in_the_architecture(package):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition(f"### `{package}`\n")[2].partition("\n#")[0]
    rows = [re.findall(r"`(\w+)/?`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    graph = {room.partition(".")[2]: targets for room, targets in import_graphs(package)[1].items()}
    rooms = {room for row in rows for room in row if room in graph}
    above, wrong = set[str](), []
    for row in rows:
        above.update(row)
        for room in row:
            below_it = {target.partition(".")[2] for target in graph[room]} & rooms - above
            wrong += [(room, sorted(below_it))] if below_it else []
    assert wrong == []


def test_a_folder_is_a_room_of_few_modules_without_a_prefix_for_three():
    for folder in FOLDERS:
        names = sorted(path.stem for path in folder.glob("*.py"))
        prefixes = Counter(name.split("_")[0] for name in names if name != "__init__")
        shared = sorted(prefix for prefix, count in prefixes.items() if len(prefix) >= 4 and count >= 3)
        assert (len(names) <= MOST_MODULES, shared) == (True, []), folder


def backend_comparisons(path):
    """Where a file compares with the name of a backend, or asks whether something is one."""
    for node in ast.walk(tree_of(path)) if "ackend" in path.read_text(encoding="utf-8") else ():
        if isinstance(node, ast.Compare):
            texts = {side.value for side in (node.left, *node.comparators) if isinstance(side, ast.Constant)}
            found = bool(texts & set(BACKENDS)) and "backend" in ast.unparse(node)
        else:
            found = isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
            found = found and ast.unparse(node.args[1]).endswith("Backend")  # type: ignore[attr-defined]
        if found:
            yield f"{label(path)}:{node.lineno}"  # type: ignore[attr-defined]


def test_nobody_but_the_table_asks_which_backend_this_is():
    assert [found for _, path in FILES for found in backend_comparisons(path)] == []


def test_no_file_has_a_name_that_says_nothing_or_by_which_pytest_takes_it_for_tests():
    assert [label(path) for _, path in FILES if BANNED_NAMES & {*path.relative_to(ROOT).parts, path.stem}] == []
    assert [label(path) for _, path in FILES if re.search(r"^test_|_test$", path.stem)] == []


def test_only_the_app_prints():
    silent = [path for name, path in FILES if name != "mmkd_app" and "print(" in path.read_text("utf-8")]
    calls = [(path, node.func) for path in silent for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    assert [label(path) for path, called in calls if isinstance(called, ast.Name) and called.id == "print"] == []


IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
package, blocked = sys.argv[1], sys.argv[2].split(",")
for name in blocked:
    sys.modules[name] = None
top = importlib.import_module(package)
for module in pkgutil.walk_packages(top.__path__, package + "."):
    importlib.import_module(module.name)
print(*sorted({name.split(".")[0] for name, module in sys.modules.items() if module is not None}))
"""


def imported_by(package, blocked):
    """What is imported, first name parts, after every module of the package was, in a fresh interpreter."""
    command = [sys.executable, "-c", IMPORT_EVERYTHING, package, ",".join(blocked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_a_device_can_import_everything_without_heavy_libraries():
    assert "mmkd_bench" in imported_by("mmkd_bench", BLOCKED)


def test_the_runtime_needs_numpy_and_msgspec_alone():
    # What the interpreter itself imports at start (an editable install's finder, for one) is there without us too.
    code = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    start = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = imported_by("mmkd_edge", ("typer", "rich", "psutil", *BLOCKED))
    # typing_extensions: msgspec imports it where it is installed, and does without where not.
    known = {"mmkd_edge", "mmkd_documents", "numpy", "msgspec", "typing_extensions", "__mp_main__"}
    assert found - sys.stdlib_module_names - set(start.stdout.split()) <= known


IMPORT_RUNTIME = """
import sys
before = set(sys.modules)
import mmkd_edge
assert set(sys.modules) - before == {"mmkd_edge"}  # so that a command answers at once
import numpy, msgspec
before = set(sys.modules)
from mmkd_edge import EdgePredictor, example_bundle
if "answer" in sys.argv:
    EdgePredictor.open(example_bundle(), backend="native", selftest=False).predict(numpy.zeros((200, 3)))
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("until", ["import", "answer"])
@pytest.mark.usefixtures("native_engine")
def test_the_runtime_loads_no_engine_and_nothing_slow_up_to_its_first_answer(until):
    done = subprocess.run([sys.executable, "-c", IMPORT_RUNTIME, until], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.split())
    assert ("mmkd_edge.predictor" in found, "mmkd_edge.native" in found) == (True, until == "answer")
    assert not {"onnxruntime", "openvino", "ai_edge_litert", "mmkd_edge.backends.ort"} & found
    # Milliseconds each. Data classes are built by compiling text: half a millisecond for each, a Struct takes 10 us.
    slow = {"asyncio", "concurrent.futures", "dataclasses", "email", "importlib.metadata", "json", "logging", "zipfile"}
    assert not (slow | {"fractions", "mmkd_edge.derive", "mmkd_edge.install.slots", "subprocess"}) & found


def test_what_answers_a_window_holds_no_timer():
    timed = ("perf_counter", "process_time", "thread_time")
    files = [path for room in ("predict", "backends") for path in sorted((ROOT / "mmkd_edge" / room).rglob("*.py"))]
    assert [path.name for path in files if any(one in path.read_text(encoding="utf-8") for one in timed)] == []


def test_tests_import_no_private_names():
    private = [
        f"{path.relative_to(ROOT)}: {name.name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmkd_")
        for name in node.names
        if name.name.startswith("_")
    ]
    assert private == []
