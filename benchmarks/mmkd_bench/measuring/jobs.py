"""Jobs and outcomes, as JSON between a command and its measuring process."""

from __future__ import annotations

import msgspec

from mmkd_bench.measuring.opening import Choice, OpenedBundle
from mmkd_documents.bench import Interference, Level, ProcessStart, RivalEngine, Settings, Subject
from mmkd_edge.opening.profile import MeasuredConfig, RejectedConfig
from mmkd_edge.predict.student import Config

OUTCOME_FILE = "outcome.json"
SAMPLES_FILE = "samples.npz"
FAILURE_FILE = "failure.json"


class RunJob(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """One launch of `mmkd-bench run`."""

    choice: Choice
    settings: Settings


class RunOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One launch, with monotonic times."""

    opened: OpenedBundle
    begin_s: float
    end_s: float
    launch: ProcessStart


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """Windows per second and stream, longest response, answering threads."""

    rate_hz: float
    deadline_ms: float
    servers: int


class LoadJob(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Many streams on one predictor."""

    choice: Choice
    demand: Demand
    streams: int
    duration_s: float


class LoadOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a load."""

    opened: OpenedBundle
    level: Level
    interference: Interference


class InTurnJob(msgspec.Struct, frozen=True, kw_only=True):
    """Calls in turn for `duration_s`, with percentiles per repeat."""

    threads: int
    duration_s: float
    repeats: int


class PairJob(InTurnJob, frozen=True, kw_only=True, tag="pair"):
    """Two models, paths of ONNX models or bundles."""

    first: str
    second: str


class OverheadJob(InTurnJob, frozen=True, kw_only=True, tag="overhead"):
    """`predict` and the bare engine; `backend` None is onnxruntime's `session.run`."""

    bundle: str
    backend: str | None = None
    reference: str | None = None


class RivalsJob(InTurnJob, frozen=True, kw_only=True, tag="rivals"):
    """The same weights in several engines; some need the checkpoint."""

    bundle: str
    checkpoint: str | None = None
    reference: str | None = None


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of one call, per repeat."""

    name: str
    p50_us: tuple[float, ...]
    p90_us: tuple[float, ...]
    p99_us: tuple[float, ...]


class InTurnOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Times of calls in turn; `difference_us` is the first minus the last, pairwise."""

    times: tuple[Timed, ...]
    difference_us: tuple[float, ...]
    count: int

    def find(self, name: str) -> Timed | None:
        """Return the times by that name, or None."""
        return next((timed for timed in self.times if timed.name == name), None)


class RivalsOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """All engines without their times, the runtime first, and the times."""

    subject: Subject
    tolerance: float
    rivals: tuple[RivalEngine, ...]
    turns: InTurnOutcome


class TuneJob(msgspec.Struct, frozen=True, kw_only=True, tag="tune"):
    """Configs by student, called in turn; the first is the reference."""

    bundle: str
    configs: dict[str, tuple[Config, ...]]
    duration_s: float
    max_drop_points: float


class TuneOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Measured configs, and those refused by a gate or an engine."""

    trials: tuple[MeasuredConfig, ...]
    left_out: tuple[RejectedConfig, ...]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no outcome: an error of `mmkd_edge.errors`, or an internal one with its trace."""

    error: str
    message: str
    trace: str


Job = RunJob | PairJob | OverheadJob | LoadJob | RivalsJob | TuneJob
Outcome = RunOutcome | InTurnOutcome | LoadOutcome | RivalsOutcome | TuneOutcome
