"""An hour of sound and an hour of frames through `stream`, from recorded files: pace, memory, and where answers come.

    python benchmarks/proofs/recorded_stream.py
    python benchmarks/proofs/recorded_stream.py --minutes 10

The clips of `grid_words`, end to end and over again, make a WAV file and a film. A tiny untrained student of each, with
the normalisation of a trained one, hears the file in chunks of a tenth of a second and sees the film frame by frame, as
the files give them and with their times; reading and decoding count. Resident memory is read after every tenth; of
answers nothing is kept but their probabilities, in one array that is there from the beginning. Afterwards the whole
file is cut into windows at the same places, and `predict` must say the same of each. Ends with exit code 1 where the
stream takes more of a processor than `--pace` times real time allows, memory grows, or an answer differs. Beside other
work the seconds on the wall are more than those of the processor, so both are shown.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge import EdgePredictor, Prediction
from mmkd_edge.frames import bytes_of
from mmkd_export.plan import ExportPlan
from mmkd_export.run import export
from mmkd_models.carried import carried_windows
from mmkd_models.data import Dataset
from mmkd_models.data.dataset import open_dataset, shipped_dataset
from mmkd_models.networks.config import student_config
from mmkd_models.networks.student import Student
from mmkd_models.training.checkpoint import write_student
from mmkd_models.training.normalisation import set_normalisation
from proofs.memory import resident_bytes
from proofs.script import head, parser_of, row
from proofs.students import untrained

CHUNK_S = 0.1
MOST_GROWTH_MB = 2.0
"""From the first tenth on: pages of the allocator."""
SAME = 1e-6  # between probabilities: the same engine, the same window

Array = NDArray[Any]
Pieces = Iterator[tuple[Array, float]]


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What a stream gave.

    Attributes:
        answers: probabilities (N, K) for full windows, in order.
        took_s: on the wall, reading and decoding included.
        busy_s: of a processor.
        resident_mb: after every tenth of the recording.
    """

    answers: Array
    took_s: float
    busy_s: float
    resident_mb: list[float]

    @property
    def growth_mb(self) -> float:
        """Of memory, from the first tenth to the end."""
        return self.resident_mb[-1] - self.resident_mb[0]


def main() -> None:
    """Make the recordings, follow each, and hold the answers against those for the whole file."""
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="of each recording")
    parser.add_argument("--pace", type=float, default=50.0, help="times real time that a stream must keep")
    options = parser.parse_args()
    columns = (
        "s",
        "processor s",
        "times real time",
        "MB after a tenth",
        "MB at the end",
        "answers",
        "largest difference",
    )
    print(head("recording", "minutes", *columns))
    failed = []
    dataset = open_dataset(shipped_dataset("grid_words"))
    with tempfile.TemporaryDirectory() as folder:
        for name, write, read in (("voice", write_sound, sound), ("lips", write_film, film)):
            file = write(dataset, Path(folder), seconds=60 * options.minutes)
            failed += _proof(dataset, name, file, read, options.minutes, pace=options.pace)
    if failed:
        raise SystemExit("\n".join(failed))


def _proof(
    dataset: Dataset, name: str, file: Path, read: Callable[[Path], Pieces], minutes: float, *, pace: float
) -> list[str]:
    """One row of the table; gives what is not as it should be."""
    modality = dataset.spec.modality(name)
    hop = modality.samples // 2
    bundle = bundle_of(dataset, name, file.parent)
    with EdgePredictor.open(bundle, backend="ort", precision="fp32", threads=1) as predictor:
        found = follow(predictor, read(file), hop=hop, samples=round(60 * minutes * modality.rate_hz))
        windows = windows_along(file, read, samples=modality.samples, hop=hop)
        difference = largest_difference(predictor, found.answers, windows)
    times = 60 * minutes / found.busy_s
    memory = (f"{found.resident_mb[0]:.1f}", f"{found.resident_mb[-1]:.1f}")
    cells = (
        f"{found.took_s:.1f}",
        f"{found.busy_s:.1f}",
        f"{times:.0f}",
        *memory,
        len(found.answers),
        f"{difference:.1g}",
    )
    print(row(name, f"{minutes:g}", *cells), flush=True)
    checks = {
        f"{name}: expected {pace:g} times real time, got {times:.0f}": times >= pace,
        f"{name}: expected flat memory, got {found.growth_mb:.1f} MB more": found.growth_mb <= MOST_GROWTH_MB,
        f"{name}: expected the answers of the whole file, got a difference of {difference:g}": difference <= SAME,
    }
    return [says for says, holds in checks.items() if not holds]


