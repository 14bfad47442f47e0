"""Values that no sensor gives: the range that an export finds where the dataset declares none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_edge import EdgePredictor, UsageError
from mmkd_edge.bundle.bundle import Bundle
from mmkd_export.inspect.files import inspect_file
from mmkd_export.pipeline import ExportResult, export
from mmkd_export.plan import ExportPlan
from mmkd_export.verify.windows import plausible_range, range_choice
from mmkd_models.training.checkpoint import StudentCheckpoint, write_student


def said(call) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    return str(caught.value)


def test_the_range_is_a_thousand_standard_deviations_of_the_widest_channel_rounded_outwards() -> None:
    windows = np.array([[[1.0, 2.0], [np.nan, 3.0]]], dtype=np.float32)
    # 0.5 - 1000 * 0.123 = -122.5 and 9.8 + 1000 * 0.0456 = 55.4; 0.5 + 123 = 123.5
    assert plausible_range(windows, mean=[0.5, 9.8], std=[0.123, 0.0456]) == (-130.0, 130.0)


def test_what_the_windows_have_is_inside_however_rare() -> None:
    windows = np.array([[[-7.25], [4321.0], [np.inf]]], dtype=np.float32)
    assert plausible_range(windows, mean=[0.0], std=[0.001]) == (-7.3, 4400.0)


def test_zero_is_outside_where_a_sensor_is_far_from_it() -> None:
    windows = np.array([[[101_200.0], [101_400.0], [np.nan]]], dtype=np.float32)
    # 101325 -+ 1000 * 2 = 99325 and 103325
    assert plausible_range(windows, mean=[101_325.0], std=[2.0]) == (99_000.0, 110_000.0)
    assert plausible_range(windows[:, 2:], mean=[101_325.0], std=[2.0]) == (99_000.0, 110_000.0)


def test_a_sensor_that_fills_float32_has_no_range() -> None:
    assert plausible_range(np.zeros((1, 1, 1), np.float32), mean=[0.0], std=[1e37]) is None


@pytest.mark.parametrize("text", ["7", "a:b", "2:1", "nan:1", "0:1e39", ""])
def test_what_is_no_range_is_refused(text: str) -> None:
    assert said(lambda: range_choice(text)) == (
        f"--range {text!r}: expected LOW:HIGH with LOW below HIGH, or none; write --range=-16:16"
    )


def test_windows_that_no_sensor_gives_are_invalid_and_the_bundle_says_why(exported: ExportResult) -> None:
    (entry,) = exported.manifest.models
    assert entry.modality.range == (-1000.0, 1000.0)  # the toy's front end has mean 0 and standard deviation 1
    rule = (
        "no range was declared: the training's mean and 1000 standard deviations either way, of the widest channel, "
        "and all that its windows have"
    )
    assert exported.report.range_rule == rule
    facts = inspect_file(exported.path)
    assert (facts["acc.range"], facts["acc.range_from"]) == ("-1000 to 1000", rule)
    with Bundle.open(exported.path) as bundle:
        assert f"A value outside -1000 to 1000 counts as missing ({rule})." in bundle.read("README.md").decode()
        window = bundle.golden("acc").windows[0]
    with EdgePredictor.open(exported.path) as predictor:
        assert predictor.predict(np.full_like(window, 1e38)).status == "invalid"
        half = window.copy()
        half[:, 0] = 1e38
        assert predictor.predict(half).reason == "channel 'x' is missing: 64 outside -1000 to 1000"


def test_a_range_that_is_named_or_taken_away_is_what_the_bundle_has(student_file: Path, tmp_path: Path) -> None:
    named = export(ExportPlan(source=student_file, output=tmp_path / "named.edge", value_range=(-16.0, 16.0)))
    assert named.manifest.models[0].modality.range == (-16.0, 16.0)
    assert named.report.range_rule == "given at export with --range"
    without = export(ExportPlan(source=student_file, output=tmp_path / "none.edge", value_range="none"))
    assert without.manifest.models[0].modality.range is None
    assert without.report.range_rule is msgspec.UNSET


def test_a_range_that_the_dataset_declares_stays(student: StudentCheckpoint, tmp_path: Path) -> None:
    from dataclasses import replace

    declared = replace(student, modality=msgspec.structs.replace(student.modality, range=(-50.0, 50.0)))
    write_student(tmp_path / "s.ckpt", declared)
    result = export(ExportPlan(source=tmp_path / "s.ckpt", output=tmp_path / "s.edge"))
    assert result.manifest.models[0].modality.range == (-50.0, 50.0)
    assert result.report.range_rule is msgspec.UNSET
