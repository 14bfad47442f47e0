"""What `--source` and `--sink` name: a row of a table by its prefix, and the place behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from mmkd_edge.errors import UsageError


class PrefixRow(Protocol):
    """A row of a table of sources or sinks."""

    @property
    def form(self) -> str:
        """How it is written."""


_Kind = TypeVar("_Kind", bound=PrefixRow)


def kind_and_place(text: str, table: Mapping[str, _Kind], *, option: str) -> tuple[_Kind, str]:
    """Gives the row that a text names, and the text behind its prefix.

    Raises UsageError, which begins with the option, where there is none, or nothing stands behind its prefix.
    """
    for prefix, kind in table.items():
        if text == prefix or (text.startswith(prefix) and prefix[-1] in ":/"):
            place = text[len(prefix) :]
            if not place and prefix[-1] in ":/":
                raise UsageError(f"{option} {text}: expected {kind.form}, got nothing behind the prefix; name it")
            return kind, place
    forms = ", ".join(kind.form for kind in table.values())
    raise UsageError(f"{option} {text}: expected one of {forms}; write it like one of them")
