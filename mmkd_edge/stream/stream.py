"""`Stream`: samples in, predictions out, however samples are divided, in constant memory, by the caller's clock."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge.backends.base import Answers, Steps
from mmkd_edge.bundle.manifest import ModelEntry, OverTime, Streaming
from mmkd_edge.errors import InputError, UsageError
from mmkd_edge.frames import as_frames
from mmkd_edge.predict.arguments import check_moment, check_seconds, check_whole
from mmkd_edge.predict.postprocess import CallConditions, Prediction, age_fault, no_answer
from mmkd_edge.predict.preprocess import as_float32, missing_samples, only_valid, prepare, select
from mmkd_edge.predict.sensors import WindowFault, worse
from mmkd_edge.predict.student import OpenStudent
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_edge.stream.over_time import AnswerFilter
from mmkd_edge.stream.resample import FrameNumbers, Grid, RisingSamples, TimeLine

Ask = Callable[[NDArray[Any], CallConditions, Answers | None], Prediction]
OnWindow = Callable[[NDArray[Any], Prediction], None]
Deliver = Callable[[list[Prediction]], list[Prediction]]

MAX_HOP = 1 << 30
# A rate off by this factor is a wrong setting, not jitter or lost samples.
_RATE_FACTOR = 1.5
# In sampling periods: one lost sample is interpolated, two are not.
_GAP_PERIODS = 2.5
_MAX_GAP_WINDOWS = 64  # each row of an interpolated gap is computed


class StreamFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of a stream's samples.

    Attributes:
        strays: dropped, since their time is no number or fits nothing.
        restarts: new time lines: the clock was set, or a silence was longer than a window.
    """

    samples: int
    duplicates: int
    late: int
    strays: int
    restarts: int


