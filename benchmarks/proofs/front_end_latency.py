"""What hearing and seeing costs: a student with its front-end in the graph, against one fed by librosa or OpenCV.

    python benchmarks/proofs/front_end_latency.py

A microphone student takes one second at 16 kHz, a camera student 16 frames of 96 x 96 gray pixels; weights are random,
which changes no time. Ours is `EdgePredictor.predict` on the samples and the frames as they come. The rival is how it
is usually written: `librosa.feature.melspectrogram` and a logarithm, or `cv2.meanStdDev` and a normalisation frame by
frame, and onnxruntime with default options but one thread for the rest of the network, without checks or gaps. Both
answer the same windows, in turn, on one thread, and must give the same probabilities. Decoding and resizing a frame are
neither's; `--camera HxW` times the second apart. Prints the medians, and the median of the ratios of neighbouring calls
with its 95 % interval by order statistics.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmkd_edge import EdgePredictor
from mmkd_edge.backends.base import BackendName, is_installed
from mmkd_edge.backends.ort import import_onnxruntime
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.plan import ExportPlan
from mmkd_export.run import export
from mmkd_models.networks.config import student_config
from mmkd_models.networks.fronts.frames import FrameFront
from mmkd_models.networks.fronts.log_mel import FLOOR, LogMelFront
from mmkd_models.networks.student import Student
from mmkd_models.training.checkpoint import StudentCheckpoint, write_student
from proofs.script import head, parser_of, row
from proofs.students import untrained

TASK = TaskSpec(labels=tuple(f"word {number}" for number in range(10)))
MIC = ModalitySpec(name="mic", kind="audio", channels=("mono",), rate_hz=16_000.0, samples=16_000)
CAM = ModalitySpec(name="cam", kind="video", channels=("gray",), rate_hz=25.0, samples=16, height=96, width=96)
WINDOWS = 16
SAME = 1e-3  # between probabilities: librosa's transform is another one, and so is the order of sums

Array = NDArray[Any]
Way = Callable[[Array], Array]


def main() -> None:
    """Exports both students, checks that the ways agree, and times them in turn."""
    options = _options()
    torch.set_num_threads(1)
    backends: tuple[BackendName, ...] = ("ort", "openvino")
    print(head("sensor", "ours with", "ours us", "rival us", "rival / ours", "95 % interval", texts=2))
    with tempfile.TemporaryDirectory() as folder:
        for modality, rival_of in ((MIC, rival_microphone), (CAM, rival_camera)):
            student = untrained(modality, TASK, student_config(options.preset), carried=WINDOWS)
            bundle = _exported(student, Path(folder))
            assert student.carried is not None
            rival = rival_of(student, Path(folder))
            for backend in backends:
                if is_installed(backend):
                    _compare(modality, bundle, backend, rival, student.carried.windows, seconds=options.seconds)
    if options.camera is not None:
        print(f"\nresizing one {options.camera} frame to 96 x 96: {resizing_us(options.camera):.0f} us with cv2.resize")


def rival_microphone(student: StudentCheckpoint, folder: Path) -> Way:
    """A log-mel spectrogram by librosa, and the rest of the network in onnxruntime."""
    import librosa

    network = student.network()
    assert isinstance(network, Student)
    front = network.encoder.front
    assert isinstance(front, LogMelFront)
    hop, mels = front.mels.hop, front.mels.count
    front.mels = _Given(front.mels.positions)  # type: ignore[assignment]
    session = _session(_FromMels(network), (torch.zeros(1, 1, front.positions, mels),), folder / "mels.onnx")

    def answer(window: Array) -> Array:
        power = librosa.feature.melspectrogram(
            y=window[:, 0], sr=16_000, n_fft=2 * hop, hop_length=hop, n_mels=mels, center=False
        )
        features = np.log(np.maximum(power, FLOOR)).T[None, None, : front.positions].astype(np.float32)
        return np.asarray(session.run(None, {"features": features})[0])

    return answer


def rival_camera(student: StudentCheckpoint, folder: Path) -> Way:
    """Frames normalised by OpenCV and numpy, and the rest of the network in onnxruntime."""
    import cv2

    network = student.network()
    assert isinstance(network, Student)
    front = network.encoder.front
    assert isinstance(front, FrameFront)
    mean, std = float(front.mean), float(front.std)
    examples = (torch.zeros(1, 16, 96 * 96), torch.zeros(1, 16, 1))
    session = _session(_FromFrames(network), examples, folder / "frames.onnx")

    def answer(window: Array) -> Array:
        frames, levels = [], []
        for frame in window:
            scaled = (frame[..., 0].astype(np.float32) - mean) / std
            level, spread = cv2.meanStdDev(scaled)
            levels.append(level[0, 0])
            frames.append((scaled - level[0, 0]) / math.sqrt(spread[0, 0] ** 2 + 1e-2))
        features = np.stack(frames).astype(np.float32).reshape(1, 16, -1)
        brightness = np.array(levels, dtype=np.float32)[None, :, None]
        return np.asarray(session.run(None, {"features": features, "brightness": brightness})[0])

    return answer


class _Given(nn.Module):
    """In place of the log-mels: what comes are log-mels already, and every frame is there."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.positions = positions

    def forward(self, mels: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C, M) -> (B, C, N, M), and ones (B, C, N)."""
        return mels.transpose(1, 2), torch.ones(1, 1, self.positions)

    def presence(self, present: Tensor) -> Tensor:
        """Ones (B, N)."""
        return torch.ones(1, self.positions)


class _FromMels(nn.Module):
    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.student(features, torch.ones(1, 1, 1, 1)).logits
        return logits


class _FromFrames(nn.Module):
    """A student of a camera from normalised frames and their brightness; what changed in them is the network's."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, features: Tensor, brightness: Tensor) -> Tensor:
        front = self.student.encoder.front
        assert isinstance(front, FrameFront)
        front._normalised = lambda values, present: (features, brightness)  # type: ignore[method-assign]
        logits: Tensor = self.student(features, torch.ones(1, front.positions, 1)).logits
        return logits


