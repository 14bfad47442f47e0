"""Who imports whom, read from the code: by module, and by room, a folder of a package with all that is in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES: Mapping[str, str] = {
    "mmkd_edge": "mmkd_edge",
    "mmkd_models": "models/mmkd_models",
    "mmkd_export": "export/mmkd_export",
    "mmkd_bench": "benchmarks/mmkd_bench",
    "mmkd_report": "reports/mmkd_report",
}
"""Every package and its folder."""
Graph = Mapping[str, Set[str]]


def module_of(file: str) -> str:
    """`mmkd_edge.predict.engine`, of a path below the project's root; of an `__init__.py` its folder."""
    parts = Path(file).with_suffix("").parts
    start = next(at for at, part in enumerate(parts) if part in PACKAGES)
    return ".".join(parts[start:]).removesuffix(".__init__")


@cache
def module_graph() -> Graph:
    """Every module of the packages, and those that it imports anywhere, for types alone too."""
    paths = {module_of(str(path.relative_to(ROOT))): path for path in _files()}
    return {name: frozenset(_imported(path, paths)) - {name} for name, path in paths.items()}


def _files() -> Iterator[Path]:
    for folder in PACKAGES.values():
        yield from sorted((ROOT / folder).rglob("*.py"))


def _imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in names if {name, node.module} & known.keys())


def room_graph(package: str) -> Graph:
    """Every folder and module right below a package, and those of them that it imports."""
    rooms: dict[str, set[str]] = {}
    for name, targets in module_graph().items():
        if name.startswith(f"{package}."):
            inside = {target.split(".")[1] for target in targets if target.startswith(f"{package}.")}
            rooms.setdefault(name.split(".")[1], set()).update(inside)
    return {room: frozenset(targets - {room}) for room, targets in rooms.items()}


def below(graph: Graph, start: str) -> set[str]:
    """Everything that a node imports, directly or through others; itself where the way comes back."""
    found, waiting = set[str](), list(graph[start] - {start})
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(graph[node] - {node})
    return found
