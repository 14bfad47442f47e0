import importlib.util
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmkd_edge.errors import GateError, UnavailableError, UsageError
from mmkd_edge.outputs import lock_output
from mmkd_export.pipeline import export
from mmkd_export.plan import PLATFORMS, ExportPlan, export_plan, platform_named
from mmkd_export.preflight import check_plan
from mmkd_export.targets import litert
from mmkd_export.targets.table import TARGETS, resolve, targets_on, with_defaults
from tests.edge.said import said


def _refusal(plan):
    return said(UsageError, check_plan, plan)


def test_defaults_are_of_platforms_with_engines(monkeypatch, exported, tmp_path):
    assert export_plan(Path("runs/a.ckpt")).output == Path("runs/a.edge")
    assert export_plan(Path("runs/a.ckpt"), output=Path("b.edge")).output == Path("b.edge")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert resolve(_plan("trt")).platform.name == "jp6.2"
    assert [row.name for row in PLATFORMS if row.has_gpu] == ["jp6.2", "jp7", "trt-rtx"]
    assert platform_named("trt-rtx").engine_library == "tensorrt_rtx"
    source = Path(shutil.copy(exported.path, tmp_path / "s.edge"))
    plan = export_plan(source)
    source.unlink()
    assert plan.from_bundle


def test_all_problems_are_reported_together(tmp_path):
    plan = export_plan(tmp_path / "a.ckpt", output=tmp_path / "no" / "a.edge", calibration=tmp_path / "data")
    assert _refusal(plan) == (
        "3 problems; nothing was exported:\n"
        f"  - {tmp_path}/a.ckpt: expected a student checkpoint of mmkd-edge or a bundle, found no such file; "
        "check the path\n"
        f"  - {tmp_path}/data: expected a dataset directory, found none there; check the path\n"
        f"  - {tmp_path}/no/a.edge: cannot be written: there is no directory {tmp_path}/no; make it first"
    )


def test_sources_and_outputs_that_cannot_be_are_named(tmp_path, student_file, exported):
    (tmp_path / "dataset.json").touch()
    assert _refusal(export_plan(tmp_path, output=tmp_path / "a.edge")) == (
        f"{tmp_path}: expected a student checkpoint or a bundle, got a dataset; make a student with mmkd-distill, and"
        " name it"
    )
    assert _refusal(export_plan(student_file, output=student_file)) == (
        f"{student_file}: exists and is not a bundle, so it is not overwritten; choose another -o"
    )
    assert _refusal(export_plan(exported.path)) == (
        f"{exported.path}: nothing to do with this bundle; name another -o, --sign, --release, --target trt or c"
    )


def test_a_second_export_is_refused_while_the_first_runs(student_file, tmp_path):
    output = tmp_path / "a.edge"
    with lock_output(output), pytest.raises(UsageError) as error:
        export(export_plan(student_file, output=output))
    assert re.fullmatch(
        rf"{output}: .+ \(process {os.getpid()} of .+\) is writing it; wait until it ends, or choose another name",
        str(error.value),
    )
    assert list(tmp_path.iterdir()) == []


def test_missing_libraries_are_named_with_their_extra(student_file, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    absent = ("onnx", "onnxscript")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else find(name))
    assert said(UnavailableError, lambda: check_plan(export_plan(student_file, output=tmp_path / "a.edge"))) == (
        "an export from a checkpoint needs onnx and onnxscript, which this Python lacks; "
        "run: pip install 'mmkd-edge[export]'"
    )