class Stream:
    """Windows and hops over one sensor's samples, in one thread. Get one from `EdgePredictor.stream`.

    A prediction is due after the first full window and after every `hop` samples; before, it is `warming_up`.
    """

    def __init__(
        self,
        *,
        modality: ModalitySpec,
        task: TaskSpec,
        ask: Ask,
        deliver: Deliver,
        hop: int,
        gap_s: float | None,
        stale_s: float | None,
        stepping: Stepping | None = None,
        on_window: OnWindow | None = None,
        answering: Callable[[], ModalitySpec] | None = None,
        over_time: Callable[[], OverTime | None] | None = None,
    ) -> None:
        check_whole("hop", hop, 1, MAX_HOP)
        longest_gap_s = _MAX_GAP_WINDOWS * modality.duration_s
        if (check_seconds("gap_s", gap_s) or 0.0) > longest_gap_s:
            raise UsageError(
                f"gap_s: expected at most {_MAX_GAP_WINDOWS} windows of {modality.name!r}, {longest_gap_s:g} s, "
                f"got {gap_s:g}"
            )
        check_seconds("stale_s", stale_s)
        self._modality = modality
        self._answering = answering or (lambda: modality)
        self._task = task
        self._ask = ask
        self._deliver = deliver
        self._hop = hop
        self._gap_s = _GAP_PERIODS / modality.rate_hz if gap_s is None else gap_s
        self._stale_s = stale_s
        self._stepping = stepping
        self._on_window = on_window
        self._filter = None
        if over_time is not None:
            self._filter = AnswerFilter(over_time, hop=hop, modality=modality)
        self._frames = FrameNumbers(modality) if modality.kind == "video" else None
        columns = 1 if self._frames is not None else len(modality.channels)
        self._buffer = np.empty((3 * modality.samples, columns), dtype=np.float32)
        self._samples = 0
        self.reset()

    def reset(self) -> None:
        """Forget all samples and counts."""
        self._clock = TimeLine(limit_s=max(self._modality.duration_s, self._gap_s))
        self._timed: bool | None = None
        self._samples = 0
        self._latest: Prediction | None = None
        self._latest_s: float | None = None
        self._restarted = ""
        self._begin(None)

    def _begin(self, grid: Grid | None) -> None:
        self._grid = grid
        self._count = 0  # rows in this time line
        self._end = 0  # of the newest row in the buffer
        self._answered = 0  # the row count of the last prediction
        if self._stepping is not None:
            self._stepping.begin()
        if self._filter is not None:
            self._filter.begin()
        first = self._modality.samples % self._hop
        self._due = first if first else min(self._hop, self._modality.samples)

    def push(self, samples: object, time_s: object = None, *, now_s: float | None = None) -> list[Prediction]:
        """Take samples in the sensor's order; return the predictions that became due.

        Args:
            samples: raw values (n, C), (C,) or, of one channel, (n,), NaN = missing, or a mapping from the modality's
                name to them. Video: uint8 (n, H, W, C), one frame, or a list with None for missing ones.
            time_s: times (n,) in seconds on any clock, or the first one if the rest follows at the modality's rate;
                None if samples come at exactly that rate.
            now_s: this moment on that clock; predictions then have an `input_age_s`.

        Raises:
            InputError: samples do not fit the modality, or times do not fit samples.
            UsageError: only some pushes have times, or the predictor is closed.
            SensorError: a prediction is not `ok`, and the policy is `raise`; the samples were taken.
        """
        values, times = self._check(samples, time_s, now_s)
        return self._hand_over(list(self._predict_due(values, times, now_s)))

    def each(self, samples: object, time_s: object = None, *, now_s: float | None = None) -> Iterator[Prediction]:
        """Yield each prediction of `push` at once; read to the end before the next push."""
        values, times = self._check(samples, time_s, now_s)
        for prediction in self._predict_due(values, times, now_s):
            yield from self._hand_over([prediction])

    def flush(self, *, now_s: float | None = None) -> list[Prediction]:
        """Return the prediction of the window that ends with the newest sample; a causal student's of whole blocks."""
        check_moment("now_s", now_s)
        predictions: list[Prediction] = []
        if self._count > self._answered and (self._stepping is None or self._stepping.fresh):
            predictions.append(self._predict(now_s))
        return self._hand_over(predictions)

    def latest(self, now_s: float) -> Prediction | None:
        """Return the last prediction at this moment, `stale` if its input is too old; None before the first."""
        if self._timed is False:
            raise UsageError("latest: expected a stream whose samples have times, got one without; push with time_s")
        check_moment("now_s", now_s)
        if self._latest is None or self._latest_s is None:
            return None
        age_s = now_s - self._latest_s
        fault = age_fault(age_s, self._stale_s)
        if fault is None or self._latest.status in ("invalid", "warming_up", "stale"):
            return msgspec.structs.replace(self._latest, input_age_s=age_s)
        reason = f"{fault.reason}; {self._latest.reason}" if self._latest.reason else fault.reason
        return msgspec.structs.replace(self._latest, input_age_s=age_s, status=fault.status, reason=reason)

    async def over(self, source: AsyncIterable[Any]) -> AsyncIterator[Prediction]:
        """Yield predictions for an asynchronous source of samples, or of pairs of samples and `time_s`."""
        async for item in source:
            samples, time_s = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
            for prediction in self.push(samples, time_s):
                yield prediction
        for prediction in self.flush():
            yield prediction

    def __reduce__(self) -> NoReturn:
        raise UsageError("a stream cannot be sent to another process; send the samples, or open the bundle there")

    @property
    def facts(self) -> StreamFacts:
        """Counts since the beginning or the last `reset`."""
        clock = self._clock
        return StreamFacts(
            samples=self._samples,
            duplicates=clock.duplicates,
            late=clock.late,
            strays=clock.strays,
            restarts=clock.restarts,
        )

    def _check(
        self, samples: object, time_s: object, now_s: float | None
    ) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
        check_moment("now_s", now_s)
        values = self._as_values(samples)
        times = self._as_times(time_s, len(values))
        if now_s is not None and times is None:
            raise UsageError("now_s: expected time_s too, got none; an age needs the times of the samples")
        if len(values):
            if self._timed is (times is None):
                before = "with time_s" if self._timed else "without time_s"
                raise UsageError(f"time_s: this stream began {before}; go on alike, or call reset()")
            self._timed = times is not None
            self._samples += len(values)
        return values, times

    def _predict_due(
        self, values: NDArray[Any], times: NDArray[np.float64] | None, now_s: float | None
    ) -> Iterator[Prediction]:
        most = len(values) if self._frames is None else self._frames.most
        for start in range(0, len(values), most or 1):
            part = slice(start, start + most)
            rows = values[part] if self._frames is None else self._frames.put(values[part])
            if times is None:
                yield from self._advance(rows)
                continue
            for run in self._clock.put(times[part], only_valid(rows, self._answering())):
                yield from self._follow(run, now_s)

    def _as_values(self, samples: object) -> NDArray[Any]:
        modality = self._modality
        if self._frames is not None:
            return as_frames(select(samples, modality), modality)
        array = as_float32(select(samples, modality), modality)
        channels = len(modality.channels)
        if array.ndim <= 1 and channels == 1:
            array = array.reshape(-1, 1)
        elif array.ndim == 1 and array.shape[0] == channels:
            array = array[None]
        if array.ndim != 2 or array.shape[1] != channels:
            raise InputError(
                f"modality {modality.name!r}: expected samples of shape (n, C)=(n, {channels}), got {array.shape}; "
                f"one row per sample, one column per channel ({', '.join(modality.channels)})"
            )
        return array

    def _as_times(self, time_s: object, count: int) -> NDArray[np.float64] | None:
        if time_s is None:
            return None
        try:
            times = np.asarray(time_s, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"time_s: expected seconds, got {type(time_s).__name__}: {error}") from error
        if times.ndim == 0:
            return times + np.arange(count) / self._modality.rate_hz
        if times.shape != (count,):
            raise InputError(f"time_s: expected one time per sample, {count}, got shape {times.shape}")
        return times

    def _follow(self, run: RisingSamples, now_s: float | None) -> Iterator[Prediction]:
        times, rows = run.times, run.rows
        if run.restart:
            self._restarted = "the time line began anew" if self._grid is not None else ""
            self._begin(
                Grid(
                    rate_hz=self._modality.rate_hz,
                    gap_s=self._gap_s,
                    origin_s=float(times[0]),
                    row=rows[0],
                    interpolates=self._frames is None,
                )
            )
            yield from self._advance(rows[:1], now_s)
            times, rows = times[1:], rows[1:]
        grid = self._grid
        assert grid is not None
        if len(times) == 0:
            return
        grid.put(times, rows)
        while len(taken := grid.take(min(self._due - self._count, self._modality.samples))):
            yield from self._advance(taken, now_s)

    def _advance(self, rows: NDArray[np.float32], now_s: float | None = None) -> Iterator[Prediction]:
        start = 0
        while start < len(rows):
            part = rows[start : start + min(self._due - self._count, self._modality.samples)]
            self._append(part)
            start += len(part)
            self._count += len(part)
            if self._count == self._due:
                self._due += self._hop
                yield self._predict(now_s)

    def _append(self, rows: NDArray[np.float32]) -> None:
        keep = self._modality.samples
        if self._end + len(rows) > len(self._buffer):
            self._buffer[:keep] = self._buffer[self._end - keep : self._end]
            self._end = keep
        self._buffer[self._end : self._end + len(rows)] = rows
        self._end += len(rows)
        if self._frames is not None:
            self._frames.forget_before(self._buffer[max(self._end - keep, 0) : self._end])
        if self._stepping is not None:
            self._stepping.put(rows if self._frames is None else self._frames.window(rows))

    def _predict(self, now_s: float | None) -> Prediction:
        self._answered = self._count
        newest_s = None if self._grid is None else self._grid.point_s(self._count - 1)
        age_s = None if now_s is None or newest_s is None else now_s - newest_s
        samples = self._modality.samples
        if self._count < samples:
            reason = f"{self._count} of {samples} samples are there"
            prediction = no_answer(
                WindowFault(status="warming_up", reason=f"{self._restarted}: {reason}" if self._restarted else reason),
                modality=self._modality,
                task=self._task,
                missing_fraction=1.0 - self._count / samples,
                input_age_s=age_s,
            )
        else:
            prediction = self._ask_window(age_s)
        self._latest, self._latest_s = prediction, newest_s
        return prediction

    def _ask_window(self, age_s: float | None) -> Prediction:
        # A copy, because a backend may keep its input.
        rows = self._buffer[self._end - self._modality.samples : self._end]
        window: NDArray[Any] = rows.copy() if self._frames is None else self._frames.window(rows)
        fault = age_fault(age_s, self._stale_s)
        rate_hz, declared = None if self._grid is None else self._grid.rate_hz(), self._modality.rate_hz
        if rate_hz is not None and not declared / _RATE_FACTOR <= rate_hz <= declared * _RATE_FACTOR:
            reason = f"samples come at {rate_hz:.3g} Hz, expected {declared:g} Hz"
            fault = worse(fault, WindowFault(status="degraded", reason=reason))
        stepped = None if self._stepping is None else self._stepping.answer(window)
        prediction = self._ask(window, CallConditions(fault=fault, input_age_s=age_s), stepped)
        if self._filter is not None:
            prediction = self._filter.follow(prediction, self._task.labels, count=self._count)
        if self._on_window is not None:
            self._on_window(window, prediction)
        return prediction

    def _hand_over(self, predictions: list[Prediction]) -> list[Prediction]:
        return self._deliver(predictions) if predictions else predictions


