"""What a measuring process is asked to do, and what it hands back: the words between `process` and `worker`."""

from __future__ import annotations

from typing import Literal

import msgspec

from mmkd_bench.machine.interference import Interference
from mmkd_bench.measuring.load import Level
from mmkd_bench.report import Launch, Mode, Subject
from mmkd_edge.predict.profile import LeftOut, Trial
from mmkd_edge.predict.setup import Setup
from mmkd_edge.spec import ModalitySpec

OUTCOME_FILE = "outcome.json"
SAMPLES_FILE = "samples.npz"
FAILURE_FILE = "failure.json"


class RunJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="run"):
    """One launch of `mmkd-bench run`: open a bundle, warm up, measure.

    Attributes:
        bundle: its path.
        backend: what executes the artifact, or `auto`.
        precision: of the arithmetic, or `auto`.
        threads: of the backend; None leaves it to the runtime.
        clients: threads that call at the same time; of a stream each has a sensor of its own.
        mode: `closed` or `paced`.
        rate_hz: calls per second of each client, where paced.
        deadline_ms: longest acceptable response where paced.
        duration_s: measured time of this launch.
        warm_up_limit_s: longest warm-up.
        reference: the reference file of a modality that is normalised per group.
        batch: windows of one call.
        hop: samples of one call of a stream; None asks for windows.
        jitter: how far times of the samples of a stream stray, as a share of the sampling period; None gives no times.
    """

    bundle: str
    backend: str
    precision: Literal["auto", "fp32", "fp16", "int8", "bf16"]
    threads: int | None
    clients: int
    mode: Mode
    rate_hz: float | None
    deadline_ms: float | None
    duration_s: float
    warm_up_limit_s: float
    reference: str | None
    batch: int = 1
    hop: int | None = None
    jitter: float | None = None


class RunOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one launch found; the samples lie beside it.

    Attributes:
        subject: the bundle as it was opened.
        backend: what executed the artifact.
        precision: of the artifact.
        threads: of the backend.
        begin_s: when the measured time began, on the monotonic clock.
        end_s: when it ended.
        launch: the figures.
        predictions: that one call gives.
        gpu_note: why the launch has no GPU memory; empty where it has.
    """

    subject: Subject
    backend: str
    precision: str
    threads: int
    begin_s: float
    end_s: float
    launch: Launch
    predictions: int
    gpu_note: str


class PairJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pair"):
    """Two models, called in turn in one process.

    Attributes:
        first: path of an ONNX model or a bundle.
        second: path of the other.
        threads: of each session.
        repeats: how many ratios are taken, one after another.
        duration_s: measured time of all repeats together.
    """

    first: str
    second: str
    threads: int
    repeats: int
    duration_s: float


class OverheadJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="overhead"):
    """`predict` and the bare engine on the same feeds, called in turn in one process.

    Attributes:
        bundle: its path.
        backend: whose `run` is the bare call; None is onnxruntime, and its session's own `run`.
        checks: whether every sensor check is on.
        threads: of the engine; None leaves it to the runtime.
        repeats: how many differences are taken, one after another.
        duration_s: measured time of all repeats together.
        reference: the reference file of a modality that is normalised per group.
    """

    bundle: str
    backend: str | None = None
    checks: bool = False
    threads: int | None
    repeats: int
    duration_s: float
    reference: str | None


class LoadJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="load"):
    """Many streams on one predictor.

    Attributes:
        bundle: its path.
        backend: what executes the artifact, or `auto`.
        precision: of the arithmetic, or `auto`.
        threads: of the backend; None leaves it to the runtime.
        reference: the reference file of a modality that is normalised per group.
        streams: how many; None searches for the most that are carried.
        rate_hz: windows per second of one stream.
        deadline_ms: longest acceptable response.
        servers: threads that answer.
        duration_s: length of the load where `streams` is given.
        search_s: how long the search may take, from the begin of the process on; it ends with the trial that is on.
        warm_up_limit_s: longest warm-up.
    """

    bundle: str
    backend: str
    precision: Literal["auto", "fp32", "fp16", "int8", "bf16"]
    threads: int | None
    reference: str | None
    streams: int | None
    rate_hz: float
    deadline_ms: float
    servers: int
    duration_s: float
    search_s: float
    warm_up_limit_s: float


class LoadOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How loads were carried.

    Attributes:
        subject: the bundle as it was opened.
        backend: what executed the artifact.
        precision: of the artifact.
        threads: of the backend.
        streams: the most that were carried, where it was searched for; else those that were offered.
        levels: every load in order.
        interference: what happened beside them.
    """

    subject: Subject
    backend: str
    precision: str
    threads: int
    streams: int
    levels: tuple[Level, ...]
    interference: Interference


class RivalsJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rivals"):
    """The same weights through several engines, called in turn in one process.

    Attributes:
        bundle: its path.
        checkpoint: the student's checkpoint, for engines that need it; None leaves those out.
        files: folder of what `rival_files` made of it.
        reference: the reference file of a modality that is normalised per group.
        threads: of every engine.
        repeats: how many medians are taken, one after another.
        duration_s: measured time of all repeats together.
    """

    bundle: str
    checkpoint: str | None
    files: str | None
    reference: str | None
    threads: int
    repeats: int
    duration_s: float


class RivalTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine.

    Attributes:
        name: which.
        version: of its library; empty where it is not installed.
        reason: why it was not timed; empty where it was.
        load_ms: from the model's bytes to the first answer, compiling included, and the import of its library where
            nothing needed it before; None for the runtime itself, whose start `mmkd-bench run` measures.
        max_abs_error: largest difference of an answer from plain ONNX Runtime's; None where there is none to compare.
        p50_us: median latency, one entry per repeat; empty where it was not timed.
        p99_us: 99th percentile, likewise.
    """

    name: str
    version: str
    reason: str
    load_ms: float | None
    max_abs_error: float | None
    p50_us: tuple[float, ...]
    p99_us: tuple[float, ...] = ()


class RivalsOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All engines.

    Attributes:
        subject: the bundle as it was opened.
        mflops: floating-point operations of one prediction, in millions; 0 where the bundle does not say.
        tolerance: what `max_abs_error` had to stay within.
        rivals: the runtime itself first.
    """

    subject: Subject
    mflops: float
    tolerance: float
    rivals: tuple[RivalTimes, ...]


class PairOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Medians of two things that were called in turn, one entry per repeat.

    Attributes:
        first_p50_us: of the first.
        second_p50_us: of the second.
        first_tails_us: p90 and p99 of the first.
        second_tails_us: of the second.
        difference_p50_us: median over calls of first minus second, neighbour by neighbour.
        count: calls of each, over all repeats.
    """

    first_p50_us: tuple[float, ...]
    second_p50_us: tuple[float, ...]
    first_tails_us: tuple[tuple[float, float], ...]
    second_tails_us: tuple[tuple[float, float], ...]
    difference_p50_us: tuple[float, ...]
    count: int


class Way(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to run one student of a bundle."""

    model: str
    setup: Setup


class TuneJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tune"):
    """Every way to run the students of a bundle, called in turn in one process.

    Attributes:
        bundle: its path.
        ways: the first of each student is what the others are compared with.
        duration_s: measured time, over all students.
        max_drop_points: percentage points of the task's metric that a lower precision may lose.
    """

    bundle: str
    ways: tuple[Way, ...]
    duration_s: float
    max_drop_points: float


class TuneOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured, and what a gate or an engine refused."""

    trials: tuple[Trial, ...]
    left_out: tuple[LeftOut, ...]


class TeacherJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="teacher"):
    """A teacher and its student from samples to answer, called in turn in one process.

    Attributes:
        teacher: path of its ONNX graph.
        student: path of the bundle.
        hop_s: time from one prediction to the next.
        named: modalities of which the caller knows the power; the teacher must have them.
        threads: of each graph.
        repeats: how many medians are taken, one after another.
        duration_s: measured time of all repeats together.
    """

    teacher: str
    student: str
    hop_s: float
    named: tuple[str, ...]
    threads: int
    repeats: int
    duration_s: float


class Timed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Medians of one thing that was called, one entry per repeat."""

    name: str
    p50_us: tuple[float, ...]


class TeacherOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Both, and every sensor's share.

    Attributes:
        subject: the bundle as it was opened.
        sensors: the teacher's modalities.
        kept: names of those that the student needs.
        times: everything that was called.
    """

    subject: Subject
    sensors: tuple[ModalitySpec, ...]
    kept: tuple[str, ...]
    times: tuple[Timed, ...]


class Failure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a measuring process has no outcome.

    Attributes:
        error: name of the class in `mmkd_edge.errors`; empty for a fault of the program.
        message: its text.
        trace: the traceback of a fault of the program.
    """

    error: str
    message: str
    trace: str


Job = RunJob | PairJob | OverheadJob | LoadJob | RivalsJob | TuneJob | TeacherJob
