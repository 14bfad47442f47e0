"""The command `mmkd-edge`, which needs the standard library alone."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from mmkd_app.cli.options import Argument, Command, Option, run_plain
from mmkd_app.cli.run import loading, run_command, shell_line
from mmkd_edge.errors import GateError, UsageError, printable

if TYPE_CHECKING:
    from mmkd_edge.install.slots import Slots

_NAME = "mmkd-edge"


def main() -> NoReturn:
    """Run `mmkd-edge`."""
    run_command(_NAME, run_edge)


def run_edge(arguments: list[str]) -> None:
    """Run `mmkd-edge`."""
    with loading(_NAME):
        import mmkd_edge.install.slots  # noqa: F401 - what most commands need, so that Ctrl-C is answered meanwhile
    run_plain(_NAME, arguments or ["--help"], COMMANDS)


_State = Annotated[Path, Argument("STATE", "State folder, such as /var/lib/mmkd.")]
_Keys = Annotated[
    Path | None, Option("Folder of public keys, one of which must have signed the bundle.", metavar="KEYS")
]
_Json = Annotated[bool, Option("Print one JSON document.")]


def keygen(file: Annotated[Path, Argument("FILE", "Private key to write; the public key is FILE.pub.")]) -> None:
    """Make a key that signs bundles, and its public key for the devices."""
    from mmkd_edge.install.keys import make_keys

    public, path = make_keys(file)
    print(f"key {public.key_id}")
    print(f"{file} signs and stays where bundles are exported; {path} goes into a folder on each device")
    line = shell_line("mmkd-export", "student.ckpt", "--sign", file)
    print(f"wrote {file}, {path}; next: {line}")


def install(
    bundle: Annotated[Path, Argument("BUNDLE", "Bundle to install.")],
    state: _State,
    *,
    after_shadow: Annotated[
        Path | None,
        Option("Require the report of a good shadow run of this bundle: mmkd-run --shadow.", metavar="REPORT.json"),
    ] = None,
    shadow_days: Annotated[float, Option("Its highest age.", metavar="DAYS")] = 7.0,
    allow_downgrade: Annotated[bool, Option("Accept a release before an installed one.")] = False,
    limit: Annotated[
        float, Option("Limit of time for all of it, without building engines for a GPU.", metavar="SECONDS")
    ] = 60.0,
    backend: Annotated[str, Option("Backend to test it with.", metavar="NAME")] = "auto",
    keys: _Keys = None,
) -> None:
    """Verify, test and install a bundle; the one before it is kept."""
    from mmkd_edge import Bundle
    from mmkd_edge.install import slots
    from mmkd_edge.install.keys import check_signed
    from mmkd_edge.opening.deadline import Deadline
    from mmkd_edge.opening.options import OpenOptions
    from mmkd_edge.opening.sandbox import check_graphs
    from mmkd_edge.opening.selftest import run_selftests
    from mmkd_edge.opening.students import Students, open_students
    from mmkd_edge.predict.arguments import check_seconds
    from mmkd_edge.shadow import check_shadow

    limit_s = check_seconds("--limit", limit)
    assert limit_s is not None
    advice = "nothing was installed; install it again when this machine is less busy, or with a higher --limit"
    deadline = Deadline(limit_s, where=f"{bundle}: install", advice=advice)
    opening = OpenOptions(backend=backend, keys=keys)  # type: ignore[arg-type] # checked there
    results = []

    def test(students: Students) -> None:
        assert students.bundle is not None
        results.append(run_selftests(students.opened, students.bundle))

    def prove_and_install() -> Slots:
        with Bundle.open(bundle) as opened:
            check_signed(opened, keys)
            check_graphs(opened)  # of every engine: what is installed opens unchecked, whichever the service names
            if after_shadow is not None:
                is_first = not (state / slots.SLOTS_FILE).exists()
                current = None if is_first else slots.read_slots(state).current.sha256
                check_shadow(after_shadow, opened, installed=current, max_days=shadow_days)
        return slots.install(
            state,
            bundle,
            prove=lambda path: open_students(path, opening, check=test, deadline=deadline).close(),
            allow_downgrade=allow_downgrade,
        )

    installed = deadline.run(prove_and_install)
    (result,) = results
    print(f"{result.windows} golden windows within {result.max_abs_error:.2g} (tolerance {result.tolerance:.2g})")
    print(_describe(installed, state))
    print(f"wrote {state}; next: EdgePredictor.open({str(state)!r}), or restart the service")


def list_(state: _State, *, json: _Json = False) -> None:
    """Show what is installed, and what there is to return to."""
    from mmkd_app.cli.show import json_text
    from mmkd_edge.install.slots import read_slots

    slots = read_slots(state)
    print(json_text(slots) if json else _describe(slots, state))


def rollback(state: _State) -> None:
    """Return to the bundle before."""
    from mmkd_edge.install import slots

    print(_describe(slots.rollback(state), state))
    print(f"wrote {state}; next: restart the service")


def verify(state: _State, *, keys: _Keys = None) -> None:
    """Verify every byte of what is installed, and who signed it."""
    from mmkd_edge import Bundle
    from mmkd_edge.install.keys import check_signed
    from mmkd_edge.install.slots import check_slot, read_slots

    for slot in read_slots(state).installed:
        check_slot(state, slot)
        with Bundle.open(slot.path(state)) as bundle:
            key = check_signed(bundle, keys)
        print(f"{slot.sha256}  every byte verified{f', signed by key {key}' if key else ''}")
    print(f"next: {shell_line(_NAME, 'list', state)}")


def status(state: _State, *, json: _Json = False) -> None:
    """Report this device and its current bundle, for programs that manage a fleet."""
    import msgspec

    from mmkd_app.cli.show import json_text
    from mmkd_edge.install.status import device_status

    device, error = device_status(state)
    machines = _machines(state) if error is None else {}
    device = msgspec.structs.replace(device, machines=machines or None)
    if json:
        print(json_text(device))
    else:
        print(f"{device.device}, {device.board or device.architecture}, mmkd-edge {device.version}")
        if device.slots is not None:
            print(_describe(device.slots, state))
    if error is not None:
        raise error


def commission(
    bundle: Annotated[str, Argument("BUNDLE", "Bundle of a student of normal data.")],
    out: Annotated[Path, Argument("FILE", "Reference of the machine, to write.")],
    *,
    source: Annotated[str, Option("Where samples come from, as for mmkd-run.", metavar="SOURCE")],
    map: Annotated[  # noqa: A002 - the option's name
        list[str] | None,
        Option(
            "Column and scale of a channel (repeatable). Example: --map ax=accel_x*0.001.",
            metavar="CHANNEL=COLUMN[*FACTOR][+OFFSET]",
        ),
    ] = None,
    minutes: Annotated[float, Option("Time to listen.")] = 30.0,
    hop: Annotated[int | None, Option("Samples between two results.", metavar="SAMPLES", shown="one second")] = None,
    reference: Annotated[str | None, Option("Statistics for a modality normalised per group.", metavar="FILE")] = None,
) -> None:
    """Fit a student of normal data to one machine that runs normally meanwhile."""
    import time

    from mmkd_app.cli.show import say
    from mmkd_app.live.listen import listen
    from mmkd_edge import EdgePredictor
    from mmkd_edge.bundle.files import write_file
    from mmkd_edge.bundle.reference import Commissioned, write_reference
    from mmkd_edge.predict.commissioning import check_normal, machine_facts, machine_reference, run_faults, run_warnings
    from mmkd_station.sensor import usual_hop

    with EdgePredictor.open(bundle, reference=reference) as predictor:
        entry, statistics, model_id = predictor.entry, predictor.reference, predictor.info().model_id
    check_normal(entry, where=bundle)
    hop = hop or usual_hop(entry)
    run, heard_min = listen(
        bundle,
        source,
        modality=entry.modality,
        mapping=map or [],
        hop=hop,
        minutes=minutes,
        reference=reference,
    )
    if faults := "; ".join(run_faults(entry, run, statistics)):
        raise GateError(f"{source}: expected a sound sensor and clock, got faults: {faults}; nothing is written")
    warnings = list(run_warnings(entry, run))
    commissioned = Commissioned(
        model_id=model_id,
        student_sha256=entry.golden.sha256,
        source=source,
        ended_utc=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        minutes=heard_min,
        unlike=run.unlike,
        judgement="passed" + f", with warnings: {'; '.join(warnings)}" * bool(warnings),
    )
    fitted = machine_reference(
        entry, run.scores, period_s=hop / entry.modality.rate_hz, commissioned=commissioned, statistics=statistics
    )
    write_reference(out, fitted)
    card, facts = out.with_name(f"{out.name}.md"), machine_facts(fitted)
    write_file(card, "\n".join([f"# {out.stem}\n", *(f"- {k}: {v}" for k, v in facts.items()), ""]).encode())
    for warning in warnings:
        say(f"warning: {warning}")
    print(facts["normal"])
    line = shell_line("mmkd-run", bundle, "--source", source, "--reference", out)
    print(f"wrote {out}, without which the bundle answers as before, and {card}; next: {line}")


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


COMMANDS = (
    *(Command(function=function) for function in (keygen, install)),
    Command(function=list_, name="list"),
    *(Command(function=function) for function in (rollback, verify, commission, status)),
)
