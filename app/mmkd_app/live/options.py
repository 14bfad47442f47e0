"""Options of `mmkd-run`, and the run that they describe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from mmkd_app.cli.options import Option
from mmkd_edge.errors import UsageError
from mmkd_station.alarms import AlarmRule
from mmkd_station.clock import TimeFrom
from mmkd_station.protocols.base import SourceTimeUnit
from mmkd_station.spec import RunSpec, StationSpec, check_run, duration_s, size_bytes

# Options that have no effect without another.
_NEEDS = {
    "--store-size": "--store",
    "--store-loss": "--store",
    "--keep-in": "--keep-uncertain",
    "--uncertain-below": "--keep-uncertain",
    "--monitor-token": "--monitor",
    "--behind-proxy": "--monitor",
    "--shadow-report": "--shadow",
    "--shadow-agreement": "--shadow",
    "--shadow-alarms": "--shadow",
    "--confirm": "--alarm",
    "--release": "--alarm",
    "--cooldown": "--alarm",
    "--min-probability": "--alarm",
    "--false-alarms-per-hour": "--tune-alarm",
}
_WITH_TUNING = [
    *("--tune-alarm", "--alarm", "--cooldown", "--false-alarms-per-hour", "--false-alarms-per-day"),
    *("--hop", "--backend", "--precision", "--threads", "--reference"),
]
_WITH_FILE = ("--monitor", "--monitor-token", "--behind-proxy")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of `mmkd-run`; most are keys of a `StationSpec`."""

    name: Annotated[str, Option("Name of the station, in every record.", metavar="NAME", shown="of the bundle")] = ""
    source: Annotated[
        list[str] | None,
        Option(
            "Where samples come from; see below. A bundle needs one for each of its sensors.",
            metavar="[MODALITY=]SOURCE",
        ),
    ] = None
    map: Annotated[
        list[str] | None,
        Option(
            "Column and scale of a channel (repeatable). Example: --map ax=accel_x*0.001.",
            ("--map",),
            "CHANNEL=COLUMN[*FACTOR][+OFFSET]",
        ),
    ] = None
    modality: Annotated[
        str | None, Option("Student of the bundle, or the sensor it derives from.", metavar="NAME", shown="the first")
    ] = None
    time: Annotated[str, Option("Use the source's timestamps, or the time of arrival.", metavar="source|arrival")] = (
        "source"
    )
    time_column: Annotated[str, Option("Column with the time of a sample.", metavar="NAME")] = "time"
    time_unit: Annotated[
        str, Option("Unit of numeric timestamps; text timestamps are ISO 8601.", metavar="s|ms|us|ns")
    ] = "s"
    follow: Annotated[bool, Option("Keep reading the file as it grows.", ("--follow",))] = False
    replay_speed: Annotated[
        float | None,
        Option("Replay files at this multiple of real time.", metavar="TIMES", shown="as fast as possible"),
    ] = None
    sink: Annotated[
        list[str] | None, Option("Where results and alarms go; see below. Repeatable.", metavar="SINK", shown="-")
    ] = None
    store: Annotated[
        Path | None,
        Option(
            "Save unsent records and open alarms here, so that a restart does not lose them.",
            metavar="FOLDER",
            shown="in memory",
        ),
    ] = None
    store_size: Annotated[str, Option("Maximum disk space per sink.", metavar="SIZE")] = "64MB"
    store_loss: Annotated[
        str | None,
        Option(
            "Send results before they are on disk, which a kill may lose for this time, up to 60s.",
            metavar="TIME",
            shown="save first",
        ),
    ] = None
    keep_uncertain: Annotated[
        str | None, Option("Save uncertain windows for labelling, up to this size.", metavar="SIZE")
    ] = None
    keep_in: Annotated[Path, Option("Folder for uncertain windows.", metavar="FOLDER")] = Path("uncertain")
    uncertain_below: Annotated[float, Option("Call a result uncertain below this probability.", min=0.0, max=1.0)] = 0.6
    hop: Annotated[
        int | None, Option("Samples between two results.", shown="one second, or one window if shorter", min=1)
    ] = None
    gap_s: Annotated[
        float | None,
        Option(
            "Treat a longer time between two samples as a gap.", ("--gap",), "SECONDS", shown="2.5 sampling periods"
        ),
    ] = None
    single_answers: Annotated[
        bool,
        Option("Give each window's own label, where the student would weigh in earlier ones."),
    ] = False
    stale_s: Annotated[
        float | None,
        Option("Call a result stale if its newest sample is older than this.", ("--stale",), "SECONDS", shown="never"),
    ] = None
    silence_s: Annotated[
        float | None,
        Option(
            "Treat a source without samples for this long as silent, and its samples as missing.",
            ("--silence",),
            "SECONDS",
            shown="three times its longest interval, at least 1 s",
        ),
    ] = None
    alarm: Annotated[
        list[str] | None, Option("Raise alarms for results with this label. Repeatable.", metavar="LABEL")
    ] = None
    confirm: Annotated[str, Option("Raise an alarm when N of the last M results match.", metavar="N/M")] = "3/5"
    release: Annotated[int, Option("End an alarm after N results in a row without the label.", metavar="N", min=1)] = 5
    cooldown: Annotated[str, Option("Minimum time between two alarms.", metavar="SECONDS")] = "60s"
    min_probability: Annotated[
        float, Option("For alarms, count a result below this probability as one without the label.", min=0.0, max=1.0)
    ] = 0.8
    tune_alarm: Annotated[
        Path | None,
        Option(
            "Choose --confirm, --release and --min-probability on a dataset, print the cost and stop.",
            metavar="DATASET",
        ),
    ] = None
    false_alarms_per_hour: Annotated[
        float, Option("Highest rate of false alarms on validation recordings.", metavar="NUMBER", min=0.0)
    ] = 0.1
    false_alarms_per_day: Annotated[
        float | None,
        Option(
            "Raise alarms for unknown windows at this rate, with a student of normal data.", metavar="NUMBER", min=0.0
        ),
    ] = None
    monitor: Annotated[
        str | None, Option("Serve a page at this address, for instance 127.0.0.1:8090.", metavar="HOST:PORT")
    ] = None
    monitor_token: Annotated[
        Path | None, Option("File with the token of the page.", metavar="FILE", shown="a new one, on stderr")
    ] = None
    behind_proxy: Annotated[
        str | None,
        Option(
            "Believe X-Forwarded-For from this address; require the token everywhere.",
            metavar="ADDRESS",
            shown="trust no such header",
        ),
    ] = None
    shadow: Annotated[str | None, Option("Compare and judge this bundle on the same windows.", metavar="BUNDLE")] = None
    shadow_report: Annotated[str | None, Option("Its report.", metavar="FILE", shown="NAME.shadow.json")] = None
    shadow_agreement: Annotated[float, Option("Required agreement of all answers and labels.", min=0, max=1)] = 0.9
    shadow_alarms: Annotated[int, Option("Highest number of alarms that may change.", metavar="N", min=0)] = 0
    for_s: Annotated[
        str | None, Option("Stop after this time, such as 1h.", ("--for",), "DURATION", shown="when sources end")
    ] = None
    backend: Annotated[str, Option("Backend that runs the student.", metavar="NAME")] = "auto"
    precision: Annotated[str, Option("Precision of the model to run.", metavar="NAME")] = "auto"
    threads: Annotated[int | None, Option("Threads per prediction.", shown="tuned, else 1", min=1)] = None
    reference: Annotated[Path | None, Option("Statistics for a modality normalised per group.", metavar="FILE")] = None
    error_level: Annotated[
        float | None,
        Option("Return label sets that miss the true label at most this often, such as 0.1.", metavar="FRACTION"),
    ] = None
    unknown_level: Annotated[
        float | None,
        Option(
            "Report 'unknown' for windows unlike training, wrongly at most at this rate, such as 0.01.",
            metavar="FRACTION",
            shown="never",
        ),
    ] = None


