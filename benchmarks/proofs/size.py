"""How much code there is: lines of each package, and of each of its rooms, by what they hold.

    python benchmarks/proofs/size.py
    python benchmarks/proofs/size.py --rooms

`code` is what is left of the lines without blank ones, docstrings, comments of their own and imports.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from proofs.script import head, parser_of, row

ROOT = Path(__file__).parents[2]
PACKAGES = ("mmkd_edge", "models/mmkd_models", "export/mmkd_export", "benchmarks/mmkd_bench", "reports/mmkd_report")
OTHERS = ("benchmarks/proofs", "examples", "tests")
KINDS = ("files", "lines", "blank", "docstrings", "comments", "imports", "code")


def main() -> None:
    """Print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--rooms", action="store_true", help="a row for each room of the packages, the largest first")
    options = parser.parse_args()
    print(head("folder", *KINDS))
    packages = {name: counts_of(ROOT / name) for name in PACKAGES}
    if options.rooms:
        rooms = {f"{name}/{room}": found for name in PACKAGES for room, found in rooms_of(ROOT / name).items()}
        packages = dict(sorted(rooms.items(), key=lambda each: -each[1]["lines"]))
    everything = sum(packages.values(), Counter())
    for name, found in {
        **packages,
        "**all packages**": everything,
        **{name: counts_of(ROOT / name) for name in OTHERS},
    }.items():
        print(row(name, *(f"{found[kind]:,}" for kind in KINDS)))


def rooms_of(package: Path) -> dict[str, Counter[str]]:
    """What each folder of a package has; files that stand in none are its `.`."""
    found: dict[str, Counter[str]] = {}
    for path in package.rglob("*.py"):
        inner = path.relative_to(package).parts
        room = inner[0] if len(inner) > 1 else "."
        found[room] = found.get(room, Counter()) + counts_in(path.read_text(encoding="utf-8"))
    return found


def counts_of(folder: Path) -> Counter[str]:
    """What all files below a folder have together."""
    return sum((counts_in(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")), Counter())


def counts_in(text: str) -> Counter[str]:
    """What one file has."""
    lines, tree = text.splitlines(), ast.parse(text)
    texts, imports = set[int](), set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= _places(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            texts |= _places(node)
    blank = {number for number, line in enumerate(lines, 1) if not line.strip()}
    comments = {number for number, line in enumerate(lines, 1) if line.lstrip().startswith("#")} - texts
    parts = {"blank": blank, "docstrings": texts - blank, "comments": comments, "imports": imports - comments}
    counts = {name: len(places) for name, places in parts.items()}
    return Counter({"files": 1, "lines": len(lines), "code": len(lines) - sum(counts.values()), **counts})


def _places(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


if __name__ == "__main__":
    main()
