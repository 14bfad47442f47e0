"""What the scripts share: a parser, and the lines of Markdown tables."""

from __future__ import annotations

import argparse


def script_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is the script's docstring, with its line breaks."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def head(*cells: str, texts: int = 1) -> str:
    """Return the head of a Markdown table: the first `texts` columns are text, the others numbers."""
    rules = ["---" if number < texts else "---:" for number in range(len(cells))]
    return f"{row(*cells)}\n|{'|'.join(rules)}|"


def row(*cells: object) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"
