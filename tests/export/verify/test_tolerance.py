"""What a student bears, and how a bundle gets the spread between the training's groups."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mmkd_edge.bundle.statistics import GroupReference, Tolerance
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import TaskSpec
from mmkd_export.inspect.files import inspect_file
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_export.preflight import check_plan
from mmkd_export.verify.answers import NetworkAnswers
from mmkd_export.verify.proof_set import with_tolerance
from mmkd_export.verify.windows import RealWindows
from mmkd_models.data import shipped_dataset
from mmkd_models.data.dataset import open_dataset
from mmkd_models.training.checkpoint import write_student
from tests.export.students import make_student

REFERENCE = GroupReference(
    between="groups",
    groups=8,
    windows=800,
    fewest_windows=100,
    false_alarm_rate=1 / 9,
    scales=(1.0, 1.0),
    centres=((0.0,) * 5,),
    spreads=((1.0,) * 5,),
    largest_misfit=1.0,
    largest_axes=1.0,
    largest_levels=1.0,
)


def answer(windows: NDArray[np.float32]) -> NetworkAnswers:
    """Class 1 where the first channel's mean is above 1; the second is ignored."""
    logits = np.stack([np.ones(len(windows)), windows[:, :, 0].mean(axis=1)], axis=1).astype(np.float32)
    return NetworkAnswers(logits=logits, probabilities=np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))


def real() -> RealWindows:
    """Forty windows; the first channel's mean is 0.4 or 1.6, its standard deviation 1."""
    classes = np.arange(40) % 2
    windows = np.zeros((40, 8, 2), np.float32)
    windows[:, :, 0] = 0.4 + 1.2 * classes[:, None] + 0.8 * np.where(np.arange(8) % 2 == 0, 1, -1)
    windows[:, :, 1] = np.where(np.arange(8) % 2 == 0, 3, -3)
    return RealWindows(windows=windows, labels=classes, judge=np.ones(40, dtype=bool), source="a test")


def test_sizes_grow_until_answers_suffer() -> None:
    found = with_tolerance(REFERENCE, real(), task=TaskSpec(labels=("low", "high")), answer=answer)
    assert found is not None
    # The border is 0.6 from both means: an offset of 0.5 is accepted, 1 is not. A gain of 1.5 makes 1.6 / 1.5 and
    # 0.4 * 1.5, which is accepted; 1.6 / 2 is not. The second channel, of standard deviation 3, accepts everything.
    assert found.tolerance == Tolerance(
        loss=0.03,
        windows=40,
        offsets=(pytest.approx(0.5), pytest.approx(6.0)),
        offsets_together=(pytest.approx(0.5), pytest.approx(1.5)),
        gains=(1.5, 3.0),
        gain_together=1.5,
    )


def test_what_cannot_be_judged_has_no_tolerance() -> None:
    task = TaskSpec(labels=("low", "high"))
    assert with_tolerance(None, real(), task=task, answer=answer) is None
    few = RealWindows(windows=real().windows[:29], labels=real().labels[:29], judge=np.ones(29, bool), source="a test")
    assert with_tolerance(REFERENCE, few, task=task, answer=answer) == REFERENCE


def test_a_bundle_gets_its_reference_from_a_dataset(tmp_path: Path) -> None:
    dataset, path = open_dataset(shipped_dataset()).spec, tmp_path / "student.edge"
    write_student(tmp_path / "s.ckpt", make_student(modality=dataset.modality("acc"), task=dataset.task, windows=60))
    result = export(ExportPlan(source=tmp_path / "s.ckpt", output=path, drift_reference=shipped_dataset()))
    (entry,) = result.manifest.models
    reference = entry.group_reference
    assert reference is not None
    assert (reference.between, reference.groups) == ("groups", 8)
    assert reference.tolerance is not None
    said = (
        "unknown below 0.25 and above 3.3 times the usual size, as 0.0% of healthy windows of groups that were left out"
    )
    assert inspect_file(path)["acc.magnitude"] == said
    card = zipfile.ZipFile(path).read("README.md").decode()
    assert f"- A window of another magnitude than the training's is `unknown`: {said}.\n" in card


def test_a_reference_that_is_no_dataset_is_refused(student_file: Path, tmp_path: Path) -> None:
    plan = ExportPlan(source=student_file, output=tmp_path / "new.edge", drift_reference=tmp_path / "none")
    with pytest.raises(UsageError) as caught:
        check_plan(plan)
    assert str(caught.value) == (
        f"{tmp_path / 'none'}: --drift-reference: expected a dataset directory, found none there; check the path"
    )
