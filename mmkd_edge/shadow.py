"""Shadow runs: a new bundle answers the installed one's windows in a process of its own, and nothing depends on it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mmkd_edge import apart
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import write_file
from mmkd_edge.bundle.strict_json import decode_document, json_bytes
from mmkd_edge.errors import BackendError, GateError, MmkdError, UsageError, find_error_class, first_line, os_reason
from mmkd_edge.frames import mask_missing, missing_frames
from mmkd_edge.opening.active import describe_contract
from mmkd_edge.opening.options import OpenOptions
from mmkd_edge.opening.sandbox import BUILD_MEMORY_BYTES, BUILD_S, ENGINE_BYTES
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.predictor import EdgePredictor

FORMAT_VERSION = 1
ANSWER_S = 10.0  # for one answer
_Window = tuple[str, str, tuple[int, ...], bytes, bytes]  # modality, dtype, shape, values, missing frames
_Answer = tuple[str, str, Prediction | None, float, float]  # error and message; else the prediction, both times


class ShadowBundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of two bundles: counts of compared windows, and times of single predictions in the same process."""

    model_id: str
    bundle_sha256: str
    unknown: int = 0
    unanswered: int = 0
    p50_s: float | None = None
    p99_s: float | None = None


class ShadowReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A comparison of a new bundle with the installed one, and its verdict.

    Attributes:
        seconds: duration of the run; `hop_s` is the time between two windows.
        windows: compared windows; the new bundle was too slow for the `dropped` ones.
        answered: compared windows that both answered, `agreed` of them alike. A window that one of them calls
            `unknown` counts only for students of normal data.
        labels: windows with a label by the `installed` bundle, the `new` one and `both`; `alarms` has episodes.
        least_agreement: required of all windows, and of every label with enough windows.
    """

    format_version: int = FORMAT_VERSION
    station: str
    installed: ShadowBundle
    new: ShadowBundle
    ended_utc: str
    seconds: float
    hop_s: float
    windows: int
    dropped: int
    answered: int
    agreed: int
    labels: dict[str, dict[str, int]]
    alarms: dict[str, dict[str, int]]
    changed_alarms: int  # episodes of one bundle during which the other raised none
    least_agreement: float
    most_changed_alarms: int
    verdict: Literal["good", "refused"]
    reasons: tuple[str, ...]


def write_report(file: Path, report: ShadowReport) -> None:
    """Write a report. Raises UsageError."""
    write_file(file, json_bytes(report))


def check_shadow(file: Path, bundle: Bundle, *, installed: str | None, max_days: float) -> None:
    """Check that a report recommends this bundle instead of the installed one (its SHA-256).

    Raises:
        GateError: the shadow run refused the bundle.
        UsageError: the file is no report, one of other bundles, or too old.
    """
    try:
        report = decode_document(file.read_bytes(), ShadowReport, version=FORMAT_VERSION)
        days = (datetime.now(timezone.utc) - datetime.fromisoformat(report.ended_utc)).total_seconds() / 86400
    except (ValueError, TypeError, OSError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else str(error)
        raise UsageError(f"{file}: expected a report of mmkd-run --shadow: {reason}") from error
    again = f"run mmkd-run --shadow {bundle.path} again"
    got = report.new.bundle_sha256, report.installed.bundle_sha256
    expected = bundle.sha256, installed or got[1]
    if got != expected:
        texts = [f"{new[:12]} against {old[:12]}" for new, old in (expected, got)]
        raise UsageError(f"{file}: expected a shadow run of {texts[0]}, got one of {texts[1]}; {again}")
    if report.verdict != "good":
        raise GateError(f"{file}: the shadow run refused {bundle.path}: {'; '.join(report.reasons)}")
    if not 0 <= days <= max_days:
        raise UsageError(
            f"{file}: expected a shadow run of the last {max_days:g} days, got {report.ended_utc}; {again}"
        )


class ShadowProcess:
    """A new bundle that answers in a process of its own, with low priority and limits. One thread asks."""

    def __init__(self, predictor: EdgePredictor, new: str, options: OpenOptions) -> None:
        """Check that the bundle takes and answers the same; paths in `options` are text."""
        assert predictor.bundle is not None
        with Bundle.open(new) as bundle:
            pair = predictor.bundle, bundle
            expected, got = ("; ".join(map(describe_contract, one.manifest.models)) for one in pair)
            self.bundles = [ShadowBundle(model_id=one.manifest.model_id, bundle_sha256=one.sha256) for one in pair]
        if got != expected:
            raise UsageError(
                f"{new}: --shadow: expected a bundle that takes and answers {expected}, got {got}; evaluate it on "
                "recordings with mmkd-evaluate"
            )
        paths = [os.path.abspath(path) for path in (predictor.bundle.path, new)]  # noqa: PTH100 - links stay links
        self._request = msgspec.json.encode((*paths, options))

    def start(self) -> None:
        """Start the process and open the bundles there. Raises MmkdError."""
        self._process = apart.start_apart("mmkd_edge.shadow:main", self._request + b"\n", more=True)
        self._lines = apart.ProcessLines(self._process)
        self._read(limit_s=BUILD_S)

    def ask(self, modality: str, window: NDArray[Any]) -> tuple[Prediction, float, float]:
        """Return the new bundle's answer for a raw window, and the seconds of the installed one and of this one.

        Raises MmkdError if the process cannot answer.
        """
        missing = missing_frames(window).tobytes() if window.dtype == np.uint8 else b""
        asked = msgspec.msgpack.encode((modality, window.dtype.str, window.shape, window.tobytes(), missing))
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended, as the missing answer says
            self._process.stdin.write(len(asked).to_bytes(4, "little") + asked)
            self._process.stdin.flush()
        answer: tuple[Prediction, float, float] = self._read(limit_s=ANSWER_S)
        return answer

    def _read(self, *, limit_s: float) -> Any:
        line = self._lines.next(limit_s=limit_s)
        if line is None:
            raise BackendError(apart.describe_end(self._process))
        error, message, *answer = msgspec.json.decode(line, type=_Answer, dec_hook=lambda _, values: np.float32(values))
        if error:
            raise find_error_class(error)(message)
        return answer

    def close(self) -> None:
        """End the process."""
        if hasattr(self, "_process"):
            apart.end_process(self._process)


def main() -> None:
    """Answer in the process of its own: a request on stdin, then windows; a line of JSON for each on stdout."""
    stdin = sys.stdin.buffer
    *paths, options = msgspec.json.decode(stdin.readline(), type=tuple[str, str, OpenOptions])
    os.nice(10)
    limits = apart.ProcessLimits(step_s=BUILD_S, memory_bytes=BUILD_MEMORY_BYTES, file_bytes=ENGINE_BYTES)
    with apart.answering(limits) as stdout:

        def tell(*answer: object) -> None:
            stdout.write(msgspec.json.encode(answer, enc_hook=np.ndarray.tolist) + b"\n")
            stdout.flush()

        try:
            predictors = [EdgePredictor.open_with(path, options) for path in paths]
            answers: dict[int, Prediction] = {}
            seconds = [0.0, 0.0]
            tell("", "", None, 0.0, 0.0)
            limits, first = msgspec.structs.replace(limits, step_s=ANSWER_S), 0
            while header := stdin.read(4):
                apart.limit_processor(limits)
                asked = msgspec.msgpack.decode(stdin.read(int.from_bytes(header, "little")), type=_Window)
                modality, dtype, shape, values, missing = asked
                window = np.frombuffer(values, dtype=dtype).reshape(shape)
                window = mask_missing(window, np.frombuffer(missing, dtype=bool)) if missing else window
                for side in (first, 1 - first):  # the second one finds caches filled
                    began_s = time.perf_counter()
                    answers[side] = predictors[side].predict({modality: window})
                    seconds[side] = time.perf_counter() - began_s
                first = 1 - first
                tell("", "", answers[1], *seconds)
        except Exception as error:
            kind = type(error) if isinstance(error, MmkdError) else BackendError
            tell(kind.__name__, first_line(error), None, 0.0, 0.0)
