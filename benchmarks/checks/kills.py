"""Kill an installation, a swap, a rollback, an export or a training at every step, and check the files it leaves.

    python benchmarks/checks/kills.py OLD.edge NEW.edge
    python benchmarks/checks/kills.py OLD.edge NEW.edge --rounds 10
    python benchmarks/checks/kills.py OLD.edge NEW.edge --swap --checkpoint STUDENT.ckpt --data DATASET

A child process runs the action of each attack. It is killed (SIGKILL) before its first file system call on the folder
that it writes to, then before the second, and so on until the action ends by itself. After every kill the old or the
new bundle or checkpoint must be complete. On a device the same action must then succeed and leave no other file.
Attacks on a swap, an export or a training take longer: they run once, on request (with `mmkd-edge[train,export]`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from checks.script import head, row, script_parser
from mmkd_edge import Bundle, EdgePredictor, GateError, MmkdError, UsageError
from mmkd_edge.install.slots import (
    SLOTS_FOLDER,
    check_slot,
    install,
    read_slots,
    rollback,
    start,
)
from mmkd_edge.opening.sandbox import passed_before

_CALLS = ("open", "fsync", "fchmod", "link", "replace", "rename", "unlink", "mkdir", "close", "scandir", "listdir")
_EDGE, _CHECKPOINT = "student.edge", "student.ckpt"
_STEPS = "3"
Action = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An action to kill, and how to judge the files it leaves.

    Attributes:
        prepare: fill an empty folder with the state before the action.
        identify: return the hash of the folder's content, or an empty text.
        judge: return `before`, `after` or a fault, from the folder after a kill and the hash before the action.
        judge_end: return a fault of the folder after a complete action, or an empty text.
    """

    name: str
    prepare: Action
    action: Action
    identify: Callable[[Path], str]
    judge: Callable[[Path, str], str]
    judge_end: Callable[[Path], str]


def main() -> None:
    """Run every attack and print its counts."""
    parser = script_parser(__doc__)
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of the quick actions; 0 leaves them out")
    parser.add_argument(
        "--swap", action="store_true", help="also kill a swap; both bundles must have the same inputs and outputs"
    )
    parser.add_argument("--checkpoint", type=Path, metavar="STUDENT.ckpt", help="also kill an export of it")
    parser.add_argument("--data", type=Path, metavar="DATASET", help="also kill a training on it")
    options = parser.parse_args()
    print(head("action", "kills", "before", "after", "bad"), flush=True)
    once = [swap_attack(options.old, options.new)] if options.swap else []
    once += [export_attack(options)] if options.checkpoint else []
    once += [train_attack(options)] if options.data else []
    results: list[Counter[str]] = []
    often = device_attacks(options.old, options.new) if options.rounds else []
    for attack in (*often, *once):
        rounds = 1 if attack in once else options.rounds
        counts = sum((kill_at_every_step(attack) for _ in range(rounds)), Counter[str]())
        bad = {fault: count for fault, count in counts.items() if fault not in ("before", "after")}
        cells = (counts.total(), counts["before"], counts["after"], sum(bad.values()))
        print(row(attack.name, *cells), *bad, flush=True)
        results.append(counts)
    kills = sum(counts.total() for counts in results)
    bad_kills = kills - sum(counts["before"] + counts["after"] for counts in results)
    print(f"{kills} kills, {bad_kills} bad")
    sys.exit(4 if bad_kills else 0)


