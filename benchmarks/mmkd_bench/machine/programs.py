"""Programs of the vendor that report on the machine: `nvidia-smi`, `tegrastats`, `nvpmodel`, `jetson_clocks`."""

from __future__ import annotations

import shutil
import subprocess

from mmkd_edge.errors import UnavailableError

TIMEOUT_S = 10.0


def find_program(name: str) -> str | None:
    """Path of a program; `/usr/sbin` is often missing in the search path of users."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def run_program(name: str, *arguments: str) -> str | None:
    """Output of a program; None where it is absent, fails or does not answer."""
    program = find_program(name)
    if program is None:
        return None
    try:
        answer = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


class ProgramLines:
    """Lines of a program that repeats its answer; it ends with the `with` block."""

    def __init__(self, name: str, *arguments: str, subject: str = "") -> None:
        program = find_program(name)
        if program is None:
            raise UnavailableError(f"{subject}{name} is not installed")
        self._end = f"{subject}{name} ended without a line"
        self._process = subprocess.Popen(
            [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __enter__(self) -> ProgramLines:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def read(self) -> str:
        """The next line, waited for.

        Raises:
            UnavailableError: the program has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UnavailableError(self._end)
        return line
