"""A new bundle compared with the installed one on a station's windows, for which no answer waits."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from mmkd_edge import EdgePredictor, Prediction
from mmkd_edge.errors import GateError, MmkdError, PerformanceError, UsageError, first_line
from mmkd_edge.health.monitor import SecondsHistogram
from mmkd_edge.outputs import check_file
from mmkd_edge.shadow import ANSWER_S, ShadowProcess, ShadowReport, write_report
from mmkd_station.alarms import UNKNOWN, Episodes
from mmkd_station.records import result_record
from mmkd_station.spec import StationSpec
from mmkd_station.uncertain import file_name

_MIN_WINDOWS, _MIN_OF_LABEL = 100, 20  # for a verdict, and for one on a label
_MAX_MORE_SILENT = 0.02  # of the windows: more that are `unknown` or unanswered
_MAX_DROPPED = 0.05
_WAITING = 64
_SIDES = ("installed", "new")


class Shadow:
    """Compares answers for windows of one sensor until it is closed."""

    def __init__(
        self,
        spec: StationSpec,
        *,
        predictor: EdgePredictor,
        modality: str,
        hop_s: float,
        run_s: float | None,
        is_live: bool,  # else the source waits for the comparison
    ) -> None:
        assert spec.shadow is not None
        task = predictor.task
        if task.kind == "regression":
            raise UsageError(
                f"{spec.bundle}: --shadow: expected a student of classes or labels, got one that answers a number; "
                "compare the values where results are read"
            )
        self.report: ShadowReport | None = None  # until it is closed
        self.error: MmkdError | None = None
        self._file = Path(spec.shadow_report or f"{file_name(spec.name)}.shadow.json")
        check_file(self._file)
        self._process = ShadowProcess(predictor, spec.shadow, spec.opening)
        self._spec, self._predictor, self._modality, self._kind = spec, predictor, modality, task.kind
        self._hop_s, self._run_s = hop_s, run_s if is_live else None
        self._wait_s = 0.0 if is_live else 6 * ANSWER_S
        self._bundles = dict(zip(_SIDES, self._process.bundles, strict=True))
        self._episodes = {side: Episodes(spec.alarms, task) for side in _SIDES}
        self._open: set[tuple[str, str]] = set()  # sides and labels of open episodes
        self._met: set[str] = set()  # labels of open episodes that both have raised
        self._times = {side: SecondsHistogram() for side in _SIDES}
        self._counts: Counter[str] = Counter()  # fields of the report, and of its bundles after a side and a space
        self._labels, self._alarms = (
            {label: dict.fromkeys((*_SIDES, "both"), 0) for label in labels}
            for labels in (task.labels, [rule.label for rule in spec.alarms])
        )
        self._failure = ""
        self._began_s = time.monotonic()
        self._waiting: queue.Queue[tuple[NDArray[Any], Prediction, float] | None] = queue.Queue(maxsize=_WAITING)
        self._thread = threading.Thread(target=self._compare, name=f"shadow {spec.name}", daemon=True)
        self._thread.start()

    def see(self, window: NDArray[Any], prediction: Prediction, *, time_s: float) -> None:
        """Have an answered window compared; one for which the new bundle has no time is dropped."""
        try:
            self._waiting.put((window, prediction, time_s), block=self._wait_s > 0, timeout=self._wait_s)
        except queue.Full:
            self._counts["dropped"] += 1

    def close(self) -> None:
        """Compare the windows that wait, as long as one answer may take; end the process and write the report."""
        if self.report is not None:
            return
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=ANSWER_S)
        self._thread.join(ANSWER_S)
        self._failure = self._failure or ("it takes too long" if self._thread.is_alive() else "")
        self._process.close()
        report = self._make_report()
        if problems := list(self._problems(report)):
            reasons = tuple(text for _, text in problems)
            report = msgspec.structs.replace(report, verdict="refused", reasons=reasons)
            text = f"{self._file}: {self._spec.shadow} is refused: {'; '.join(reasons)}; keep the installed bundle"
            self.error = problems[0][0](text)  # the gate of accuracy comes first
        self.report = report
        write_report(self._file, report)

    def _compare(self) -> None:
        try:
            self._process.start()
            while item := self._waiting.get():
                window, prediction, time_s = item
                new, *seconds = self._process.ask(self._modality, window)
                for side, spent_s in zip(_SIDES, seconds, strict=True):
                    self._times[side].add(spent_s)
                self._count({"installed": prediction, "new": new}, time_s)
        except Exception as error:  # whatever a new bundle causes, the installed one answers on
            self._failure = self._failure or first_line(error)
            while self._waiting.get():
                pass

    def _count(self, predictions: Mapping[str, Prediction], time_s: float) -> None:
        self._counts["windows"] += 1
        answers: dict[str, frozenset[str]] = {}
        for side, prediction in predictions.items():
            is_unknown = prediction.status == UNKNOWN
            is_answered = prediction.index >= 0 or prediction.p_value is not None
            self._counts[f"{side} unknown"] += is_unknown
            self._counts[f"{side} unanswered"] += not is_answered
            if is_answered and (self._kind == "normal" or not is_unknown):
                labels = prediction.labels if self._kind == "multi_label" else (prediction.label,)
                answers[side] = frozenset(labels)
            result = result_record(prediction, station=side, time_s=time_s, decided_s=time_s)
            for alarm in self._episodes[side].see(result):
                is_raised = alarm.event == "raised"
                self._alarms[alarm.label][side] += is_raised
                (self._open.add if is_raised else self._open.discard)((side, alarm.label))
        for label, counts in self._alarms.items():
            sides = sum((side, label) in self._open for side in _SIDES)
            if sides == 0:
                self._met.discard(label)
            elif sides == len(_SIDES) and label not in self._met:
                self._met.add(label)
                counts["both"] += 1
        if len(answers) == len(_SIDES):
            self._counts["answered"] += 1
            self._counts["agreed"] += answers["installed"] == answers["new"]
            for label, counts in self._labels.items():
                has = [label in answers[side] for side in _SIDES]
                for name, value in zip(counts, (*has, all(has)), strict=True):
                    counts[name] += value

    def _make_report(self) -> ShadowReport:
        fields: dict[str, Any] = {name: self._counts[name] for name in ("windows", "dropped", "answered", "agreed")}
        for side, bundle in self._bundles.items():
            timing = self._times[side].timing()
            fields[side] = msgspec.structs.replace(
                bundle,
                unknown=self._counts[f"{side} unknown"],
                unanswered=self._counts[f"{side} unanswered"],
                p50_s=timing and timing.p50_s,
                p99_s=timing and timing.p99_s,
            )
        return ShadowReport(
            **fields,
            station=self._spec.name,
            ended_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            seconds=time.monotonic() - self._began_s,
            hop_s=self._hop_s,
            labels=self._labels,
            alarms=self._alarms,
            changed_alarms=sum(row["installed"] + row["new"] - 2 * row["both"] for row in self._alarms.values()),
            least_agreement=self._spec.shadow_agreement,
            most_changed_alarms=self._spec.shadow_alarms,
            verdict="good",
            reasons=(),
        )

    def _problems(self, report: ShadowReport) -> Iterator[tuple[type[MmkdError], str]]:
        if self._failure:
            yield GateError, f"it answered {report.windows:,} windows, then no more: {self._failure}"
        if self._predictor.info().bundle_sha256 != report.installed.bundle_sha256:
            yield GateError, "the installed bundle was replaced meanwhile"
        if self._run_s is not None and report.seconds < self._run_s:
            yield GateError, f"the run ended after {report.seconds:.0f} of {self._run_s:.0f} s"
        if report.answered < _MIN_WINDOWS:
            yield GateError, f"both answered {report.answered} windows, expected {_MIN_WINDOWS} or more"
        least = report.least_agreement
        every = {"new": report.answered, "both": report.agreed}
        for label, counts in (("all", every), *report.labels.items()):  # a class may be called `all`
            most, both = max(counts.values()), counts["both"]
            if most >= _MIN_OF_LABEL and both < least * most:
                yield GateError, f"{label}: {both:,} of {most:,} answers agree, expected {least:.0%} or more"
        before, after = (side.unknown + side.unanswered for side in (report.installed, report.new))
        if after - before > _MAX_MORE_SILENT * report.windows:
            text = f"{after:,} of {report.windows:,} windows are unknown or unanswered"
            yield GateError, f"{text}, expected about {before:,}"
        if report.changed_alarms > report.most_changed_alarms:
            yield GateError, f"{report.changed_alarms} alarms change, expected {report.most_changed_alarms} or fewer"
        p99_s, hop_s, due = report.new.p99_s or 0.0, report.hop_s, report.windows + report.dropped
        if p99_s > hop_s:
            yield PerformanceError, f"1 % of its answers take {p99_s:.3f} s or longer, expected {hop_s:.3f} s or less"
        if report.dropped > _MAX_DROPPED * due:
            yield PerformanceError, f"it had no time for {report.dropped:,} of {due:,} windows"
