"""Students of every kind as a real `.tflite`, read, tried and run as a device does.

Needs pip install 'mmkd-edge[litert-export]'. `MMKD_KEEP=FOLDER` keeps the bundles: those in tests/files/litert, which
tests/edge/backends/test_litert_bundles.py opens with ai-edge-litert alone, were made so.
"""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.spec import ModalitySpec
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.training.checkpoint import write_student
from tests.export.students import make_student, of_features

pytest.importorskip("litert_torch", reason="needs pip install 'mmkd-edge[litert-export]'")

# litert-torch and its jax announce their own deprecations when they are imported.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

MIC = ModalitySpec(name="mic", kind="audio", channels=("left", "right"), rate_hz=4000.0, samples=1000)
CAM = ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=25.0, samples=10, height=12, width=16)
CAUSAL = StudentConfig(
    preset="toy", encoder=EncoderConfig(width=16, heads=2, depth=1, spectrum_bands=4, most_tokens=10), causal=True
)
STEPS = ModalitySpec(name="acc", channels=("x", "y"), unit="g", rate_hz=50.0, samples=38, range=(-8.0, 8.0))
TOLERANCE = 1e-4  # that of an export


def student_of(kind):
    """With random weights."""
    if kind in ("convolutions", "average"):
        return of_features(make_student(), "convolutions" if kind == "convolutions" else "transformer,convolutions")
    if kind == "causal":
        return make_student(modality=STEPS, config=CAUSAL)
    return make_student(modality={"mic": MIC, "cam": CAM}[kind]) if kind in ("mic", "cam") else make_student()


@pytest.mark.parametrize("kind", ["transformer", "convolutions", "average", "causal", "mic", "cam"])
def test_a_student_of_every_kind_runs_in_litert(kind, tmp_path):
    student = student_of(kind)
    write_student(tmp_path / "student.ckpt", student)
    precisions = ("int8",) if kind in ("transformer", "average") else ()
    plan = ExportPlan(source=tmp_path / "student.ckpt", output=tmp_path / f"{kind}.edge", platform="cpu-arm")
    done = export(replace(plan, targets=("litert",), precisions=precisions, accept_unjudged=bool(precisions)))
    with (
        EdgePredictor.open(done.path, backend="litert", precision="fp32", threads=1) as ours,
        EdgePredictor.open(done.path, backend="ort", precision="fp32", threads=1) as reference,
    ):
        assert ours.selftest().label_agreement == 1.0
        for window in student.carried.windows:
            found, expected = (one.predict(window).probabilities for one in (ours, reference))
            np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    if kept := os.environ.get("MMKD_KEEP"):
        shutil.copy(done.path, kept)
