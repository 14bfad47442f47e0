"""The command `mmkd-edge`, which needs the standard library alone."""

from __future__ import annotations

from mmkd_app.cli.interrupts import loading

with loading("mmkd-edge"):
    from argparse import ArgumentParser, Namespace
    from contextlib import suppress
    from pathlib import Path
    from typing import TYPE_CHECKING, NoReturn

    from mmkd_app.cli.run import run_command, shell_line
    from mmkd_edge.errors import GateError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmkd_edge.install.slots import Slots
    from mmkd_edge.opening.deadline import Deadline
    from mmkd_edge.opening.selftest import SelfTest

_NAME = "mmkd-edge"
_KEYS = "Folder of public keys, one of which must have signed the bundle."


def main() -> NoReturn:
    """Run `mmkd-edge`."""
    run_command(_NAME, run_edge)


def run_edge(arguments: list[str]) -> None:
    """Run `mmkd-edge`."""
    options = _parser().parse_args(arguments or ["--help"])
    with loading(_NAME):
        import mmkd_edge.install.slots  # noqa: F401 - what most commands need, so that Ctrl-C is answered meanwhile
    options.run(options)


def _parser() -> ArgumentParser:
    about = "Keys for signatures, and the bundles that are installed on this device."
    parser = ArgumentParser(prog=_NAME, description=about)
    commands = parser.add_subparsers(title="Commands", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[Namespace], None], text: str) -> ArgumentParser:
        command: ArgumentParser = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    keygen = add("keygen", _keygen, "Make a key that signs bundles, and its public key for the devices.")
    keygen.add_argument("file", type=Path, metavar="FILE", help="Private key to write; the public key is FILE.pub.")
    install = add("install", _install, "Verify, test and install a bundle; the one before it is kept.")
    install.add_argument("bundle", type=Path, metavar="BUNDLE", help="Bundle to install.")
    after = "Require the report of a good shadow run of this bundle: mmkd-run --shadow."
    install.add_argument("--after-shadow", type=Path, metavar="REPORT.json", help=after)
    install.add_argument("--shadow-days", type=float, default=7.0, metavar="DAYS", help="Its highest age (default 7).")
    install.add_argument("--allow-downgrade", action="store_true", help="Accept a release before an installed one.")
    limit = "Limit of time for all of it, without building engines for a GPU (default 60)."
    install.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help=limit)
    install.add_argument("--backend", default="auto", metavar="NAME", help="Backend to test it with.")
    install.add_argument("--keys", type=Path, metavar="KEYS", help=_KEYS)
    listing = add("list", _list, "Show what is installed, and what there is to return to.")
    listing.add_argument("--json", action="store_true", help="Print one JSON document.")
    rollback = add("rollback", _rollback, "Return to the bundle before.")
    verify = add("verify", _verify, "Verify every byte of what is installed, and who signed it.")
    verify.add_argument("--keys", type=Path, metavar="KEYS", help=_KEYS)
    fit = add("commission", _commission, "Fit a student of normal data to one machine that runs normally meanwhile.")
    fit.add_argument("bundle", metavar="BUNDLE", help="Bundle of a student of normal data.")
    fit.add_argument("out", type=Path, metavar="FILE", help="Reference of the machine, to write.")
    fit.add_argument("--source", required=True, metavar="SOURCE", help="Where samples come from, as for mmkd-run.")
    mapping = "Column and scale of a channel (repeatable). Example: --map ax=accel_x*0.001."
    fit.add_argument("--map", action="append", default=[], metavar="CHANNEL=COLUMN[*FACTOR][+OFFSET]", help=mapping)
    fit.add_argument("--minutes", type=float, default=30.0, metavar="NUMBER", help="Time to listen (default 30).")
    fit.add_argument("--hop", type=int, metavar="SAMPLES", help="Samples between two results (default one second).")
    fit.add_argument("--reference", metavar="FILE", help="Statistics for a modality normalised per group.")
    status = add("status", _status, "Report this device and its current bundle, for programs that manage a fleet.")
    status.add_argument("--json", action="store_true", help="Print one JSON document.")
    for command in (install, listing, rollback, verify, status):
        command.add_argument("state", type=Path, metavar="STATE", help="State folder, such as /var/lib/mmkd.")
    return parser


def _keygen(options: Namespace) -> None:
    from mmkd_edge.install.keys import make_keys

    public, path = make_keys(options.file)
    print(f"key {public.key_id}")
    print(f"{options.file} signs and stays where bundles are exported; {path} goes into a folder on each device")
    line = shell_line("mmkd-export", "student.ckpt", "--sign", options.file)
    print(f"wrote {options.file}, {path}; next: {line}")


def _install(options: Namespace) -> None:
    from mmkd_edge.opening.deadline import Deadline
    from mmkd_edge.predict.arguments import check_seconds

    limit_s = check_seconds("--limit", options.limit)
    assert limit_s is not None
    advice = "nothing was installed; install it again when this machine is less busy, or with a higher --limit"
    deadline = Deadline(limit_s, where=f"{options.bundle}: install", advice=advice)
    slots, result = deadline.run(lambda: _prove_and_install(options, deadline))
    print(f"{result.windows} golden windows within {result.max_abs_error:.2g} (tolerance {result.tolerance:.2g})")
    print(_describe(slots, options.state))
    print(f"wrote {options.state}; next: EdgePredictor.open({str(options.state)!r}), or restart the service")


