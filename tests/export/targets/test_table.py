from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from mmkd_edge.errors import GateError, UsageError
from mmkd_export.plan import PLATFORMS, ExportPlan, platform_named
from mmkd_export.targets import litert
from mmkd_export.targets.table import TARGETS, resolve, targets_on


def _plan(*targets: str) -> ExportPlan:
    return ExportPlan(source=Path("s.ckpt"), output=Path("s.edge"), targets=targets)


@pytest.mark.parametrize(("machine", "name"), [("x86_64", "cpu-x86"), ("aarch64", "cpu-arm")])
def test_the_default_is_this_machine(machine: str, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert resolve(_plan()).platform.name == name


def test_the_default_for_engines_is_jetpack_6_where_there_is_no_tensorrt(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert resolve(_plan("trt")).platform.name == "jp6.2"


@pytest.mark.parametrize(("version", "name"), [("10.3.0.30", "jp6.2"), ("10.13.3.9", "jp7"), ("11.4.1", "jp7")])
def test_the_default_for_engines_is_that_of_the_installed_tensorrt(
    version: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "tensorrt.py").write_text(f"__version__ = {version!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "tensorrt", raising=False)
    assert resolve(_plan("trt")).platform.name == name
    __import__("sys").modules.pop("tensorrt", None)


def test_a_target_that_a_platform_lacks_names_those_that_have_it():
    with pytest.raises(UsageError) as error:
        resolve(replace(_plan("onnx", "trt"), platform="cpu-arm"))
    assert str(error.value) == (
        "--target trt: does not exist for the platform cpu-arm; give --platform jp6.2 or jp7 or trt-rtx, "
        "or leave it out"
    )


def test_every_row_of_the_table_says_what_it_makes_and_names_platforms_that_exist():
    assert [row.name for row in TARGETS] == ["onnx", "native", "litert", "c", "trt"]
    known = {row.name for row in PLATFORMS}
    for row in TARGETS:
        assert row.makes
        assert set(row.platforms) <= known
        assert bool(row.stage) == bool(row.convert or row.build or row.write)
    assert [" ".join(targets_on(row)) for row in PLATFORMS] == [
        "onnx native litert c",
        "onnx native litert c",
        "onnx native c",
        "onnx native trt",
        "onnx native trt",
        "onnx native trt",
    ]


def test_only_platforms_with_engines_have_a_gpu():
    assert [row.name for row in PLATFORMS if row.has_gpu] == ["jp6.2", "jp7", "trt-rtx"]
    assert platform_named("trt-rtx").engine_library == "tensorrt_rtx"


@pytest.mark.parametrize("graph", ["window", "step"])
def test_a_tflite_that_devices_refuse_ends_the_export(
    graph: Literal["window", "step"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: Sequence[str], **_: object) -> Any:
        Path(command[-2]).write_bytes(b"\x00\x00\x00\x00TFL2")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(litert, "missing_libraries", list)
    monkeypatch.setattr(litert, "subprocess", SimpleNamespace(run=run))
    with pytest.raises(GateError) as refused:
        litert.tflite_from_checkpoint(tmp_path / "student.ckpt", graph=graph)
    assert str(refused.value) == (
        "the .tflite would be refused by every device: the graph has the mark b'TFL2'; expected b'TFL3'; "
        "export without --target litert"
    )
