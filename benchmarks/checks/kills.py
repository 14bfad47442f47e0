"""What is left after power was lost in the middle of an installation, a swap, a rollback, an export or a training.

    python benchmarks/checks/kills.py OLD.edge NEW.edge
    python benchmarks/checks/kills.py OLD.edge NEW.edge --rounds 10
    python benchmarks/checks/kills.py OLD.edge NEW.edge --swap --checkpoint STUDENT.ckpt --data DATASET

Each action is carried out in a child that is killed (SIGKILL) before its first call of the file system that concerns
the folder it writes to, then before the second, and so on until it ends by itself. After every kill there must be a
bundle or a checkpoint that is whole and may answer, either the one before or the one after. On a device the same action
must then succeed, and leave nothing behind. What takes seconds each time is killed where that is asked for, and in one
round only: a swap, an export and a training (`mmkd-edge[train,export]`).
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
from mmkd_edge import Bundle, EdgePredictor, MmkdError, UsageError
from mmkd_edge.install.slots import SLOTS_FOLDER, check_slot, confirm, fail, install, read_slots, rollback, start
from mmkd_edge.opening.sandbox import passed_before

_CALLS = ("open", "fsync", "fchmod", "link", "replace", "rename", "unlink", "mkdir", "close", "scandir", "listdir")
_EDGE, _CHECKPOINT = "student.edge", "student.ckpt"
_STEPS = "3"
Action = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class KilledAction:
    """An action that is killed.

    Attributes:
        prepared: makes what is there before, in an empty folder.
        here: names what is there; an empty text where nothing is.
        left: `before` or `after`, or what is wrong, once the action was killed; the text is what was there before.
        whole: what is wrong once the action has ended by itself; an empty text where nothing is.
    """

    name: str
    prepared: Action
    action: Action
    here: Callable[[Path], str]
    left: Callable[[Path, str], str]
    whole: Callable[[Path], str]


def main() -> None:
    """Kill every action at every step and print what was left."""
    parser = script_parser(__doc__)
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument("--rounds", type=int, default=1, help="how often what is quick is killed; 0 leaves it out")
    parser.add_argument("--swap", action="store_true", help="swap too: the bundles take and answer the same")
    parser.add_argument("--checkpoint", type=Path, metavar="STUDENT.ckpt", help="is exported")
    parser.add_argument("--data", type=Path, metavar="DATASET", help="is trained on")
    options = parser.parse_args()
    print(head("action", "kills", "before", "after", "bad"), flush=True)
    once = [swap_attack(options.old, options.new)] if options.swap else []
    once += [export_attack(options)] if options.checkpoint else []
    once += [train_attack(options)] if options.data else []
    found: list[Counter[str]] = []
    often = device_attacks(options.old, options.new) if options.rounds else []
    for attack in (*often, *once):
        rounds = 1 if attack in once else options.rounds
        counts = sum((killed(attack) for _ in range(rounds)), Counter[str]())
        bad = {what: count for what, count in counts.items() if what not in ("before", "after")}
        cells = (counts.total(), counts["before"], counts["after"], sum(bad.values()))
        print(row(attack.name, *cells), *bad, flush=True)
        found.append(counts)
    kills = sum(counts.total() for counts in found)
    bad_kills = kills - sum(counts["before"] + counts["after"] for counts in found)
    print(f"{kills} kills, {bad_kills} bad")
    sys.exit(4 if bad_kills else 0)


def device_attacks(old: Path, new: Path) -> list[KilledAction]:
    """Installations, first starts and rollbacks."""

    def nothing(state: Path) -> None:
        state.mkdir(mode=0o700)

    def old_started(state: Path) -> None:
        install(state, old, prove=_proven)
        _start_well(state)

    def new_installed(state: Path) -> None:
        old_started(state)
        install(state, new, prove=_proven)

    def new_started(state: Path) -> None:
        new_installed(state)
        _start_well(state)

    def of_slots(name: str, prepared: Action, action: Action) -> KilledAction:
        left = partial(_left_in_slots, action)
        return KilledAction(name=name, prepared=prepared, action=action, here=_current, left=left, whole=lambda _: "")

    return [
        of_slots("first installation", nothing, lambda state: _install(state, old)),
        of_slots("installation", old_started, lambda state: _install(state, new)),
        of_slots("installation of a third", new_started, lambda state: _install(state, old)),
        of_slots("rollback", new_started, lambda state: _discard(rollback(state))),
        of_slots("first start that succeeds", new_installed, _start_well),
        of_slots("first start that fails", new_installed, _start_badly),
    ]


def swap_attack(old: Path, new: Path) -> KilledAction:
    """A swap to a bundle that is new here: its trial is held and kept."""
    return KilledAction(
        name="swap to a new bundle",
        prepared=lambda state: _discard(_in_child(lambda: _opens(old, state))),
        action=partial(_swap, old, new),
        here=lambda _: "",
        left=partial(_left_by_swap, new),
        whole=_whole_after_swap,
    )


def export_attack(options: Any) -> KilledAction:
    """An export over an earlier bundle."""
    from mmkd_export.commands.export import run_export  # all that the children need is imported before they begin

    _import_for_children()
    return KilledAction(
        name="export",
        prepared=lambda folder: _copy(options.old, folder / _EDGE),
        action=lambda folder: run_export([str(options.checkpoint), "-o", str(folder / _EDGE)]),
        here=lambda folder: _whole_bundle(folder / _EDGE),
        left=lambda folder, before: _left_as_file(_whole_bundle, folder / _EDGE, before),
        whole=lambda folder: _whole(_whole_bundle, folder / _EDGE),
    )


def train_attack(options: Any) -> KilledAction:
    """A training over an earlier checkpoint."""
    from mmkd_models.commands.train import run_train

    _import_for_children()
    given = ["student", str(options.data), "--modality", "acc", "--preset", "tiny", "--steps", _STEPS, "--force"]
    earlier = Path(__file__).parents[2] / "tests" / "files" / _CHECKPOINT
    return KilledAction(
        name="training",
        prepared=lambda folder: _copy(options.checkpoint or earlier, folder / _CHECKPOINT),
        action=lambda folder: run_train([*given, "-o", str(folder / _CHECKPOINT)]),
        here=lambda folder: _whole_checkpoint(folder / _CHECKPOINT),
        left=lambda folder, before: _left_as_file(_whole_checkpoint, folder / _CHECKPOINT, before),
        whole=lambda folder: _whole(_whole_checkpoint, folder / _CHECKPOINT),
    )


def _import_for_children() -> None:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch

    torch.set_num_threads(1)  # children have no threads of their parent


def killed(attack: KilledAction) -> Counter[str]:
    """What was left after a kill before each step of an action, until it ends by itself."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        state, kept = Path(folder) / "state", Path(folder) / "kept"
        attack.prepared(state)
        before = attack.here(state)
        shutil.copytree(state, kept)
        for step in range(1, 10_000):
            if not _dies(attack.action, state, step):
                wrong = attack.whole(state)
                if wrong:
                    found[wrong] += 1
                return found
            found[attack.left(state, before)] += 1
            shutil.rmtree(state)
            shutil.copytree(kept, state)
    raise AssertionError("an action has fewer steps")


