"""What `mmkd-run` is asked for: the options of a command line, or a TOML file for several stations.

Owns the words and their checks. Opens nothing but the TOML file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mmkd_edge.errors import UsageError, first_line
from mmkd_station.alarms import AlarmRule, rule_problems
from mmkd_station.clock import TimeFrom
from mmkd_station.intake import OnFull
from mmkd_station.sources.base import SourceTimeUnit
from mmkd_station.uncertain import LEAST_BYTES

MOST_QUEUED = 1_000_000


class StationSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One station: a source, a bundle, and where results go.

    Attributes:
        bundle: the file that answers; stations with the same bundle and options share what it opens.
        source: as of `--source`; or one for each of several modalities, of which the first in the bundle's order that
            lives answers.
        name: in every record; else the stem of the bundle, with a number where that is taken.
        sinks: as of `--sink`, in addition to those of the file.
        map: column of each channel that is not called like it.
        modality: which student of the bundle; None is the first.
        hop: samples from one result to the next; None is a second, or a window where that is shorter.
        time: whose times are taken.
        time_column: where a source's times are.
        time_unit: of numbers in it.
        follow: whether a file that ends is waited for.
        replay_speed: of files and recordings, in times their own; None is as fast as they are answered.
        gap_s: a longer space between two samples is a gap.
        reorder: samples that are held back to put late ones in order.
        stale_s: from this age of the newest sample on a result of a live source is stale.
        silence_s: from when on a live source is silent; None goes by the usual intervals.
        queue: deliveries that may wait.
        on_full: what a full queue does; None drops the oldest of a live source, and lets files and recordings wait.
        backend: as of `EdgePredictor.open`, and so the next four.
        alarms: what is an episode; empty makes none.
        uncertain_below: an answer of lower probability is uncertain.
    """

    bundle: str
    source: str | dict[str, str]
    name: str = ""
    sinks: tuple[str, ...] = ()
    map: dict[str, str] = {}
    modality: str | None = None
    hop: int | None = None
    time: TimeFrom = "source"
    time_column: str = "time"
    time_unit: SourceTimeUnit = "s"
    follow: bool = False
    replay_speed: float | None = None
    gap_s: float | None = None
    reorder: int = 0
    stale_s: float | None = None
    silence_s: float | None = None
    queue: int = 1024
    on_full: OnFull | None = None
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    reference: str | None = None
    error_level: float | None = None
    unknown_level: float | None = None
    alarms: tuple[AlarmRule, ...] = ()
    uncertain_below: float = 0.6


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All stations of one process.

    Attributes:
        stations: one or more.
        sinks: where records of all stations go.
        store: folder in which records wait while a sink is away; None keeps them in memory alone.
        store_bytes: of all records of one sink that wait there.
        watch_bundle: whether a bundle that changes takes over.
        keep_uncertain_bytes: of uncertain windows of each station that are kept; None keeps none.
        keep_in: folder in which they are kept.
    """

    stations: tuple[StationSpec, ...]
    sinks: tuple[str, ...] = ()
    store: str | None = None
    store_bytes: int = 64_000_000
    watch_bundle: bool = False
    keep_uncertain_bytes: int | None = None
    keep_in: str = "uncertain"


def read_run_spec(file: Path) -> RunSpec:
    """Reads and checks a TOML file of stations.

    Raises:
        UsageError: there is no such file, it is no TOML, or it says what cannot be; the message lists every problem.
    """
    if not file.is_file():
        raise UsageError(f"{file}: expected a bundle or a file of stations (.toml), found no such file; check the path")
    try:
        spec = msgspec.toml.decode(file.read_bytes(), type=RunSpec)
    except msgspec.ValidationError as error:
        raise UsageError(f"{file}: {error}; docs/running-live.md describes every key") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{file}: expected TOML, got {first_line(error)}; correct that line") from error
    except ImportError as error:  # Python 3.10 has no TOML reader of its own
        raise UsageError(f"{file}: reading TOML needs tomli; run: pip install 'mmkd-edge[live]'") from error
    return checked(spec, where=f"{file}: ")


def checked(spec: RunSpec, *, where: str = "") -> RunSpec:
    """The same with a name for every station. Raises UsageError with all that cannot be."""
    problems = list(_problems(spec))
    if problems:
        raise UsageError(
            f"{where}{problems[0]}"
            if len(problems) == 1
            else "\n  - ".join([f"{where}{len(problems)} problems", *problems])
        )
    return msgspec.structs.replace(spec, stations=tuple(_named(spec.stations)))


def _named(stations: tuple[StationSpec, ...]) -> Iterator[StationSpec]:
    taken = {station.name for station in stations if station.name}
    for station in stations:
        name, number = station.name or Path(station.bundle).stem, 1
        while not station.name and name in taken:
            number += 1
            name = f"{Path(station.bundle).stem} {number}"
        taken.add(name)
        yield msgspec.structs.replace(station, name=name)


def _problems(spec: RunSpec) -> Iterator[str]:
    if not spec.stations:
        yield "'stations': expected one or more, got none; describe each in a [[stations]]"
    names = [station.name for station in spec.stations if station.name]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"'stations': the name {name!r} is there {names.count(name)} times; give each its own"
    if spec.store_bytes < 1_000_000:
        yield f"'store_bytes': expected 1,000,000 or more, got {spec.store_bytes}; correct it"
    if spec.keep_uncertain_bytes is not None and spec.keep_uncertain_bytes < LEAST_BYTES:
        yield f"'keep_uncertain_bytes': expected {LEAST_BYTES:,} or more, got {spec.keep_uncertain_bytes}; correct it"
    for number, station in enumerate(spec.stations):
        yield from (f"'stations[{number}].{text}" for text in _station_problems(station))


def _station_problems(station: StationSpec) -> Iterator[str]:
    for key in ("replay_speed", "gap_s", "stale_s", "silence_s"):
        value: Any = getattr(station, key)
        if value is not None and not 0 < value < math.inf:
            yield f"{key}': expected a number above 0, got {value}; correct it"
    if station.follow and station.replay_speed is not None:
        yield "replay_speed': expected none beside 'follow', for a file that grows has a pace of its own; leave one out"
    if isinstance(station.source, dict) and len(station.source) < 2:
        yield f"source': expected sources of two modalities or more, got {len(station.source)}; write one as a text"
    if not 1 <= station.queue <= MOST_QUEUED:
        yield f"queue': expected 1 to {MOST_QUEUED:,}, got {station.queue}; correct it"
    if station.hop is not None and station.hop < 1:
        yield f"hop': expected 1 sample or more, got {station.hop}; correct it"
    for rule in station.alarms:
        yield from (f"alarms' ({rule.label}): {text}" for text in rule_problems(rule))


def size_bytes(text: str, *, option: str) -> int:
    """`200MB` in bytes; units are B, kB, MB and GB, of a thousand each. Raises UsageError where it is none."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3), ("B", 1)):
        number = text.strip().upper().removesuffix(unit)
        if number != text.strip().upper() and number.strip().replace(".", "", 1).isdigit():
            return int(float(number) * factor)
    raise UsageError(f"{option} {text}: expected a size such as 200MB, got {text!r}; give a number and its unit")
