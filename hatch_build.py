"""Gives a build the commands of `mmkd_edge/cli/catalogue.py`, and a wheel the native engine."""

from __future__ import annotations

import runpy
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class Scripts(MetadataHookInterface):
    """Names the function behind every command; the catalogue imports nothing but the standard library."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the scripts."""
        catalogue = runpy.run_path(str(Path(self.root, "mmkd_edge", "cli", "catalogue.py")))
        commands = {name: command.main for name, command in catalogue["COMMANDS"].items()}
        metadata["scripts"] = {catalogue["ONE_NAME"]: catalogue["ONE_MAIN"], **commands}


class Native(BuildHookInterface[Any]):
    """Compiles the native engine. Without a C compiler the wheel is pure Python, and everything else works."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the platform in the wheel's tag."""
        compiling = runpy.run_path(str(Path(self.root, "mmkd_edge", "native", "build.py")))
        problem = compiling["build"]()
        if problem:
            sys.stderr.write(f"native engine: not built: {problem}\n")
            return
        build_data["artifacts"].append(compiling["LIBRARY"].relative_to(self.root).as_posix())
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
