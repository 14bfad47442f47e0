"""Bundles without recordings: what judged them stays at home, and a device tests itself all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.spec import ModalitySpec
from mmkd_export.packing.card import NO_RECORDING
from mmkd_export.packing.contents import recorded_golden
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_export.verify.answers import NetworkAnswers
from mmkd_export.verify.windows import RealWindows
from mmkd_models.training.checkpoint import StudentCheckpoint
from tests.export.students import make_proof_set


def test_no_recording_is_in_the_bundle_and_all_of_them_judged_it(
    student: StudentCheckpoint, student_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s.edge"
    plan = ExportPlan(source=student_file, output=path, golden="synthetic", precisions=("int8",), accept_unjudged=True)
    result = export(plan)
    assert student.carried is not None
    data = path.read_bytes()
    rows = student.carried.windows.reshape(-1, 3)
    assert not any(row.tobytes() in data for row in rows[np.isfinite(rows).all(axis=1)])
    windows = result.report.windows
    assert (windows.count, windows.synthetic, windows.golden) == (12, False, "synthetic")
    with Bundle.open(path) as bundle:
        golden = bundle.golden("acc")
        assert f"**No recording is in here**: {NO_RECORDING}." in bundle.read("README.md").decode()
    assert 32 <= len(golden.windows) <= 64
    assert (golden.labels == -1).all()
    for precision in ("fp32", "int8"):
        with EdgePredictor.open(path, backend="ort", precision=precision) as predictor:
            assert predictor.selftest().windows == len(golden.windows)


CAMERA = ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=25.0, samples=16, height=96, width=96)
SOUND = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=16e3, samples=16_000)
SERIES = ModalitySpec(name="acc", channels=("x",), rate_hz=100.0, samples=1_000_000)
LARGE = msgspec.structs.replace(CAMERA, height=1024, width=1024)


@pytest.mark.parametrize(("modality", "most"), [(CAMERA, 28), (SOUND, 65), (SERIES, 80), (LARGE, 8)])
def test_windows_that_travel_are_few_if_large_and_of_both_halves_and_every_class(
    student: StudentCheckpoint, modality: ModalitySpec, most: int
) -> None:
    labels, numbers = np.repeat(np.arange(3), (48, 24, 8)), np.arange(80, dtype=np.float32)[:, None]
    real = RealWindows(windows=numbers, labels=labels, judge=np.arange(80) % 2 == 0, source="a test")
    answers = NetworkAnswers(logits=numbers, probabilities=numbers)
    golden = recorded_golden(replace(make_proof_set(student), modality=modality, real=real, answers=answers))
    assert [int((golden.labels == label).sum()) for label in range(3)] == pytest.approx(
        [0.6 * most, 0.3 * most, 0.1 * most], abs=1
    )
    assert int(golden.judge.sum()) == pytest.approx(most / 2, abs=1)
    rows = golden.windows[:, 0].astype(int)
    assert len(rows) == most
    assert (np.diff(rows) > 0).all()
    assert (golden.labels == labels[rows]).all()
    assert (golden.judge == real.judge[rows]).all()