def _session(module: nn.Module, examples: tuple[Tensor, ...], path: Path) -> Any:
    names = ["features", "brightness"][: len(examples)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its internals
        torch.onnx.export(
            module.eval(), examples, str(path), input_names=names, dynamo=True, opset_version=20, verbose=False
        )
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _exported(student: StudentCheckpoint, folder: Path) -> Path:
    path = folder / f"{student.modality.name}.ckpt"
    write_student(path, student)
    return export(ExportPlan(source=path, output=path.with_suffix(".edge"))).path


def _compare(
    modality: ModalitySpec, bundle: Path, backend: BackendName, rival: Way, windows: Array, *, seconds: float
) -> None:
    with EdgePredictor.open(bundle, backend=backend, precision="fp32", threads=1) as predictor:
        for window in windows[:4]:
            _check_same(predictor, rival, window)
        ours, theirs = _in_turns(predictor.predict, rival, windows, seconds=seconds)
    low, middle, high = median_interval(theirs / ours)
    figures = (f"{np.median(ours) * 1e6:.0f}", f"{np.median(theirs) * 1e6:.0f}")
    print(row(modality.name, backend, *figures, f"{middle:.2f}", f"{low:.2f} to {high:.2f}"), flush=True)


def _check_same(predictor: EdgePredictor, rival: Way, window: Array) -> None:
    logits = rival(window)[0]
    found = predictor.predict(window).probabilities
    temperature = 1.0 if predictor.bundle is None else _temperature(predictor)
    wanted = np.exp(logits / temperature - (logits / temperature).max())
    difference = float(np.abs(wanted / wanted.sum() - found).max())
    if not difference <= SAME:
        raise SystemExit(f"the two ways answer otherwise: a difference of {difference:g}; nothing was timed")


def _temperature(predictor: EdgePredictor) -> float:
    confidence = predictor.entry.artifacts[0].confidence
    return 1.0 if confidence is None else confidence.temperature


def _in_turns(ours: Callable[[Array], object], theirs: Way, windows: Array, *, seconds: float) -> tuple[Array, Array]:
    """Seconds of every call of each, (n,), the two in turn and every other time the other first."""
    found: tuple[list[float], list[float]] = ([], [])
    end, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or number < 20:
        pair = ((0, ours), (1, theirs)) if number % 2 == 0 else ((1, theirs), (0, ours))
        window = windows[number % len(windows)]
        for place, call in pair:
            begin = time.perf_counter()
            call(window)
            found[place].append(time.perf_counter() - begin)
        number += 1
    return np.array(found[0][4:]), np.array(found[1][4:])  # the first calls warm up


def median_interval(ratios: Array) -> tuple[float, float, float]:
    """The median with its 95 % interval: order statistics of a binomial, David and Nagaraja 2003, section 7.1."""
    ordered = np.sort(ratios)
    reach = 1.96 * math.sqrt(len(ordered)) / 2
    low = max(0, math.floor(len(ordered) / 2 - reach))
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + reach))
    return float(ordered[low]), float(np.median(ordered)), float(ordered[high])


def resizing_us(camera: str) -> float:
    """Median of 200 calls of cv2.resize on one frame of that size, in microseconds."""
    import cv2

    height, width = (int(side) for side in camera.split("x"))
    frame = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    found = []
    for _ in range(200):
        begin = time.perf_counter()
        cv2.resize(frame, (96, 96), interpolation=cv2.INTER_AREA)
        found.append(time.perf_counter() - begin)
    return float(np.median(found)) * 1e6


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--preset", default="tiny", choices=("tiny", "small", "medium", "base"), help="size of both")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured seconds of each pair")
    parser.add_argument("--camera", metavar="HxW", help="also time the resizing of one frame of a camera of this size")
    return parser.parse_args()


if __name__ == "__main__":
    main()
