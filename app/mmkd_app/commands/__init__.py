"""A file for each command."""

import mmkd_app.cli  # noqa: F401 - before all that commands import: what Ctrl-C does meanwhile
