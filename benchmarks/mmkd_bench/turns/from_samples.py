"""Teacher and student from samples to answer, inside the measuring process: every sensor's share told apart.

Each takes the samples of one hop of every sensor that it needs, puts them into windows, checks and prepares them, and
runs its graph. All of it is called in turn, so that ratios hold on a noisy machine. Samples are drawn by a fixed seed:
what they are changes no time, and a teacher carries no recordings.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mmkd_bench.measuring.jobs import TeacherJob, TeacherOutcome
from mmkd_bench.measuring.opening import Choice, describe, open_predictor, stand_in_reference
from mmkd_bench.measuring.session import open_session
from mmkd_bench.measuring.workloads import plain_stream
from mmkd_bench.turns.rounds import time_in_turn
from mmkd_edge.errors import UsageError
from mmkd_edge.predict.postprocess import Prediction, interpret
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_edge.spec import ModalitySpec, TaskSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

MODALITY_KEY = "mmkd_edge.modality."
"""Where a graph of this project says what it takes: the modality as JSON, in its metadata."""

TEACHER, STUDENT = "teacher", "student"
TEACHER_ENGINE, STUDENT_ENGINE = "teacher engine", "student engine"
SEED = 0
HOPS = 16
"""Hops of made-up samples per sensor, taken in turn."""


def gathering(modality: str) -> str:
    """What the samples of a sensor cost until they are a window."""
    return f"gather {modality}"


def front_end(modality: str) -> str:
    """What its window costs until it is ready for the graph."""
    return f"front end {modality}"


def time_from_samples(job: TeacherJob, *, stop: Event) -> TeacherOutcome | None:
    """Carry out one job in this process; None where `stop` came before the first repeat was over.

    Raises:
        MmkdError: a file cannot be opened or run, or the two do not belong together.
    """
    with open_predictor(Choice(bundle=job.student, backend="ort", threads=job.threads)) as predictor:
        modality, task = predictor.entry.modality, predictor.task
        teacher = open_teacher(Path(job.teacher), threads=job.threads)
        assert predictor.bundle is not None
        model = predictor.bundle.read(predictor.info().artifact)
        student = _Graph(session=open_session(model, threads=job.threads), modalities=(modality,))
        _check_kin(teacher, modality, job)
        sensors = [_Sensor(one, task, hop_s=job.hop_s) for one in teacher.modalities]
        own = [_Sensor(modality, task, hop_s=job.hop_s)]
        calls: dict[str, Callable[[], object]] = {
            TEACHER: _from_samples(teacher, sensors, task),
            STUDENT: _from_samples(student, own, task),
            TEACHER_ENGINE: partial(teacher.run, _feeds(sensors)),
            STUDENT_ENGINE: partial(student.run, _feeds(own)),
        }
        for sensor in sensors:
            calls[gathering(sensor.modality.name)] = sensor.gather
            calls[front_end(sensor.modality.name)] = sensor.prepared
        turns = time_in_turn(calls, repeats=job.repeats, duration_s=job.duration_s, stop=stop)
        if turns is None:
            return None
        return TeacherOutcome(subject=describe(predictor, job.student).subject, sensors=teacher.modalities, turns=turns)


@dataclass(frozen=True, kw_only=True)
class _Graph:
    """An open graph and the modalities that it takes, in the order of its inputs."""

    session: Any
    modalities: tuple[ModalitySpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> Any:
        """Logits and probabilities, or what a regression has for them, each (1, K)."""
        return self.session.run(None, feeds)


def open_teacher(path: Path, *, threads: int) -> _Graph:
    """Open a teacher's graph.

    Raises:
        UsageError: it cannot be read, or its metadata names no modalities of this project.
    """
    try:
        model = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{path}: expected a teacher's graph, cannot open it: {reason}") from error
    session = open_session(model, threads=threads)
    told: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    names = [node.name for node in session.get_inputs()]
    found = [
        msgspec.json.decode(told[f"{MODALITY_KEY}{name}"], type=ModalitySpec)
        for name in names
        if f"{MODALITY_KEY}{name}" in told
    ]
    if not found or 2 * len(found) != len(names):
        raise UsageError(
            f"{path}: expected a teacher's graph whose metadata names its modalities, got inputs {', '.join(names)}; "
            "give the teacher's checkpoint"
        )
    return _Graph(session=session, modalities=tuple(found))


def _check_kin(teacher: _Graph, modality: ModalitySpec, job: TeacherJob) -> None:
    names = [one.name for one in teacher.modalities]
    if modality.name not in names:
        raise UsageError(
            f"{job.student}: expected a student of one of the teacher's modalities ({', '.join(names)}), "
            f"got {modality.name!r}; choose the teacher that taught it"
        )
    unknown = [name for name in job.named if name not in names]
    if unknown:
        listed = ", ".join(names)
        raise UsageError(f"sensor-mw: expected one of the teacher's modalities ({listed}), got {unknown[0]!r}")


class _Sensor:
    """One sensor's way from samples to feeds: a stream that keeps its newest window, and what follows it."""

    def __init__(self, modality: ModalitySpec, task: TaskSpec, *, hop_s: float) -> None:
        self.modality = modality
        self._reference = None if modality.normalise == "none" else stand_in_reference(modality)
        self._window: Array = np.zeros(modality.shape, dtype=modality.dtype)
        self._answer = _nothing(modality, task)
        hop = max(1, round(hop_s * modality.rate_hz))
        self._push = plain_stream(modality, task, self._keep, hop=hop).push
        self._hops = itertools.cycle(_made_up(modality, hop))
        for _ in range(modality.samples // hop + 2):
            self.gather()

    def gather(self) -> None:
        """The samples of one hop into the window."""
        self._push(next(self._hops))

    def prepared(self) -> tuple[Array, Array]:
        """The newest window, ready for the graph."""
        return prepare(check_window(self._window, self.modality), self.modality, self._reference)

    def _keep(self, window: Array, _fault: object, _age_s: object) -> Prediction:
        self._window = window
        return self._answer


def _feeds(sensors: Sequence[_Sensor]) -> dict[str, Array]:
    """The newest windows by the names of the graph's inputs."""
    feeds: dict[str, Array] = {}
    for sensor in sensors:
        name = sensor.modality.name
        feeds[name], feeds[f"{name}_present"] = sensor.prepared()
    return feeds


def _from_samples(graph: _Graph, sensors: Sequence[_Sensor], task: TaskSpec) -> Callable[[], object]:
    """One prediction, from the samples of one hop to the answer."""
    first = sensors[0].modality

    def answer() -> Prediction:
        for sensor in sensors:
            sensor.gather()
        feeds = _feeds(sensors)
        _, probabilities, *_ = graph.run(feeds)
        return interpret(probabilities, feeds[f"{first.name}_present"], modality=first, task=task)

    return answer


def _nothing(modality: ModalitySpec, task: TaskSpec) -> Prediction:
    probabilities = np.full((1, len(task.labels)), 1 / len(task.labels), dtype=np.float32)
    return interpret(
        probabilities, np.ones((1, *modality.presence_shape), dtype=np.float32), modality=modality, task=task
    )


def _made_up(modality: ModalitySpec, hop: int) -> list[Array]:
    """Hops of samples inside the valid range, each float32 (hop, C), or of frames, uint8 (hop, H, W, C)."""
    low, high = modality.range or (-1.0, 1.0)
    middle, width = 0.5 * (low + high), 0.1 * (high - low)
    random = np.random.default_rng(SEED)
    if modality.kind == "video":
        return [random.integers(0, 256, (hop, *modality.shape[1:]), dtype=np.uint8) for _ in range(HOPS)]
    size = (hop, len(modality.channels))
    return [(middle + width * random.uniform(-1, 1, size)).astype(np.float32) for _ in range(HOPS)]