def bundle_of(dataset: Dataset, name: str, folder: Path) -> Path:
    """A tiny untrained student of this sensor, normalised as a trained one, as a bundle."""
    modality, task = dataset.spec.modality(name), dataset.spec.task
    config = student_config("tiny")
    network = Student(modality, len(task.labels), config)
    set_normalisation(network, dataset.split("train").with_modalities((name,)))
    start = untrained(modality, task, config)
    fronts = {key: value for key, value in network.state_dict().items() if key.startswith("encoder.front.")}
    norms = {key: value for key, value in fronts.items() if key.endswith(("mean", "std"))}
    carried = carried_windows(dataset.split("valid"), name, seed=0, most=16)
    write_student(folder / f"{name}.ckpt", replace(start, state=dict(start.state) | norms, carried=carried))
    return export(ExportPlan(source=folder / f"{name}.ckpt", output=folder / f"{name}.edge", targets=("onnx",))).path


def write_sound(dataset: Dataset, folder: Path, *, seconds: float) -> Path:
    """All words end to end, over and over, as 16-bit WAV."""
    import soundfile

    modality = dataset.spec.modality("voice")
    clips = dataset.split("train").with_modalities(("voice",)).take(np.arange(len(dataset.split("train"))))["voice"]
    talk, left = clips.reshape(-1, 1), round(seconds * modality.rate_hz)
    file = folder / "voice.wav"
    with soundfile.SoundFile(file, "w", samplerate=round(modality.rate_hz), channels=1, subtype="PCM_16") as opened:
        while left > 0:
            opened.write(talk[:left])
            left -= len(talk[:left])
    return file


def write_film(dataset: Dataset, folder: Path, *, seconds: float) -> Path:
    """All mouths end to end, over and over, as Motion JPEG."""
    import cv2

    modality = dataset.spec.modality("lips")
    clips = dataset.split("train").with_modalities(("lips",)).take(np.arange(len(dataset.split("train"))))["lips"]
    frames = bytes_of(clips).reshape(-1, *modality.shape[1:])
    file = folder / "lips.avi"
    size = (modality.shape[2], modality.shape[1])
    codec = cv2.VideoWriter_fourcc(*"MJPG")  # type: ignore[attr-defined]
    writer = cv2.VideoWriter(str(file), codec, modality.rate_hz, size, isColor=False)
    for number in range(round(seconds * modality.rate_hz)):
        writer.write(frames[number % len(frames)])
    writer.release()
    return file


def sound(file: Path) -> Pieces:
    """Chunks (n, C) with the time of the first sample."""
    import soundfile

    with soundfile.SoundFile(file) as opened:
        given = 0
        for block in opened.blocks(round(opened.samplerate * CHUNK_S), dtype="float32", always_2d=True):
            yield block, given / opened.samplerate
            given += len(block)


def film(file: Path) -> Pieces:
    """Frames (1, H, W, 1) with their times by the container."""
    import cv2

    capture = cv2.VideoCapture(str(file))
    try:
        while True:
            came, frame = capture.read()
            if not came:
                return
            yield frame[None, :, :, :1], capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    finally:
        capture.release()


def follow(predictor: EdgePredictor, pieces: Pieces, *, hop: int, samples: int) -> Followed:
    """Pushes every piece as it is read."""
    stream = predictor.stream(hop=hop)
    kept = np.ones((samples // hop + 2, len(predictor.info().labels)), dtype=np.float32)  # written to: it has its pages
    resident: list[float] = []
    count, seen, begin, busy = 0, 0, time.perf_counter(), time.process_time()
    for rows, time_s in pieces:
        count = _keep(kept, count, stream.push(rows, time_s))
        seen += len(rows)
        if seen * 10 >= samples * (len(resident) + 1):
            resident.append(resident_bytes() / 1e6)
    count = _keep(kept, count, stream.flush())
    took_s, busy_s = time.perf_counter() - begin, time.process_time() - busy
    return Followed(answers=kept[:count], took_s=took_s, busy_s=busy_s, resident_mb=resident)


def _keep(kept: Array, count: int, came: Sequence[Prediction]) -> int:
    """Writes the probabilities of full windows behind the others, and gives how many there are."""
    for one in came:
        if one.status != "warming_up":
            kept[count] = one.probabilities
            count += 1
    return count


def windows_along(file: Path, read: Callable[[Path], Pieces], *, samples: int, hop: int) -> list[Array]:
    """The windows of the whole file at every hop, and the one that ends with it."""
    whole = np.concatenate([rows for rows, _ in read(file)])
    ends = list(range(samples, len(whole) + 1, hop))
    ends += [len(whole)] if ends[-1] < len(whole) else []
    return [whole[end - samples : end] for end in ends]


def largest_difference(predictor: EdgePredictor, answers: Array, windows: list[Array]) -> float:
    """Between the probabilities of a stream and those for the windows; infinite where there are more of one."""
    if len(answers) != len(windows):
        return float("inf")
    wanted = (predictor.predict(window) for window in windows)
    return max(float(np.abs(got - expected.probabilities).max()) for got, expected in zip(answers, wanted, strict=True))


if __name__ == "__main__":
    main()
