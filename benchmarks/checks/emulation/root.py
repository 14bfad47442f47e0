"""A Debian root for ARM64 that runs on another machine, under qemu-user and proot, without privileges.

Packages are fetched by debootstrap and unpacked, not configured: a Python and what its wheels link to need no more. Two
things that ARM64 hardware has are given by hand, since qemu makes them up or lacks them: see `_MIDR` and `_PATCH`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from checks.install_size import pip

TOOLS = {"debootstrap": "debootstrap", "proot": "proot", "qemu-aarch64-static": "qemu-user-static"}
"""Programs, and their Debian packages."""

PACKAGES = ("python3", "libstdc++6", "libgomp1")
_SITE = "/opt/mmkd"
_MIDR = "/sys/devices/system/cpu/cpu0/regs/identification/midr_el1"
"""The file in which Linux on ARM64 names the processor; OpenVINO's kernels read it."""

_CORTEX_A76 = "0x00000000414fd0b0"
_CPU = "cortex-a76"
"""The nearest to a Jetson Orin's Cortex-A78AE that every qemu has: no SVE, as there."""

# qemu writes the /proc/cpuinfo that it makes up into a file, which the trial of a bundle, that may write none, would
# leave empty; onnxruntime then finds no processor and crashes.
_PATCH = f"""\
import resource
_set = resource.setrlimit
resource.setrlimit = lambda kind, limits: _set(kind, ({1 << 16},) * 2 if kind == resource.RLIMIT_FSIZE else limits)
"""


def missing_tools() -> tuple[str, ...]:
    """The Debian packages of what is called and is not here."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return tuple(package for name, package in TOOLS.items() if shutil.which(name, path=path) is None)


@dataclass(frozen=True, kw_only=True)
class Root:
    """A folder that is the root of an ARM64 system."""

    folder: Path

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Run a command of the root in it; its standard error goes where this program's goes."""
        midr = self.folder.with_name(f"{self.folder.name}.midr_el1")
        binds = ["/proc", "/dev", "/sys", f"{midr}:{_MIDR}"]
        line = ["proot", "-0", "-q", f"qemu-aarch64-static -cpu {_CPU}", "-r", self.folder, "-w", "/"]
        line += [word for bind in binds for word in ("-b", bind)]
        values = ["PATH=/usr/bin:/bin", "HOME=/root", "LANG=C.UTF-8", f"PYTHONPATH={_SITE}", "OMP_NUM_THREADS=1"]
        words = [*line, "/usr/bin/env", "-i", *values, *command]
        return subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, text=True, check=False)

    def python(self, *arguments: object) -> str:
        """What the root's Python prints.

        Raises:
            RuntimeError: it fails.
        """
        done = self.run("/usr/bin/python3", *arguments)
        if done.returncode:
            raise RuntimeError(f"python3 in {self.folder} ended with exit code {done.returncode}; see above")
        return done.stdout.strip()


def make_root(folder: Path, *, suite: str, mirror: str | None) -> Root:
    """A root with a Python; one that is there is whole, and taken as it is.

    Args:
        folder: of the root; `FOLDER.midr_el1` is written beside it.
        suite: Debian's, for debootstrap.
        mirror: its packages are fetched from there; None leaves the choice to debootstrap.
    """
    folder = folder.resolve()
    root = Root(folder=folder)
    if not (folder / "usr/bin/python3").exists():
        begun = folder.with_name(f"{folder.name}.begun")
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        _unpack(begun, suite=suite, mirror=mirror)
        begun.rename(folder)
    folder.with_name(f"{folder.name}.midr_el1").write_text(f"{_CORTEX_A76}\n")
    packages = folder / "usr/lib/python3/dist-packages"
    packages.mkdir(parents=True, exist_ok=True)
    (packages / "file_limit.py").write_text(_PATCH)
    (packages / "file_limit.pth").write_text("import file_limit\n")
    (folder / "tmp").mkdir(exist_ok=True)
    return root


def _unpack(folder: Path, *, suite: str, mirror: str | None) -> None:
    privileged = [] if os.geteuid() == 0 else ["proot", "-0"]
    fetch = ["debootstrap", "--download-only", "--arch=arm64", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    line = [*privileged, *fetch, suite, str(folder), *([mirror] if mirror else [])]
    subprocess.run(line, env=environment, stdout=sys.stderr, check=True)
    archives = sorted((folder / "var/cache/apt/archives").glob("*.deb"), key=lambda path: "base-files" not in path.name)
    for archive in archives:  # base-files first: it links /bin and /lib to /usr
        subprocess.run(["dpkg", "-x", archive, folder], check=True)


def install(root: Root, requirement: str) -> None:
    """Install a requirement's wheels for ARM64 where the root's Python looks; nothing runs there for it."""
    version, libc = root.python("-c", "import os, sys; print(sys.version_info[1], os.confstr(2))").split(" ", 1)
    match = re.search(r"2\.(\d+)", libc)
    if match is None:
        raise RuntimeError(f"{root.folder}: expected glibc, got {libc}")
    tags = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, int(match[1]) + 1))]
    target = root.folder / _SITE.lstrip("/")
    shutil.rmtree(target, ignore_errors=True)
    platforms: Sequence[str] = [word for tag in tags for word in ("--platform", tag)]
    python = ["--python-version", f"3.{version}", "--implementation", "cp", "--only-binary=:all:"]
    pip("install", "--no-warn-conflicts", "--target", target, *python, *platforms, requirement)
