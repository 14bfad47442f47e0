"""Bundles without recordings: what judged them stays at home, and a device tests itself all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest

from mmkd_edge import EdgePredictor, UsageError
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.golden import Golden
from mmkd_edge.spec import ModalitySpec
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_export.verify.golden import NO_RECORDING, most_golden, sample_golden
from mmkd_models.training.checkpoint import StudentCheckpoint


@pytest.mark.parametrize(("choice", "fewest", "most"), [("synthetic", 32, 64), ("none", 1, 1)])
def test_no_recording_is_in_the_bundle_and_all_of_them_judged_it(
    student: StudentCheckpoint,
    student_file: Path,
    tmp_path: Path,
    choice: Literal["synthetic", "none"],
    fewest: int,
    most: int,
) -> None:
    path = tmp_path / "s.edge"
    plan = ExportPlan(source=student_file, output=path, golden=choice, precisions=("int8",), accept_unjudged=True)
    result = export(plan)
    assert student.carried is not None
    data = path.read_bytes()
    rows = student.carried.windows.reshape(-1, 3)
    assert not any(row.tobytes() in data for row in rows[np.isfinite(rows).all(axis=1)])
    windows = result.report.windows
    assert (windows.count, windows.synthetic, windows.golden) == (12, False, choice)
    with Bundle.open(path) as bundle:
        golden = bundle.golden("acc")
        assert f"**No recording is in here**: {NO_RECORDING[choice]}." in bundle.read("README.md").decode()
    assert fewest <= len(golden.windows) <= most
    assert (golden.labels == -1).all()
    for precision in ("fp32", "int8"):
        with EdgePredictor.open(path, backend="ort", precision=precision) as predictor:
            assert predictor.selftest().windows == len(golden.windows)


def test_a_bundle_without_recordings_calibrates_nothing_later(student_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.edge"
    export(ExportPlan(source=student_file, output=path, golden="synthetic"))
    with pytest.raises(UsageError) as caught:
        export(ExportPlan(source=path, output=tmp_path / "t.edge", precisions=("int8",)))
    assert str(caught.value) == (
        f"{path}: --precision int8: expected recorded windows, got a bundle whose windows are synthetic; name some "
        "with --calib DATA or --calib FILE.npz"
    )
    again = export(ExportPlan(source=path, output=tmp_path / "t.edge"))
    assert again.report.windows.synthetic
    with pytest.raises(UsageError) as caught:
        export(ExportPlan(source=path, output=path, golden="none"))
    assert str(caught.value) == (
        f"{path}: --golden none: expected a checkpoint, because a bundle keeps its golden windows, got a bundle; "
        "export the checkpoint"
    )


def test_recordings_are_what_a_bundle_carries_unless_told_otherwise(student_file: Path, tmp_path: Path) -> None:
    result = export(ExportPlan(source=student_file, output=tmp_path / "s.edge"))
    assert result.report.windows.golden is msgspec.UNSET


def test_what_travels_is_of_both_halves_and_of_every_class() -> None:
    labels = np.repeat(np.arange(3), (24, 12, 4))
    judge = np.arange(40) % 2 == 0
    numbers = np.arange(40, dtype=np.float32)[:, None]
    golden = Golden(windows=numbers, labels=labels, logits=numbers, probabilities=numbers, judge=judge, tolerance=1e-4)
    few = sample_golden(golden, 10)
    assert [int((few.labels == one).sum()) for one in range(3)] == [6, 3, 1]
    assert int(few.judge.sum()) == 5
    assert (np.diff(few.windows[:, 0]) > 0).all()
    rows = few.windows[:, 0].astype(int)
    assert (few.labels == labels[rows]).all()
    assert (few.judge == judge[rows]).all()
    assert sample_golden(golden, 40) is golden
    assert sample_golden(golden, None) is golden


def test_how_many_windows_travel() -> None:
    camera = ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=25.0, samples=16, height=96, width=96)
    sound = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=16e3, samples=16_000)
    series = ModalitySpec(name="acc", channels=("x",), rate_hz=100.0, samples=1_000_000)
    large = msgspec.structs.replace(camera, height=1024, width=1024)
    assert [most_golden(one) for one in (camera, sound, series, large)] == [28, 65, None, 8]