def select_entry(entries: Sequence[ModelEntry], name: str | None) -> tuple[int, ModelEntry]:
    """Return place and entry of a modality, None for the first; of a recorded one that it derives, as its samples come.

    Raises UsageError for an unknown name.
    """
    names = [entry.modality.name for entry in entries]
    recorded = [entry.modality.recorded.name for entry in entries]
    if name is not None and name not in (*names, *recorded):
        raise UsageError(f"modality {name!r} is unknown; expected one of {', '.join(map(repr, names))}")
    if name is None or name in names:
        number = 0 if name is None else names.index(name)
        return number, entries[number]
    entry = entries[number := recorded.index(name)]
    samples = msgspec.structs.replace(entry.modality.recorded, name=entry.modality.name)
    return number, msgspec.structs.replace(entry, modality=samples, streaming=None)


def check_hop(hop: object, streaming: Streaming) -> None:
    """Raise UsageError for a hop at which no step ends."""
    if isinstance(hop, int) and hop % streaming.stride:
        raise UsageError(
            f"hop: expected a multiple of {streaming.stride}, the samples of one step of this causal student, got {hop}"
        )


class Stepping:
    """The steps of one stream; `fresh` if a block was completed since the last answer."""

    def __init__(self, student: Callable[[], OpenStudent], *, on_failure: Callable[[], None]) -> None:
        self._student = student
        self._on_failure = on_failure
        self._steps: Steps | None = None
        self.begin()

    def begin(self) -> None:
        """Forget all samples. Missing samples fill up the first block, so that the last ends with a window."""
        self._open(self._student())

    def _open(self, student: OpenStudent) -> None:
        self._stepping_student = student
        self._answer: Answers | None = None
        self.fresh = False
        self._steps = None
        if student.step is None or student.entry.streaming is None:
            return
        streaming: Streaming = student.entry.streaming
        self._block = missing_samples(student.modality, streaming.stride)
        self._filled = -student.modality.samples % streaming.stride
        try:
            self._steps = Steps(student.step, streaming)
        except Exception:  # an engine that cannot begin is one that fails
            self._on_failure()

    def put(self, rows: NDArray[Any]) -> None:
        """Take rows (n, C), NaN = missing; video frames (n, H, W, C), masked where missing."""
        start = 0
        while self._steps is not None and start < len(rows):
            part = rows[start : start + len(self._block) - self._filled]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            start += len(part)
            if self._filled == len(self._block):
                self._filled = 0
                self._step(self._steps)

    def _step(self, steps: Steps) -> None:
        values, present = prepare(self._block, self._stepping_student.modality, self._stepping_student.reference)
        try:
            self._answer = steps.push(values, present)
            self.fresh = True
        except Exception:  # the state is lost; the next answer rebuilds it
            self._steps = self._answer = None
            self._on_failure()

    def answer(self, window: NDArray[Any]) -> Answers | None:
        """Return the outputs (1, ...) after the newest block of `window`; None to answer the window as a whole."""
        student = self._student()
        if student.step is not self._stepping_student.step or self._steps is None:
            self._open(student)
            self.put(window)
        self.fresh = False
        return self._answer
