"""`mmkd-run`: sensors in, decisions out, day and night."""

from __future__ import annotations

from mmkd_edge.command.interrupts import loading

with loading("mmkd-run"):
    import contextlib
    from collections.abc import Iterator, Mapping, Sequence
    from dataclasses import dataclass
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, get_args

    from mmkd_edge.command.options import Argument, Command, Option, run_line
    from mmkd_edge.command.run import run_command
    from mmkd_edge.errors import UsageError

if TYPE_CHECKING:
    from mmkd_edge.live.alarms import AlarmRule
    from mmkd_edge.live.monitor.board import Board
    from mmkd_edge.live.service import RunFacts, Service
    from mmkd_edge.live.spec import RunSpec

_ABOUT = "Answer for sensors day and night: samples in, decisions out, on what a plant speaks."
_EXAMPLE = "mmkd-run student.edge --source csv:log.csv --sink jsonl:results.jsonl"
_T = TypeVar("_T")


def main() -> NoReturn:
    """Runs `mmkd-run`."""
    run_command("mmkd-run", run_mmkd, needs=("typer", "rich"), extra="live", about=_ABOUT)


def run_mmkd(arguments: Sequence[str]) -> None:
    """Runs `mmkd-run` with these arguments."""
    from mmkd_edge.live.sinks.table import SINKS
    from mmkd_edge.live.sources.table import SOURCES

    sources = "; ".join(f"{kind.form}: {kind.about}" for kind in SOURCES.values())
    sinks = "; ".join(f"{kind.form}: {kind.about}" for kind in SINKS.values())
    epilog = f"Sources: {sources}. Sinks: {sinks}. Example: {_EXAMPLE}"
    run_line("mmkd-run", arguments, [Command(function=run, epilog=epilog)])


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where samples come from, and how they are read."""

    source: Annotated[str | None, Option("Where samples come from; see below.", metavar="SOURCE")] = None
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
        float | None, Option("From this age of the newest sample on a result is stale.", ("--stale",), "SECONDS")
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
        Option("What a full queue does.", metavar="drop-oldest|block", shown="drop-oldest; block for recordings"),
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
        Option("Keep records here while a sink is away, also over a restart.", metavar="FOLDER", shown="in memory"),
    ] = None
    store_size: Annotated[str, Option("Of what waits there for one sink.", metavar="SIZE")] = "64MB"
    keep_uncertain: Annotated[
        str | None,
        Option("Keep windows with an uncertain answer, to be labelled: so much of them.", metavar="SIZE"),
    ] = None
    keep_in: Annotated[Path, Option("Where they are kept.", metavar="FOLDER")] = Path("uncertain")
    uncertain_below: Annotated[float, Option("Which probability is uncertain.", min=0.0, max=1.0)] = 0.6


def run(
    *,
    subject: Annotated[Path, Argument("BUNDLE|STATIONS.toml", "A bundle, or a file of several stations.")],
    name: Annotated[str, Option("Of the station, in every record.", metavar="NAME", shown="of the bundle")] = "",
    source: SourceOptions,
    sinks: SinkOptions,
    stream: StreamOptions,
    alarms: AlarmOptions,
    page: PageOptions,
    engine: EngineOptions,
    as_json: Annotated[bool, Option("Print the summary as one JSON document.", ("--json",))] = False,
) -> None:
    """Answer for sensors day and night: samples in, decisions out, on what a plant speaks.

    It ends when its sources do, or on SIGTERM and Ctrl-C, after what came is answered.
    """
    from mmkd_edge.live.spec import read_run_spec

    if alarms.tune_alarm is not None:
        from mmkd_edge.commands.tuning import tune

        tune(subject, alarms.tune_alarm, _rules(alarms), alarms, hop=stream.hop, as_json=as_json)
        return
    if subject.suffix == ".toml":
        spec = read_run_spec(subject)
        _refuse_beside_file(source, sinks)
    else:
        spec = _spec_of(subject, name, source, sinks, stream, alarms, engine)
    spec = spec if page.monitor is not None else _with_a_sink(spec)
    to_stdout = any("-" in (*spec.sinks, *station.sinks) for station in spec.stations)
    if as_json and to_stdout:
        raise UsageError("--json: expected the standard output for the summary, got --sink - there too; leave one out")
    facts, error = _served(spec, page)
    _show(facts, as_json=as_json, to_stdout=to_stdout)
    if error is not None:
        raise error


def _served(spec: RunSpec, page: PageOptions) -> tuple[RunFacts, BaseException | None]:
    """Runs until the end; gives what was done, and what ended it before its time."""
    import signal
    import threading

    from mmkd_edge.bundle.manifest import ModelEntry
    from mmkd_edge.live.build import service_of
    from mmkd_edge.live.monitor.board import Board

    stop, reload = threading.Event(), threading.Event()
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        stop.set()

    _log_to_stderr()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGHUP, lambda *_: reload.set())
    boards: dict[str, Board] = {}

    def board_of(name: str, entry: ModelEntry) -> Board:
        boards[name] = Board(entry.modality, entry.task)
        return boards[name]

    looking = None if page.monitor is None else board_of
    with (
        service_of(spec, load_recordings=_recordings, onlooker_of=looking) as service,
        _page(service, boards, page),
    ):
        facts = service.run(stop=stop, reload=reload)
    error: BaseException | None = next((one.error for one in service.stations if one.error is not None), None)
    if error is None and any(outlet.is_gone for outlet in service.outlets):
        error = BrokenPipeError()
    if error is None and interrupted.is_set():
        error = KeyboardInterrupt()
    return facts, error


@contextlib.contextmanager
def _page(service: Service, boards: Mapping[str, Board], options: PageOptions) -> Iterator[None]:
    """Serves the page, where one is asked for, and says where it is."""
    if options.monitor is None:
        if options.serve_predict:
            raise UsageError("--serve-predict: expected --monitor HOST:PORT beside it, which serves it; name it")
        yield
        return
    from mmkd_edge.command.show import say
    from mmkd_edge.live.monitor.access import address_of, token_from
    from mmkd_edge.live.monitor.server import page_of

    address, token = address_of(options.monitor), token_from(options.monitor_token)
    with page_of(service, boards, address=address, token=token, serve_predict=options.serve_predict) as page:
        said = f"its token: {token}" if options.monitor_token is None else f"its token is in {options.monitor_token}"
        say(f"page: {page.url} ({said})")
        if not address.is_loopback:
            say(f"page: {address.host} is reached from other machines, and this page is not encrypted")
        yield


def _spec_of(
    bundle: Path,
    name: str,
    source: SourceOptions,
    sinks: SinkOptions,
    stream: StreamOptions,
    alarms: AlarmOptions,
    engine: EngineOptions,
) -> RunSpec:
    from mmkd_edge.backends.base import RUN_PRECISIONS, check_backend
    from mmkd_edge.live.clock import TimeFrom
    from mmkd_edge.live.intake import OnFull
    from mmkd_edge.live.sources.base import TimeUnit
    from mmkd_edge.live.spec import RunSpec, StationSpec, checked, size_bytes

    if source.source is None:
        raise UsageError("--source: expected where samples come from, got none; for instance --source csv:log.csv")
    station = StationSpec(
        bundle=str(bundle),
        source=source.source,
        name=name,
        map=_mapped(source.columns or []),
        modality=source.modality,
        hop=stream.hop,
        time=_choice(source.time, get_args(TimeFrom), option="--time"),
        time_column=source.time_column,
        time_unit=_choice(source.time_unit, get_args(TimeUnit), option="--time-unit"),
        follow=source.follow,
        replay_speed=source.replay_speed,
        gap_s=stream.gap_s,
        reorder=stream.reorder,
        stale_s=stream.stale_s,
        silence_s=stream.silence_s,
        queue=stream.queue,
        on_full=None if stream.on_full is None else _choice(stream.on_full, get_args(OnFull), option="--on-full"),
        backend=check_backend(engine.backend),
        precision=_choice(engine.precision, ("auto", *RUN_PRECISIONS), option="--precision"),
        threads=engine.threads,
        reference=None if engine.reference is None else str(engine.reference),
        error_level=engine.error_level,
        alarms=_rules(alarms),
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


def _rules(options: AlarmOptions) -> tuple[AlarmRule, ...]:
    """The rules of the line: the same for each label."""
    from mmkd_edge.live.alarms import AlarmRule

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


def _refuse_beside_file(source: SourceOptions, sinks: SinkOptions) -> None:
    given = "--source" if source.source is not None else "--sink" if sinks.sink else ""
    if given:
        raise UsageError(
            f"{given}: expected a bundle before it, got a file of stations, which names its own; leave it out"
        )


def _with_a_sink(spec: RunSpec) -> RunSpec:
    """The standard output, where nothing else was named."""
    import msgspec

    if spec.sinks or any(station.sinks for station in spec.stations):
        return spec
    return msgspec.structs.replace(spec, sinks=("-",))


def _mapped(texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise UsageError(f"--map {text}: expected CHANNEL=COLUMN, got no '='; write it like ax=accel.x")
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts}


def _choice(value: str, known: Sequence[_T], *, option: str) -> _T:
    for one in known:
        if one == value:
            return one
    raise UsageError(f"{option} {value}: expected one of {', '.join(map(str, known))}; choose one of them")


def _recordings(place: str, modality: Any) -> Any:
    """The recordings of a dataset, for `recordings:DATASET`."""
    from mmkd_edge.commands.tuning import recorded

    return recorded(place, modality)


def _log_to_stderr() -> None:
    import logging
    import sys

    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("mmkd_edge").setLevel(logging.INFO)


def _show(facts: RunFacts, *, as_json: bool, to_stdout: bool) -> None:
    import sys

    from mmkd_edge.command.show import json_text
    from mmkd_edge.live.summary import summary_lines

    if as_json:
        print(json_text(facts))
        return
    print(*summary_lines(facts), sep="\n", file=sys.stderr if to_stdout else sys.stdout)
