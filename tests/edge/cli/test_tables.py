"""Tables on narrow terminals: no word is broken in half, and nothing is lost."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from mmkd_edge.cli.tables import WholeWords, shared_widths

ROWS = (
    ("throughput", "2492 predictions per second", "95 % of all windows"),
    ("check_window", "1.17 µs", ""),
    ("run", "114 µs", "that of the engine alone"),
)


def shown(width: int, *, no_wrap: bool = False) -> list[str]:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    table.add_column("median", justify="right", no_wrap=no_wrap)
    table.add_column("remark")
    for row in ROWS:
        table.add_row(*row)
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(WholeWords(table))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_wide_terminal_shows_the_table_as_it_is() -> None:
    assert shown(100) == [
        "stage                              median  remark",
        "throughput    2492 predictions per second  95 % of all windows",
        "check_window                      1.17 µs",
        "run                                114 µs  that of the engine alone",
    ]


def test_columns_give_way_between_words() -> None:
    # 4 of 40 cells stand between the columns, 12 are the first one's; the other two share what is left.
    assert shown(40) == [
        f"{'stage':12}  {'median':>12}  remark",
        f"{'throughput':12}  {'2492':>12}  95 % of all",
        f"{'':12}  {'predictions':>12}  windows",
        f"{'':12}  {'per second':>12}",
        f"{'check_window':12}  {'1.17 µs':>12}",
        f"{'run':12}  {'114 µs':>12}  that of the",
        f"{'':12}  {'':>12}  engine alone",
    ]


def test_rows_are_stacked_where_the_words_do_not_fit_side_by_side() -> None:
    assert shown(26) == [
        "throughput",
        "  median: 2492 predictions",
        "  per second",
        "  remark: 95 % of all",
        "  windows",
        "check_window",
        "  median: 1.17 µs",
        "run",
        "  median: 114 µs",
        "  remark: that of the",
        "  engine alone",
    ]


@pytest.mark.parametrize("no_wrap", [False, True])
def test_every_word_is_whole_at_every_width(no_wrap: bool) -> None:
    words = {word for row in ROWS for cell in row for word in cell.split()}
    for width in range(16, 90):
        lines = shown(width, no_wrap=no_wrap)
        assert words <= {word for line in lines for word in line.split()}, width
        assert [line for line in lines if len(line) > width] == []


def test_space_goes_to_the_narrowest_columns_first() -> None:
    assert shared_widths([2, 2], [3, 10], 9) == [3, 6]
    assert shared_widths([2, 2], [3, 10], 4) == [2, 2]
    assert shared_widths([2, 2], [3, 10], 99) == [3, 10]
