"""File patterns: `{person}/acc_*.csv` matches files and the person of each."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

from mmkd_edge.errors import DatasetError, first_line, unprintable_in
from mmkd_models.data.importing.keys import MAX_NAME_BYTES, MAX_PATTERN_BYTES

_PART = re.compile(r"\{([^{}]*)\}|\*+|\?")
_MAX_COMPARED = 10_000  # files
_ADJACENT = ("}{", "}*", "*{")


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file, its path from the recipe's folder, and the named parts of that."""

    path: Path
    name: str
    parts: Mapping[str, str]


@dataclass(frozen=True)
class RecipeFolder:
    """Folder of a recipe's patterns, others that it may read, and patterns of files that it leaves out."""

    path: Path
    allowed: Sequence[Path] = ()
    excluded: Sequence[str] = ()

    @cached_property
    def _excluded_files(self) -> frozenset[Path]:
        files: list[Path] = []
        for pattern in self.excluded:
            names = [name for name, _ in self._matches(pattern.split("/"), "", {}, key="exclude", seen=set())]
            if not names:
                raise DatasetError(
                    f"'exclude': expected files, found none at {self.path / pattern}; correct or remove it"
                )
            files += [self.path / name for name in names]
        return frozenset(files)

    def file(self, name: str, *, key: str) -> Path:
        """Return a path below the folder. Raise DatasetError if it leads outside."""
        path = self.path / name
        try:
            real = path.resolve()
        except (OSError, RuntimeError) as error:  # links that lead to each other
            raise DatasetError(f"{key!r}: expected a file inside {self.path}, got {first_line(error)}") from error
        if not any(real.is_relative_to(root.resolve()) for root in (self.path, *self.allowed)):
            raise DatasetError(
                f"{key!r}: expected a file inside {self.path}, got {name!r}, which leads to {real}; move it there, or"
                f" pass --allow-outside {real if real.is_dir() else real.parent}"
            )
        return path

    def files(self, pattern: str, *, key: str) -> list[FoundFile]:
        """Return a pattern's files in natural order. Raise DatasetError if one lies outside."""
        matches = self._matches(pattern.split("/"), "", {}, key=key, seen=set())
        files = [FoundFile(path=self.path / name, name=name, parts=parts) for name, parts in matches]
        out = self._excluded_files
        files = [file for file in files if file.path.is_file() and out.isdisjoint((file.path, *file.path.parents))]
        return sorted(files, key=lambda file: natural_key(str(file.path)))

    def like(self, pattern: str) -> str:
        """Return ', but there is FILE' with the file whose name is most like a pattern without files."""
        files = itertools.islice((file for file in self.path.rglob("*") if file.is_file()), _MAX_COMPARED)
        names = get_close_matches(pattern, [file.relative_to(self.path).as_posix() for file in files], 1, cutoff=0.3)
        return f", but there is {names[0]}" if names else ""

    def _matches(
        self, segments: Sequence[str], name: str, parts: Mapping[str, str], *, key: str, seen: set[tuple[int, str]]
    ) -> Iterator[tuple[str, Mapping[str, str]]]:
        here = self.file(name, key=key)
        if (len(segments), name) in seen:
            return
        seen.add((len(segments), name))
        if not segments:
            yield name, parts
            return
        plain = list(itertools.takewhile(lambda segment: _PART.search(segment) is None, segments))
        below: list[tuple[str, Mapping[str, str]]] = []
        if plain:
            segment, rest = "/".join(plain), segments[len(plain) :]
            below = [(f"{name}/{segment}".lstrip("/"), parts)] if (here / segment).exists() else []
        elif segments[0] == "**":
            rest = segments[1:]
            below = [(folder, parts) for folder in self._folders(name)]
        else:
            rest = segments[1:]
            for entry in _entries(here):
                if (matched := match_segment(segments[0], entry.name, parts)) is not None:
                    below.append((f"{name}/{entry.name}".lstrip("/"), {**parts, **matched}))
        for path, its_parts in below:
            yield from self._matches(rest, path, its_parts, key=key, seen=seen)

    def _folders(self, name: str) -> Iterator[str]:
        yield name
        for entry in _entries(self.path / name):
            if entry.is_dir() and not entry.is_symlink():
                yield from self._folders(f"{name}/{entry.name}".lstrip("/"))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # a file, or a folder that nobody may read
        return []


