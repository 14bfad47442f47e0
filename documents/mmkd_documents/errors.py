"""The root of all errors, and that of a document that breaks its contract."""

from __future__ import annotations


class MmkdError(Exception):
    """The root: `exit_code` is what a command returns when it ends with this error."""

    exit_code = 1


class UsageError(MmkdError):
    """An argument or an input file that the user can correct."""

    exit_code = 2


class DocumentError(UsageError):
    """A document that breaks its contract."""
