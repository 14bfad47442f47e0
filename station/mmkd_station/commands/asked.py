"""From the options of `mmkd-run` to what is asked of the stations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, get_args

import msgspec

from mmkd_edge.errors import UsageError
from mmkd_station.alarms import AlarmRule
from mmkd_station.clock import TimeFrom
from mmkd_station.commands.options import AlarmOptions, EngineOptions, SinkOptions, SourceOptions, StreamOptions
from mmkd_station.intake import OnFull
from mmkd_station.sources.base import SourceTimeUnit
from mmkd_station.spec import RunSpec, StationSpec, checked, size_bytes

_T = TypeVar("_T")


def spec_of(
    bundle: Path,
    *,
    name: str,
    source: SourceOptions,
    sinks: SinkOptions,
    stream: StreamOptions,
    alarms: AlarmOptions,
    engine: EngineOptions,
) -> RunSpec:
    """What a line with a bundle asks for: one station. Raises UsageError where an option is wrong."""
    if not source.source:
        raise UsageError("--source: expected where samples come from, got none; for instance --source csv:log.csv")
    station = StationSpec(
        bundle=str(bundle),
        source=_sources(source.source),
        name=name,
        map=_mapped(source.columns or []),
        modality=source.modality,
        hop=stream.hop,
        time=_choice(source.time, get_args(TimeFrom), option="--time"),
        time_column=source.time_column,
        time_unit=_choice(source.time_unit, get_args(SourceTimeUnit), option="--time-unit"),
        follow=source.follow,
        replay_speed=source.replay_speed,
        gap_s=stream.gap_s,
        reorder=stream.reorder,
        stale_s=stream.stale_s,
        silence_s=stream.silence_s,
        queue=stream.queue,
        on_full=None if stream.on_full is None else _choice(stream.on_full, get_args(OnFull), option="--on-full"),
        backend=engine.backend,
        precision=engine.precision,
        threads=engine.threads,
        reference=None if engine.reference is None else str(engine.reference),
        error_level=engine.error_level,
        unknown_level=engine.unknown_level,
        alarms=rules_of(alarms),
        uncertain_below=sinks.uncertain_below,
    )
    kept = sinks.keep_uncertain
    return checked(
        RunSpec(
            stations=(station,),
            sinks=tuple(sinks.sink or ()),
            store=None if sinks.store is None else str(sinks.store),
            store_bytes=size_bytes(sinks.store_size, option="--store-size"),
            watch_bundle=engine.watch_bundle,
            keep_uncertain_bytes=None if kept is None else size_bytes(kept, option="--keep-uncertain"),
            keep_in=str(sinks.keep_in),
        )
    )


def rules_of(options: AlarmOptions) -> tuple[AlarmRule, ...]:
    """The rules of the line: the same for each label."""
    text = options.cooldown.strip().removesuffix("s")
    try:
        cooldown_s = float(text)
    except ValueError as error:
        raise UsageError(f"--cooldown {options.cooldown}: expected seconds such as 60s, got no number") from error
    return tuple(
        AlarmRule(
            label=label,
            confirm=options.confirm,
            release=options.release,
            cooldown_s=cooldown_s,
            min_probability=options.min_probability,
        )
        for label in options.alarm or ()
    )


def with_a_sink(spec: RunSpec) -> RunSpec:
    """The standard output, where nothing else was named."""
    if spec.sinks or any(station.sinks for station in spec.stations):
        return spec
    return msgspec.structs.replace(spec, sinks=("-",))


def _sources(texts: Sequence[str]) -> str | dict[str, str]:
    if len(texts) == 1:
        return texts[0]
    found = dict(text.partition("=")[::2] for text in texts)
    for text in texts:
        name, mark, _ = text.partition("=")
        if not mark or ":" in name:
            raise UsageError(f"--source {text}: expected MODALITY=SOURCE, since there are several; write it so")
    if len(found) < len(texts):
        raise UsageError("--source: expected each modality once, got one twice; leave one out")
    return found


def _mapped(texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise UsageError(f"--map {text}: expected CHANNEL=COLUMN, got no '='; write it like ax=accel.x")
    return dict(text.partition("=")[::2] for text in texts)


def _choice(value: str, known: Sequence[_T], *, option: str) -> _T:
    for one in known:
        if one == value:
            return one
    raise UsageError(f"{option} {value}: expected one of {', '.join(map(str, known))}; choose one of them")
