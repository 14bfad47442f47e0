"""What the committee's transformer and the students that ship cost in every engine, called in turn.

    python benchmarks/proofs/shipped_engines.py teacher.ckpt mydata hybrid=student.ckpt rocket=rocket.ckpt --kept graphs

The teacher's transformer, the students, and `tiny` as it was before committees: a transformer of the first student's
sensor without the part for slow signals and without novelty, whose weights are random, which changes no time. All are
called in turn in one process through torch, onnxruntime, OpenVINO and, where litert-torch converts them, LiteRT:
float32, one thread, the second of two calls in a turn. A graph that is kept is not made again: another student wants
another folder. `--thinner` adds the last student, a hybrid, with kernels that look at every position and every second,
and with 84 and 42 of its features, without novelty: what fewer save; `thinner_features.py` tells how well they
answer. Parity is the largest difference between an engine's logits and torch's on windows of the dataset's validation
split. Figures are medians of repeats; of ratios the smallest and the largest stand beside them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mmkd_bench.turns.rounds import time_in_turn, turning
from mmkd_edge.backends.base import BackendName, is_installed, open_backend
from mmkd_edge.bundle.manifest import graph_inputs, graph_outputs
from mmkd_edge.errors import UnavailableError
from mmkd_edge.predict.preprocess import prepare_batch
from mmkd_edge.spec import ModalitySpec, TensorSpec
from mmkd_export.graph.onnx_from_student import (
    module_of_teacher,
    onnx_from_student,
    onnx_from_teacher,
    tensors_of_teacher,
)
from mmkd_export.targets.litert import EXTRA, missing_libraries, tflite_from_module
from mmkd_models.data.dataset import open_dataset
from mmkd_models.data.windows import Windows
from mmkd_models.networks.config import student_config
from mmkd_models.networks.rocket import pruned
from mmkd_models.networks.student import ExportStudent, HybridStudent, values_of
from mmkd_models.training.checkpoint import StudentCheckpoint, TeacherCheckpoint, read_student, read_teacher
from proofs.script import head, parser_of, row
from proofs.students import untrained

WINDOWS, REPEATS = 32, 15
TEACHER, FORMER = "committee's transformer", "tiny before"

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Call = Callable[[Feeds], Sequence[Array]]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network, as every engine takes it."""

    name: str
    parameters: int
    module: torch.nn.Module
    onnx: Callable[[], bytes]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    feeds: Sequence[Feeds]

    def in_torch(self, feeds: Feeds) -> list[Array]:
        """Answers in torch, eagerly."""
        with torch.inference_mode():
            return [one.numpy() for one in self.module(*(torch.from_numpy(feeds[one.name]) for one in self.inputs))]

    def tflite(self) -> bytes:
        """The same for LiteRT; what the converter prints goes to stderr."""
        if missing_libraries():
            raise UnavailableError(f"litert is left out: run: pip install '{EXTRA}'")
        with contextlib.redirect_stdout(sys.stderr):
            return tflite_from_module(self.module, inputs=self.inputs, outputs=self.outputs, metadata={})


def main() -> None:
    """Print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("students", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--seconds", type=float, default=12.0, help="of timing, each engine")
    parser.add_argument("--kept", type=Path, required=True, help="folder of converted graphs, which are not made again")
    parser.add_argument("--convert-only", action="store_true", help="make them, and time nothing")
    parser.add_argument(
        "--thinner", action="store_true", help="also the last student with more and with less to compute"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    students = {name: read_student(file) for name, _, file in (one.partition("=") for one in arguments.students)}
    students |= thinner(*list(students.items())[-1]) if arguments.thinner else {}
    found = subjects(read_teacher(arguments.teacher), students, open_dataset(arguments.dataset).split("valid"))
    if arguments.convert_only:
        opened(found, arguments.kept)
        return
    columns = ("parity with torch", "p50, us", f"{TEACHER} over it", f"it over {FORMER}")
    print(head("network", "parameters", "engine", *columns), flush=True)
    in_torch: dict[str, Call] = {one.name: one.in_torch for one in found}
    for engine, calls in (("torch", in_torch), *opened(found, arguments.kept)):
        for line in rows_of(engine, found, calls, seconds=arguments.seconds):
            print(line, flush=True)


def subjects(teacher: TeacherCheckpoint, students: Mapping[str, StudentCheckpoint], valid: Windows) -> list[Subject]:
    """The teacher's transformer, `tiny` as it was before, and the students."""
    transformer = teacher.transformer().eval()
    inputs, outputs = tensors_of_teacher(transformer, teacher.modalities)
    largest = Subject(
        name=TEACHER,
        parameters=values_of(transformer),
        module=module_of_teacher(transformer).eval(),
        onnx=partial(onnx_from_teacher, transformer, teacher.modalities),
        inputs=inputs,
        outputs=outputs,
        feeds=_feeds(valid, teacher.modalities),
    )
    before = former(next(iter(students.values())))
    return [largest, *(_student(name, one, valid) for name, one in {FORMER: before, **students}.items())]