def check_combination(options: RunOptions, subject: Path) -> None:
    """Raise UsageError for options without effect, or in conflict."""
    names = list(_list_given_options(options))
    for name, needed in _NEEDS.items():
        if name in names and needed not in names:
            raise UsageError(f"{name} has no effect without {needed}; add {needed}, or leave {name} out")
    both = ("--false-alarms-per-hour", "--false-alarms-per-day")
    if set(both) <= set(names):
        raise UsageError(f"{both[0]} cannot be combined with {both[1]}; leave one out")
    if options.tune_alarm is not None:
        others = [name for name in names if name not in _WITH_TUNING]
        other, because = "--tune-alarm", "which chooses a rule on recordings and stops"
    elif subject.suffix == ".toml":
        others = [name for name in names if name not in _WITH_FILE]
        other, because = str(subject), "which has it for each station"
    else:
        return
    if others:
        raise UsageError(f"{others[0]} cannot be combined with {other}, {because}; leave it out")


def _list_given_options(options: RunOptions) -> Iterator[str]:
    hints = get_type_hints(RunOptions, include_extras=True)
    for field in fields(options):
        if getattr(options, field.name) != field.default:
            option = next(part for part in get_args(hints[field.name]) if isinstance(part, Option))
            yield option.names[0] if option.names else "--" + field.name.replace("_", "-")


