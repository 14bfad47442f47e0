"""What is weighed, on a folder as pip leaves it."""

from __future__ import annotations

from pathlib import Path

from checks.install_size import Installed, import_time_ms, weigh


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
