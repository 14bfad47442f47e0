"""The options of `mmkd-run`, in groups, and which of them say nothing without another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from mmkd_edge.cli.options import Option
from mmkd_edge.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where samples come from, and how they are read."""

    source: Annotated[
        list[str] | None,
        Option(
            "Where samples come from; see below. Of a bundle with several students repeatable, with the modality: the "
            "first in the bundle's order whose sensor lives answers.",
            metavar="[MODALITY=]SOURCE",
        ),
    ] = None
    columns: Annotated[
        list[str] | None,
        Option(
            "Which column of the source is a channel of the student, where it is called otherwise or is in another "
            "unit. Repeatable.",
            ("--map",),
            "CHANNEL=COLUMN[*FACTOR][+OFFSET]",
        ),
    ] = None
    modality: Annotated[str | None, Option("Which student of the bundle.", metavar="NAME", shown="the first")] = None
    time: Annotated[str, Option("Whose times are taken: source or arrival.", metavar="source|arrival")] = "source"
    time_column: Annotated[str, Option("Where the time of a sample is.", metavar="NAME")] = "time"
    time_unit: Annotated[str, Option("Of numbers there; texts are ISO 8601.", metavar="s|ms|us|ns")] = "s"
    follow: Annotated[bool, Option("Wait for what is written to a file later.", ("--follow",))] = False
    replay_speed: Annotated[
        float | None,
        Option("Of files and recordings, in times their own.", metavar="TIMES", shown="as fast as they are answered"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How samples become results."""

    hop: Annotated[
        int | None, Option("Samples from one result to the next.", shown="a second, or a shorter window", min=1)
    ] = None
    gap_s: Annotated[
        float | None,
        Option("A longer space between two samples is a gap.", ("--gap",), "SECONDS", shown="2.5 sampling periods"),
    ] = None
    reorder: Annotated[int, Option("Samples held back to put late ones in order.", min=0)] = 0
    stale_s: Annotated[
        float | None,
        Option("From this age of the newest sample on a result of a live source is stale.", ("--stale",), "SECONDS"),
    ] = None
    silence_s: Annotated[
        float | None,
        Option(
            "From when on a live source is silent and its samples missing.",
            ("--silence",),
            "SECONDS",
            shown="3 of its longest intervals, at least 1 s",
        ),
    ] = None
    queue: Annotated[int, Option("Deliveries that may wait for an answer.", min=1)] = 1024
    on_full: Annotated[
        str | None,
        Option(
            "What a full queue does.", metavar="drop-oldest|block", shown="drop-oldest; block for files and recordings"
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class AlarmOptions:
    """What is an episode, and on which recordings that is chosen."""

    alarm: Annotated[
        list[str] | None, Option("Make episodes of results of this label. Repeatable.", metavar="LABEL")
    ] = None
    confirm: Annotated[str, Option("So many of the last results begin one.", metavar="N/M")] = "3/5"
    release: Annotated[int, Option("So many results in a row without it end one.", min=1)] = 5
    cooldown: Annotated[str, Option("After an end none begins for so long.", metavar="SECONDS")] = "60s"
    min_probability: Annotated[float, Option("From here on a result speaks for it.", min=0.0, max=1.0)] = 0.8
    tune_alarm: Annotated[
        Path | None,
        Option("Choose these four on the recordings of a dataset, say what they cost, and stop.", metavar="DATASET"),
    ] = None
    false_alarms_per_hour: Annotated[
        float, Option("How many may be, on validation recordings.", metavar="NUMBER", min=0.0)
    ] = 0.1
    normal: Annotated[
        list[str] | None,
        Option("Label of normal operation, where it is not every other one. Repeatable.", metavar="LABEL"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """A page to look at."""

    monitor: Annotated[str | None, Option("Serve a page there, for instance 127.0.0.1:8090.", metavar="HOST:PORT")] = (
        None
    )
    monitor_token: Annotated[
        Path | None, Option("File with the token of the page.", metavar="FILE", shown="a new one, on stderr")
    ] = None
    monitor_origin: Annotated[
        str | None,
        Option(
            "What browsers see where a proxy stands before it, for instance https://plant.example.", metavar="ORIGIN"
        ),
    ] = None
    serve_predict: Annotated[
        bool, Option("Also answer windows that are posted to /predict there.", ("--serve-predict",))
    ] = False


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What answers, and with what."""

    backend: Annotated[str, Option("What executes the student.", metavar="NAME")] = "auto"
    precision: Annotated[str, Option("Of the arithmetic.", metavar="NAME")] = "auto"
    threads: Annotated[int | None, Option("Of one prediction.", shown="tuned, else 1", min=1)] = None
    reference: Annotated[Path | None, Option("Statistics for a modality normalised per group.", metavar="FILE")] = None
    error_level: Annotated[float | None, Option("Also name label sets at it.", metavar="SHARE")] = None
    unknown_level: Annotated[
        float | None, Option("Say unknown where a window is unlike what training saw.", metavar="SHARE", shown="never")
    ] = None
    watch_bundle: Annotated[
        bool, Option("Let a bundle that changes take over; SIGHUP does so too.", ("--watch-bundle",))
    ] = False


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """Where records go."""

    sink: Annotated[list[str] | None, Option("Where records go; see below. Repeatable.", metavar="SINK", shown="-")] = (
        None
    )
    store: Annotated[
        Path | None,
        Option("Keep records and open episodes here over a restart.", metavar="FOLDER", shown="in memory"),
    ] = None
    store_size: Annotated[str, Option("Maximum disk space per sink.", metavar="SIZE")] = "64MB"
    keep_uncertain: Annotated[
        str | None,
        Option("Keep windows with an uncertain answer, to be labelled: so much of them.", metavar="SIZE"),
    ] = None
    keep_in: Annotated[Path, Option("Where they are kept.", metavar="FOLDER")] = Path("uncertain")
    uncertain_below: Annotated[float, Option("Which probability is uncertain.", min=0.0, max=1.0)] = 0.6


# What an option is for: without it the option would do nothing.
_NEEDS = {
    "--store-size": "--store",
    "--keep-in": "--keep-uncertain",
    "--uncertain-below": "--keep-uncertain",
    "--monitor-token": "--monitor",
    "--monitor-origin": "--monitor",
    "--serve-predict": "--monitor",
    "--confirm": "--alarm",
    "--release": "--alarm",
    "--cooldown": "--alarm",
    "--min-probability": "--alarm",
    "--false-alarms-per-hour": "--tune-alarm",
    "--normal": "--tune-alarm",
}


# What is chosen by `--tune-alarm`, or has no meaning for it.
NOT_TUNING = ("--confirm", "--release", "--min-probability", "--error-level", "--unknown-level", "--watch-bundle")


def given(*groups: Any) -> list[str]:
    """The names of the options that are not at their defaults."""
    return [name for group in groups for name in _given(group)]


def check_needs(*groups: Any) -> None:
    """Refuse an option that does nothing without another that is not there. Raises UsageError."""
    names = given(*groups)
    for name, needed in _NEEDS.items():
        if name in names and needed not in names:
            raise UsageError(
                f"{name}: expected {needed} beside it, without which it does nothing; add it, or leave it out"
            )


def refuse(names: list[str], *, beside: str, because: str) -> None:
    """Refuse options that mean nothing beside another. Raises UsageError."""
    if names:
        raise UsageError(f"{names[0]}: expected none beside {beside}, {because}; leave it out")


def _given(group: Any) -> Iterator[str]:
    hints = get_type_hints(type(group), include_extras=True)
    for field in fields(group):
        if getattr(group, field.name) != field.default:
            option = next(one for one in get_args(hints[field.name]) if isinstance(one, Option))
            yield option.names[0] if option.names else "--" + field.name.replace("_", "-")
