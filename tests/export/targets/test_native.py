"""A student with a `.native` file answers as its graph does: windows, streams, gates and wrong requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmkd_edge import EdgePredictor
from mmkd_edge.errors import BackendError, UnavailableError, UsageError
from mmkd_edge.native.build import LIBRARY
from mmkd_edge.spec import ModalitySpec
from mmkd_export.pipeline import export
from mmkd_export.plan import ExportPlan, export_plan
from mmkd_export.preflight import check_plan
from mmkd_export.targets.table import with_defaults
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.training.checkpoint import write_student
from tests.export.students import make_student

ACC = ModalitySpec(name="acc", channels=("x", "y", "z"), rate_hz=50.0, samples=61)
ENCODER = EncoderConfig(width=16, heads=2, depth=1, most_tokens=8, dropout=0.0, movement=True)
CAUSAL = EncoderConfig(width=16, heads=2, depth=1, most_tokens=8, dropout=0.0)


pytestmark = pytest.mark.usefixtures("native_engine")


@pytest.fixture(scope="module", params=[False, True], ids=["windows", "causal"])
def exported(request, tmp_path_factory) -> Path:
    config = StudentConfig(preset="toy", encoder=CAUSAL if request.param else ENCODER, causal=request.param)
    path = tmp_path_factory.mktemp("native") / "acc.ckpt"
    write_student(path, make_student(modality=ACC, config=config, windows=12))
    return export(ExportPlan(source=path, output=path.with_suffix(".edge"), targets=("native",))).path


def test_it_answers_windows_as_the_graph_does_and_is_the_first_choice(exported: Path):
    rng = np.random.default_rng(3)
    windows = rng.normal(size=(8, 61, 3)).astype(np.float32)
    windows[1, :20] = np.nan
    with EdgePredictor.open(exported, backend="ort") as graph, EdgePredictor.open(exported) as native:
        assert native.backend.name == "native"
        assert native.info().precision == "fp32"
        for window in windows:
            expected, got = graph.predict(window), native.predict(window)
            assert (got.label, got.status, got.novelty) == (expected.label, expected.status, expected.novelty)
            np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-4)


def test_it_follows_a_stream_as_the_graph_does(exported: Path):
    samples = np.random.default_rng(5).normal(size=(400, 3)).astype(np.float32)
    times = np.arange(400) / 50.0
    answers = []
    for backend in ("ort", "native"):
        with EdgePredictor.open(exported, backend=backend) as predictor:
            stream = predictor.stream(hop=8)
            answers.append(
                [each for at in range(0, 400, 50) for each in stream.push(samples[at : at + 50], times[at : at + 50])]
            )
    assert [each.label for each in answers[1]] == [each.label for each in answers[0]]
    assert len(answers[0]) > 40
    for got, expected in zip(answers[1], answers[0], strict=True):
        np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-4)


def test_what_it_cannot_do_is_refused(exported: Path):
    with pytest.raises(UsageError) as error:
        EdgePredictor.open(exported, backend="native", threads=2)
    assert str(error.value) == "threads 2: the backend 'native' computes in one thread; leave threads out"
    with EdgePredictor.open(exported, backend="native") as predictor:
        with pytest.raises(BackendError) as fault:
            predictor.backend.run({"acc": np.zeros((1, 61, 3))})
        assert str(fault.value) == "input 'acc': expected float32 (1, 61, 3), got float64 (1, 61, 3)"


def test_sound_is_refused_with_what_the_engine_takes(tmp_path: Path):
    mic = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=1000.0, samples=500)
    write_student(tmp_path / "mic.ckpt", make_student(modality=mic, windows=12))
    with pytest.raises(UsageError) as error:
        export(ExportPlan(source=tmp_path / "mic.ckpt", output=tmp_path / "mic.edge", targets=("native",)))
    assert str(error.value) == "modality 'mic': the native engine takes series, got audio"
    assert not (tmp_path / "mic.edge").exists()
    plan = with_defaults(export_plan(tmp_path / "mic.ckpt"))
    (left_out,) = export(plan).report.left_out
    assert (left_out.format, left_out.reason) == ("native", "modality 'mic': the native engine takes series, got audio")


def test_without_the_engine_the_target_is_refused_before_anything_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_student(tmp_path / "acc.ckpt", make_student(modality=ACC, windows=12))
    monkeypatch.setattr("pathlib.Path.is_file", lambda path: path.name != LIBRARY.name and path.exists())
    with pytest.raises(UnavailableError) as error:
        check_plan(ExportPlan(source=tmp_path / "acc.ckpt", output=tmp_path / "acc.edge", targets=("native",)))
    assert str(error.value) == (
        "--target native: the native engine was not built: no C compiler was found; install one and reinstall mmkd-edge"
    )
