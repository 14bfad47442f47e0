import pytest

from mmkd_export.graph.onnx_from_student import onnx_from_student
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan, export_plan
from mmkd_models.training.checkpoint import write_student
from tests.export.students import make_student


@pytest.fixture(scope="module", autouse=True)
def _quick(quick_exports, quick_openings): ...


@pytest.fixture(scope="session")
def student():
    return make_student()


@pytest.fixture(scope="session")
def student_graph(student):
    return onnx_from_student(student)


@pytest.fixture(scope="session")
def student_file(student, tmp_path_factory):
    path = tmp_path_factory.mktemp("student") / "student.ckpt"
    write_student(path, student)
    return path


@pytest.fixture(scope="session")
def exported(student_file, tmp_path_factory):
    output = tmp_path_factory.mktemp("bundle") / "student.edge"
    return export(export_plan(student_file, output=output))


@pytest.fixture(scope="session")
def mixed(student_file, tmp_path_factory):
    """A bundle for a GPU, so that nothing is timed: fp32, fp16 and int8."""
    output = tmp_path_factory.mktemp("mixed") / "student.edge"
    return export(
        ExportPlan(
            source=student_file, output=output, accept_unjudged=True, precisions=("fp16", "int8"), platform="jp6.2"
        )
    )
