"""Counting lines: every line is of one kind."""

from __future__ import annotations

from proofs.size import counts_in

TEXT = '''"""A module.

Its second paragraph.
"""

import os
from pathlib import (
    Path,
)

# Why.
NAME = """
text
"""  # no docstring
'''


def test_every_line_is_of_one_kind() -> None:
    kinds = {"blank": 3, "docstrings": 3, "imports": 4, "comments": 1, "code": 3}
    assert counts_in(TEXT) == {"files": 1, "lines": 14, **kinds}
