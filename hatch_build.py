"""Gives a build the commands of `mmkd_edge/cli/catalogue.py`, so that they are written down once."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Scripts(MetadataHookInterface):
    """Names the function behind every command; the catalogue imports nothing but the standard library."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the scripts."""
        catalogue = runpy.run_path(str(Path(self.root, "mmkd_edge", "cli", "catalogue.py")))
        commands = {name: command.main for name, command in catalogue["COMMANDS"].items()}
        metadata["scripts"] = {catalogue["ONE_NAME"]: catalogue["ONE_MAIN"], **commands}
