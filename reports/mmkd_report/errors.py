"""The errors of mmkd_report.

```
ReportError                    caught by `except ReportError`
├── DocumentError              a document of figures that breaks its contract
└── PageError                  a page that cannot be written (an OSError as well)
```

A message has four parts: where, what was expected, what came, how to fix it. The package stands alone, so its tree does
too, with the exit code that commands give for what a user can correct.
"""

from __future__ import annotations


class ReportError(Exception):
    """The root: a page that could not be made. `exit_code` is what a command returns when it ends with this error."""

    exit_code = 2


class DocumentError(ReportError):
    """A document of figures that breaks its contract; the message names the place inside it."""


class PageError(ReportError, OSError):
    """A page that cannot be written: an OSError as well, since it is the disk's or the path's fault."""
