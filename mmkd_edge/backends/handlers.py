"""Exceptions of signal handlers, as of a program that limits its time with SIGALRM: no failure of an engine."""

from __future__ import annotations

import signal
import sys
from types import CodeType
from typing import Any

if sys.version_info >= (3, 11):
    # `sys.exc_info` takes a microsecond, and this a quarter of one.
    being_handled = sys.exception
else:

    def being_handled() -> BaseException | None:
        """Return the exception that the caller handles at this moment, or None."""
        return sys.exc_info()[1]


def reraise_signal_exceptions(error: BaseException | None, *, handled: BaseException | None = None) -> None:
    """Raise an error again if it, or one that it was made from, comes out of an installed signal handler.

    Args:
        handled: `being_handled()` before the call, which Python makes the context of later errors though it is over.
    """
    codes: set[CodeType] | None = None
    while error is not None:
        codes = _handler_codes() if codes is None else codes
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code in codes:
                raise error
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
        if error is handled:
            return


def _handler_codes() -> set[CodeType]:
    codes: set[CodeType] = set()
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        if callable(handler):  # else by default, or ignored
            handler = getattr(handler, "func", handler)  # of a partial
            functions = (handler, getattr(handler, "__func__", None), vars(type(handler)).get("__call__"))
            codes |= {
                code for function in functions if isinstance(code := getattr(function, "__code__", None), CodeType)
            }
    return codes
