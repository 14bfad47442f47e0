"""What a running station says: results, alarms and states, each one JSON object.

Owns the schema that every sink writes. `kind` tells the records apart; a reader that meets another kind leaves it out.
Times are seconds: `time_s` on the clock of the samples, `decided_s` in UTC on the clock of this machine. `station`,
`boot` and `number` name a record for ever.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mmkd_edge import Prediction, Status

StationState = Literal[
    "started", "connected", "disconnected", "swapped", "refused", "adaptation_due", "failed", "stopped"
]
AlarmEvent = Literal["raised", "continued", "cleared", "acknowledged", "contradicted"]


class ResultRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="result"):
    """One prediction of one station.

    Attributes:
        station: its name.
        number: counts the records of a station from 1 at each start; a reader that misses one knows that it was lost.
        time_s: of the newest sample of the window; None where samples have no times.
        decided_s: when it was decided.
        status: how far it can be trusted, and so the next ten: as of `Prediction`.
        dropped: samples that left the full queue since the result before.
        late: samples left out since then because later ones were there already.
        novelty: as of `Prediction`.
        boot: names the start of the station, at random.
    """

    station: str
    number: int
    time_s: float | None
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
    missing_share: float
    modality: str
    input_age_s: float | None
    dropped: int
    late: int
    novelty: float | None = None
    boot: str = ""


class AlarmRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="alarm"):
    """What happened to an episode, or what somebody said of it: noted, or a false alarm.

    Attributes:
        station: its name.
        number: as of `ResultRecord`; all records of a station share the count.
        time_s: of the newest sample of the window that decided it.
        decided_s: when it was decided.
        event: what happened to the episode; `continued` is one that an earlier run left open.
        label: what it is an episode of.
        episode: counts the episodes of a station from 1.
        since_s: `time_s` of the first window that spoke for it.
        windows: how many windows spoke for it so far.
        probability: the highest of `label` so far.
        boot: as of `ResultRecord`.
        reason: why an episode continues, or was cleared without results that decided it; else empty.
    """

    station: str
    number: int
    time_s: float | None
    decided_s: float
    event: AlarmEvent
    label: str
    episode: int
    since_s: float | None
    windows: int
    probability: float
    boot: str = ""
    reason: str = ""


class StateRecord(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="state"):
    """What happened to a station itself.

    Attributes:
        station: its name.
        number: as of `ResultRecord`.
        decided_s: when it was noticed.
        state: what happened: it runs, its source is there or gone, another bundle took over or was refused, its student
            should be adapted, it failed, it stopped.
        reason: in words, for people.
        boot: as of `ResultRecord`.
    """

    station: str
    number: int
    decided_s: float
    state: StationState
    reason: str
    boot: str = ""


Record = ResultRecord | AlarmRecord | StateRecord


def result_record(
    prediction: Prediction,
    *,
    station: str,
    number: int,
    time_s: float | None,
    decided_s: float,
    dropped: int = 0,
    late: int = 0,
    boot: str = "",
) -> ResultRecord:
    """A prediction as a record."""
    return ResultRecord(
        station=station,
        number=number,
        time_s=time_s,
        decided_s=decided_s,
        status=prediction.status,
        reason=prediction.reason,
        label=prediction.label,
        index=prediction.index,
        probability=prediction.probability,
        probabilities=tuple(prediction.probabilities.tolist()),
        labels=prediction.labels,
        value=prediction.value,
        label_set=prediction.label_set,
        novelty=prediction.novelty,
        missing_share=prediction.missing_share,
        modality=prediction.modality,
        input_age_s=prediction.input_age_s,
        dropped=dropped,
        late=late,
        boot=boot,
    )


def line_of(record: Record) -> bytes:
    """A record as one line of JSON, with its line break."""
    return msgspec.json.encode(record) + b"\n"


def record_from_line(line: bytes) -> Record:
    """What `line_of` wrote. Raises msgspec.MsgspecError where it is something else."""
    record: Record = msgspec.json.decode(line, type=Record)
    return record
