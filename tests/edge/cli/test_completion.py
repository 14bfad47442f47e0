"""What is completed is what the help shows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mmkd_edge.cli.completion import candidates, read_page

TOP = """\
Usage: mmkd-x [OPTIONS] COMMAND [ARGS]...

  Does things.

Options:
  -h, --help  Show this message and exit.

Commands:
  make  Make a thing that
        has two lines
  move  Move it
"""
MAKE = """\
Usage: mmkd-x make [OPTIONS] FILE

  Makes a thing.

Arguments:
  FILE  --this-is-no-option.  [required]

Options:
  -o, --out FILE                  Where to. It is replaced.  [default: x]
  --channel-of-the-student CHANNEL=COLUMN
                                  Which column. Repeatable.
  --grid / --no-grid              Draw a grid.  [default: grid]
  --backend ort|trt               What executes it.
  -h, --help                      Show this message and exit.

  Example: mmkd-x make --nothing
"""


def help_of(path: Sequence[str]) -> str:
    return {("mmkd-x",): TOP, ("mmkd-x", "make"): MAKE}.get(tuple(path), "")


def test_a_page_is_read_with_what_goes_on_in_the_next_line() -> None:
    page = read_page(MAKE)
    assert page.options == {
        "-o": "Where to",
        "--out": "Where to",
        "--channel-of-the-student": "Which column",
        "--grid": "Draw a grid",
        "--no-grid": "Draw a grid",
        "--backend": "What executes it",
        "-h": "Show this message and exit",
        "--help": "Show this message and exit",
    }
    assert page.valued == {"-o", "--out", "--channel-of-the-student", "--backend"}
    assert {name: values for name, values in page.values.items() if values} == {"--backend": ["ort", "trt"]}
    assert read_page(TOP).commands == {"make": "Make a thing that has two lines", "move": "Move it"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["mmkd-x", ""], ["make", "move"]),
        (["mmkd-x", "mo"], ["move"]),
        (["mmkd-x", "-"], ["-h", "--help"]),
        (["mmkd-x", "make", ""], []),  # a file
        (["mmkd-x", "make", "--g"], ["--grid"]),
        (["mmkd-x", "make", "a", "--no"], ["--no-grid"]),
        (["mmkd-x", "make", "--backend", ""], ["ort", "trt"]),
        (["mmkd-x", "make", "--out", ""], []),
        (["mmkd-x", "make", "--", "-"], []),
        (["mmkd-nothing", ""], []),
    ],
)
def test_what_may_stand_next(line: list[str], expected: list[str]) -> None:
    assert [word for word, _ in candidates(line, help_of)] == expected
