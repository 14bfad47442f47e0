"""Writes the second half of docs/commands.md: the help of every command and subcommand.

    python docs/site/commands.py

A test compares the commands and options of the page with the help of today.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmkd_app.cli.catalogue import COMMANDS, ONE_NAME
from mmkd_edge.bundle.files import write_file

PAGE = Path(__file__).parents[1] / "commands.md"
MARK = "## All commands\n"
# Options of every command, which the head of the page describes, and the lines of their help
_OF_ALL = re.compile(r"^  (?:-h, --help|--install-completion|--show-completion)\b.*\n(?: {4,}.*\n)*", re.MULTILINE)
_SUBCOMMAND = re.compile(r"^ {2,4}([a-z][a-z-]*)(?: |$)")


def help_pages() -> Iterator[tuple[str, str]]:
    """Yield the line of every command and subcommand, without `--help`, and its help, 100 columns wide."""
    for name in (ONE_NAME, *COMMANDS):
        text = _help_of(name)
        yield name, text
        _, found, commands = text.partition("Commands:\n")
        for row in commands.splitlines() if found and name != ONE_NAME else ():
            if match := _SUBCOMMAND.match(row):
                yield f"{name} {match[1]}", _help_of(name, match[1])


def page_of(pages: Mapping[str, str]) -> str:
    """Return the page with the help of these commands."""
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    parts = (f"### {line}\n\n```text\n{text.rstrip()}\n```\n" for line, text in pages.items())
    return f"{head}{MARK}\n" + "\n".join(parts)


def _help_of(*words: str) -> str:
    program = Path(sys.executable).with_name(words[0])
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run([program, *words[1:], "--help"], env=environment, capture_output=True, text=True, check=True)
    text = _OF_ALL.sub("", "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n")
    return re.sub(r"\n[Oo]ptions:\n(?=\n|\Z)", "", text)


if __name__ == "__main__":
    write_file(PAGE, page_of(dict(help_pages())).encode())
