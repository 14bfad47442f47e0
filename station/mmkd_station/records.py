"""Records of a station: results, alarms and states, each a JSON object.

`kind` is the type of a record; readers ignore unknown kinds. Times are seconds: `time_s` on the samples' clock,
`decided_s` in UTC on this machine's. `station`, `boot` and `number` identify a record.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mmkd_edge import Prediction
from mmkd_edge.predict.sensors import Status

StationState = Literal[
    "started", "connected", "disconnected", "swapped", "refused", "adaptation_due", "failed", "stopped"
]
AlarmEvent = Literal["raised", "continued", "cleared", "acknowledged", "contradicted"]
STATUS_CODES: dict[Status, int] = {"ok": 0, "degraded": 1, "stale": 2, "warming_up": 3, "invalid": 4, "unknown": 5}
"""How a status is written to a PLC."""


class ResultRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="result"):
    """One prediction; unlisted fields are those of `Prediction`."""

    station: str
    number: int = 0  # counts a station's records from 1 at each start; a gap is a lost record
    time_s: float | None  # newest sample of the window; None without times
    decided_s: float
    status: Status
    reason: str
    label: str
    index: int
    probability: float
    probabilities: tuple[float, ...]
    labels: tuple[str, ...]
    value: float | None
    label_set: tuple[str, ...]
    missing_fraction: float
    modality: str
    input_age_s: float | None
    dropped: int  # samples dropped from the full queue since the previous result
    late: int  # samples left out since then because of their times
    novelty: float | None = None
    score: float | None = None
    p_value: float | None = None
    boot: str = ""  # random id of the start


class AlarmRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="alarm"):
    """A change of an episode, or an operator's answer to it."""

    station: str
    number: int = 0
    time_s: float | None
    decided_s: float
    event: AlarmEvent  # `continued` is an episode that an earlier run left open; `contradicted` is a false alarm
    label: str
    episode: int  # counts the station's episodes from 1
    since_s: float | None  # `time_s` of the first window with the label
    windows: int  # windows with the label so far
    probability: float  # the label's highest probability so far
    boot: str = ""
    reason: str = ""


class StateRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="state"):
    """A change of a station's state."""

    station: str
    number: int = 0
    decided_s: float
    state: StationState
    reason: str
    boot: str = ""


Record = ResultRecord | AlarmRecord | StateRecord
_PREDICTED = [name for name in Prediction.__struct_fields__ if name in ResultRecord.__struct_fields__]


def result_record(
    prediction: Prediction,
    *,
    station: str,
    time_s: float | None,
    decided_s: float,
    number: int = 0,
    dropped: int = 0,
    late: int = 0,
) -> ResultRecord:
    """Convert a prediction to a record."""
    same: dict[str, Any] = {name: getattr(prediction, name) for name in _PREDICTED}
    return ResultRecord(
        **same | {"probabilities": tuple(prediction.probabilities.tolist())},
        station=station,
        number=number,
        time_s=time_s,
        decided_s=decided_s,
        dropped=dropped,
        late=late,
    )


def record_line(record: Record) -> bytes:
    """Encode a record as a JSON line, with its line break."""
    return msgspec.json.encode(record) + b"\n"


def record_from_line(line: bytes) -> Record:
    """Decode a record. Raises msgspec.MsgspecError."""
    record: Record = msgspec.json.decode(line, type=Record)
    return record
