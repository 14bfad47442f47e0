"""The bundles installed on a device: the current and the one before.

A bundle is copied and proved before `slots.json`, replaced atomically, names it, so a power failure leaves the earlier
one whole. The bundle before answers again if the first start after an installation fails or does not end, if two later
starts in a row ended their process, or if a bundle is damaged. A full or read-only disk stops no start.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.files import flush_folder, is_written_by_others, read_own_file, write_file
from mmkd_edge.bundle.manifest import MAX_RELEASE, release_number
from mmkd_edge.bundle.strict_json import JsonError, decode_document, json_bytes
from mmkd_edge.errors import (
    ArtifactError,
    BundleError,
    MmkdError,
    SignatureError,
    UnavailableError,
    UsageError,
    first_line,
    os_reason,
)
from mmkd_edge.system import BINARY, NO_LINKS, lock_file

T = TypeVar("T")
FORMAT_VERSION = 1
SLOTS_FILE = "slots.json"
SLOTS_FOLDER = "slots"
STARTS_FILE = "starts"
MAX_CRASHES = 2
_CHANGE, _INSTALLATION, _START = "change.lock", "installation.lock", "start.lock"
_MAX_BYTES = 1 << 16
# Space for the next record on a full disk.
_RESERVE = "reserve"
_RESERVE_BYTES = 8192

Condition = Literal["new", "good", "failed", "rolled back"]
_UNFIT = ("failed", "rolled back")  # never answers unless a rollback names it
_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Slot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An installed bundle: `new` until its first start succeeds; release 0 for none."""

    sha256: _Digest
    model_id: str
    release: Annotated[int, msgspec.Meta(ge=0, le=MAX_RELEASE)]
    installed_utc: str
    condition: Condition = "new"
    reason: str = ""

    def path(self, state: Path) -> Path:
        """Return the path of the bundle."""
        return state / SLOTS_FOLDER / f"{self.sha256}.edge"

    def __str__(self) -> str:
        return f"release {self.release} ({self.model_id}, {self.sha256[:8]})"