def run_spec(bundle: Path, options: RunOptions) -> RunSpec:
    """Return the run of a command line. Raises UsageError."""
    if not options.source:
        raise UsageError("--source: expected where samples come from, got none; for instance --source csv:log.csv")
    _check_choice(options.time, TimeFrom, option="--time")
    _check_choice(options.time_unit, SourceTimeUnit, option="--time-unit")
    same = {name: value for name, value in vars(options).items() if name in StationSpec.__struct_fields__}
    same["source"] = _sources(options.source)
    same["map"] = column_mapping(options.map or [])
    same["reference"] = options.reference and str(options.reference)
    keep = options.keep_uncertain
    return check_run(
        RunSpec(
            stations=(StationSpec(bundle=str(bundle), alarms=alarm_rules(options), **same),),
            sinks=tuple(options.sink or ()),
            store=None if options.store is None else str(options.store),
            store_bytes=size_bytes(options.store_size, option="--store-size"),
            store_loss_s=0.0 if options.store_loss is None else duration_s(options.store_loss, option="--store-loss"),
            keep_uncertain_bytes=None if keep is None else size_bytes(keep, option="--keep-uncertain"),
            keep_in=str(options.keep_in),
            for_s=None if options.for_s is None else duration_s(options.for_s, option="--for"),
        )
    )


def _check_choice(value: str, choices: Any, *, option: str) -> None:
    if value not in get_args(choices):
        known = ", ".join(get_args(choices))
        raise UsageError(f"{option} {value}: expected one of {known}; choose one of them")


def alarm_rules(options: RunOptions) -> tuple[AlarmRule, ...]:
    """Return one rule per label."""
    try:
        cooldown_s = float(options.cooldown.strip().removesuffix("s"))
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


def _sources(texts: Sequence[str]) -> str | dict[str, str]:
    if len(texts) == 1:
        return texts[0]
    sources = dict(text.partition("=")[::2] for text in texts)
    for text in texts:
        name, mark, _ = text.partition("=")
        if not mark or ":" in name:
            raise UsageError(f"--source {text}: expected MODALITY=SOURCE, since there are several; write it so")
    if len(sources) < len(texts):
        raise UsageError("--source: expected each modality once, got one twice; leave one out")
    return sources


def column_mapping(texts: Sequence[str]) -> dict[str, str]:
    """Parse `--map`. Raises UsageError."""
    for text in texts:
        if "=" not in text:
            raise UsageError(f"--map {text}: expected CHANNEL=COLUMN, got no '='; write it like ax=accel.x")
    return dict(text.partition("=")[::2] for text in texts)
