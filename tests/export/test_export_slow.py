"""Students of slow data: levels far apart between windows, and hardly any movement within one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.errors import GateError
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_export.verify.answers import answers_from_student
from mmkd_models.training.checkpoint import StudentCheckpoint, write_student
from tests.export.students import make_student, of_features


def slow_student(*, levels: float) -> StudentCheckpoint:
    """Convolutional features of windows whose levels differ by so many times their movement, and sure answers."""
    start = make_student()
    assert start.carried is not None
    windows = start.carried.windows
    shifts = np.random.default_rng(0).normal(0, levels, (len(windows), 1, 1))
    carried = replace(start.carried, windows=(windows + shifts).astype(np.float32))
    found = of_features(replace(start, carried=carried), "rocket")
    return replace(found, state={**found.state, "head.weight": 8 * found.state["head.weight"]})


def test_a_graph_may_differ_by_what_float32_alone_does(tmp_path: Path) -> None:
    student, path = slow_student(levels=300.0), tmp_path / "slow.ckpt"
    assert student.carried is not None
    answers, exact = (answers_from_student(student, student.carried.windows, exact=exact) for exact in (False, True))
    rounding = float(np.abs(answers.logits.astype(np.float64) - exact.logits).max())
    assert rounding > 1e-4  # no graph could be held to the usual tolerance
    write_student(path, student)
    bundle = export(ExportPlan(source=path, output=tmp_path / "slow.edge")).path
    with Bundle.open(bundle) as opened:
        golden, (entry,) = opened.golden("acc"), opened.manifest.models
    assert golden.tolerance == entry.artifacts[0].parity.tolerance == pytest.approx(4 * rounding)
    with EdgePredictor.open(bundle) as predictor:
        result = predictor.selftest()
    assert (result.tolerance, result.label_agreement) == (golden.tolerance, 1.0)


def test_a_student_that_other_machines_would_compute_otherwise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "slow.ckpt"
    write_student(path, slow_student(levels=100_000.0))
    with pytest.raises(GateError) as caught:
        export(ExportPlan(source=path, output=tmp_path / "slow.edge"))
    assert str(caught.value).startswith(f"{path}: expected answers in float32 within 0.0025 of those in float64, got ")
    assert not (tmp_path / "slow.edge").exists()