class Slots(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`slots.json`; `starting` while the first start of `current` runs."""

    format_version: int = FORMAT_VERSION
    highest_release: Annotated[int, msgspec.Meta(ge=0, le=MAX_RELEASE)]
    current: Slot
    previous: Slot | None = None
    starting: bool = False

    @property
    def installed(self) -> tuple[Slot, ...]:
        """The current bundle and the one before."""
        return (self.current,) if self.previous is None else (self.current, self.previous)

    @property
    def returned(self) -> str:
        """Why the bundle before answers, until an installation or a rollback; else empty."""
        failed = self.previous
        if failed is None or failed.condition != "failed":
            return ""
        return f"returned to {self.current}, since {failed} failed: {failed.reason}"


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle that a start opens."""

    path: Path
    sha256: str
    returned: str  # see `Slots`

    @classmethod
    def current(cls, state: Path, slots: Slots) -> Started:
        """Return the current bundle."""
        return cls(path=slots.current.path(state), sha256=slots.current.sha256, returned=slots.returned)

    def open(self) -> Bundle:
        """Open the bundle; BundleError, since that is damage, if it is absent or another than was installed."""
        try:
            bundle = Bundle.open(self.path)
        except UsageError as error:
            raise BundleError(str(error)) from error
        with contextlib.ExitStack() as opened:
            opened.callback(bundle.close)
            check_installed(bundle, self.sha256)
            opened.pop_all()
        return bundle


def read_slots(state: Path) -> Slots:
    """Read `slots.json`; BundleError if damaged, UsageError if nothing is installed or others can write it."""
    path = state / SLOTS_FILE
    check_state(state)
    try:
        data = read_own_file(path, max_bytes=_MAX_BYTES)
    except FileNotFoundError as error:
        raise UsageError(f"{state}: nothing is installed in this state folder; mmkd-edge install does that") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot read it: {os_reason(error)}") from error
    again = (
        "remove this file and install a bundle again; the earlier bundle, and which releases are too early, "
        "are then forgotten"
    )
    try:
        return decode_document(data, Slots, version=FORMAT_VERSION)
    except JsonError as error:
        raise BundleError(f"{path}: {error}; {again}") from error


def check_state(state: Path) -> None:
    """Raise UsageError if it is no state folder, or others can write it."""
    for folder in (state, state / SLOTS_FOLDER):
        try:
            facts = folder.stat()
        except FileNotFoundError:
            if folder == state:
                raise UsageError(
                    f"{state}: expected a state folder, found nothing there; mmkd-edge install makes one"
                ) from None
            continue
        except OSError as error:
            raise UsageError(f"{folder}: cannot look at this state folder: {os_reason(error)}") from error
        if not stat.S_ISDIR(facts.st_mode):
            raise UsageError(f"{folder}: expected a state folder, got something else")
        if is_written_by_others(facts):
            raise UsageError(f"{folder}: others can write this state folder; give it to one user alone: chmod 755")


def install(state: Path, bundle: Path, *, prove: Callable[[Path], object], allow_downgrade: bool = False) -> Slots:
    """Copy and prove a bundle for the next start, in a folder made if absent; `prove` raises to keep the earlier."""
    _make(state)
    with lock_slots(state, _INSTALLATION):
        with Bundle.open(bundle) as opened:
            data, manifest = opened.whole(), opened.manifest
        slot = Slot(
            sha256=opened.sha256,
            model_id=manifest.model_id,
            release=release_number(manifest),
            installed_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        record = _read_existing(state)
        if record is not None and slot.release < record.highest_release and not allow_downgrade:
            raise BundleError(
                f"{bundle}: release {slot.release} is earlier than {record.highest_release}, which was installed here; "
                "install a later one, or say --allow-downgrade"
            )
        path = slot.path(state)
        write_file(path, data, own=True)
        try:
            prove(path)
        except BaseException:
            if record is None or path not in [earlier.path(state) for earlier in record.installed]:
                _remove(path)
            raise
        with lock_slots(state, _CHANGE):
            record = _read_existing(state)
            installed = () if record is None else record.installed
            earlier = [old for old in installed if old.sha256 != slot.sha256 and old.condition != "failed"]
            earlier.sort(key=lambda old: old.condition != "good")
            slots = Slots(highest_release=slot.release, current=slot, previous=earlier[0] if earlier else None)
            _write(state, slots)
            named = [installed.path(state) for installed in slots.installed]
            with contextlib.suppress(OSError):  # the next installation looks again
                for other in (*(state / SLOTS_FOLDER).iterdir(), *state.glob(".*.tmp")):
                    if other not in named:
                        _remove(other)
    return slots


def rollback(state: Path) -> Slots:
    """Exchange the current bundle and the one before, for the next start.

    The current one is `rolled back`; if it answered instead of the one before, it stays there to answer again.
    """
    check_state(state)
    with lock_slots(state, _INSTALLATION), lock_slots(state, _CHANGE):
        slots = read_slots(state)
        if slots.previous is None:
            raise UsageError(f"{state}: there is no earlier bundle to return to")
        check_slot(state, slots.previous)
        current, previous = slots.previous, slots.current
        if current.condition not in _UNFIT or previous.condition == "failed":
            previous = msgspec.structs.replace(previous, condition="rolled back")
        if current.condition in _UNFIT:
            current = msgspec.structs.replace(current, condition="new", reason="")
        exchanged = msgspec.structs.replace(slots, current=current, previous=previous, starting=False)
        _write(state, exchanged)
    return exchanged


def check_slot(state: Path, slot: Slot) -> None:
    """Raise MmkdError if an installed bundle is damaged or exchanged."""
    with Bundle.open(slot.path(state)) as bundle:
        check_installed(bundle, slot.sha256)


def check_installed(bundle: Bundle, sha256: str) -> None:
    """Raise BundleError for a bundle that was not installed."""
    if bundle.sha256 != sha256:
        raise BundleError(f"{bundle.path}: it is another bundle than was installed; install it again")


@contextmanager
def start(state: Path, *, is_over: Callable[[], bool] = bool) -> Iterator[Start]:
    """Yield a start of the installed bundle, and record how the first one after an installation ends.

    After `Start.open` the bundle is good, or failed if an MmkdError ends the block. After another end, or if nobody
    waits any more (`is_over`), the next start counts as first. Concurrent starts open the same and record nothing.
    """
    slots = read_slots(state)
    with contextlib.ExitStack() as held:
        alone = _lock_start(state, held)
        begun = _change(state, slots.current.sha256, lambda slots: _begin_start(state, slots)) if alone else None
        if begun is None:  # another start runs, or none can be recorded
            begun = read_slots(state)
            on_probation = alone is None and begun.current.condition == "new"
        else:
            held.enter_context(_count_start(state, begun.current))
            on_probation = begun.starting
        this_start = Start(state, begun, on_probation=on_probation, is_over=is_over)
        try:
            yield this_start
        except BaseException as error:
            this_start.end(error)
            raise
        this_start.end()


class Start:
    """One start; get it from `start`."""

    def __init__(self, state: Path, slots: Slots, *, on_probation: bool, is_over: Callable[[], bool]) -> None:
        self.on_probation = on_probation
        self._state, self._bundle, self._is_over = state, Started.current(state, slots), is_over
        self._is_open = False

    def open(self, open_bundle: Callable[[Started], T]) -> T:
        """Open the current bundle, or, if that is at fault, the one before.

        On probation any error of the bundle is a fault, later only damage; arguments and missing libraries never are.
        """
        try:
            opened = open_bundle(self._bundle)
        except MmkdError as error:
            own = isinstance(error, ArtifactError) and not isinstance(error, SignatureError)
            is_fault = not isinstance(error, UsageError | UnavailableError) if self.on_probation else own
            slots = self._change(partial(_after_failure, error=error)) if is_fault and not self._is_over() else None
            if slots is None or slots.current.sha256 == self._bundle.sha256:
                raise
            try:
                return open_bundle(Started.current(self._state, slots))
            except ArtifactError as another:
                raise BundleError(f"{error}; the bundle before cannot answer either: {another}") from another
        self._is_open = True
        return opened

    def end(self, error: BaseException | None = None) -> None:
        """Record the end; see `start`."""
        if not self.on_probation:
            return
        if self._is_open and isinstance(error, MmkdError) and not self._is_over():
            self._change(partial(_after_failure, error=error))
            return
        good = {"condition": "good", "reason": ""} if self._is_open and error is None else {}
        self._change(
            lambda slots: msgspec.structs.replace(
                slots, current=msgspec.structs.replace(slots.current, **good), starting=False
            )
        )

    def _change(self, change: Callable[[Slots], Slots]) -> Slots | None:
        return _change(self._state, self._bundle.sha256, change)


def _change(state: Path, sha256: str, change: Callable[[Slots], Slots]) -> Slots | None:
    """Change the record, only for this start if it is unwritable; None if another was installed meanwhile."""
    try:
        with lock_slots(state, _CHANGE):
            slots = read_slots(state)
            if slots.current.sha256 != sha256:
                return None
            changed = change(slots)
            if changed != slots:
                _write(state, changed)
    except UsageError as error:
        slots = read_slots(state)
        if slots.current.sha256 != sha256:
            return None
        import logging  # slow, and rarely needed

        logging.getLogger(__name__).warning("%s; this start goes on without a record of it", error)
        changed = change(slots)
    return changed


def _begin_start(state: Path, slots: Slots) -> Slots:
    """The bundle before takes over if earlier starts did not end."""
    if slots.starting:
        return _after_failure(slots, BundleError("its first start did not end"))
    if slots.current.condition == "good" and _count_crashes(state, slots.current) >= MAX_CRASHES:
        return _after_failure(slots, BundleError(f"its last {MAX_CRASHES} starts ended their process"))
    return msgspec.structs.replace(slots, starting=slots.current.condition == "new")


def _after_failure(slots: Slots, error: MmkdError) -> Slots:
    failed = msgspec.structs.replace(slots.current, condition="failed", reason=first_line(error))
    if slots.previous is None or slots.previous.condition in _UNFIT:
        return msgspec.structs.replace(slots, current=failed, starting=False)
    return msgspec.structs.replace(slots, current=slots.previous, previous=failed, starting=False)


def _count_crashes(state: Path, slot: Slot) -> int:
    try:
        digest, _, count = read_own_file(state / STARTS_FILE, max_bytes=_MAX_BYTES).decode("ascii").partition(" ")
        return int(count) if digest == slot.sha256 else 0
    except (OSError, UsageError, ValueError):
        return 0


@contextmanager
def _count_start(state: Path, slot: Slot) -> Iterator[None]:
    """Only the process's end leaves the count, so no flush is needed."""
    path = state / STARTS_FILE
    with contextlib.suppress(OSError):  # a full disk
        count = 1 + _count_crashes(state, slot)
        _remove(path)
        path.write_text(f"{slot.sha256} {count}", encoding="ascii")
    try:
        yield
    finally:
        _remove(path)


def _read_existing(state: Path) -> Slots | None:
    return read_slots(state) if (state / SLOTS_FILE).exists() else None


def _write(state: Path, slots: Slots) -> None:
    record = json_bytes(slots)
    reserve = state / _RESERVE
    try:
        write_file(state / SLOTS_FILE, record, own=True)
    except UsageError:
        if not reserve.exists():
            raise
        _remove(reserve)
        write_file(state / SLOTS_FILE, record, own=True)
    if not reserve.exists():
        with contextlib.suppress(UsageError):  # the next change tries again
            write_file(reserve, bytes(_RESERVE_BYTES), own=True)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _make(state: Path) -> None:
    slots = state / SLOTS_FOLDER
    try:
        new = [folder for folder in (slots, *slots.parents) if not folder.exists()]
        slots.mkdir(mode=0o755, parents=True, exist_ok=True)
        for folder in new:
            flush_folder(folder.parent)
    except OSError as error:
        raise UsageError(f"{state}: cannot make this state folder: {os_reason(error)}") from error
    check_state(state)


@contextmanager
def lock_slots(state: Path, name: str) -> Iterator[None]:
    """Hold a lock of a state folder; UsageError if the folder may not be changed."""
    try:
        descriptor = _open_lock(state, name)
    except OSError as error:
        raise UsageError(f"{state}: cannot change this state folder: {os_reason(error)}") from error
    try:
        lock_file(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _open_lock(state: Path, name: str) -> int:
    return os.open(state / name, os.O_WRONLY | os.O_CREAT | BINARY | NO_LINKS, 0o644)


def _lock_start(state: Path, held: contextlib.ExitStack) -> bool | None:
    """Return whether this start holds the start lock, until `held` is closed; None if locks are impossible."""
    try:
        descriptor = _open_lock(state, _START)
    except OSError:
        return None
    held.callback(os.close, descriptor)
    try:
        lock_file(descriptor, wait=False)
    except OSError:
        return False
    return True
