"""The documents of `mmkd-bench pair`, `overhead`, `frames`, `teacher`, `rivals`, `capacity` and `plan`.

They are filled by `mmkd_bench`.

The document of `mmkd-bench tune` is the profile that the runtime reads (`mmkd_edge.predict.profile`).
"""

from __future__ import annotations

import msgspec

from mmkd_report.schema.bench import FORMAT_VERSION, LatencySummary, MachineFacts, Subject


class RepeatSpread(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over all repeats of all processes."""

    median: float
    min: float
    max: float
    std: float
    repeats: int


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What the documents below share; `complete` is False where Ctrl-C ended the measurement."""

    format_version: int = FORMAT_VERSION
    complete: bool = True
    machine: MachineFacts


class PairReport(Measurement, frozen=True, kw_only=True):
    """Two models through ONNX Runtime, called in turn.

    Attributes:
        threads: of each session.
        count: calls of each.
        ratio: first over second: how many times as fast the second is.
    """

    first: str
    second: str
    threads: int
    count: int
    first_p50_us: RepeatSpread
    second_p50_us: RepeatSpread
    first_p90_us: RepeatSpread
    second_p90_us: RepeatSpread
    first_p99_us: RepeatSpread
    second_p99_us: RepeatSpread
    ratio: RepeatSpread


class OverheadReport(Measurement, frozen=True, kw_only=True):
    """`EdgePredictor.predict` and the bare engine on the same feeds, called in turn.

    Attributes:
        count: calls of each.
        bare: what the bare call is.
        checks: whether every sensor check was on.
        overhead_us: median over pairs of neighbouring calls of the difference.
    """

    bundle: str
    count: int
    bare: str
    checks: bool
    predict_p50_us: RepeatSpread
    bare_p50_us: RepeatSpread
    overhead_us: RepeatSpread


class FramesReport(Measurement, frozen=True, kw_only=True):
    """What the frames of a film cost beside a camera's student.

    Attributes:
        film: path of the file.
        count: frames.
        recorded: width and height of the film's frames.
        region: x, y, width and height of what is kept of them; None where all is.
        kept: width and height of the student's frames.
        samples: frames of its window.
        decode_us: of one frame.
        scale_us: of one frame: cut, made gray or red to blue, and scaled.
        predict_us: of one window, the front-end in it.
    """

    bundle: str
    film: str
    count: int
    recorded: tuple[int, int]
    region: tuple[int, int, int, int] | None
    kept: tuple[int, int]
    samples: int
    decode_us: RepeatSpread
    scale_us: RepeatSpread
    predict_us: RepeatSpread


class SensorCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one sensor of a teacher costs on this device.

    Attributes:
        needed: the student needs it as well.
        rate_hz: samples per second and channel.
        bytes_per_s: what it delivers, as float32.
        window_bytes: what one window of it takes.
        gather_us: samples of one hop into windows.
        front_end_us: check and preparation of one window; spectra and the like are part of the graph.
        power_mw: what the sensor draws, as the caller said; None where nobody said it.
    """

    modality: str
    needed: bool
    rate_hz: float
    channels: int
    bytes_per_s: float
    window_bytes: int
    gather_us: RepeatSpread
    front_end_us: RepeatSpread
    power_mw: float | None


class TeacherReport(Measurement, frozen=True, kw_only=True):
    """Teacher and student from samples to answer, called in turn.

    Attributes:
        teacher: path of its checkpoint or graph.
        threads: of each graph.
        hop_s: time from one prediction to the next.
        teacher_us: from the samples of one hop of every sensor to the answer.
        student_us: the same with the student's sensor alone.
        ratio: teacher over student, repeat by repeat.
        teacher_engine_us: the teacher's graph alone.
        student_engine_us: the student's graph alone.
        sensors: of the teacher.
    """

    teacher: str
    subject: Subject
    threads: int
    hop_s: float
    teacher_us: RepeatSpread
    student_us: RepeatSpread
    ratio: RepeatSpread
    teacher_engine_us: RepeatSpread
    student_engine_us: RepeatSpread
    sensors: tuple[SensorCost, ...]


class RivalEngine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine over all processes.

    Attributes:
        version: of its library; empty where it is not installed.
        reason: why it was not timed; empty where it was.
        load_ms: from the model's bytes to the first answer, compiling included, and the import of its library where
            nothing needed it before, in the first process; None for the runtime itself.
        max_abs_error: largest difference of an answer from plain ONNX Runtime's; None where there is none to compare.
        ratio: its latency over that of `predict`, repeat by repeat: below 1 it is faster.
    """

    name: str
    version: str = ""
    reason: str = ""
    load_ms: float | None = None
    max_abs_error: float | None = None
    p50_us: RepeatSpread | None = None
    p99_us: RepeatSpread | None = None
    ratio: RepeatSpread | None = None


class RivalsReport(Measurement, frozen=True, kw_only=True):
    """The same weights through several engines, called in turn.

    Attributes:
        threads: of every engine.
        mflops: floating-point operations of one prediction, in millions; 0 where the bundle does not say.
        peak_gflops: what one core of this machine does in a product of matrices, in billions per second.
        tolerance: what `max_abs_error` had to stay within.
        rivals: the runtime itself first.
    """

    subject: Subject
    threads: int
    mflops: float
    peak_gflops: float
    tolerance: float
    rivals: tuple[RivalEngine, ...]


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One load of many streams and how it was carried.

    Attributes:
        offered_hz: windows that came due per second, over all streams.
        due: windows that came due.
        answered: those that were answered before the load was given up.
        response: from the moment a window came due to its answer.
        service: the `predict` calls alone.
        missed: windows that were answered after the deadline, or not at all.
        cpu_share: core time of the process as a share of one core.
        carried: at most one window in a thousand missed its deadline, and the backlog did not grow.
    """

    streams: int
    offered_hz: float
    due: int
    answered: int
    response: LatencySummary
    service: LatencySummary
    missed: int
    cpu_share: float
    carried: bool


class CapacityReport(Measurement, frozen=True, kw_only=True):
    """How many streams a device carries, and how that was found.

    Attributes:
        settled: False where Ctrl-C or the budget ended it: then `streams` is the most that was judged to be carried
            until then.
        budget_s: how long it might take.
        estimate: the streams that the short loads carried with which the search begins; they judge nothing. None where
            streams were asked for.
        threads: of the backend, for one call.
        servers: threads that answered.
        rate_hz: windows per second of one stream.
        deadline_ms: longest acceptable response.
        streams: how many the device carries; 0 where not even one, or not those that were asked for.
        at_answer: the load of that many streams, all launches together; None when not even one is carried. Where
            streams were asked for, their load, carried or not.
        launches: each process of that load by itself; most of them carried it.
        p999_us: p99.9 of the response in the median launch, which the answer rests on; that of all launches together is
            larger where a pause of the machine fell into one of them. None where samples were too few.
        refused: the smallest load that most launches did not carry, all of them together; None where all were carried,
            or where streams were asked for.
        idle_cores: cores' worth of time that was left at that load, of those the process may use.
        trials: every load that was tried, in order.
        disturbances: what the machine's counters accuse.
    """

    settled: bool
    budget_s: float
    estimate: int | None
    subject: Subject
    backend: str
    precision: str
    threads: int
    servers: int
    rate_hz: float
    deadline_ms: float
    streams: int
    at_answer: Level | None
    launches: tuple[Level, ...]
    p999_us: float | None
    refused: Level | None
    idle_cores: float | None
    trials: tuple[Level, ...]
    disturbances: tuple[str, ...]


class MeasuredThroughput(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions per second with so many threads calling at once, each with a backend of one thread: over rounds."""

    cores: int
    throughput_hz: float
    low_hz: float
    high_hz: float


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """Throughput that the model gives for so many cores.

    Attributes:
        streams: `throughput_hz` over the asked rate, rounded down; None where no rate was asked. An upper limit: a
            deadline needs room, which `mmkd-bench capacity` measures.
    """

    cores: int
    throughput_hz: float
    streams: int | None


class PlanReport(Measurement, frozen=True, kw_only=True):
    """Throughput by cores: measured, the model fitted to it, its error, and what it says of other core counts.

    Attributes:
        serial_share: s of the model; 0 is perfect scaling. None where Ctrl-C came before every count was measured once.
        error: relative error at the largest measured core count, predicted from the smaller ones; None with one core
            or without a model.
        forecasts: of the asked core counts; none without a model.
        disturbances: what else ran: the model then speaks of this machine as it was, not of a device of its own.
    """

    subject: Subject
    measured: tuple[MeasuredThroughput, ...]
    serial_share: float | None
    error: float | None
    forecasts: tuple[Forecast, ...]
    disturbances: tuple[str, ...]
