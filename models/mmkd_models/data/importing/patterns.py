"""Files of a pattern, and what their paths say: `{person}/acc_*.csv` finds files and the person of each."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

from mmkd_edge.errors import DatasetError, first_line
from mmkd_edge.printable import unprintable_in
from mmkd_models.data.importing.limits import MOST_NAME_BYTES, MOST_PATTERN_BYTES

_PART = re.compile(r"\{([^{}]*)\}|\*+|\?")
_ADJACENT = ("}{", "}*", "*{")


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file and the named parts of its path."""

    path: Path
    parts: Mapping[str, str]


@dataclass(frozen=True)
class RecipeFolder:
    """The folder of a recipe, where its patterns begin, and other folders that it may read."""

    path: Path
    allowed: Sequence[Path] = ()

    @cached_property
    def _roots(self) -> Sequence[Path]:
        return [root.resolve() for root in (self.path, *self.allowed)]

    def file(self, name: str, *, key: str) -> Path:
        """Return a path below the folder. Raise DatasetError if it leads outside."""
        path = self.path / name
        try:
            real = path.resolve()
        except (OSError, RuntimeError) as error:  # links that lead to each other
            raise DatasetError(f"{key!r}: expected a file inside {self.path}, got {first_line(error)}") from error
        if not any(real.is_relative_to(root) for root in self._roots):
            raise DatasetError(
                f"{key!r}: expected a file inside {self.path}, got {name!r}, which leads to {real}; move it there, or"
                f" pass --allow-outside {real if real.is_dir() else real.parent}"
            )
        return path

    def files(self, pattern: str, *, key: str) -> list[FoundFile]:
        """Return the files of a pattern, ascending by name with numbers in their order.

        Raise DatasetError if one lies outside.
        """
        seen: set[tuple[int, str]] = set()
        found = [
            FoundFile(path=self.path / name, parts=parts)
            for name, parts in _matches(self, pattern.split("/"), "", {}, key=key, seen=seen)
            if (self.path / name).is_file()
        ]
        return sorted(found, key=lambda file: natural_key(file.path.as_posix()))


def pattern_problem(pattern: str) -> str | None:
    """Return what is wrong with a pattern, without looking for files; None if nothing is."""
    if not pattern or unprintable_in([pattern]):
        return f"expected a path without control characters, got {pattern!a}; correct it"
    if PurePosixPath(pattern).is_absolute() or PureWindowsPath(pattern).drive or "\\" in pattern:
        return f"expected a path from the folder of the recipe, with '/' between folders, got {pattern!r}; correct it"
    longest = max(len(name.encode()) for name in pattern.split("/"))
    if longest > MOST_NAME_BYTES or len(pattern.encode()) > MOST_PATTERN_BYTES:
        most = f"{MOST_PATTERN_BYTES:,} bytes, and {MOST_NAME_BYTES} between two '/'"
        return f"expected at most {most}, got {len(pattern.encode()):,} and {longest:,}; shorten it"
    for segment in pattern.split("/"):
        names = [part[1] for part in _PART.finditer(segment) if part[1] is not None]
        odd = next((name for name in names if not name.isidentifier() or names.count(name) > 1), None)
        if odd is not None:
            wanted = "names of letters, digits and _ in braces, each once in a folder's or file's name"
            return f"expected {wanted}, got {{{odd}}} in {segment!r}; rename it, or write *"
        if any(two in segment for two in _ADJACENT):
            return (
                f"expected text between two parts of a name, got {segment!r}; name one part, or write what is between"
            )
    return None


def parts_of(pattern: str) -> tuple[str, ...]:
    """Return the names in braces, each once.

    Example:
        >>> parts_of("{person}/{day}/{person}_acc.csv")
        ('person', 'day')
    """
    return tuple(dict.fromkeys(found[1] for found in _PART.finditer(pattern) if found[1]))


def with_parts(text: str, parts: Mapping[str, str]) -> str:
    """Return a text with the value of each part in place of its name in braces.

    Example:
        >>> with_parts("2025-11-03T{hour}:00Z", {"hour": "07"})
        '2025-11-03T07:00Z'
    """
    return _PART.sub(lambda part: parts.get(part[1], part[0]) if part[1] else part[0], text)


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Return a key by which `run2` comes before `run10`."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text) if part]


