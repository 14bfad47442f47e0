"""What is weighed and counted, on a folder as pip leaves it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checks import install_size
from checks.install_size import Installed, counted, import_time_ms, pythons_here, weigh


def test_files_are_weighed_and_distributions_counted(tmp_path: Path) -> None:
    for name, size_bytes in (
        ("mmkd_edge/__init__.py", 10),
        ("mmkd_edge/bundles/a.edge", 30),
        ("mmkd_edge-1.0.dist-info/METADATA", 5),
        ("numpy/core.so", 100),
        ("numpy-2.0.dist-info/METADATA", 7),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size_bytes))
    # Of the project's own files the 45 bytes that lie in its folders, its metadata among them.
    assert weigh(tmp_path) == Installed(size_bytes=152, own_bytes=45, packages=["mmkd_edge", "numpy"])


def test_a_module_is_imported_from_the_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "slow_module.py").write_text("import time; time.sleep(0.4)")
    assert import_time_ms(tmp_path, "slow_module", repeats=1) > 200  # of the 400, on a machine that is busy


def test_only_pythons_that_run_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python3.12").write_text("#!/bin/sh\necho 'no such version' >&2\nexit 127\n")
    (tmp_path / "python3.13").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for name in ("python3.12", "python3.13"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    (path,) = {version: path for version, path in pythons_here().items() if path == sys.executable}.values()
    assert path == sys.executable


def test_a_python_without_wheels_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(command: list[str], **_: object) -> Any:
        assert command[command.index("--python") + 1] == "/python3.10"
        return SimpleNamespace(returncode=1, stderr="ERROR: No matching distribution found\n")

    monkeypatch.setattr(install_size, "subprocess", SimpleNamespace(run=run))
    assert counted("zensical", "/python3.10") == "none"
    assert capsys.readouterr().err == "ERROR: No matching distribution found\n"
