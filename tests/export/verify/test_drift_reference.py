"""How a bundle gets the spread between the training's groups."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from mmkd_edge.errors import UsageError
from mmkd_export.inspect.files import inspect_file
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_export.preflight import check_plan
from mmkd_models.data import shipped_dataset
from mmkd_models.data.dataset import open_dataset
from mmkd_models.training.checkpoint import write_student
from tests.export.students import make_student


def test_a_bundle_gets_its_reference_from_a_dataset(tmp_path: Path) -> None:
    dataset, path = open_dataset(shipped_dataset()).spec, tmp_path / "student.edge"
    write_student(tmp_path / "s.ckpt", make_student(modality=dataset.modality("acc"), task=dataset.task, windows=60))
    result = export(ExportPlan(source=tmp_path / "s.ckpt", output=path, drift_reference=shipped_dataset()))
    (entry,) = result.manifest.models
    reference = entry.group_reference
    assert reference is not None
    assert (reference.between, reference.groups) == ("groups", 8)
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
