"""A row of a table of figures, one for each model: of groups and of domains alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FigureRow:
    """One group or domain, or what sums them up, as written: a figure for each model."""

    name: str
    aside: str
    windows: str
    figures: tuple[str, ...]
