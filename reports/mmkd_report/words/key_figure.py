"""The large figures under the answer of a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class KeyFigure:
    """One large figure under the answer and what it is."""

    figure: str
    caption: str
