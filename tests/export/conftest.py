from __future__ import annotations

from pathlib import Path

import pytest

from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.pipeline import ExportResult, export
from mmkd_export.plan import ExportPlan, export_plan
from mmkd_models.training.checkpoint import StudentCheckpoint, write_student
from tests.export.students import make_student


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_exports: None, quick_openings: None) -> None: ...


@pytest.fixture(scope="session")
def student() -> StudentCheckpoint:
    return make_student()


@pytest.fixture(scope="session")
def student_graph(student: StudentCheckpoint) -> bytes:
    return onnx_from_student(student)


@pytest.fixture(scope="session")
def student_file(student: StudentCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "student.ckpt"
    write_student(path, student)
    return path


@pytest.fixture(scope="session")
def exported(student_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    output = tmp_path_factory.mktemp("bundle") / "student.edge"
    return export(export_plan(student_file, output=output))


@pytest.fixture(scope="session")
def mixed(student_file: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """A bundle for a GPU, so that nothing is timed: fp32, fp16 and int8."""
    output = tmp_path_factory.mktemp("mixed") / "student.edge"
    return export(
        ExportPlan(
            source=student_file, output=output, accept_unjudged=True, precisions=("fp16", "int8"), platform="jp6.2"
        )
    )
