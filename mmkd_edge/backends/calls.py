"""Turn what engines raise into `BackendError`, but let exceptions of signal handlers pass.

A SIGALRM or SIGTERM handler may raise during a call: then no engine failed.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from types import CodeType, TracebackType
from typing import Any, Literal

from mmkd_edge.errors import BackendError, first_line
from mmkd_edge.spec import TensorSpec

# Tensor types in each engine's words.
_DTYPES: Mapping[str, Literal["float32", "float16", "int8", "uint8"]] = {
    **dict.fromkeys(("float32", "f32", "tensor(float)", "FLOAT"), "float32"),
    **dict.fromkeys(("float16", "f16", "tensor(float16)"), "float16"),
    **dict.fromkeys(("int8", "i8", "tensor(int8)"), "int8"),
    **dict.fromkeys(("uint8", "u8", "tensor(uint8)", "UINT8"), "uint8"),
}

if sys.version_info >= (3, 11):
    # `sys.exc_info` takes a microsecond, and this a quarter of one.
    being_handled = sys.exception
else:

    def being_handled() -> BaseException | None:
        """Return the exception that the caller is handling, or None."""
        return sys.exc_info()[1]


class EngineCall:
    """A block that calls an engine: its errors become a BackendError of `title` and `failure`."""

    __slots__ = ("_failure", "_handled", "_reason", "_title")

    def __init__(self, title: str, failure: str, *, reason: Callable[[BaseException], str] = first_line) -> None:
        self._title, self._failure, self._reason = title, failure, reason

    def __enter__(self) -> None:
        self._handled = being_handled()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            reraise_signal_exceptions(error, handled=self._handled)
            raise BackendError(f"{self._title} {self._failure}: {self._reason(error)}") from error


def reraise_signal_exceptions(error: BaseException | None, *, handled: BaseException | None = None) -> None:
    """Reraise an error if it, or one in its chain, comes from an installed signal handler.

    `handled` is `being_handled()` before the call, which Python chains to later errors though it is over.
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
            handler = getattr(handler, "func", handler)  # a partial's
            functions = (handler, getattr(handler, "__func__", None), vars(type(handler)).get("__call__"))
            codes |= {
                code for function in functions if isinstance(code := getattr(function, "__code__", None), CodeType)
            }
    return codes


def describe_tensor(name: str, dtype: str, shape: tuple[int, ...]) -> TensorSpec:
    """Return a tensor as in the manifest; BackendError for a type that no artifact has."""
    if dtype not in _DTYPES:
        raise BackendError(f"tensor {name!r} has the type {dtype}, expected float32")
    return TensorSpec(name=name, dtype=_DTYPES[dtype], shape=shape)
