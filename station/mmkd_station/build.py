"""Build a service from a `RunSpec`."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from mmkd_edge import EdgePredictor, ModalitySpec, OpenOptions
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ReplayedRecording
from mmkd_edge.stream.stream import select_entry
from mmkd_station.alarms import Episodes, rule_of_rate
from mmkd_station.board import Board
from mmkd_station.intake import Intake
from mmkd_station.outlet import Outlet
from mmkd_station.protocols.base import SourceRequest, map_columns
from mmkd_station.protocols.table import grows, open_sink, open_source, shown_names
from mmkd_station.sensor import Sensor, usual_hop
from mmkd_station.service import Service
from mmkd_station.shadow import Shadow
from mmkd_station.spec import RunSpec, StationSpec
from mmkd_station.station import Station
from mmkd_station.store import Store
from mmkd_station.uncertain import UncertainRing

Load = Callable[[str, ModalitySpec], Sequence[ReplayedRecording]]


@contextlib.contextmanager
def open_service(spec: RunSpec, *, load_recordings: Load, has_page: bool = False) -> Iterator[Service]:
    """Open what a checked run needs, yield its service, and close all; `has_page` stores what a page shows."""
    with contextlib.ExitStack() as opened:
        builder = _Builder(spec, load_recordings, has_page=has_page, opened=opened)
        stations = [builder.station(station) for station in spec.stations]
        yield Service(
            stations=stations,
            outlets=list(builder.outlets.values()),
            predictors=list(builder.predictors.values()),
            for_s=spec.for_s,
        )


def open_outlet(text: str, store: Store | None, *, name: str) -> Outlet:
    """Open a sink; the store identifies it by a hash, since its text may be secret."""
    key = f"{shown_names([text])[text]} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return Outlet(name, open_sink(text), store=store, key=key)


class _Builder:
    def __init__(self, run: RunSpec, load: Load, *, has_page: bool, opened: contextlib.ExitStack) -> None:
        self._run = run
        self._load = load
        self._has_page = has_page
        self._opened = opened
        self.predictors: dict[tuple[str, OpenOptions], tuple[Path, EdgePredictor]] = {}
        for station in run.stations:  # equal bundles and options share a predictor
            key = station.bundle, station.opening
            if key not in self.predictors:
                predictor = opened.enter_context(EdgePredictor.open_with(*key))
                self.predictors[key] = Path(station.bundle), predictor
        self._store = None
        if run.store is not None:
            self._store = Store(Path(run.store), most_bytes=run.store_bytes, loss_s=run.store_loss_s)
            opened.callback(self._store.close)
        self.outlets: dict[str, Outlet] = {}
        texts = [*run.sinks, *(text for station in run.stations for text in station.sinks)]
        for text, name in shown_names(list(dict.fromkeys(texts))).items():
            self.outlets[text] = open_outlet(text, self._store, name=name)
            opened.callback(self.outlets[text].close, drain_s=0.0)

    def station(self, spec: StationSpec) -> Station:
        predictor = self.predictors[spec.bundle, spec.opening][1]
        sources = _sources(spec, predictor)
        alarms = [] if self._store is None else self._store.last_alarms()
        last = [alarm for alarm in alarms if alarm.station == spec.name]
        if spec.false_alarms_per_day is not None:
            first = sources[0][1]
            rate = rule_of_rate(first, per_day=spec.false_alarms_per_day, hop=spec.hop or usual_hop(first))
            spec = msgspec.structs.replace(spec, alarms=(rate,))
        sensors = [self._sensor(spec, predictor, *source, count=len(sources)) for source in sources]
        entries = [entry for _, entry, _ in sources]
        # Files can be read later, so nothing is dropped.
        may_drop = all(sensor.source.live for sensor in sensors) and not spec.follow
        return Station(
            spec.name,
            predictor=predictor,
            sensors=sensors,
            intake=Intake(may_drop=may_drop),
            outlets=[self.outlets[text] for text in dict.fromkeys([*self._run.sinks, *spec.sinks])],
            alarms=Episodes(spec.alarms, entries[0].task, last=last) if spec.alarms or last else None,
            board=Board([entry.modality for entry in entries], entries[0].task) if self._has_page else None,
            store=self._store,
        )

    def _sensor(
        self, spec: StationSpec, predictor: EdgePredictor, name: str, entry: ModelEntry, text: str, *, count: int
    ) -> Sensor:
        modality = entry.modality
        recorded = msgspec.structs.replace(modality, name=name)
        mapping = _mapping(spec, name, count=count)
        _check_modality(spec, modality, is_mapped=bool(mapping), count=count)
        request = SourceRequest(
            columns=map_columns(modality, mapping),
            rate_hz=modality.rate_hz,
            time_column=spec.time_column,
            time_unit=spec.time_unit,
            follow=spec.follow and (count == 1 or grows(text)),
            replay_speed=spec.replay_speed,
            window_s=modality.duration_s,
            load_recordings=lambda place: self._load(place, recorded),
            frame=modality.shape[1:] if modality.kind == "video" else None,  # type: ignore[arg-type]
        )
        source = open_source(text, request)
        self._opened.callback(source.close)
        if spec.stale_s is not None and not source.live:
            raise UsageError(
                f"station {spec.name!r}: --stale: expected a live source, got {text}, whose samples have no age; "
                "leave it out, or add --follow for a file that grows"
            )
        ring = None
        if self._run.keep_uncertain_bytes is not None:
            ring = UncertainRing(
                Path(self._run.keep_in),
                most_bytes=self._run.keep_uncertain_bytes,
                below=spec.uncertain_below,
                station=spec.name,
                modality=recorded,
                task=entry.task,
                sensors=count,
                alarms=[rule.label for rule in spec.alarms],
            )
            self._opened.callback(ring.close)
        rules = msgspec.structs.replace(spec, modality=name)
        if spec.hop is not None and count > 1:  # counts samples of the first student
            hop = max(1, round(spec.hop * modality.rate_hz / predictor.entry.modality.rate_hz))
            rules = msgspec.structs.replace(rules, hop=hop)
        shadow = None
        if spec.shadow is not None:
            shadow = Shadow(
                spec,
                predictor=predictor,
                modality=name,
                hop_s=(spec.hop or usual_hop(entry)) / modality.rate_hz,
                run_s=self._run.for_s,
                is_live=source.live or spec.follow,
            )
            self._opened.callback(shadow.close)
        return Sensor(source, text, predictor=predictor, rules=rules, ring=ring, shadow=shadow)


def _sources(spec: StationSpec, predictor: EdgePredictor) -> list[tuple[str, ModelEntry, str]]:
    """Return for each sensor the modality that its source gives, recorded or derived, its entry, and the source."""
    entries = predictor.entries
    both = [(entry.modality.name, entry.modality.recorded.name) for entry in entries]
    own = {name for name, _ in both}
    names = list(dict.fromkeys(name for pair in both for name in pair if name == pair[0] or name not in own))
    option, given = "--source {}=...", list(spec.source)
    if isinstance(spec.source, str):
        option, given = "--modality {}", [names[0] if spec.modality is None else spec.modality]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise UsageError(
            f"station {spec.name!r}: {option.format(unknown[0])}: the bundle has no such modality; expected "
            + ", ".join(names)
            + (", with the channels of both sensors" if any(entry.modality.parts for entry in entries) else "")
        )
    if isinstance(spec.source, str):
        return [(given[0], select_entry(entries, given[0])[1], spec.source)]
    if spec.follow and not any(map(grows, spec.source.values())):
        raise UsageError("--follow: expected a file that grows among the sources, got none; leave it out")
    return [(name, select_entry(entries, name)[1], spec.source[name]) for name in names if name in spec.source]


def _mapping(spec: StationSpec, modality: str, *, count: int) -> dict[str, str]:
    if count == 1:
        return dict(spec.map)
    for channel, column in spec.map.items():
        if channel.partition(".")[0] not in spec.source:
            raise UsageError(f"--map {channel}={column}: expected MODALITY.CHANNEL beside several sources; write it so")
    own = f"{modality}."
    return {channel.removeprefix(own): column for channel, column in spec.map.items() if channel.startswith(own)}


def _check_modality(spec: StationSpec, modality: ModalitySpec, *, is_mapped: bool, count: int) -> None:
    if modality.kind == "video" and is_mapped:
        raise UsageError(
            f"station {spec.name!r}: --map: expected none for {modality.name!r}, which is video; leave it out"
        )
    if count > 1 and spec.modality is not None:
        raise UsageError(f"station {spec.name!r}: --modality: cannot be combined with several sources; leave it out")
    if modality.normalise == "per_group" and spec.reference is None:
        raise UsageError(
            f"{spec.bundle}: modality {modality.name!r} needs the statistics of its machine; make them with "
            "mmkd-data reference, and name them with --reference"
        )
