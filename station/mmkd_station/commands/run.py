"""`mmkd-run`: sensors in, decisions out, day and night."""

from __future__ import annotations

from mmkd_edge.cli.interrupts import loading

with loading("mmkd-run"):
    import contextlib
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, Any, NoReturn

    from mmkd_edge.cli.options import Argument, Command, Option, run_line
    from mmkd_edge.cli.run import run_command
    from mmkd_edge.errors import UsageError
    from mmkd_station.commands.options import (
        NOT_TUNING,
        AlarmOptions,
        EngineOptions,
        PageOptions,
        SinkOptions,
        SourceOptions,
        StreamOptions,
        check_needs,
        given,
        refuse,
    )

if TYPE_CHECKING:
    from mmkd_station.monitor.board import Board
    from mmkd_station.service import RunFacts, Service
    from mmkd_station.spec import RunSpec

_ABOUT = "Answer for sensors day and night: samples in, decisions out, on what a plant speaks."
_EXAMPLE = "mmkd-run student.edge --source csv:log.csv --sink jsonl:results.jsonl"


def main() -> NoReturn:
    """Runs `mmkd-run`."""
    run_command("mmkd-run", run_mmkd, needs=("typer", "rich"), extra="live", about=_ABOUT)


def run_mmkd(arguments: Sequence[str]) -> None:
    """Runs `mmkd-run` with these arguments."""
    from mmkd_station.sinks.table import SINKS
    from mmkd_station.sources.table import SOURCES

    sources = "; ".join(f"{kind.form}: {kind.about}" for kind in SOURCES.values())
    sinks = "; ".join(f"{kind.form}: {kind.about}" for kind in SINKS.values())
    epilog = f"Sources: {sources}. Sinks: {sinks}. Example: {_EXAMPLE}"
    run_line("mmkd-run", arguments, [Command(function=run, epilog=epilog)])


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
    from mmkd_station.commands.asked import rules_of, spec_of, with_a_sink
    from mmkd_station.spec import read_run_spec

    check_needs(source, sinks, stream, alarms, page, engine)
    if alarms.tune_alarm is not None:
        from mmkd_station.commands.tuning import tune

        names = [name for name in given(alarms, engine) if name in NOT_TUNING]
        names += [name for name in given(source, sinks, stream, page) if name != "--hop"]
        refuse(names, beside="--tune-alarm", because="which chooses a rule on recordings and stops")
        tune(subject, alarms.tune_alarm, rules_of(alarms), alarms, engine, hop=stream.hop, as_json=as_json)
        return
    if subject.suffix == ".toml":
        names = given(source, sinks, stream, alarms, engine) + (["--name"] if name else [])
        refuse(names, beside=str(subject), because="which says it for each station")
        spec = read_run_spec(subject)
    else:
        spec = spec_of(subject, name=name, source=source, sinks=sinks, stream=stream, alarms=alarms, engine=engine)
    spec = spec if page.monitor is not None else with_a_sink(spec)
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

    from mmkd_edge import ModelEntry
    from mmkd_station.build import service_of
    from mmkd_station.monitor.board import Board
    from mmkd_station.summary import lost_records

    stop, reload = threading.Event(), threading.Event()
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        stop.set()

    _log_to_stderr()
    handlers: dict[int, Callable[..., None]] = {
        signal.SIGTERM: lambda *_: stop.set(),
        signal.SIGINT: interrupt,
        signal.SIGHUP: lambda *_: reload.set(),
    }
    boards: dict[str, Board] = {}

    def board_of(name: str, entries: Sequence[ModelEntry]) -> Board:
        boards[name] = Board([entry.modality for entry in entries], entries[0].task)
        return boards[name]

    looking = None if page.monitor is None else board_of
    with (
        _handled(handlers),
        service_of(spec, load_recordings=_recordings, onlooker_of=looking) as service,
        _page(service, boards, page),
    ):
        facts = service.run(stop=stop, reload=reload)
    error: BaseException | None = next((one.error for one in service.stations if one.error is not None), None)
    if error is None and any(outlet.is_gone for outlet in service.outlets):
        error = BrokenPipeError()
    if error is None:
        error = lost_records(facts.sinks)
    if error is None and interrupted.is_set():
        error = KeyboardInterrupt()
    return facts, error


@contextlib.contextmanager
def _handled(handlers: Mapping[int, Callable[..., None]]) -> Iterator[None]:
    """Answers signals with these meanwhile, and with what was there before afterwards."""
    import signal

    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def _page(service: Service, boards: Mapping[str, Board], options: PageOptions) -> Iterator[None]:
    """Serves the page, where one is asked for, and says where it is."""
    if options.monitor is None:
        yield
        return
    from mmkd_edge.cli.show import say
    from mmkd_station.monitor.access import Access, address_of, origin_of, token_from
    from mmkd_station.monitor.server import page_of

    address, token = address_of(options.monitor), token_from(options.monitor_token)
    origin = None if options.monitor_origin is None else origin_of(options.monitor_origin)
    access = Access(token, address, is_open=options.monitor_token is None, origin=origin)
    with page_of(service, boards, address=address, access=access, serve_predict=options.serve_predict) as page:
        said = f"its token: {token}" if options.monitor_token is None else f"its token is in {options.monitor_token}"
        say(f"page: {page.url} ({said})")
        if not address.is_loopback:
            say(f"page: {address.host} is reached from other machines, and this page is not encrypted")
        yield


def _recordings(place: str, modality: Any) -> Any:
    """The recordings of a dataset, for `recordings:DATASET`."""
    from mmkd_station.commands.tuning import recorded

    return recorded(place, modality)


def _log_to_stderr() -> None:
    import logging
    import sys

    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    for package in ("mmkd_edge", "mmkd_station"):
        logging.getLogger(package).setLevel(logging.INFO)


def _show(facts: RunFacts, *, as_json: bool, to_stdout: bool) -> None:
    import sys

    from mmkd_edge.cli.show import json_text
    from mmkd_station.summary import summary_lines

    if as_json:
        print(json_text(facts))
        return
    print(*summary_lines(facts), sep="\n", file=sys.stderr if to_stdout else sys.stdout)
