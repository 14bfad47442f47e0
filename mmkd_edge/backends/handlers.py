"""Exceptions of signal handlers, which may arrive in the middle of any call.

A program that limits its time with SIGALRM, or ends in order on SIGTERM, raises from its handler. Whoever takes every
exception of an engine for a failure of that engine would swallow it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

if sys.version_info >= (3, 11):
    # Of a call between two runs of an engine, `sys.exc_info` takes a microsecond, and this a quarter of one.
    being_handled = sys.exception
else:

    def being_handled() -> BaseException | None:
        """What the caller handles at this moment; None where it handles nothing."""
        return sys.exc_info()[1]


def reraise_signal_exceptions(error: BaseException | None, *, handled: BaseException | None = None) -> None:
    """Raise an error again if it, or one that it was made from, comes out of an installed signal handler.

    Args:
        error: what came out of a call.
        handled: `being_handled()` before the call: Python makes what the caller handles the context of all that fails
            then, though it is over.
    """
    codes: set[CodeType] | None = None
    while error is not None:
        codes = set(_handlers_codes()) if codes is None else codes
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code in codes:
                raise error
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
        if error is handled:
            return


def _handlers_codes() -> Iterator[CodeType]:
    for number in signal.valid_signals():
        code = _code_of(signal.getsignal(number))
        if code is not None:
            yield code


def _code_of(handler: Any) -> CodeType | None:
    if not callable(handler):  # by default, or ignored
        return None
    handler = getattr(handler, "func", handler)  # of a partial
    for function in (handler, getattr(handler, "__func__", None), vars(type(handler)).get("__call__")):
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None