def _prove_and_install(options: Namespace, deadline: Deadline) -> tuple[Slots, SelfTest]:
    from mmkd_edge import Bundle
    from mmkd_edge.install.keys import check_signed
    from mmkd_edge.install.slots import SLOTS_FILE, install, read_slots
    from mmkd_edge.opening.options import OpenOptions
    from mmkd_edge.opening.sandbox import check_graphs
    from mmkd_edge.opening.selftest import run_selftests
    from mmkd_edge.opening.students import Students, open_students
    from mmkd_edge.shadow import check_shadow

    with Bundle.open(options.bundle) as bundle:
        check_signed(bundle, options.keys)
        check_graphs(bundle)  # of every engine: what is installed opens unchecked, whichever the service names
        if options.after_shadow is not None:
            current = read_slots(options.state).current.sha256 if (options.state / SLOTS_FILE).exists() else None
            check_shadow(options.after_shadow, bundle, installed=current, max_days=options.shadow_days)
    opening = OpenOptions(backend=options.backend, keys=options.keys)
    results = []

    def test(students: Students) -> None:
        assert students.bundle is not None
        results.append(run_selftests(students.opened, students.bundle))

    slots = install(
        options.state,
        options.bundle,
        prove=lambda path: open_students(path, opening, check=test, deadline=deadline).close(),
        allow_downgrade=options.allow_downgrade,
    )
    return slots, results[0]


def _list(options: Namespace) -> None:
    from mmkd_app.cli.show import json_text
    from mmkd_edge.install.slots import read_slots

    slots = read_slots(options.state)
    print(json_text(slots) if options.json else _describe(slots, options.state))


def _rollback(options: Namespace) -> None:
    from mmkd_edge.install.slots import rollback

    print(_describe(rollback(options.state), options.state))
    print(f"wrote {options.state}; next: restart the service")


def _verify(options: Namespace) -> None:
    from mmkd_edge import Bundle
    from mmkd_edge.install.keys import check_signed
    from mmkd_edge.install.slots import check_slot, read_slots

    for slot in read_slots(options.state).installed:
        check_slot(options.state, slot)
        with Bundle.open(slot.path(options.state)) as bundle:
            key = check_signed(bundle, options.keys)
        print(f"{slot.sha256}  every byte verified{f', signed by key {key}' if key else ''}")
    print(f"next: {shell_line(_NAME, 'list', options.state)}")


def _status(options: Namespace) -> None:
    import msgspec

    from mmkd_app.cli.show import json_text
    from mmkd_edge.install.status import device_status

    status, error = device_status(options.state)
    machines = _machines(options.state) if error is None else {}
    status = msgspec.structs.replace(status, machines=machines or msgspec.UNSET)
    if options.json:
        print(json_text(status))
    else:
        print(f"{status.device}, {status.board or status.architecture}, mmkd-edge {status.version}")
        if status.slots is not None:
            print(_describe(status.slots, options.state))
    if error is not None:
        raise error


def _commission(options: Namespace) -> None:
    import time

    from mmkd_app.cli.show import say
    from mmkd_app.live.listen import listen
    from mmkd_edge import EdgePredictor
    from mmkd_edge.bundle.files import write_file
    from mmkd_edge.bundle.reference import Commissioned, write_reference
    from mmkd_edge.predict.commissioning import check_normal, machine_facts, machine_reference, run_faults, run_warnings
    from mmkd_station.sensor import usual_hop

    with EdgePredictor.open(options.bundle, reference=options.reference) as predictor:
        entry, statistics, model_id = predictor.entry, predictor.reference, predictor.info().model_id
    check_normal(entry, where=options.bundle)
    hop = options.hop or usual_hop(entry)
    run, minutes = listen(
        options.bundle,
        options.source,
        modality=entry.modality,
        mapping=options.map,
        hop=hop,
        minutes=options.minutes,
        reference=options.reference,
    )
    if faults := "; ".join(run_faults(entry, run, statistics)):
        raise GateError(
            f"{options.source}: expected a sound sensor and clock, got faults: {faults}; nothing is written"
        )
    warnings = list(run_warnings(entry, run))
    commissioned = Commissioned(
        model_id=model_id,
        student_sha256=entry.golden.sha256,
        source=options.source,
        ended_utc=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        minutes=minutes,
        unlike=run.unlike,
        judgement="passed" + f", with warnings: {'; '.join(warnings)}" * bool(warnings),
    )
    reference = machine_reference(
        entry, run.scores, period_s=hop / entry.modality.rate_hz, commissioned=commissioned, statistics=statistics
    )
    write_reference(options.out, reference)
    card, facts = options.out.with_name(f"{options.out.name}.md"), machine_facts(reference)
    write_file(card, "\n".join([f"# {options.out.stem}\n", *(f"- {k}: {v}" for k, v in facts.items()), ""]).encode())
    for warning in warnings:
        say(f"warning: {warning}")
    print(facts["normal"])
    line = shell_line("mmkd-run", options.bundle, "--source", options.source, "--reference", options.out)
    print(f"wrote {options.out}, without which the bundle answers as before, and {card}; next: {line}")


def _machines(state: Path) -> dict[str, dict[str, str]]:
    from mmkd_edge.bundle.reference import read_reference
    from mmkd_edge.predict.commissioning import machine_facts

    machines = {}
    for path in sorted(state.glob("*.json")):
        with suppress(UsageError):  # slots.json and a station's status.json are no references
            if facts := machine_facts(read_reference(path)):
                machines[path.name] = facts
    return machines


def _describe(slots: Slots, state: Path) -> str:
    lines = []
    for place, slot in zip(("current", "previous"), slots.installed, strict=False):
        condition = f"{slot.condition}: {slot.reason}" if slot.reason else slot.condition
        text = f"{place:<9} release {slot.release}  {slot.model_id}  {slot.sha256[:12]}  {slot.installed_utc}  "
        lines.append(printable(text + condition))
    for name, facts in _machines(state).items():
        lines.append(printable(f"{name}: {'; '.join(f'{key} {value}' for key, value in facts.items())}"))
    return "\n".join(lines)
