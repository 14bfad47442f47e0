"""The picture of docs/architecture.md, drawn from the code: packages, their rooms, and who imports whom.

    python benchmarks/proofs/architecture_picture.py > docs/architecture.svg

A box in a package is one of its folders; beside it stand those that it imports, without what these import themselves.
An arrow goes from a package to one that it imports; what only commands and other joiners import, inside functions, has
none.
"""

from __future__ import annotations

from collections.abc import Iterator

from proofs.import_graph import PACKAGES, ROOT, below, module_graph, room_graph
from proofs.script import parser_of

GRID = (("mmkd_export", None), ("mmkd_models", "mmkd_bench"), ("mmkd_edge", "mmkd_report"))
"""Where packages stand: those that import above those that are imported."""
LEFT, WIDTH, GAP, TOP, STEP = 44, 470, 60, 66, 24
LABEL = "Packages, their rooms, and who imports whom"
STYLE = """  <style>
    .sheet { fill: #ffffff } .package { fill: #f3f5f8; stroke: #5b6b7d } .room { fill: #ffffff; stroke: #9aa7b5 }
    text { font: 13px system-ui, sans-serif; fill: #1d2733 } .title { font-weight: 700; font-size: 15px }
    .what { fill: #51606f } .name { text-anchor: middle }
    .arrow { fill: none; stroke: #1d2733; stroke-width: 1.5; marker-end: url(#tip) }
  </style>
  <defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">\
<path d="M0 0 L8 4 L0 8 z" fill="#1d2733"/></marker></defs>"""
JOINERS = {"commands", "demo", "turns"}
"""Rooms that may join packages, inside functions; tests/test_architecture.py holds every other room to its package."""


def picture() -> str:
    """The whole drawing."""
    rooms = {package: stands_on(package) for package in PACKAGES}
    heights = [max(TOP + STEP * len(rooms[one]) for one in row if one) for row in GRID]
    tops = [20 + sum(heights[:number]) + GAP * number for number in range(len(GRID))]
    width, height = 2 * (LEFT + WIDTH) + GAP, tops[-1] + heights[-1] + 20
    corners = {
        package: (LEFT + column * (WIDTH + GAP), tops[number], heights[number])
        for number, row in enumerate(GRID)
        for column, package in enumerate(row)
        if package
    }
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{LABEL}">',
        STYLE,
        f'  <rect class="sheet" width="{width}" height="{height}"/>',
    ]
    for package, corner in corners.items():
        lines.extend(drawn_package(package, rooms[package], corner))
    lines.extend(drawn_arrows(corners))
    return "\n".join([*lines, "</svg>", ""])


def stands_on(package: str) -> dict[str, list[str]]:
    """The folders of a package, whoever imports above what it imports, each with those that it stands on."""
    graph = room_graph(package)
    folders = [room for room in graph if (ROOT / PACKAGES[package] / room).is_dir()]
    reached = {room: below(graph, room) & set(folders) for room in folders}
    nearest = {room: _without_implied(reached, room) for room in folders}
    return {room: nearest[room] for room in sorted(folders, key=lambda room: (-len(reached[room]), room))}


def _without_implied(reached: dict[str, set[str]], room: str) -> list[str]:
    implied = set[str]().union(*(reached[other] for other in reached[room]))
    return sorted(reached[room] - implied)


def drawn_package(package: str, rooms: dict[str, list[str]], corner: tuple[int, int, int]) -> Iterator[str]:
    """A box for the package, a line for each of its rooms."""
    x, y, height = corner
    yield f'  <rect class="package" x="{x}" y="{y}" width="{WIDTH}" height="{height}" rx="8"/>'
    yield f'  <text x="{x + 14}" y="{y + 24}" class="title">{package}</text>'
    yield f'  <text x="{x + 14}" y="{y + 43}" class="what">{purpose_of(package)}</text>'
    for number, (room, others) in enumerate(rooms.items()):
        top = y + 54 + STEP * number
        yield f'  <rect class="room" x="{x + 14}" y="{top}" width="110" height="20" rx="4"/>'
        yield f'  <text x="{x + 69}" y="{top + 15}" class="name">{room}</text>'
        if others:
            yield f'  <text x="{x + 134}" y="{top + 15}" class="what">on {", ".join(others)}</text>'


def purpose_of(package: str) -> str:
    """What the table of the page says that a package is for."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{package}` |"))
    return row.split("|")[3].strip().replace("`", "")


def package_arrows() -> list[tuple[str, str]]:
    """Which package imports which, what only joins packages aside."""
    found = set[tuple[str, str]]()
    for name, targets in module_graph().items():
        package, *rooms = name.split(".")
        if not JOINERS & set(rooms):
            found.update((package, target.split(".")[0]) for target in targets)
    return sorted(arrow for arrow in found if arrow[0] != arrow[1])


def drawn_arrows(corners: dict[str, tuple[int, int, int]]) -> Iterator[str]:
    """A line for each arrow: down to the next row, or past it on its left or between its packages."""
    arrows = package_arrows()
    ends = {package: [arrow for arrow in arrows if package in arrow] for package in corners}

    def place(package: str, arrow: tuple[str, str]) -> int:
        return corners[package][0] + WIDTH * (ends[package].index(arrow) + 1) // (len(ends[package]) + 1)

    for number, arrow in enumerate(arrows):
        source, target = arrow
        first, last = corners[source][1] + corners[source][2], corners[target][1]
        start, end, lane = place(source, arrow), place(target, arrow), 14 + 5 * number
        points = [(start, first), (start, last - lane), (end, last - lane), (end, last)]
        if last - first > GAP:
            side = LEFT // 2 if corners[target][0] == LEFT else LEFT + WIDTH + GAP // 2
            above = first + lane
            points = [points[0], (start, above), (side, above), (side, last - lane), *points[-2:]]
        yield f'  <polyline class="arrow" points="{" ".join(f"{x},{y}" for x, y in points)}"/>'


def main() -> None:
    """Print the picture."""
    parser_of(__doc__).parse_args()
    print(picture(), end="")


if __name__ == "__main__":
    main()
