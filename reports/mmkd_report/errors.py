"""The errors of mmkd_report."""

from __future__ import annotations


class ReportError(Exception):
    """The root; a command that ends with it returns `exit_code`."""

    exit_code = 2


class DocumentError(ReportError):
    """A document that breaks its contract."""


class PageError(ReportError, OSError):
    """A page that cannot be written."""