def device_attacks(old: Path, new: Path) -> list[Attack]:
    """Return the attacks on installations, first starts and rollbacks."""

    def nothing(state: Path) -> None:
        state.mkdir(mode=0o700)

    def old_started(state: Path) -> None:
        install(state, old, prove=_open_bundle)
        _start_well(state)

    def new_installed(state: Path) -> None:
        old_started(state)
        install(state, new, prove=_open_bundle)

    def new_started(state: Path) -> None:
        new_installed(state)
        _start_well(state)

    def slots_attack(name: str, prepare: Action, action: Action) -> Attack:
        judge = partial(_judge_slots, action)
        return Attack(name=name, prepare=prepare, action=action, identify=_current, judge=judge, judge_end=lambda _: "")

    return [
        slots_attack("first installation", nothing, lambda state: _install(state, old)),
        slots_attack("installation", old_started, lambda state: _install(state, new)),
        slots_attack("installation of a third", new_started, lambda state: _install(state, old)),
        slots_attack("rollback", new_started, lambda state: _discard(rollback(state))),
        slots_attack("first start that succeeds", new_installed, _start_well),
        slots_attack("first start that fails", new_installed, _start_badly),
    ]


def swap_attack(old: Path, new: Path) -> Attack:
    """Return the attack on a swap to a bundle that this device has not checked before."""
    return Attack(
        name="swap to a new bundle",
        prepare=lambda state: _discard(_in_child(lambda: _opens(old, state))),
        action=partial(_swap, old, new),
        identify=lambda _: "",
        judge=partial(_judge_swap, new),
        judge_end=_judge_swap_end,
    )


def export_attack(options: Any) -> Attack:
    """Return the attack on an export over an earlier bundle."""
    from mmkd_app.commands.export import run_export  # before the children fork: imports are no part of the action

    _import_for_children()
    return Attack(
        name="export",
        prepare=lambda folder: _copy(options.old, folder / _EDGE),
        action=lambda folder: run_export([str(options.checkpoint), "-o", str(folder / _EDGE)]),
        identify=lambda folder: _whole_bundle(folder / _EDGE),
        judge=lambda folder, before: _judge_file(_whole_bundle, folder / _EDGE, before),
        judge_end=lambda folder: _judge_file_end(_whole_bundle, folder / _EDGE),
    )


def train_attack(options: Any) -> Attack:
    """Return the attack on a training over an earlier checkpoint."""
    from mmkd_app.commands.train import run_train

    _import_for_children()
    arguments = ["student", str(options.data), "--modality", "acc", "--preset", "tiny", "--steps", _STEPS, "--force"]
    earlier = Path(__file__).parents[2] / "tests" / "files" / _CHECKPOINT
    return Attack(
        name="training",
        prepare=lambda folder: _copy(options.checkpoint or earlier, folder / _CHECKPOINT),
        action=lambda folder: run_train([*arguments, "-o", str(folder / _CHECKPOINT)]),
        identify=lambda folder: _whole_checkpoint(folder / _CHECKPOINT),
        judge=lambda folder, before: _judge_file(_whole_checkpoint, folder / _CHECKPOINT, before),
        judge_end=lambda folder: _judge_file_end(_whole_checkpoint, folder / _CHECKPOINT),
    )


def _import_for_children() -> None:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch

    torch.set_num_threads(1)  # children have no threads of their parent


