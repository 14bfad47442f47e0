"""How a figure is written: every number on a page goes through here.

Owns rounding, signs and spaces. A missing or non-finite figure is written as `NOTHING`; nothing here invents one.
Thousands and units are set off by a narrow no-break space (SI brochure, 9th edition, section 5.4.4 and 5.4.3), negative
numbers carry the minus sign U+2212.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

NOTHING = "\u2013"  # an en dash: nothing was measured
THIN = "\u202f"
MINUS = "\u2212"
TIMES = "\u00d7"


def is_figure(value: float | None) -> TypeGuard[float]:
    """True where there is a finite number to write."""
    return value is not None and math.isfinite(value)


def fixed(value: float | None, digits: int = 1) -> str:
    r"""`value` with that many digits after the point; never "-0.0".

    >>> fixed(1234.56), fixed(-0.04), fixed(-2.5), fixed(None)
    ('1\u202f234.6', '0.0', '\u22122.5', '–')
    """
    if not is_figure(value):
        return NOTHING
    written = f"{abs(value):,.{digits}f}".replace(",", THIN)
    is_zero = not any(digit in written for digit in "123456789")
    return written if value >= 0 or is_zero else MINUS + written


def for_terminal(sentence: str) -> str:
    r"""A sentence of a page in the signs that every terminal has.

    >>> for_terminal("\u22122.0 to 71.2\u202f%")
    '-2.0 to 71.2 %'
    """
    return sentence.replace(THIN, " ").replace(MINUS, "-").replace(NOTHING, "-")


def count(value: float | None) -> str:
    r"""A whole number of things.

    >>> count(1930)
    '1\u202f930'
    """
    return fixed(value, 0)


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a figure in percent, without the sign.

    >>> percent(0.71234)
    '71.2'
    """
    return fixed(None if fraction is None else 100 * fraction, digits)


def with_unit(written: str, unit: str) -> str:
    r"""A written figure and its unit; `NOTHING` stays alone.

    >>> with_unit("71.2", "%")
    '71.2\u202f%'
    """
    return written if written == NOTHING else f"{written}{THIN}{unit}"


def share(fraction: float | None) -> str:
    r"""A share such as the labelled one, in percent with as many digits as it needs (two at most).

    >>> share(0.1), share(0.125)
    ('10\u202f%', '12.5\u202f%')
    """
    written = percent(fraction, 2)
    return with_unit(written.rstrip("0").rstrip(".") if "." in written else written, "%")


def points(value: float | None) -> str:
    r"""A signed difference in percentage points.

    >>> points(12.34), points(-0.4), points(0.01)
    ('+12.3', '\u22120.4', '0.0')
    """
    written = fixed(value)
    return f"+{written}" if is_figure(value) and value > 0 and written not in (NOTHING, "0.0") else written


def interval(low: float | None, high: float | None) -> str:
    r"""An interval of percentage points, or `NOTHING` unless both ends are known.

    >>> interval(-0.4, 4.6)
    '\u22120.4 to 4.6'
    """
    return f"{fixed(low)} to {fixed(high)}" if is_figure(low) and is_figure(high) else NOTHING


def significant(value: float | None, digits: int = 3) -> str:
    r"""`value` with that many significant digits, never in exponential form above 1e-6.

    >>> significant(0.11234), significant(9.999), significant(1234.5), significant(0.0)
    ('0.112', '10.0', '1\u202f234', '0')
    """
    if not is_figure(value):
        return NOTHING
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    if abs(rounded) < 1e-6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    places = digits - 1 - math.floor(math.log10(abs(rounded)))
    return fixed(value, max(0, places))


def plain(value: float | None) -> str:
    r"""A setting such as a learning rate, as people write it.

    >>> plain(0.001), plain(50.0), plain(3e-05)
    ('0.001', '50', '3e\u221205')
    """
    if not is_figure(value):
        return NOTHING
    return f"{value:g}".replace("-", MINUS)


def magnitude(value: float | None) -> str:
    r"""A number of parameters in thousands or millions.

    >>> magnitude(61432), magnitude(1253000), magnitude(812)
    ('61.4\u202fk', '1.25\u202fM', '812')
    """
    if not is_figure(value):
        return NOTHING
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if float(f"{value:.2e}") >= size:
            return with_unit(significant(value / size), unit)
    return count(value)


def duration(seconds: float | None) -> str:
    r"""How long a run took.

    >>> duration(412.4), duration(9.2), duration(7260)
    ('6 min 52 s', '9.2\u202fs', '2 h 1 min')
    """
    if not is_figure(seconds):
        return NOTHING
    if seconds < 60:
        return with_unit(significant(seconds, 2), "s")
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_min = divmod(minutes, 60)
    return f"{hours} h {rest_min} min" if hours else f"{minutes} min {rest_s} s"


def listed(words: Sequence[str]) -> str:
    """Words in a sentence.

    >>> listed(["acc", "gyro", "audio"])
    'acc, gyro and audio'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def things(number: int, noun: str, plural: str | None = None) -> str:
    """A number of things, with the noun in its right form.

    >>> things(1, "seed"), things(5, "seed"), things(7, "class", "classes")
    ('1 seed', '5 seeds', '7 classes')
    """
    return f"{count(number)} {noun if number == 1 else plural or noun + 's'}"