def key_of(file: FoundFile, names: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of these names."""
    return tuple(file.parts[name] for name in names)


def _matches(
    folder: RecipeFolder,
    segments: Sequence[str],
    name: str,
    parts: Mapping[str, str],
    *,
    key: str,
    seen: set[tuple[int, str]],
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The paths below a folder whose segments match, each once, with their parts."""
    here = folder.file(name, key=key)
    if (len(segments), name) in seen:
        return
    seen.add((len(segments), name))
    if not segments:
        yield name, parts
        return
    plain = list(itertools.takewhile(_is_plain, segments))
    segment, rest = (segments[0], segments[1:]) if not plain else ("/".join(plain), segments[len(plain) :])
    if segment == "**":
        inner: list[tuple[str, Mapping[str, str]]] = [(one, parts) for one in _folders(folder.path, name)]
    elif not plain:
        matched = [(entry.name, match_segment(segment, entry.name, parts)) for entry in _entries(here)]
        inner = [(_joined(name, entry), {**parts, **found}) for entry, found in matched if found is not None]
    else:
        inner = [(_joined(name, segment), parts)] if (here / segment).exists() else []
    for one, of_one in inner:
        yield from _matches(folder, rest, one, of_one, key=key, seen=seen)


def _is_plain(segment: str) -> bool:
    return _PART.search(segment) is None


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # a file, or a folder that nobody may read
        return []


def _joined(name: str, segment: str) -> str:
    return f"{name}/{segment}" if name else segment


def _folders(root: Path, name: str) -> Iterator[str]:
    """A folder and all below it; links to folders are not followed."""
    pending = [name]
    while pending:
        folder = pending.pop()
        yield folder
        for entry in _entries(root / folder):
            if entry.is_dir() and not entry.is_symlink():
                pending.append(_joined(folder, entry.name))


def match_segment(segment: str, text: str, known: Mapping[str, str]) -> Mapping[str, str] | None:
    """Return the parts of a folder's or file's name; None if it does not match.

    A named part is as short as possible and has a character or more, `*` is as long as possible. The time grows with
    the length of the segment times that of the text.

    Args:
        known: parts of the folders before it; a name that is among them stands for its value.

    Example:
        >>> match_segment("{person}_*_{run}.csv", "ann_x_y_7.csv", {})
        {'person': 'ann', 'run': '7'}
    """
    tokens = _tokens(segment, known)
    # fits[i][j]: whether the tokens from i on match the text from j on.
    length = len(text)
    fits = [[False] * length + [True]]
    for token in reversed(tokens):
        after = fits[0]
        match token:
            case str():
                size = len(token)
                fits.insert(0, [text.startswith(token, j) and after[j + size] for j in range(length - size + 1)])
                fits[0] += [False] * (length + 1 - len(fits[0]))
            case None:
                fits.insert(0, [*after[1:], False])
            case (name,):
                anywhere = list(itertools.accumulate(reversed(after), operator.or_))[::-1]
                fits.insert(0, [*anywhere[1:], False] if name else anywhere)
    if not fits[0][0]:
        return None
    parts, at = {}, 0
    for token, after in zip(tokens, fits[1:], strict=True):
        match token:
            case str():
                at += len(token)
            case None:
                at += 1
            case (name,):
                ends = [j for j in range(at + bool(name), length + 1) if after[j]]
                end = ends[0] if name else ends[-1]
                if name:
                    parts[name] = text[at:end]
                at = end
    return parts


def _tokens(segment: str, known: Mapping[str, str]) -> list[str | tuple[str] | None]:
    """Literal texts, None for any character, and tuples with the name of a part, which is empty for `*`."""
    tokens: list[str | tuple[str] | None] = []
    last = 0
    for part in _PART.finditer(segment):
        tokens.append(segment[last : part.start()])
        last = part.end()
        if part[1] is not None:
            tokens.append(known.get(part[1], (part[1],)))
        else:
            tokens.append(None if part[0] == "?" else ("",))
    return [*tokens, segment[last:]]
