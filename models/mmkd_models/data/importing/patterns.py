"""Files of a pattern, and what their paths say: `{person}/acc_*.csv` finds files and the person of each.

Owns the patterns. Opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PART = re.compile(r"\{(\w+)\}|\*\*/|\*|\?")


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file and the named parts of its path."""

    path: Path
    parts: Mapping[str, str]


def parts_of(pattern: str) -> tuple[str, ...]:
    """Gives the names in braces, each once.

    Example:
        >>> parts_of("{person}/{day}/{person}_acc.csv")
        ('person', 'day')
    """
    return tuple(dict.fromkeys(found[1] for found in _PART.finditer(pattern) if found[1]))


def found_files(folder: Path, pattern: str) -> list[FoundFile]:
    """Gives the files of a pattern below the folder, ascending by name with numbers in their order."""
    glob = re.sub(r"\{\w+\}", "*", pattern)
    expression = re.compile(_regex(pattern))
    found = []
    for path in folder.glob(glob):
        match = expression.fullmatch(path.relative_to(folder).as_posix())
        if match is not None and path.is_file():
            found.append(FoundFile(path=path, parts=match.groupdict()))
    return sorted(found, key=lambda file: natural_key(file.path.as_posix()))


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Gives a key by which `run2` comes before `run10`."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


def key_of(file: FoundFile, names: Sequence[str]) -> tuple[str, ...]:
    """Gives the parts of these names."""
    return tuple(file.parts[name] for name in names)


def _regex(pattern: str) -> str:
    seen: set[str] = set()
    parts, last = [], 0
    for found in _PART.finditer(pattern):
        parts.append(re.escape(pattern[last : found.start()]))
        last = found.end()
        name = found[1]
        if name:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)")
            seen.add(name)
        else:
            parts.append({"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}[found[0]])
    return "".join([*parts, re.escape(pattern[last:])])
