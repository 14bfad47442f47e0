"""A causal student of sound, exported: its step graph follows a stream exactly, however the stream is cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from mmkd_edge import EdgePredictor
from mmkd_edge.spec import ModalitySpec
from mmkd_export.plan import ExportPlan
from mmkd_export.run import ExportResult, export
from mmkd_models.networks.config import EncoderConfig, StudentConfig
from mmkd_models.networks.step import answers_along, causal_encoder
from mmkd_models.networks.student import Student
from mmkd_models.training.checkpoint import StudentCheckpoint, write_student

MIC = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=1000.0, samples=500)
CONFIG = StudentConfig(
    preset="toy", encoder=EncoderConfig(width=16, heads=2, depth=1, most_tokens=8, dropout=0.0), causal=True
)


@pytest.fixture(scope="module")
def student(build_student: Callable[..., StudentCheckpoint]) -> StudentCheckpoint:
    return build_student(modality=MIC, config=CONFIG, windows=12)


@pytest.fixture(scope="module")
def made(student: StudentCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    path = tmp_path_factory.mktemp("sound") / "mic.ckpt"
    write_student(path, student)
    return export(ExportPlan(source=path, output=path.with_suffix(".edge"), targets=("onnx",)))


def test_the_bundle_says_how_sound_is_followed(made: ExportResult) -> None:
    streaming = made.manifest.models[0].streaming
    assert streaming is not None
    assert streaming.stride == 4 * 16  # two halvings of frames of 16 ms
    assert {state.name: state.shape for state in streaming.states}["waveform"] == (1, 16, 2)
    assert made.report.steps[0].parity.label_agreement == 1.0


@pytest.mark.parametrize("seed", [0, 1])
def test_answers_do_not_depend_on_how_sound_is_cut_into_pushes(
    student: StudentCheckpoint, made: ExportResult, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sound = (0.3 * rng.normal(size=(3000, 1))).astype(np.float32)
    sound[900:1300] = np.nan
    cuts = np.sort(rng.choice(3000, size=40, replace=False))
    with EdgePredictor.open(made.path, backend="ort", threads=1) as predictor:
        whole = predictor.stream(hop=64).push(sound)
        stream = predictor.stream(hop=64)
        found = [one for part in np.split(sound, cuts) for one in stream.push(part)]
    assert [one.status for one in found] == [one.status for one in whole]
    answered = [number for number, one in enumerate(found) if one.index >= 0]
    assert len(answered) > 30
    for number in answered:
        np.testing.assert_array_equal(found[number].probabilities, whole[number].probabilities)

    network = student.network()
    assert isinstance(network, Student)
    there = torch.from_numpy(~np.isnan(sound)).float()[None]
    values = torch.from_numpy(np.nan_to_num(sound))[None]
    blocks = causal_encoder(network).stride
    lead = -MIC.samples % blocks  # a stream fills its first block up, so that the first window ends one
    values, there = (torch.cat([torch.zeros(1, lead, 1), one], dim=1) for one in (values, there))
    used = values.shape[1] // blocks * blocks
    expected = answers_along(network, values[:, :used], there[:, :used])[0].numpy()
    ends = [(MIC.samples % 64 + 64 * number + lead) // blocks - 1 for number in range(len(found))]
    temperature = made.manifest.models[0].artifacts[0].confidence
    scale = 1.0 if temperature is None else temperature.temperature
    for number in answered:
        logits = expected[ends[number]] / scale
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        np.testing.assert_allclose(found[number].probabilities, shares, atol=1e-4)  # as the gate of a step graph