@pytest.fixture
def broken_converter(tmp_path, monkeypatch):
    """A converter that is installed and knows no operator."""
    folder = tmp_path / "installed"
    folder.mkdir()
    for name in ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"):
        (folder / f"{name}.py").write_text("raise RuntimeError('no such operator')\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.usefixtures("broken_converter")
def test_a_native_file_and_a_tflite_are_added_by_default(student_file, exported, tmp_path, monkeypatch):
    monkeypatch.setattr("mmkd_edge.native.LIBRARY", student_file)  # whether an engine was built or not
    plan = export_plan(student_file, output=tmp_path / "s.edge")
    assert with_defaults(plan) == replace(plan, targets=("native", "litert"), optional=("native", "litert"))
    assert with_defaults(replace(plan, targets=("c",), platform="cpu-arm")).targets == ("c", "native", "litert")
    named = replace(plan, targets=("native", "litert"))
    assert with_defaults(named) == named
    assert with_defaults(replace(plan, platform="jp6.2")).targets == ("native",)
    assert with_defaults(replace(plan, targets=("trt",))).targets == ("trt", "native")
    for as_it_is in (replace(plan, targets=("onnx",)), export_plan(exported.path)):
        assert with_defaults(as_it_is) == as_it_is
    monkeypatch.setattr("mmkd_edge.native.LIBRARY", tmp_path / "nothing")
    assert with_defaults(plan).targets == ("litert",)


@pytest.mark.usefixtures("broken_converter")
def test_a_tflite_that_nobody_asked_for_does_not_end_the_export(student_file, tmp_path):
    plan = export_plan(student_file, output=tmp_path / "s.edge")
    plan = replace(plan, targets=("litert",), optional=("litert",))
    (left_out,) = export(plan).report.left_out
    assert (left_out.precision, left_out.format) == ("fp32", "tflite")
    assert left_out.reason == (
        "litert-torch could not convert the network: RuntimeError: no such operator; export without --target litert"
    )


def test_a_missing_litert_is_named_with_its_extra(student_file, tmp_path, monkeypatch):
    for library in ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"):
        monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    plan = ExportPlan(source=student_file, output=tmp_path / "s.edge", targets=("litert",))
    assert said(UnavailableError, check_plan, plan) == (
        "--target litert needs litert-torch and ai-edge-litert and ai-edge-quantizer, which this Python lacks; "
        "run: pip install 'mmkd-edge[litert-export]'"
    )
    assert UnavailableError.exit_code == 3


CHECKPOINT_OPTIONS = {
    "--precision int8": {"precisions": ("int8",)},
    "--calib": {"calibration": Path("/")},
    "--eval": {"evaluation": Path("/")},
    "--drift-reference": {"drift_reference": Path("/")},
    "--golden": {"golden": "synthetic"},
    "--range": {"value_range": "none"},
    "--platform jp7": {"platform": "jp7"},
    "--target native": {"targets": ("native",)},
}


@pytest.mark.parametrize("option", list(CHECKPOINT_OPTIONS))
def test_what_is_made_from_a_checkpoint_is_refused_for_a_bundle(exported, tmp_path, option):
    assert _refusal(replace(export_plan(exported.path, output=tmp_path / "s.edge"), **CHECKPOINT_OPTIONS[option])) == (
        f"{option} has no effect without a checkpoint; leave it out"
    )


@pytest.mark.parametrize(
    ("option", "changes"),
    [("--max-drop-points", {"max_drop_points": 2.0}), ("--accept-unjudged", {"accept_unjudged": True})],
)
def test_a_limit_of_lower_precision_without_any_is_refused(student_file, tmp_path, option, changes):
    plan = replace(export_plan(student_file, output=tmp_path / "s.edge"), **changes)
    assert _refusal(plan) == f"{option} has no effect without --precision fp16, int8 or auto; leave it out"
    check_plan(replace(plan, precisions=("auto",)))


def _plan(*targets):
    return ExportPlan(source=Path("s.ckpt"), output=Path("s.edge"), targets=targets)


@pytest.mark.parametrize(("machine", "name"), [("x86_64", "cpu-x86"), ("aarch64", "cpu-arm")])
def test_the_default_is_this_machine(machine, name, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert resolve(_plan()).platform.name == name


@pytest.mark.parametrize(("version", "name"), [("10.3.0.30", "jp6.2"), ("10.13.3.9", "jp7"), ("11.4.1", "jp7")])
def test_the_default_for_engines_is_that_of_the_installed_tensorrt(version, name, monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text(f"__version__ = {version!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert resolve(_plan("trt")).platform.name == name
    sys.modules.pop("tensorrt", None)


def test_a_target_that_a_platform_lacks_names_those_that_have_it():
    assert said(UsageError, lambda: resolve(replace(_plan("onnx", "trt"), platform="cpu-arm"))) == (
        "--target trt: does not exist for the platform cpu-arm; give --platform jp6.2 or jp7 or trt-rtx, "
        "or leave it out"
    )


def test_every_row_of_the_table_says_what_it_makes_and_names_platforms_that_exist():
    assert [row.name for row in TARGETS] == ["onnx", "native", "litert", "c", "trt", "openvino"]
    known = {row.name for row in PLATFORMS}
    for row in TARGETS:
        assert row.makes
        assert set(row.platforms) <= known
        assert row.adds is None or row.adds.stage
    on_cpu, on_gpu = "onnx native litert c openvino", "onnx native trt"
    assert [" ".join(targets_on(row)) for row in PLATFORMS] == [on_cpu] * 2 + ["onnx native c"] + [on_gpu] * 3


@pytest.mark.parametrize("graph", ["window", "step"])
def test_a_tflite_that_devices_refuse_ends_the_export(graph, tmp_path, monkeypatch):
    def run(command, **_):
        Path(command[-2]).write_bytes(b"\x00\x00\x00\x00TFL2")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(litert, "missing_libraries", list)
    monkeypatch.setattr(litert, "subprocess", SimpleNamespace(run=run))
    assert said(GateError, litert.tflite_from_checkpoint, tmp_path / "student.ckpt", graph=graph) == (
        "the .tflite would be refused by every device: the graph has the mark b'TFL2'; expected b'TFL3'; "
        "export without --target litert"
    )
