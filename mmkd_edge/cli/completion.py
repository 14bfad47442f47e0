"""What may stand next on a command line, read from the help of the commands: what help shows is what is completed.

Owns the reading of the page that `command.help` lays out. Runs no command itself: it is given what asks for help.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

HelpOf = Callable[[Sequence[str]], str]
"""The help page of a command line such as `["mmkd-bench", "run"]`, laid out in 80 columns."""

_NAME_ROW = re.compile(r"  (?=\S)(.+?)(?:\s{2,}(.*))?\Z")
_SENTENCE_END = re.compile(r"\.(?:\s|\Z)|\s*\[(?:default|required)")
_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
_CHOICES = re.compile(r"[a-z0-9][\w.-]*(?:\|[a-z0-9][\w.-]*)+\Z")


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page of help names.

    Attributes:
        commands: each with the first line of what it does.
        options: likewise, long and short.
        values: the values of an option that has few.
        valued: the options that take a value.
    """

    commands: Mapping[str, str]
    options: Mapping[str, str]
    values: Mapping[str, Sequence[str]]
    valued: frozenset[str]


def read_page(text: str) -> Page:
    """The commands and options of a page of help."""
    commands: dict[str, str] = {}
    options: dict[str, str] = {}
    values: dict[str, Sequence[str]] = {}
    valued: set[str] = set()
    for section, names, about in _rows_of(text):
        if section == "Commands:":
            commands[names] = about
        elif section == "Options:":
            found = _OPTION.findall(names)
            options.update(dict.fromkeys(found, about))
            value = names.rpartition(" ")[2]
            if value not in found:
                valued.update(found)
                values.update(dict.fromkeys(found, value.split("|") if _CHOICES.match(value) else ()))
    return Page(commands=commands, options=options, values=values, valued=frozenset(valued))


def _rows_of(text: str) -> list[tuple[str, str, str]]:
    """Section, name and first sentence of each row; what follows on further lines belongs to the row above."""
    rows: list[tuple[str, str, list[str]]] = []
    section = ""
    for line in text.splitlines():
        if not line.startswith(" "):  # a heading, or the empty line after its rows
            section = line
        elif row := _NAME_ROW.match(line):
            rows.append((section, row[1], [row[2] or ""]))
        elif rows:
            rows[-1][2].append(line.strip())
    return [(section, names, _SENTENCE_END.split(" ".join(parts).strip())[0]) for section, names, parts in rows]


def candidates(words: Sequence[str], help_of: HelpOf) -> list[tuple[str, str]]:
    """The words that may take the place of the last one, each with what it means.

    Args:
        words: the line up to the cursor; the first is the program's name, the last is unfinished and may be empty.
        help_of: gives the help of the commands before it.

    Returns:
        Nothing where a file or a free value stands; a shell then completes names of files.
    """
    path, begun, unfinished = [words[0]], list(words[1:-1]), words[-1]
    page = read_page(help_of(path))
    previous = ""
    for word in begun:
        if word == "--":
            return []
        if word in page.commands and previous not in page.valued:
            path.append(word)
            page, previous = read_page(help_of(path)), ""
        else:
            previous = word
    if previous in page.valued:
        found = [(value, "") for value in page.values[previous]]
    elif unfinished.startswith("-"):
        found = list(page.options.items())
    else:
        found = list(page.commands.items())
    return [(word, about) for word, about in found if word.startswith(unfinished)]
