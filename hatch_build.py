"""Add to a build the commands of `app/mmkd_app/cli/catalogue.py`, and to a wheel the native engine."""

from __future__ import annotations

import os
import runpy
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

GLIBC = "2.17"
"""The oldest that release wheels run with: that of NumPy's wheels."""


class Scripts(MetadataHookInterface):
    """Names the function behind every command; the catalogue imports nothing but the standard library."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the scripts."""
        catalogue = runpy.run_path(str(Path(self.root, "app", "mmkd_app", "cli", "catalogue.py")))
        commands = {name: command.main for name, command in catalogue["COMMANDS"].items()}
        metadata["scripts"] = {catalogue["ONE_NAME"]: catalogue["ONE_MAIN"], **commands}


class Native(BuildHookInterface[Any]):
    """Compiles the native engine. Without a C compiler the wheel is pure Python, and everything else works.

    `MMKD_WHEEL=x86_64` or `aarch64` makes a release wheel: ziglang compiles it for an old glibc. `win_amd64` makes that
    of Windows.
    """

    def dependencies(self) -> list[str]:
        """Name the compiler of release wheels."""
        return ["ziglang>=0.13"] if os.environ.get("MMKD_WHEEL") else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the platform in the wheel's tag."""
        compiling = runpy.run_path(str(Path(self.root, "mmkd_edge", "native", "build.py")))
        library, machine = compiling["LIBRARY"], os.environ.get("MMKD_WHEEL")
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        if machine:
            is_windows = machine == "win_amd64"
            name = "mmkd.dll" if is_windows else library.name
            release = Path(self.root, "build", machine, name)
            release.parent.mkdir(parents=True, exist_ok=True)
            target = "x86_64-windows-gnu" if is_windows else f"{machine}-linux-gnu.{GLIBC}"
            compiler = [sys.executable, "-m", "ziglang", "cc", "-s", "-target", target]
            if problem := compiling["build"](release, compiler=compiler):
                raise RuntimeError(f"MMKD_WHEEL={machine}: the native engine was not built: {problem}")
            build_data["force_include"][str(release)] = library.with_name(name).relative_to(self.root).as_posix()
            platform = machine if is_windows else f"manylinux_{GLIBC.replace('.', '_')}_{machine}"
        elif problem := compiling["build"]():
            sys.stderr.write(f"native engine: not built: {problem}\n")
            return
        else:
            build_data["artifacts"].append(library.relative_to(self.root).as_posix())
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
