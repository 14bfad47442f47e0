"""From what is asked for to stations that can be started.

Owns the order in which things are opened, and that all of it is closed again where one of them fails.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mmkd_edge import EdgePredictor, ModalitySpec, ModelEntry
from mmkd_edge.errors import UsageError
from mmkd_station.alarms import Episodes, resumed_alarm
from mmkd_station.channels import columns_of
from mmkd_station.intake import Intake
from mmkd_station.sensor import Sensor, StationRules
from mmkd_station.service import Service
from mmkd_station.sinks.file_names import told_apart
from mmkd_station.sinks.outlet import Outlet
from mmkd_station.sinks.store import Store
from mmkd_station.sinks.table import open_sink, shown_names
from mmkd_station.sources.base import Source, Wanted
from mmkd_station.sources.files import FileSource
from mmkd_station.sources.table import LoadRecordings, grows, open_source
from mmkd_station.spec import RunSpec, StationSpec
from mmkd_station.station import Onlooker, Station
from mmkd_station.uncertain import RingRule, UncertainRing

Load = Callable[[str, ModalitySpec], Any]
OnlookerOf = Callable[[str, Sequence[ModelEntry]], Onlooker]


@contextlib.contextmanager
def service_of(spec: RunSpec, *, load_recordings: Load, onlooker_of: OnlookerOf | None = None) -> Iterator[Service]:
    """Opens bundles, sources and sinks, and gives the service; closes all of it at the end.

    Args:
        spec: checked.
        load_recordings: gives the recordings of a dataset, for a modality.
        onlooker_of: gives who looks on at a station, by its name and its students; None is nobody.

    Raises:
        MmkdError: a bundle, a source or a sink cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        predictors: dict[tuple[object, ...], tuple[Path, EdgePredictor]] = {}
        outlets: dict[str, Outlet] = {}
        stations = []
        for station in spec.stations:
            key = _predictor_key(station)
            if key not in predictors:
                predictors[key] = Path(station.bundle), stack.enter_context(_opened(station))
            stations.append((station, predictors[key][1]))
        store = None
        if spec.store is not None:
            store = Store(Path(spec.store), most_bytes=spec.store_bytes)
            stack.callback(store.close)
        texts = list(dict.fromkeys([*spec.sinks, *(text for one in spec.stations for text in one.sinks)]))
        for text, name in shown_names(texts).items():
            outlets[text] = outlet_of(text, store, name=name)
            stack.callback(outlets[text].close, drain_s=0.0)
        built = []
        for station, predictor in stations:
            given = [outlets[text] for text in dict.fromkeys([*spec.sinks, *station.sinks])]
            built.append(
                _station(station, predictor, given, spec, load_recordings, onlooker_of, store=store, opened=stack)
            )
        if store is not None:
            _clear_orphans(store, [outlets[text] for text in spec.sinks], names=[one.name for one in spec.stations])
        yield Service(
            stations=built,
            outlets=list(outlets.values()),
            predictors=list(predictors.values()),
            watch_bundle=spec.watch_bundle,
        )


def _ring(spec: StationSpec, run: RunSpec, entry: ModelEntry, *, among: int) -> UncertainRing | None:
    if run.keep_uncertain_bytes is None:
        return None
    rule = RingRule(folder=Path(run.keep_in), most_bytes=run.keep_uncertain_bytes, below=spec.uncertain_below)
    alarms = [one.label for one in spec.alarms]
    return UncertainRing(rule, station=spec.name, modality=entry.modality, task=entry.task, among=among, alarms=alarms)


