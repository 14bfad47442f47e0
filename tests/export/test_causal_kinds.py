"""A causal student of sound, exported: its step graph follows a stream exactly, however it is cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmkd_edge import EdgePredictor, Prediction
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import ModalitySpec
from mmkd_export.pipeline import ExportResult, export
from mmkd_export.plan import ExportPlan
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.networks.step import causal_encoder
from mmkd_models.networks.student import Student
from mmkd_models.training.checkpoint import StudentCheckpoint, write_student
from tests.export.students import make_student
from tests.models.networks.stepping import answers_along

MIC = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=1000.0, samples=500)
CONFIG = StudentConfig(
    preset="toy", encoder=EncoderConfig(width=16, heads=2, depth=1, most_tokens=8, dropout=0.0), causal=True
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudentCheckpoint, ExportResult]:
    student = make_student(modality=MIC, config=CONFIG, windows=12)
    path = tmp_path_factory.mktemp("causal") / "mic.ckpt"
    write_student(path, student)
    return student, export(ExportPlan(source=path, output=path.with_suffix(".edge"), targets=("onnx",)))


def test_the_bundle_says_how_sound_is_followed(made: tuple[StudentCheckpoint, ExportResult]) -> None:
    result = made[1]
    streaming = result.manifest.models[0].streaming
    assert streaming is not None
    assert streaming.stride == 4 * 16  # two halvings of frames of 16 ms
    assert {state.name: state.shape for state in streaming.states}["waveform"] == (1, 16, 2)
    assert result.report.steps[0].parity.label_agreement == 1.0


@pytest.mark.parametrize("seed", [0, 1])
def test_answers_do_not_depend_on_how_a_recording_is_cut_into_pushes(
    made: tuple[StudentCheckpoint, ExportResult], seed: int
) -> None:
    student, result = made
    rng = np.random.default_rng(seed)
    recording = (0.3 * rng.normal(size=(3000, 1))).astype(np.float32)
    recording[900:1300] = np.nan
    cuts = [0, *sorted(rng.choice(np.arange(1, 3000), size=40, replace=False).tolist()), 3000]
    stride = causal_encoder(_network(student)).stride
    with EdgePredictor.open(result.path, backend="ort", threads=1) as predictor:
        assert predictor.info().step_artifact == "mic/step.fp32.onnx"
        whole = predictor.stream(hop=stride).push(recording)
        stream = predictor.stream(hop=stride)
        found = [one for begin, end in pairwise(cuts) for one in stream.push(recording[begin:end])]
    assert [one.status for one in found] == [one.status for one in whole]
    answered = [number for number, one in enumerate(found) if one.index >= 0]
    assert len(answered) > 30
    for number in answered:
        np.testing.assert_array_equal(found[number].probabilities, whole[number].probabilities)
    _check_one_pass(found, answered, student, result, recording)


def _network(student: StudentCheckpoint) -> Student:
    network = student.network()
    assert isinstance(network, Student)
    return network


def _check_one_pass(
    found: list[Prediction],
    answered: list[int],
    student: StudentCheckpoint,
    result: ExportResult,
    recording: NDArray[Any],
) -> None:
    """What a stream answered is what one pass of the network over the whole recording answers."""
    network, modality = _network(student), student.modality
    stride = causal_encoder(network).stride
    values, there = (torch.from_numpy(part) for part in prepare_batch(recording[None], modality))
    lead = -modality.samples % stride  # a stream fills its first block up, so that the first window ends one
    values, there = (torch.cat([torch.zeros_like(one[:, :lead]), one], dim=1) for one in (values, there))
    used = values.shape[1] // stride * stride
    expected = answers_along(network, values[:, :used], there[:, :used])[0].numpy()
    ends = [(modality.samples % stride + stride * number + lead) // stride - 1 for number in range(len(found))]
    confidence = result.manifest.models[0].artifacts[0].confidence
    scale = 1.0 if confidence is None else confidence.temperature
    for number in answered:
        logits = expected[ends[number]] / scale
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        np.testing.assert_allclose(found[number].probabilities, shares, atol=1e-4)  # as the gate of a step graph
