"""`mmkd-run`: run a student on live sensors and send its results on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from mmkd_app.cli.options import Argument, Command, Option, run_line
from mmkd_app.cli.run import run_command
from mmkd_app.live.options import RunOptions, alarm_rules, check_combination, run_spec
from mmkd_edge.errors import UsageError

if TYPE_CHECKING:
    from mmkd_station.service import RunFacts, Service
    from mmkd_station.spec import RunSpec

_EXAMPLE = "mmkd-run student.edge --source csv:log.csv --sink jsonl:results.jsonl"
_FORM_WIDTH = 20


def main() -> NoReturn:
    """Run `mmkd-run`."""
    run_command("mmkd-run", run_mmkd, needs=("typer", "rich"), extra="live")


def run_mmkd(arguments: Sequence[str]) -> None:
    """Run `mmkd-run`."""
    from mmkd_station.protocols.table import SINKS, SOURCES

    lists = {
        "Sources": [(kind.form, kind.about) for kind in SOURCES.values()],
        "Sinks": [(kind.form, kind.about) for kind in SINKS.values()],
        "Example": [(_EXAMPLE, "")],
    }
    epilog = "\n\n".join("\n".join(["\b", f"{title}:", *_rows(rows)]) for title, rows in lists.items())
    run_line("mmkd-run", arguments, [Command(function=run, epilog=epilog)])


def _rows(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    for form, about in rows:
        if about and len(form) <= _FORM_WIDTH:
            yield f"  {form:<{_FORM_WIDTH}}  {about}"
        else:
            yield f"  {form}"
            if about:
                yield " " * (_FORM_WIDTH + 4) + about


def run(
    *,
    subject: Annotated[Path, Argument("BUNDLE|STATIONS.toml", "A bundle, or a file of several stations.")],
    options: RunOptions,
    as_json: Annotated[bool, Option("Print the summary as one JSON document.", ("--json",))] = False,
) -> None:
    """Run a student continuously on live sensors; send results to files, databases, MQTT, OPC UA, Modbus or webhooks.

    Stops when all sources end, or on SIGTERM or Ctrl-C; samples already received are processed first.
    """
    import sys

    import msgspec

    from mmkd_app.cli.show import json_text
    from mmkd_app.live.lines import summary_lines
    from mmkd_station.spec import read_run_spec

    check_combination(options, subject)
    if options.tune_alarm is not None:
        _tune(subject, options.tune_alarm, options, as_json=as_json)
        return
    spec = read_run_spec(subject) if subject.suffix == ".toml" else run_spec(subject, options)
    if options.monitor is None and not (spec.sinks or any(station.sinks for station in spec.stations)):
        spec = msgspec.structs.replace(spec, sinks=("-",))
    to_stdout = any("-" in (*spec.sinks, *station.sinks) for station in spec.stations)
    if as_json and to_stdout:
        raise UsageError("--json: expected the standard output for the summary, got --sink - there too; leave one out")
    facts, error = _serve(spec, options)
    if as_json:
        print(json_text(facts))
    else:
        print(*summary_lines(facts), sep="\n", file=sys.stderr if to_stdout else sys.stdout)
    if error is not None:
        raise error


def _tune(bundle: Path, data: Path, options: RunOptions, *, as_json: bool) -> None:
    from mmkd_app.cli.show import json_text
    from mmkd_app.live.lines import tuned_lines
    from mmkd_app.live.listen import load_recordings
    from mmkd_edge import EdgePredictor
    from mmkd_station.alarms import tune_alarm
    from mmkd_station.sensor import usual_hop

    rules, per_day = alarm_rules(options), options.false_alarms_per_day
    if len(rules) != 1:
        raise UsageError(f"--tune-alarm: expected one --alarm LABEL to choose a rule for, got {len(rules)}; name one")
    with EdgePredictor.open(
        bundle,
        backend=options.backend,  # type: ignore[arg-type] # `open` refuses an unknown one
        precision=options.precision,  # type: ignore[arg-type]
        threads=options.threads,
        reference=options.reference,
    ) as predictor:
        tuned = tune_alarm(
            predictor,
            load_recordings(str(data), predictor.modality.recorded),
            label=rules[0].label,
            most_per_hour=options.false_alarms_per_hour if per_day is None else per_day / 24,
            hop=options.hop or usual_hop(predictor.entry),
            cooldown_s=rules[0].cooldown_s,
        )
    lines = [json_text(tuned)] if as_json else tuned_lines(tuned, bundle, hop=options.hop, reference=options.reference)
    print(*lines, sep="\n")


def _serve(spec: RunSpec, options: RunOptions) -> tuple[RunFacts, BaseException | None]:
    import logging
    import sys
    import threading

    from mmkd_app.live.lines import lost_records, never_connected
    from mmkd_app.live.listen import load_recordings
    from mmkd_station.build import open_service

    stop, reload, interrupted = threading.Event(), threading.Event(), threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        stop.set()

    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    for package in ("mmkd_edge", "mmkd_station"):
        logging.getLogger(package).setLevel(logging.INFO)
    handlers: dict[str, Callable[..., None]] = {
        "SIGTERM": lambda *_: stop.set(),
        "SIGBREAK": lambda *_: stop.set(),  # of Windows, which has no SIGHUP
        "SIGINT": interrupt,
        "SIGHUP": lambda *_: reload.set(),
    }
    with (
        _handle(handlers),
        open_service(spec, load_recordings=load_recordings, has_page=options.monitor is not None) as service,
        _serve_page(service, options),
    ):
        facts = service.run(stop=stop, reload=reload)
    errors: list[BaseException | None] = [
        *(station.error for station in service.stations),
        BrokenPipeError() if any(outlet.is_gone for outlet in service.outlets) else None,
        lost_records(facts.sinks),
        never_connected(facts.stations),
        KeyboardInterrupt() if interrupted.is_set() else None,
        *(station.shadow.error for station in service.stations if station.shadow is not None),
    ]
    return facts, next((error for error in errors if error is not None), None)


@contextlib.contextmanager
def _handle(handlers: Mapping[str, Callable[..., None]]) -> Iterator[None]:
    import signal

    numbers = {name: getattr(signal, name) for name in handlers if hasattr(signal, name)}
    before = {number: signal.signal(number, handlers[name]) for name, number in numbers.items()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def _serve_page(service: Service, options: RunOptions) -> Iterator[None]:
    if options.monitor is None:
        yield
        return
    from mmkd_app.cli.show import say
    from mmkd_station.monitor.access import Access, read_address, read_proxy, token_from
    from mmkd_station.monitor.server import serve_page

    address, token = read_address(options.monitor), token_from(options.monitor_token)
    proxy = None if options.behind_proxy is None else read_proxy(options.behind_proxy)
    access = Access(token, address, is_open=options.monitor_token is None, proxy=proxy)
    with serve_page(service, address=address, access=access) as url:
        where = f"its token: {token}" if options.monitor_token is None else f"its token is in {options.monitor_token}"
        say(f"page: {url} ({where})")
        if not address.is_loopback:
            say(f"page: {address.host} is reached from other machines, and this page is not encrypted")
        yield
