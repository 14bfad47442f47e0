"""Lower precision through the whole export: what enters a bundle, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmkd_edge.errors import GateError, UsageError
from mmkd_export.pipeline import export, export_stages
from mmkd_export.plan import ExportPlan
from mmkd_export.targets.table import resolve
from mmkd_export.verify.answers import answers_from_student
from tests.edge.said import said
from tests.export.students import card_of, export_student, make_windows, write_windows


def test_every_precision_that_was_asked_for_is_in_the_bundle(mixed):
    files = [artifact.file for artifact in mixed.manifest.models[0].artifacts]
    assert files == [f"acc/model.{precision}.onnx" for precision in ("fp32", "fp16", "int8")]
    assert mixed.report.platform == "jp6.2"
    assert [artifact.gate is None or artifact.gate.passed for artifact in mixed.report.artifacts] == [True] * 3
    assert len(mixed.report.artifacts[2].sensitivity) == 4
    assert mixed.report.windows.caution is not None
    assert mixed.report.artifacts[2].float_layers == {
        "encoder.stem.0": "the first layer: its range is that of the sensor's glitches",
        "encoder.spectrum": "a product of 1 x 21 times 21 x 16 gains nothing",
        "encoder.statistics": "a product of 1 x 48 times 48 x 16 gains nothing",
        "pool.mix": "a product of 1 x 48 times 48 x 16 gains nothing",
        "head": "a product of 1 x 16 times 16 x 4 gains nothing",
    }


def test_lower_precision_that_six_windows_would_judge_is_refused(student_file, tmp_path):
    plan = ExportPlan(source=student_file, output=tmp_path / "s.edge", precisions=("fp16",), platform="jp6.2")
    assert said(GateError, export, plan) == (
        "fp16 graph: expected 100 or more windows to judge by, so that the one that may always differ is at "
        "most 1% of them, got 6, of which it is 17%; no bundle was written. Name more with --eval DATA, or take it "
        "unjudged with --accept-unjudged"
    )
    assert list(tmp_path.iterdir()) == []


def test_auto_leaves_out_and_tries_what_windows_and_platform_allow(student_file, tmp_path):
    plan = ExportPlan(source=student_file, output=tmp_path / "s.edge", precisions=("auto",), platform="cpu-x86")
    assert [found.reason for found in export(plan).report.left_out] == [
        (
            "int8 graph: expected 100 or more windows to judge by, so that the one that may always differ is at most "
            "1% of them, got 6, of which it is 17%. Name more with --eval DATA, or take it unjudged with "
            "--accept-unjudged"
        )
    ]

    def wanted(**options):
        resolved = resolve(_plan(**options))
        return resolved.precisions, resolved.optional

    assert wanted(platform="cpu-x86") == ((), frozenset())
    assert wanted(precisions=("auto",), platform="cpu-x86") == (("int8",), {"int8"})
    assert wanted(precisions=("auto",), platform="jp7") == (("fp16", "int8"), {"fp16", "int8"})
    assert wanted(precisions=("auto", "int8"), platform="cpu-arm") == (("int8",), frozenset())


def test_what_was_accepted_unjudged_says_so_in_manifest_report_and_card(mixed):
    artifacts = mixed.manifest.models[0].artifacts
    assert [artifact.unjudged for artifact in artifacts] == [None, True, True]
    gates = [artifact.gate for artifact in mixed.report.artifacts]
    assert [gate is not None and gate.unjudged for gate in gates] == [False, True, True]
    assert (
        "**`acc/model.int8.onnx` is unjudged**: its gate needs 100 windows and had 6, which whoever exported it "
        "accepted.\n"
    ) in card_of(mixed.path)


ONE_HUNDRED = (
    "100 judging windows prove little: even without one disagreement, up to 3.0% remain possible; "
    "name more with --eval DATA"
)


def _undecided_windows(student):
    """Windows on which the student's two best classes are all but equal, so that any rounding turns the answer."""
    noise = np.random.default_rng(0).standard_normal((3000, *student.modality.shape)).astype(np.float32)
    best = np.sort(answers_from_student(student, noise).logits, axis=1)
    return noise[np.argsort(best[:, -1] - best[:, -2])[:100]]


def test_a_gate_that_no_remedy_passes_ends_the_export(exported, student_file, student, tmp_path):
    windows = _undecided_windows(student)
    labels = answers_from_student(student, windows).logits.argmax(axis=1)
    data = write_windows(tmp_path / "undecided", student, windows, labels)
    output = Path(shutil.copy(exported.path, tmp_path / "student.edge"))
    options = {"accept_unjudged": True, "precisions": ("int8",), "evaluation": data, "platform": "jp6.2"}
    plan = ExportPlan(source=student_file, output=output, **options)
    refusal = said(GateError, export, plan)
    lines = refusal.splitlines()
    assert lines[0] == (
        "int8 graph: no remedy passed the gate; no bundle was written. Calibrate with more windows "
        "(--calib), allow more --max-drop-points, or export with --precision fp16 or fp32 alone. "
        "Tried in this order:"
    )
    remedies = ["all but the first layer", "ranges by percentile", "last layer in float32"]
    assert [line.partition(":")[0] for line in lines[1:4]] == [f"  - {remedy}" for remedy in remedies]
    assert all("labels agree on" in line for line in lines[1:])
    assert output.read_bytes() == exported.path.read_bytes()
    report = export(replace(plan, precisions=("auto",))).report
    left_out = next(row for row in report.left_out if row.precision == "int8")
    assert left_out.reason == refusal.replace("; no bundle was written", "")
    assert not left_out.artifact.gate.passed
    assert [attempt.remedy for attempt in left_out.artifact.attempts][:2] == remedies[:2]
    facts = report.windows
    assert (facts.count, facts.judging, facts.labelled, facts.caution) == (12, 100, 100, ONE_HUNDRED)
    assert facts.judged_by == "windows of the validation split of dataset 'toy'"


def test_int8_without_windows_to_calibrate_is_refused(student, tmp_path):
    carried = make_windows(student.modality, student.task, count=1)
    options = {"name": "s", "accept_unjudged": True, "precisions": ("int8",)}
    assert said(UsageError, export_student, tmp_path, replace(student, carried=carried), **options) == (
        f"{tmp_path}/s.ckpt: --precision int8: expected real windows to calibrate with, got none beside the one that "
        "judges; name some with --calib DATA"
    )


def test_a_student_without_a_layer_worth_it_says_so(student_file, tmp_path, monkeypatch):
    monkeypatch.setattr("mmkd_export.precision.make.select_layers", lambda *_, **__: ())
    plan = ExportPlan(source=student_file, output=tmp_path / "s.edge", accept_unjudged=True, precisions=("int8",))
    assert said(GateError, export, plan) == (
        "int8 graph: expected a layer that INT8 makes faster, found none: every product has a side below 16, or reads "
        "the sensor itself as convolutional features do; export without --precision int8"
    )


def _plan(**changes):
    return ExportPlan(source=Path("s.ckpt"), output=Path("s.edge"), **changes)


def test_steps_are_those_of_the_plan(exported):
    assert export_stages(resolve(_plan(precisions=("int8",), targets=("onnx", "c"), platform="cpu-x86"))) == (
        "read the checkpoint",
        "convert it to ONNX",
        "compare with torch",
        "make int8",
        "write the bundle",
        "write C sources",
    )
    engines = replace(_plan(targets=("trt",), platform="trt-rtx"), source=exported.path, output=exported.path)
    assert export_stages(resolve(engines)) == ("verify the bundle", "build engines")
