"""What a measuring process is asked to do, and what it hands back: the words between `process` and `dispatch`.

Jobs and outcomes travel as JSON between two processes of one release; documents are in `mmkd_report.schema`.
"""

from __future__ import annotations

import msgspec

from mmkd_bench.measuring.opening import Choice, Opened
from mmkd_edge.predict.config import Config
from mmkd_edge.predict.profile import MeasuredConfig, RejectedConfig
from mmkd_edge.spec import ModalitySpec
from mmkd_report.schema.bench import Interference, ProcessStart, Settings, Subject
from mmkd_report.schema.bench_others import Level, RivalEngine

OUTCOME_FILE = "outcome.json"
SAMPLES_FILE = "samples.npz"
FAILURE_FILE = "failure.json"


class RunJob(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """One launch of `mmkd-bench run`: open a bundle, warm up, measure for its share of the settings' time."""

    choice: Choice
    settings: Settings


class RunOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one launch found; the samples lie beside it.

    Attributes:
        begin_s: when the measured time began, on the monotonic clock.
        end_s: when it ended.
        predictions: that one call gives.
        gpu_note: why the launch has no GPU memory; empty where it has.
    """

    opened: Opened
    begin_s: float
    end_s: float
    launch: ProcessStart
    predictions: int
    gpu_note: str


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What every one of many streams wants, and who serves it.

    Attributes:
        rate_hz: windows per second of one stream.
        deadline_ms: longest acceptable response.
        servers: threads that answer.
    """

    rate_hz: float
    deadline_ms: float
    servers: int


class LoadJob(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Many streams on one predictor.

    Attributes:
        streams: how many; None searches for the most that are carried.
        duration_s: length of the load where `streams` is given.
        search_s: how long the search may take, from the begin of the process on; it ends with the load that is on.
    """

    choice: Choice
    demand: Demand
    streams: int | None
    duration_s: float
    search_s: float
    warm_up_limit_s: float


class LoadOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How loads were carried.

    Attributes:
        streams: the most that were carried, where it was searched for; else those that were offered.
        levels: every load in order.
        interference: what happened beside them.
    """

    opened: Opened
    streams: int
    levels: tuple[Level, ...]
    interference: Interference


class InTurnJob(msgspec.Struct, frozen=True, kw_only=True):
    """Several things, called in turn in one process.

    Attributes:
        threads: of each engine.
        duration_s: measured time of all repeats together.
        repeats: stretches of time that get medians of their own.
    """

    threads: int
    duration_s: float
    repeats: int


class PairJob(InTurnJob, frozen=True, kw_only=True, tag="pair"):
    """Two models, each a path of an ONNX model or a bundle."""

    first: str
    second: str


class OverheadJob(InTurnJob, frozen=True, kw_only=True, tag="overhead"):
    """`predict` and the bare engine on the same feeds.

    Attributes:
        backend: whose `run` is the bare call; None is onnxruntime, and its session's own `run`.
        checks: whether every sensor check is on.
    """

    bundle: str
    backend: str | None = None
    checks: bool = False
    reference: str | None = None


class RivalsJob(InTurnJob, frozen=True, kw_only=True, tag="rivals"):
    """The same weights through several engines.

    Attributes:
        checkpoint: the student's checkpoint, for engines that need it; None leaves those out.
        files: folder of what `rival_tflite` made of it.
    """

    bundle: str
    checkpoint: str | None = None
    files: str | None = None
    reference: str | None = None


class TeacherJob(InTurnJob, frozen=True, kw_only=True, tag="teacher"):
    """A teacher and its student from samples to answer.

    Attributes:
        teacher: path of its ONNX graph.
        student: path of the bundle.
        hop_s: time from one prediction to the next.
        named: modalities of which the caller knows the power; the teacher must have them.
    """

    teacher: str
    student: str
    hop_s: float
    named: tuple[str, ...]


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of one thing that was called, one entry per repeat."""

    name: str
    p50_us: tuple[float, ...]
    p90_us: tuple[float, ...]
    p99_us: tuple[float, ...]


class InTurnOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was called in turn.

    Attributes:
        times: of each, in their order.
        difference_us: median over calls of the first minus the last, neighbour by neighbour, one entry per repeat.
        count: calls of each, over all repeats.
    """

    times: tuple[Timed, ...]
    difference_us: tuple[float, ...]
    count: int

    def of(self, name: str) -> Timed | None:
        """One of them; None where it was not called."""
        return next((one for one in self.times if one.name == name), None)


class RivalsOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """All engines; `rivals` has them without their times, the runtime itself first."""

    subject: Subject
    mflops: float
    tolerance: float
    rivals: tuple[RivalEngine, ...]
    turns: InTurnOutcome


class TeacherOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Teacher, student and every sensor's share; `sensors` are the teacher's modalities."""

    subject: Subject
    sensors: tuple[ModalitySpec, ...]
    turns: InTurnOutcome


class BenchmarkedWay(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run one student of a bundle."""

    model: str
    setup: Config


class TuneJob(msgspec.Struct, frozen=True, kw_only=True, tag="tune"):
    """Every way to run the students of a bundle, called in turn in one process.

    Attributes:
        ways: the first of each student is what the others are compared with.
        duration_s: measured time, over all students.
        max_drop_points: percentage points of the task's metric that a lower precision may lose.
    """

    bundle: str
    ways: tuple[BenchmarkedWay, ...]
    duration_s: float
    max_drop_points: float


class TuneOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and what a gate or an engine refused."""

    trials: tuple[MeasuredConfig, ...]
    left_out: tuple[RejectedConfig, ...]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a measuring process has no outcome.

    Attributes:
        error: name of the class in `mmkd_edge.errors`; empty for a fault of the program.
        trace: the traceback of a fault of the program.
    """

    error: str
    message: str
    trace: str


Job = RunJob | PairJob | OverheadJob | LoadJob | RivalsJob | TuneJob | TeacherJob
Outcome = RunOutcome | InTurnOutcome | LoadOutcome | RivalsOutcome | TuneOutcome | TeacherOutcome