def pattern_problem(pattern: str) -> str | None:
    """Return a pattern's problem, or None; looks for no files."""
    if not pattern or unprintable_in([pattern]):
        return f"expected a path without control characters, got {pattern!a}; correct it"
    if PurePosixPath(pattern).is_absolute() or PureWindowsPath(pattern).drive or "\\" in pattern:
        return f"expected a path from the folder of the recipe, with '/' between folders, got {pattern!r}; correct it"
    longest = max(len(name.encode()) for name in pattern.split("/"))
    if longest > MAX_NAME_BYTES or len(pattern.encode()) > MAX_PATTERN_BYTES:
        most = f"{MAX_PATTERN_BYTES:,} bytes, and {MAX_NAME_BYTES} between two '/'"
        return f"expected at most {most}, got {len(pattern.encode()):,} and {longest:,}; shorten it"
    for segment in pattern.split("/"):
        names = [part[1] for part in _PART.finditer(segment) if part[1] is not None]
        odd = next((name for name in names if not name.isidentifier() or names.count(name) > 1), None)
        if odd is not None:
            expected = "names of letters, digits and _ in braces, each once in a folder's or file's name"
            return f"expected {expected}, got {{{odd}}} in {segment!r}; rename it, or write *"
        if any(two in segment for two in _ADJACENT):
            return (
                f"expected text between two parts of a name, got {segment!r}; name one part, or write what is between"
            )
    return None


def path_parts(pattern: str) -> tuple[str, ...]:
    """Return the names in braces, each once."""
    return tuple(dict.fromkeys(match[1] for match in _PART.finditer(pattern) if match[1]))


def suggest_part(pattern: str, name: str) -> str:
    """Return `, such as files = "{name}/a.csv" in place of "*/a.csv"`; empty if no wildcard can be the part."""
    folders = pattern.split("/")
    at = next((number for number, folder in enumerate(folders) if "*" in folder.replace("**", "")), None)
    if at is None:
        return ""
    folders[at] = folders[at].replace("*", f"{{{name}}}", 1)
    named = "/".join(folders)
    return "" if pattern_problem(named) else f', such as files = "{named}" in place of "{pattern}"'


def with_parts(text: str, parts: Mapping[str, str]) -> str:
    """Replace every name in braces by the value of that part."""
    return _PART.sub(lambda part: parts.get(part[1], part[0]) if part[1] else part[0], text)


def plain_value(pattern: str, part: str, value: str) -> str:
    """Return a value without the text around its part: `A` of `site_A` for `site_{site}`."""
    before, _, after = pattern.partition(f"{{{part}}}")
    return value.removeprefix(re.split(r"[/{}*?]", before)[-1]).removesuffix(re.split(r"[/{}*?]", after)[0])


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Return a sort key that puts `run2` before `run10`."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text) if part]


def match_path(pattern: str, name: str) -> Mapping[str, str] | None:
    """Return the parts of a path, or None; no pattern with `**`."""
    parts: Mapping[str, str] = {}
    segments, folders = pattern.split("/"), name.split("/")
    for segment, folder in zip(segments, folders, strict=False):
        matched = match_segment(segment, folder, parts)
        if matched is None or len(segments) != len(folders):
            return None
        parts = {**parts, **matched}
    return parts


def match_segment(segment: str, text: str, known: Mapping[str, str]) -> Mapping[str, str] | None:
    """Return the parts of a folder's or file's name, or None.

    A named part is as short as possible and not empty, `*` as long as possible. Time grows with the length of the
    segment times that of the text. A name in `known`, the parts of the folders before, stands for its value.
    """
    # Literal texts alternate with wildcards: `?`, `*` or the name of a part.
    tokens = re.split(r"(\{[^{}]*\}|\*+|\?)", segment)
    literals = [token if number % 2 == 0 else known.get(token[1:-1]) for number, token in enumerate(tokens)]
    end = len(text)
    fits = [
        [False] * end + [True]
    ]  # by token and place: whether the text from here on matches the tokens from there on
    for token, literal in zip(reversed(tokens), reversed(literals), strict=True):
        after = fits[0] + [False] * (end + 1)
        if literal is not None:
            row = [text.startswith(literal, place) and after[place + len(literal)] for place in range(end + 1)]
        elif token == "?":
            row = after[1 : end + 2]
        else:
            row = list(itertools.accumulate(reversed(fits[0]), operator.or_))[::-1]
            row = row if token[0] == "*" else [*row[1:], False]
        fits.insert(0, row)
    if not fits[0][0]:
        return None
    parts, start = {}, 0
    for token, literal, row in zip(tokens, literals, fits[1:], strict=True):
        if literal is not None or token == "?":
            start += 1 if literal is None else len(literal)
            continue
        stops = [stop for stop in range(start + (token[0] == "{"), end + 1) if row[stop]]
        if token[0] == "{":
            parts[token[1:-1]] = text[start : stops[0]]
        start = stops[0] if token[0] == "{" else stops[-1]
    return parts