def usual_hop(entry: ModelEntry) -> int:
    """Samples of a second, or of a window where that is shorter, and whole steps of a causal student."""
    stride = 1 if entry.streaming is None else entry.streaming.stride
    return max(1, min(round(entry.modality.rate_hz), entry.modality.samples) // stride) * stride


def _predictor_key(spec: StationSpec) -> tuple[object, ...]:
    levels = spec.error_level, spec.unknown_level
    return spec.bundle, spec.backend, spec.precision, spec.threads, spec.reference, levels


def _opened(spec: StationSpec) -> EdgePredictor:
    return EdgePredictor.open(
        spec.bundle,
        backend=spec.backend,  # type: ignore[arg-type] # it refuses what is none
        precision=spec.precision,  # type: ignore[arg-type]
        threads=spec.threads,
        reference=spec.reference,
        error_level=spec.error_level,
        unknown_level=spec.unknown_level,
    )


def outlet_of(text: str, store: Store | None, *, name: str) -> Outlet:
    """Opens a sink, whose records in the store are found again by its text, of which only a hash is there.

    Raises:
        UsageError: it cannot be opened.
        UnavailableError: a library is missing.
    """
    return Outlet(name, open_sink(text), store=store, key=told_apart(shown_names([text])[text], by=text))


def _clear_orphans(store: Store, outlets: Sequence[Outlet], *, names: Sequence[str]) -> None:
    """Clear the episodes that an earlier run left open in stations that are none of this run."""
    boot = secrets.token_hex(8)
    for number, alarm in enumerate(store.last_alarms(), start=1):
        if alarm.event != "cleared" and alarm.station not in names:
            cleared = msgspec.structs.replace(resumed_alarm(alarm, is_followed=False), number=number, boot=boot)
            with store.together(cleared):
                for outlet in outlets:
                    outlet.put(cleared)


def _station(
    spec: StationSpec,
    predictor: EdgePredictor,
    outlets: Sequence[Outlet],
    run: RunSpec,
    load_recordings: Load,
    onlooker_of: OnlookerOf | None,
    *,
    store: Store | None,
    opened: contextlib.ExitStack,
) -> Station:
    asked = _asked(spec, predictor)
    last = [] if store is None else [alarm for alarm in store.last_alarms() if alarm.station == spec.name]
    sensors = [
        _sensor(spec, predictor, run, load_recordings, entry=entry, text=text, among=len(asked), opened=opened)
        for entry, text in asked
    ]
    entry = asked[0][0]
    return Station(
        spec.name,
        predictor=predictor,
        sensors=sensors,
        intake=_intake(spec, [sensor.source for sensor in sensors]),
        outlets=outlets,
        alarms=Episodes(spec.alarms, entry.task, last=last) if spec.alarms or last else None,
        onlooker=None if onlooker_of is None else onlooker_of(spec.name, [one for one, _ in asked]),
        store=store,
    )


def _asked(spec: StationSpec, predictor: EdgePredictor) -> list[tuple[ModelEntry, str]]:
    """The students that answer, in the bundle's order, each with the source of its sensor."""
    entries = predictor.entries
    if isinstance(spec.source, str):
        return [(next((one for one in entries if one.modality.name == spec.modality), entries[0]), spec.source)]
    names = [entry.modality.name for entry in entries]
    unknown = [name for name in spec.source if name not in names]
    if unknown:
        raise UsageError(
            f"station {spec.name!r}: --source {unknown[0]}=...: the bundle has no such modality; expected "
            f"{', '.join(names)}"
        )
    if spec.follow and not any(map(grows, spec.source.values())):
        raise UsageError("--follow: expected a file that grows among the sources, got none; leave it out")
    return [(entry, spec.source[entry.modality.name]) for entry in entries if entry.modality.name in spec.source]


def _sensor(
    spec: StationSpec,
    predictor: EdgePredictor,
    run: RunSpec,
    load_recordings: Load,
    *,
    entry: ModelEntry,
    text: str,
    among: int,
    opened: contextlib.ExitStack,
) -> Sensor:
    modality = entry.modality
    mapped = _map_of(spec, modality.name, among=among)
    _check_modality(spec, modality, is_mapped=bool(mapped), among=among)
    wanted = Wanted(
        columns=columns_of(modality, mapped),
        rate_hz=modality.rate_hz,
        time_column=spec.time_column,
        time_unit=spec.time_unit,
        follow=spec.follow and (among == 1 or grows(text)),
        replay_speed=spec.replay_speed,
        frame=modality.shape[1:] if modality.kind == "video" else None,  # type: ignore[arg-type]
    )
    load: LoadRecordings = lambda place: load_recordings(place, modality)  # noqa: E731
    source: Source = open_source(text, wanted, load_recordings=load, pause_s=2 * modality.duration_s)
    opened.callback(source.close)
    if spec.stale_s is not None and not source.live:
        raise UsageError(
            f"station {spec.name!r}: --stale: expected a live source, got {text}, whose samples have no age; "
            "leave it out, or add --follow for a file that grows"
        )
    rules = _rules(spec, entry, predictor.entry)
    ring = _ring(spec, run, entry, among=among)
    if ring is not None:
        opened.callback(ring.close)
    return Sensor(source, text, predictor=predictor, rules=rules, ring=ring)


def _map_of(spec: StationSpec, modality: str, *, among: int) -> dict[str, str]:
    """The columns of one of several modalities, which are named `MODALITY.CHANNEL`."""
    if among == 1:
        return dict(spec.map)
    for channel, column in spec.map.items():
        if channel.partition(".")[0] not in spec.source:
            raise UsageError(f"--map {channel}={column}: expected MODALITY.CHANNEL beside several sources; write it so")
    own = f"{modality}."
    return {channel.removeprefix(own): one for channel, one in spec.map.items() if channel.startswith(own)}


def _check_modality(spec: StationSpec, modality: ModalitySpec, *, is_mapped: bool, among: int) -> None:
    if modality.kind == "video" and is_mapped:
        raise UsageError(
            f"station {spec.name!r}: --map: expected none for {modality.name!r}, which is video; leave it out"
        )
    if among > 1 and spec.modality is not None:
        raise UsageError(f"station {spec.name!r}: --modality: expected none beside several sources; leave it out")
    if modality.normalise == "per_group" and spec.reference is None:
        raise UsageError(
            f"{spec.bundle}: modality {modality.name!r} needs the statistics of its machine; make them with "
            "mmkd-data reference, and name them with --reference"
        )


def _intake(spec: StationSpec, sources: Sequence[Source]) -> Intake:
    # A file keeps what waits: nothing is lost by reading it later.
    may_drop = all(source.live and not isinstance(source, FileSource) for source in sources)
    return Intake(most=spec.queue, on_full=spec.on_full or ("drop-oldest" if may_drop else "block"))


def _rules(spec: StationSpec, entry: ModelEntry, first: ModelEntry) -> StationRules:
    hop = usual_hop(entry)
    if spec.hop is not None:  # counts samples of the first student: the others' are as far apart in time
        same_rate = entry is first or isinstance(spec.source, str)
        hop = spec.hop if same_rate else max(1, round(spec.hop * entry.modality.rate_hz / first.modality.rate_hz))
    return StationRules(
        hop=hop,
        time_from=spec.time,
        gap_s=spec.gap_s,
        reorder=spec.reorder,
        stale_s=spec.stale_s,
        silence_s=spec.silence_s,
        modality=entry.modality.name,
    )
