"""A parser that explains a script, and Markdown tables."""

from __future__ import annotations

import argparse


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser that explains a script by its docstring, laid out as it is written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def head(*cells: str, texts: int = 1) -> str:
    """The head of a Markdown table: the first `texts` columns hold words, the others numbers."""
    rules = ["---" if number < texts else "---:" for number in range(len(cells))]
    return f"{row(*cells)}\n|{'|'.join(rules)}|"


def row(*cells: object) -> str:
    """One row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"
