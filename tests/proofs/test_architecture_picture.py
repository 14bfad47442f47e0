"""The picture and the tables of docs/architecture.md say what the code imports."""

from __future__ import annotations

import re

import pytest

from proofs.architecture_picture import package_arrows, picture
from proofs.import_graph import PACKAGES, ROOT, module_of, room_graph

DOCS = ROOT / "docs"


def test_the_picture_is_drawn_from_the_code() -> None:
    drawn = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == picture(), "run: python benchmarks/proofs/architecture_picture.py > docs/architecture.svg"


def test_the_arrows_are_those_of_the_page() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(mmkd_\w+) +-> (.*)$", page, flags=re.MULTILINE)
    told = {(name, target.split(".")[0]) for name, targets in lines for target in targets.split(", ")}
    assert {arrow for arrow in told if arrow[1] in PACKAGES} == set(package_arrows())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_imports_only_rooms_above_it_in_its_table(package: str) -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = page.partition(f"### `{package}`\n")[2].partition("\n#")[0]
    rows = [re.findall(r"`(\w+)/?`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    above, graph, wrong = set[str](), room_graph(package), []
    rooms = {room for row in rows for room in row if room in graph}
    for row in rows:
        above.update(row)
        wrong += [(room, sorted(graph[room] & rooms - above)) for room in row if graph.get(room, rooms) & rooms - above]
    assert wrong == []


def test_a_folder_is_the_module_of_its_init() -> None:
    assert module_of("export/mmkd_export/graph/__init__.py") == "mmkd_export.graph"
    assert module_of("mmkd_edge/spec.py") == "mmkd_edge.spec"
