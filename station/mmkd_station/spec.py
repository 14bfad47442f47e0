"""Stations of a run, from a command line or a TOML file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from mmkd_edge import OpenOptions
from mmkd_edge.errors import UsageError, first_line
from mmkd_station.alarms import AlarmRule, rule_problems
from mmkd_station.clock import SensorRules
from mmkd_station.protocols.base import SourceTimeUnit
from mmkd_station.uncertain import MIN_BYTES

MAX_LOSS_S = 60.0  # of results that may be sent unsaved


class StationSpec(SensorRules, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Source, bundle and sinks; see `docs/live-reference.md`."""

    bundle: str
    source: str | dict[str, str]
    name: str = ""
    sinks: tuple[str, ...] = ()
    map: dict[str, str] = msgspec.field(default_factory=dict)
    time_column: str = "time"
    time_unit: SourceTimeUnit = "s"
    follow: bool = False
    replay_speed: float | None = None
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    reference: str | None = None
    error_level: float | None = None
    unknown_level: float | None = None
    alarms: tuple[AlarmRule, ...] = ()
    false_alarms_per_day: float | None = None
    uncertain_below: float = 0.6
    shadow: str | None = None
    shadow_report: str | None = None  # None is the station's name
    shadow_agreement: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.9
    shadow_alarms: int = 0

    @property
    def opening(self) -> OpenOptions:
        """How its bundle is opened. Raises UsageError."""
        names = ("backend", "precision", "threads", "reference", "error_level", "unknown_level")
        return OpenOptions(**{name: getattr(self, name) for name in names})


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All stations of a process. Sizes are per sink and per station; None turns a function off."""

    stations: tuple[StationSpec, ...]
    sinks: tuple[str, ...] = ()
    store: str | None = None
    store_bytes: int = 64_000_000
    store_loss_s: float = 0.0  # above 0: results may be sent unsaved
    keep_uncertain_bytes: int | None = None
    keep_in: str = "uncertain"
    for_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


def read_run_spec(file: Path) -> RunSpec:
    """Read and check a TOML file of stations. Raises UsageError with every problem."""
    if not file.is_file():
        raise UsageError(f"{file}: expected a bundle or a file of stations (.toml), found no such file; check the path")
    try:
        spec = msgspec.toml.decode(file.read_bytes(), type=RunSpec)
    except msgspec.ValidationError as error:
        raise UsageError(f"{file}: {error}; docs/live-reference.md describes every key") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{file}: expected TOML, got {first_line(error)}; correct that line") from error
    except ImportError as error:  # Python 3.10 has no TOML reader
        raise UsageError(f"{file}: reading TOML needs tomli; run: pip install 'mmkd-edge[live]'") from error
    return check_run(spec, where=f"{file}: ")


def check_run(spec: RunSpec, *, where: str = "") -> RunSpec:
    """Return the spec with stations named. Raises UsageError with every problem."""
    problems = list(_problems(spec))
    if problems:
        raise UsageError(
            f"{where}{problems[0]}"
            if len(problems) == 1
            else "\n  - ".join([f"{where}{len(problems)} problems", *problems])
        )
    return msgspec.structs.replace(spec, stations=tuple(_name_stations(spec.stations)))


def _name_stations(stations: tuple[StationSpec, ...]) -> Iterator[StationSpec]:
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
    if not 0 <= spec.store_loss_s <= MAX_LOSS_S:
        yield f"'store_loss_s': expected 0 to {MAX_LOSS_S:g} s, got {spec.store_loss_s:g}; correct it"
    if spec.keep_uncertain_bytes is not None and spec.keep_uncertain_bytes < MIN_BYTES:
        yield f"'keep_uncertain_bytes': expected {MIN_BYTES:,} or more, got {spec.keep_uncertain_bytes}; correct it"
    for number, station in enumerate(spec.stations):
        yield from (f"'stations[{number}].{text}" for text in _station_problems(station))


def _station_problems(station: StationSpec) -> Iterator[str]:
    for key in ("replay_speed", "gap_s", "stale_s", "silence_s", "false_alarms_per_day"):
        value: Any = getattr(station, key)
        if value is not None and not 0 < value < math.inf:
            yield f"{key}': expected a number above 0, got {value}; correct it"
    if station.follow and station.replay_speed is not None:
        yield "replay_speed': cannot be combined with 'follow', since a growing file sets the pace; leave one out"
    if isinstance(station.source, dict) and len(station.source) < 2:
        yield f"source': expected sources of two modalities or more, got {len(station.source)}; write one as a text"
    if station.shadow is not None and isinstance(station.source, dict):
        yield "shadow': expected one source, got several; compare the bundles on one sensor after the other"
    if station.hop is not None and station.hop < 1:
        yield f"hop': expected 1 sample or more, got {station.hop}; correct it"
    if station.alarms and station.false_alarms_per_day is not None:
        yield "false_alarms_per_day': cannot be combined with 'alarms', which have their own rules; leave one out"
    for rule in station.alarms:
        yield from (f"alarms' ({rule.label}): {text}" for text in rule_problems(rule))


def duration_s(text: str, *, option: str) -> float:
    """Parse a duration such as `90s`, `30min`, `1h` or `2d`. Raises UsageError."""
    return _parse(text, {"min": 60, "s": 1, "h": 3600, "d": 86400}, f"{option} {text}: expected a duration such as 1h")


def size_bytes(text: str, *, option: str) -> int:
    """Parse a size such as `200MB`, in decimal B, kB, MB or GB. Raises UsageError."""
    units = {"gb": 10**9, "mb": 10**6, "kb": 10**3, "b": 1}
    return int(_parse(text, units, f"{option} {text}: expected a size such as 200MB"))


def _parse(text: str, units: dict[str, int], expected: str) -> float:
    for unit, factor in units.items():
        number = text.strip().lower().removesuffix(unit)
        if number != text.strip().lower() and number.strip().replace(".", "", 1).isdigit() and float(number):
            return float(number) * factor
    raise UsageError(f"{expected}, got {text!r}; give a number and its unit")
