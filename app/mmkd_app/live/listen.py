"""Recordings of a dataset to replay, and the results of one station for a while, for `mmkd-edge commission`."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from mmkd_app.live.options import column_mapping
from mmkd_edge import ModalitySpec
from mmkd_edge.errors import UsageError
from mmkd_station.build import open_service
from mmkd_station.intake import ReplayedRecording
from mmkd_station.records import ResultRecord, record_from_line
from mmkd_station.spec import RunSpec, StationSpec, check_run


def listen(
    bundle: str, source: str, *, mapping: Sequence[str], hop: int, rate_hz: float, minutes: float, reference: str | None
) -> list[ResultRecord]:
    """Run a bundle on a source for some minutes and return its results. Raises UsageError."""
    if not 0 < minutes < float("inf"):
        raise UsageError(f"--minutes {minutes:g}: expected a number above 0; for instance 30")
    spec = StationSpec(bundle=bundle, source=source, map=column_mapping(mapping), hop=hop, reference=reference)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.jsonl"
        run = check_run(RunSpec(stations=(spec,), sinks=(f"jsonl:{file}",), for_s=60 * minutes))
        with open_service(run, load_recordings=load_recordings) as service:
            service.run(stop=threading.Event(), reload=threading.Event())
            if error := service.stations[0].error:
                raise error
        lines = file.read_bytes().splitlines() if file.exists() else []
    results = [record for record in map(record_from_line, lines) if isinstance(record, ResultRecord)]
    return results[: max(1, round(60 * minutes * rate_hz / hop))]  # files are read faster than they were recorded


def load_recordings(place: str, modality: ModalitySpec) -> list[ReplayedRecording]:
    """Return a dataset's recordings of a modality."""
    from mmkd_models.data.for_devices import read_recordings

    names = ReplayedRecording.__struct_fields__
    recordings = read_recordings(place, modality)
    return [ReplayedRecording(**{name: getattr(recording, name) for name in names}) for recording in recordings]