def former(student: StudentCheckpoint) -> StudentCheckpoint:
    """`tiny` as it was before committees, for the sensor and the task of this student."""
    config = student_config("tiny")
    encoder = msgspec.structs.replace(config.encoder, movement=False, late_change=False)
    return untrained(student.modality, student.task, msgspec.structs.replace(config, encoder=encoder))


def thinner(name: str, student: StudentCheckpoint) -> dict[str, StudentCheckpoint]:
    """A hybrid with more positions, or fewer features."""
    rocket = student.config.rocket
    assert rocket is not None
    strided = {}
    for stride, words in ((1, "every"), (2, "every second")):
        config = msgspec.structs.replace(student.config, rocket=msgspec.structs.replace(rocket, stride=stride))
        strided[f"{name}, {words} position"] = replace(student, config=config, seen=None)
    fewer = {f"{name}, {count} features": _with_features(student, count) for count in (84, 42)}
    return strided | fewer


def _with_features(student: StudentCheckpoint, count: int) -> StudentCheckpoint:
    network = student.network()
    assert isinstance(network, HybridStudent)
    width, total = student.config.encoder.width, network.rocket.config.features
    kept = np.unique(np.linspace(0, total - 1, count).astype(np.int64))
    network.rocket = pruned(network.rocket, student.modality, kept)
    columns = torch.from_numpy(np.concatenate([np.arange(width), width + kept]))
    state = network.state_dict() | {"head.weight": student.state["head.weight"][:, columns]}
    config = msgspec.structs.replace(student.config, rocket=network.rocket.config)
    return replace(student, config=config, state=state, seen=None)


def opened(found: Sequence[Subject], folder: Path) -> list[tuple[str, dict[str, Call]]]:
    """Each engine that is here, with what calls each network in it."""
    engines: list[tuple[str, dict[str, Call]]] = []
    names: tuple[BackendName, ...] = ("ort", "openvino", "litert")
    for name in names:
        if not is_installed(name):
            print(f"{name} is left out: it is not installed", file=sys.stderr)
            continue
        try:
            models = {one.name: converted(one, "tflite" if name == "litert" else "onnx", folder) for one in found}
        except UnavailableError as error:
            print(error, file=sys.stderr)
            continue
        engines.append((name, {key: open_backend(name, model, threads=1).run for key, model in models.items()}))
    return engines


def converted(subject: Subject, suffix: str, folder: Path) -> bytes:
    """A graph, from the folder where it is there. Raises UnavailableError without litert-torch."""
    path = folder / f"{subject.name}.{suffix}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(subject.tflite() if suffix == "tflite" else subject.onnx())
    return path.read_bytes()


def rows_of(engine: str, found: Sequence[Subject], calls: Mapping[str, Call], *, seconds: float) -> list[str]:
    """A row a network, all called in turn."""
    turns = {one.name: turning(partial(calls[one.name]), one.feeds) for one in found}
    timed = time_in_turn(turns, repeats=REPEATS, duration_s=seconds, stop=Event(), twice=True)
    assert timed is not None
    p50 = {one.name: np.array(one.p50_us) for one in timed.times}
    return [
        row(
            one.name,
            f"{one.parameters:,}",
            engine,
            f"{_parity(one, calls[one.name]):.1e}",
            f"{np.median(p50[one.name]):.0f}",
            _ratio(p50[TEACHER] / p50[one.name]),
            _ratio(p50[one.name] / p50[FORMER]),
        )
        for one in found
    ]


def _student(name: str, student: StudentCheckpoint, valid: Windows) -> Subject:
    network = student.network()
    return Subject(
        name=name,
        parameters=values_of(network),
        module=ExportStudent(network, temperature=1.0, seen=student.seen).eval(),
        onnx=partial(onnx_from_student, student),
        inputs=graph_inputs(student.modality),
        outputs=graph_outputs(student.task, novelty=student.seen is not None),
        feeds=_feeds(valid, (student.modality,)),
    )


def _feeds(valid: Windows, modalities: Sequence[ModalitySpec]) -> list[Feeds]:
    rows = np.linspace(0, len(valid) - 1, min(WINDOWS, len(valid))).astype(np.int64)
    taken, prepared = valid.take(rows), {}
    for modality in modalities:
        values, present = prepare_batch(taken[modality.name], modality)
        prepared.update({modality.name: values, f"{modality.name}_present": present})
    return [{name: one[number : number + 1].copy() for name, one in prepared.items()} for number in range(len(rows))]


def _parity(subject: Subject, call: Call) -> float:
    return max(float(np.abs(call(one)[0] - subject.in_torch(one)[0]).max()) for one in subject.feeds)


def _ratio(values: Array) -> str:
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


if __name__ == "__main__":
    main()
