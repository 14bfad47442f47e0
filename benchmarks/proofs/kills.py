"""What a device starts after power was lost in the middle of an installation, a rollback or a first start.

    python benchmarks/proofs/kills.py OLD.edge NEW.edge
    python benchmarks/proofs/kills.py OLD.edge NEW.edge --rounds 10

Each action is carried out in a child that is killed (SIGKILL) before its first call of the file system, then before
the second, and so on until it ends by itself. After every kill the state folder must have a bundle that is whole and
may answer, either the one before or the one after; the same action must then succeed, and leave nothing behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmkd_edge import Bundle, MmkdError, UsageError
from mmkd_edge.trust.slots import SLOTS_FOLDER, check_slot, confirm, fail, install, read_slots, rollback, start
from proofs.script import head, parser_of, row

_CALLS = ("open", "fsync", "fchmod", "link", "replace", "rename", "unlink", "mkdir", "close", "scandir", "listdir")
Action = Callable[[Path], None]


def main() -> None:
    """Kill every action at every step and print what was left."""
    parser = parser_of(__doc__)
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is done")
    options = parser.parse_args()
    print(head("action", "kills", "before", "after", "bad"))
    found = [
        (name, killed(prepared, action))
        for _ in range(options.rounds)
        for name, prepared, action in actions(options.old, options.new)
    ]
    names = dict.fromkeys(name for name, _ in found)
    for name in names:
        counts = sum((count for other, count in found if other == name), Counter[str]())
        bad = {what: count for what, count in counts.items() if what not in ("before", "after")}
        print(row(name, counts.total(), counts["before"], counts["after"], sum(bad.values())), *bad)
    bad_kills = sum(count for _, counts in found for what, count in counts.items() if what not in ("before", "after"))
    print(f"{sum(counts.total() for _, counts in found)} kills, {bad_kills} bad")
    sys.exit(4 if bad_kills else 0)


def actions(old: Path, new: Path) -> list[tuple[str, Action, Action]]:
    """Of each action its name, what is there before, and the action."""

    def nothing(state: Path) -> None:
        del state

    def old_started(state: Path) -> None:
        install(state, old, prove=_proven)
        _start_well(state)

    def new_installed(state: Path) -> None:
        old_started(state)
        install(state, new, prove=_proven)

    def new_started(state: Path) -> None:
        new_installed(state)
        _start_well(state)

    return [
        ("first installation", nothing, lambda state: _install(state, old)),
        ("installation", old_started, lambda state: _install(state, new)),
        ("installation of a third", new_started, lambda state: _install(state, old)),
        ("rollback", new_started, lambda state: _discard(rollback(state))),
        ("first start that succeeds", new_installed, _start_well),
        ("first start that fails", new_installed, _start_badly),
    ]


def killed(prepared: Action, action: Action) -> Counter[str]:
    """What was left after a kill before each step of an action, until it ends by itself."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        prepared(state)
        before, kept = _current(state), Path(folder) / "kept"
        if state.exists():
            shutil.copytree(state, kept)
        for step in range(1, 10_000):
            if not _dies(action, state, step):
                return found
            found[_left(state, before, action)] += 1
            shutil.rmtree(state, ignore_errors=True)
            if kept.exists():
                shutil.copytree(kept, state)
    raise AssertionError("an action has fewer steps")


def _left(state: Path, before: str, action: Action) -> str:
    """Whether what was there before or after is there, whole; else what is wrong."""
    current = _current(state)
    try:
        if current:
            with start(state) as started, Bundle.open(started.path) as bundle:
                if bundle.sha256 != started.sha256:
                    return "BAD: another bundle"
        elif before:
            return "BAD: nothing is installed"
        with suppress(UsageError):  # of a rollback that was carried out there may be nothing to return to
            action(state)
        slots = read_slots(state)
        for slot in filter(None, (slots.current, slots.previous)):
            check_slot(state, slot)
    except MmkdError as error:
        return f"BAD: {error}"
    named = {f"{slot.sha256}.edge" for slot in (slots.current, slots.previous) if slot}
    left = {path.name for path in (state / SLOTS_FOLDER).iterdir()} - named
    if left:
        return f"BAD: left {sorted(left)}"
    return "before" if current == before else "after"


def _current(state: Path) -> str:
    try:
        return read_slots(state).current.sha256
    except UsageError:
        return ""


def _dies(action: Action, state: Path, step: int) -> bool:
    """Whether a child that is killed before this step of an action has come to it."""
    child = os.fork()
    if child == 0:
        _kill_before(step)
        with suppress(BaseException):
            action(state)
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the action fails by itself"
    return False


def _kill_before(step: int) -> None:
    """Have this process killed before a call of the file system, counted from now."""
    done = 0

    def wrapped(call: Any) -> Any:
        def called(*given: Any, **named: Any) -> Any:
            nonlocal done
            done += 1
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)

        return called

    for name in _CALLS:
        setattr(os, name, wrapped(getattr(os, name)))


def _install(state: Path, bundle: Path) -> None:
    _discard(install(state, bundle, prove=_proven, allow_downgrade=True))


def _start_well(state: Path) -> None:
    with start(state) as started:
        if started.on_probation:
            confirm(state, started)


def _start_badly(state: Path) -> None:
    with start(state) as started:
        if started.on_probation:
            fail(state, started, "it was told to")


def _proven(path: Path) -> None:
    Bundle.open(path).close()


def _discard(_: object) -> None:
    return None


if __name__ == "__main__":
    main()
