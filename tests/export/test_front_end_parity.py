"""Front-ends on twenty recorded clips, ten of sound and ten of lips: every engine sees what torch sees."""

import importlib.util
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_edge.backends.ort import import_onnxruntime
from mmkd_edge.predict.preprocess import prepare
from mmkd_models.data.dataset import open_dataset, shipped_dataset
from mmkd_models.networks.config import student_config
from mmkd_models.networks.fronts.log_mel import FLOOR, LogMelFront
from mmkd_models.networks.student import Student
from mmkd_models.training.fitting import set_normalisation

CLIPS = 10
TOLERANCE = 1e-4
"""Of log-mels in nats and of embeddings of about 1: float32 sums of another order."""

Call = Callable[[Tensor, Tensor], list[NDArray[np.float32]]]
Front = tuple[nn.Module, list[tuple[Tensor, Tensor]]]


class Wrapped(nn.Module):
    """A front-end that an engine takes: its first node makes numbers of a camera's bytes."""

    def __init__(self, front):
        super().__init__()
        self.front = front

    def forward(self, values, present):
        """Series, spectrum and statistics."""
        return self.front(values, present)


@pytest.fixture(scope="module", params=["voice", "lips"])
def front(request):
    """Normalised as in training, and the values and presence of ten words of the test split."""
    name = request.param
    dataset = open_dataset(shipped_dataset("grid_words"))
    modality = dataset.spec.modality(name)
    torch.manual_seed(0)
    student = Student(modality, len(dataset.spec.task.labels), student_config("tiny")).eval()
    set_normalisation(student, dataset.split("train").with_modalities((name,)))
    clips = dataset.split("test").with_modalities((name,)).take(np.arange(CLIPS))[name]
    prepared = (map(np.copy, prepare(clip, modality)) for clip in clips)
    return student.encoder.front, [(torch.from_numpy(values), torch.from_numpy(there)) for values, there in prepared]


def onnx_of(front, examples):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its internals
        program = torch.onnx.export(
            Wrapped(front), examples, input_names=["values", "present"], dynamo=True, opset_version=20, verbose=False
        )
    return program.model_proto.SerializeToString()


def in_onnxruntime(front, examples):
    session = import_onnxruntime().InferenceSession(onnx_of(front, examples), providers=["CPUExecutionProvider"])
    return lambda values, present: session.run(None, {"values": values.numpy(), "present": present.numpy()})  # type: ignore[no-any-return]


def in_openvino(front, examples):
    openvino = pytest.importorskip("openvino")
    # Without the hint, processors that have BF16 compute in it.
    graph = openvino.Core().read_model(onnx_of(front, examples), b"")
    compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda values, present: list(compiled([values.numpy(), present.numpy()]).values())


def in_litert(front, examples):
    if importlib.util.find_spec("litert_torch") is None:
        pytest.skip("needs pip install 'mmkd-edge[litert-export]'")
    import litert_torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter, about its internals
        edge = litert_torch.convert(Wrapped(front).eval(), examples)
    return lambda values, present: list(edge(values, present))


@pytest.mark.parametrize("opened", [in_onnxruntime, in_openvino, in_litert])
def test_an_engine_sees_in_recorded_clips_what_torch_sees(front, opened):
    module, clips = front
    engine = opened(module, clips[0])
    for number, (values, present) in enumerate(clips):
        gone = present.clone()
        if number % 2:  # every other clip loses its third quarter
            gone[:, present.shape[1] // 2 : present.shape[1] * 3 // 4] = 0
        shown = values * gone.reshape(gone.shape + (1,) * (values.ndim - 3)).to(values.dtype)
        with torch.no_grad():
            wanted = module(shown, gone)
        for got, expected in zip(engine(shown, gone), wanted, strict=True):
            np.testing.assert_allclose(got, expected.numpy(), atol=TOLERANCE, rtol=0)


def test_log_mels_of_recorded_words_are_librosas():
    librosa = pytest.importorskip("librosa")
    dataset = open_dataset(shipped_dataset("grid_words"))
    modality = dataset.spec.modality("voice")
    front = LogMelFront(modality)
    clips = dataset.split("test").with_modalities(("voice",)).take(np.arange(CLIPS))["voice"]
    for clip in clips:
        values = torch.from_numpy(np.array(clip))[None]
        found = front.log_mels(values, torch.ones_like(values))[0][0, 0].numpy()
        power = librosa.feature.melspectrogram(
            y=clip[: front.mels.blocks * front.mels.hop, 0].astype(np.float64),
            sr=modality.rate_hz,
            n_fft=2 * front.mels.hop,
            hop_length=front.mels.hop,
            n_mels=front.mels.count,
            center=False,
        )
        np.testing.assert_allclose(found, np.log(np.maximum(power.T, FLOOR)), atol=TOLERANCE, rtol=0)