def kill_at_every_step(attack: Attack) -> Counter[str]:
    """Kill an action before each of its steps until it ends by itself; count the outcomes."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        state, backup = Path(folder) / "state", Path(folder) / "backup"
        attack.prepare(state)
        before = attack.identify(state)
        shutil.copytree(state, backup)
        for step in range(1, 10_000):
            if not _reaches(attack.action, state, step):
                fault = attack.judge_end(state)
                if fault:
                    outcomes[fault] += 1
                return outcomes
            outcomes[attack.judge(state, before)] += 1
            shutil.rmtree(state)
            shutil.copytree(backup, state)
    raise AssertionError("an action has fewer steps")


def _judge_slots(action: Action, state: Path, before: str) -> str:
    """Return `before` or `after` if that bundle is installed and whole, otherwise the fault."""
    current = _current(state)
    try:
        if current:
            with start(state) as this_start:
                this_start.open(lambda started: started.open().close())
        elif before:
            return "BAD: nothing is installed"
        with suppress(UsageError):  # a second rollback may have no bundle to return to
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


def _judge_swap(new: Path, state: Path, before: str) -> str:
    """Return a fault if the next start fails, `after` if the sandbox check was remembered, otherwise `before`."""
    del before
    sha256 = _whole_bundle(new)
    is_remembered = _in_child(lambda: _is_remembered(sha256, state))
    if not _in_child(lambda: _opens(new, state)):
        return "BAD: the next start fails"
    return "after" if is_remembered else "before"


def _judge_swap_end(state: Path) -> str:
    left = [path for path in state.rglob("*") if path.is_file() and path.suffix != ".json"]
    return f"BAD: left {left}" if left else ""


def _judge_file(read: Callable[[Path], str], path: Path, before: str) -> str:
    try:
        return "before" if read(path) == before else "after"
    except MmkdError as error:
        return f"BAD: {error}"


def _judge_file_end(read: Callable[[Path], str], path: Path) -> str:
    """Return a fault of the written file, or name other files beside it; the folder of a training stays on purpose."""
    fault = _judge_file(read, path, "")
    left = [other.name for other in path.parent.iterdir() if other != path and not other.name.endswith(".run")]
    return fault if fault.startswith("BAD") else f"BAD: left {left}" if left else ""


def _whole_bundle(path: Path) -> str:
    with Bundle.open(path) as bundle:
        return bundle.sha256


def _whole_checkpoint(path: Path) -> str:
    from mmkd_models.training.checkpoint import read_student

    read_student(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir()
    shutil.copyfile(source, target)


def _is_remembered(sha256: str, state: Path) -> bool:
    os.environ["XDG_CACHE_HOME"] = str(state)
    return bool(passed_before(sha256))


def _opens(bundle: Path, state: Path) -> bool:
    state.mkdir(mode=0o700, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(state)
    with EdgePredictor.open(bundle, backend="ort", threads=1) as predictor:
        return predictor.selftest().windows > 0  # raises if an answer differs


def _swap(old: Path, new: Path, state: Path) -> None:
    os.environ["XDG_CACHE_HOME"] = str(state)
    with EdgePredictor.open(old, backend="ort", threads=1) as predictor:
        predictor.swap(new)


def _in_child(check: Callable[[], bool]) -> bool:
    """Run a check in a child process: a process that opened an engine must not fork."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os._exit(0 if check() else 1)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _current(state: Path) -> str:
    try:
        return read_slots(state).current.sha256
    except UsageError:
        return ""


def _reaches(action: Action, state: Path, step: int) -> bool:
    """Run an action that is killed before its file system call number `step`; return whether it got that far."""
    child = os.fork()
    if child == 0:
        _kill_before(step, state)
        try:
            action(state)
        except SystemExit as ended:  # commands end with it
            os._exit(0 if ended.code in (0, None) else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the action fails by itself"
    return False


def _kill_before(step: int, folder: Path) -> None:
    """Kill this process before the file system call number `step` that concerns a folder."""
    done = 0

    def concerns(argument: object) -> bool:
        if isinstance(argument, int):
            with suppress(OSError):
                return str(Path(f"/proc/self/fd/{argument}").readlink()).startswith(str(folder))
        return isinstance(argument, str | os.PathLike) and os.fspath(argument).startswith(str(folder))

    def count_call(call: Any) -> Any:
        def counted_call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal done
            done += any(map(concerns, arguments))
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **keywords)

        return counted_call

    for name in _CALLS:
        setattr(os, name, count_call(getattr(os, name)))


def _install(state: Path, bundle: Path) -> None:
    _discard(install(state, bundle, prove=_open_bundle, allow_downgrade=True))


def _start_well(state: Path) -> None:
    with start(state) as this_start:
        this_start.open(_discard)


def _start_badly(state: Path) -> None:
    with suppress(GateError), start(state) as this_start:
        this_start.open(_discard)
        raise GateError("the check asked for it")


def _open_bundle(path: Path) -> None:
    Bundle.open(path).close()


def _discard(_: object) -> None:
    return None


if __name__ == "__main__":
    main()
