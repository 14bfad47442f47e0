"""Text from files that goes to a terminal: what a name may contain, and how the rest is shown.

A label with an escape sequence could repaint the screen, one with a line break could forge a row of a report, and a
mark that turns the direction of writing could make one name look like another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Control characters (ECMA-48, C0 and C1), line and paragraph separators, halves of surrogate pairs, and the marks of
# the bidirectional algorithm (Unicode Standard Annex 9, section 2). Letters of any script, and what joins them, may be
# in a name: U+200C and U+200D are needed in Persian and in Indian scripts.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def unprintable_in(names: Iterable[str]) -> str:
    """The first of the names that could mislead a terminal or a reader; empty if none could."""
    return next((name for name in names if _UNPRINTABLE.search(name)), "")


def printable(text: str, *, lines: bool = False) -> str:
    r"""The text with what misleads written as Python would write it.

    Args:
        lines: keep its line breaks and tabs.

    >>> printable("ok\x1b[2J\nworn")
    'ok\\x1b[2J\\nworn'
    """
    return _UNPRINTABLE.sub(lambda found: found[0] if lines and found[0] in "\n\t" else ascii(found[0])[1:-1], text)