def _left_in_slots(action: Action, state: Path, before: str) -> str:
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


def _left_by_swap(new: Path, state: Path, before: str) -> str:
    """Whether the next start is as after any other, and whether the new bundle's trial was kept."""
    del before
    sha256 = _whole_bundle(new)
    is_kept = _in_child(lambda: _is_remembered(sha256, state))
    if not _in_child(lambda: _opens(new, state)):
        return "BAD: the next start fails"
    return "after" if is_kept else "before"


def _whole_after_swap(state: Path) -> str:
    left = [path for path in state.rglob("*") if path.is_file() and path.suffix != ".json"]
    return f"BAD: left {left}" if left else ""


def _left_as_file(read: Callable[[Path], str], path: Path, before: str) -> str:
    try:
        return "before" if read(path) == before else "after"
    except MmkdError as error:
        return f"BAD: {error}"


def _whole(read: Callable[[Path], str], path: Path) -> str:
    """What is wrong after an action that ended; the folder of a run stays on purpose."""
    wrong = _left_as_file(read, path, "")
    left = [other.name for other in path.parent.iterdir() if other != path and not other.name.endswith(".run")]
    return wrong if wrong.startswith("BAD") else f"BAD: left {left}" if left else ""


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
        return predictor.selftest().windows > 0  # which raises where an answer is another


def _swap(old: Path, new: Path, state: Path) -> None:
    os.environ["XDG_CACHE_HOME"] = str(state)
    with EdgePredictor.open(old, backend="ort", threads=1) as predictor:
        predictor.swap(new)


def _in_child(check: Callable[[], bool]) -> bool:
    """What a check says in a child, so that no engine is ever opened in the process that goes on to fork."""
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


def _dies(action: Action, state: Path, step: int) -> bool:
    """Whether a child that is killed before this step of an action has come to it."""
    child = os.fork()
    if child == 0:
        _kill_before(step, state)
        try:
            action(state)
        except SystemExit as ended:  # so commands end
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
    """Have this process killed before a call of the file system that concerns a folder, counted from now."""
    done = 0

    def concerns(given: object) -> bool:
        if isinstance(given, int):
            with suppress(OSError):
                return str(Path(f"/proc/self/fd/{given}").readlink()).startswith(str(folder))
        return isinstance(given, str | os.PathLike) and os.fspath(given).startswith(str(folder))

    def wrapped(call: Any) -> Any:
        def called(*given: Any, **named: Any) -> Any:
            nonlocal done
            done += any(map(concerns, given))
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
