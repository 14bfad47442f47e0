"""A causal student that steps in LiteRT. Needs pip install 'mmkd-edge[litert-export]'."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from step_cases import ACC, CONFIG, LENGTH, STRIDE, TOLERANCE, one_pass, recording, said, shares_of

from mmkd_edge import Bundle, EdgePredictor, Prediction
from mmkd_edge.backends.litert import LitertBackend
from mmkd_edge.backends.steps import Steps
from mmkd_edge.errors import BackendError
from mmkd_export.pipeline import ExportResult, export
from mmkd_export.plan import export_plan
from mmkd_export.targets.litert import missing_libraries
from mmkd_models.training.checkpoint import StudentCheckpoint, write_student
from tests.export.students import make_student

pytestmark = pytest.mark.skipif(bool(missing_libraries()), reason="needs pip install 'mmkd-edge[litert-export]'")


@pytest.fixture(scope="module")
def checkpoint() -> StudentCheckpoint:
    return make_student(modality=ACC, config=CONFIG)


@pytest.fixture(scope="module")
def with_litert(checkpoint: StudentCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    folder = tmp_path_factory.mktemp("litert")
    write_student(folder / "student.ckpt", checkpoint)
    return export(replace(export_plan(folder / "student.ckpt"), targets=("litert",)))


@pytest.fixture(scope="module")
def in_litert(with_litert: ExportResult) -> Iterator[EdgePredictor]:
    with EdgePredictor.open(with_litert.path, backend="litert") as opened:
        yield opened


def test_litert_steps_as_one_pass_of_the_network(
    checkpoint: StudentCheckpoint, with_litert: ExportResult, in_litert: EdgePredictor
) -> None:
    rows = recording(400, gap=slice(120, 140))
    found = shares_of(in_litert.stream(hop=STRIDE).push(rows))
    np.testing.assert_allclose(found, one_pass(checkpoint, rows)[LENGTH - 1 :], atol=TOLERANCE)
    assert in_litert.info().step_artifact == "acc/step.fp32.tflite"
    assert in_litert.selftest().max_abs_error < TOLERANCE
    assert [step.file for step in with_litert.report.steps] == ["acc/step.fp32.onnx", "acc/step.fp32.tflite"]
    assert all(step.parity.max_abs_error < TOLERANCE and step.steps > 200 for step in with_litert.report.steps)


def test_streams_in_litert_keep_states_of_their_own(in_litert: EdgePredictor) -> None:
    recordings = [recording(120, seed=seed) for seed in (1, 2)]
    alone = [said(in_litert.stream(hop=STRIDE).push(rows)) for rows in recordings]
    streams = [in_litert.stream(hop=STRIDE) for _ in recordings]
    turns: list[list[Prediction]] = [[], []]
    for start in range(0, 120, 3):  # one interpreter, which holds now this state and now that
        for stream, rows, found in zip(streams, recordings, turns, strict=True):
            found += stream.push(rows[start : start + 3])
    assert [said(found) for found in turns] == alone
    with ThreadPoolExecutor(4) as pool:  # several interpreters, none of which belongs to a stream
        many = [pool.submit(in_litert.stream(hop=STRIDE).push, recordings[number % 2]) for number in range(12)]
        assert [said(one.result()) for one in many] == alone * 6


def test_a_closed_litert_takes_no_step(with_litert: ExportResult) -> None:
    streaming = with_litert.manifest.models[0].streaming
    assert streaming is not None
    with Bundle.open(with_litert.path) as bundle:
        backend = LitertBackend(bundle.read("acc/step.fp32.tflite"))
    steps = Steps(backend, streaming)
    block = np.zeros((1, STRIDE, 2), np.float32)
    steps.push(block, block)
    backend.close()
    with pytest.raises(BackendError) as caught:
        steps.push(block, block)
    assert str(caught.value) == "backend 'litert' is closed; open it again"
    with pytest.raises(BackendError) as refused:
        Steps(backend, streaming)
    assert str(refused.value) == "backend 'litert' is closed; open it again"
