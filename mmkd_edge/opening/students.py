"""A bundle becomes its opened students, each in the best way that opens here.

Owns the order in which ways are tried, and when a contest settles the backend.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.bundle.reference import Reference, check_reference, read_reference
from mmkd_edge.errors import (
    ArtifactError,
    BackendError,
    BundleError,
    MmkdError,
    UnavailableError,
    UsageError,
    first_line,
)
from mmkd_edge.install.keys import check_signed
from mmkd_edge.install.slots import Started, condemns, confirm, fail, forget, start
from mmkd_edge.machine import this_machine
from mmkd_edge.opening.admission import Admission
from mmkd_edge.opening.contest import CONTEST_S, ContestResult, hold_contest
from mmkd_edge.opening.first_questions import ask_quickly
from mmkd_edge.predict.engine import Engine, Students, open_engine
from mmkd_edge.predict.profile import (
    ExecutionProfile,
    FoundProfile,
    MeasuredWay,
    find_profile,
    library_versions,
    write_profile,
)
from mmkd_edge.predict.setup import OpeningRequest, Setup, setups, unsettled
from mmkd_edge.spec import ModalitySpec

_KEEPING_S = 0.05  # of a contest, kept for remembering it


def open_students(
    path: str | os.PathLike[str], asked: OpeningRequest, *, check: Callable[[Students], None] | None = None
) -> Students:
    """Verify a bundle, open its students, and run them until they are warm; of a state folder what is installed there.

    Args:
        path: of a bundle, or a state folder.
        asked: how they are opened.
        check: raises where they must not answer here; the first start of an installed bundle has then failed.

    Raises:
        UsageError: a file is absent, or what was asked does not fit this bundle.
        UnavailableError: the backend's library is not installed.
        BackendError: the backend cannot open or run a student.
        ArtifactError: the bundle is damaged, or was made for a newer version.
        SignatureError: keys are named, and none of them has signed it.
        GateError: a student does not answer its golden windows as the checkpoint did.
    """
    state = Path(path)
    if state.is_dir():
        return _open_installed(state, msgspec.structs.replace(asked, trust="installed"), check)
    if asked.trust == "installed":
        raise UsageError(
            f"{state}: trust='installed': expected the state folder that mmkd-edge install keeps, got something else"
        )
    return _checked(_open_bundle(state, asked), check)


def _checked(students: Students, check: Callable[[Students], None] | None) -> Students:
    try:
        if check is not None:
            check(students)
    except BaseException:
        students.close()
        raise
    return students


def _open_installed(state: Path, asked: OpeningRequest, check: Callable[[Students], None] | None) -> Students:
    """What is installed; the bundle before if it is damaged, or fails at its first start."""
    with start(state) as started:
        try:
            students = _open_current_or_earlier(state, asked, started)
        except BaseException:
            if started.on_probation:
                forget(state, started)
            raise
        try:
            _checked(students, check)
        except MmkdError as error:  # who asks has another that answers, and keeps it
            if started.on_probation:
                fail(state, started, first_line(error))
            raise
        except BaseException:
            if started.on_probation:
                forget(state, started)
            raise
        if students.returned:
            import logging  # takes milliseconds, and few starts need it

            logging.getLogger(__name__).warning("%s: %s", state, students.returned)
        if started.on_probation:
            confirm(state, started)
        return students


def _open_current_or_earlier(state: Path, asked: OpeningRequest, started: Started) -> Students:
    try:
        return _open_bundle(started.path, asked, started=started)
    except MmkdError as error:
        earlier = fail(state, started, first_line(error)) if condemns(error, started) else None
        if earlier is None:
            raise
        try:
            return _open_bundle(earlier.path, asked, started=earlier)
        except ArtifactError as another:
            raise BundleError(f"{error}; the bundle before cannot answer either: {another}") from another


def _open_bundle(path: Path, asked: OpeningRequest, *, started: Started | None = None) -> Students:
    bundle = Bundle.open(path) if started is None else _open_slot(started)
    opened: list[Engine] = []
    outcomes: list[ContestResult | None] = []
    try:
        check_signed(bundle, asked.keys)
        references = _references(asked.references, [entry.modality for entry in bundle.manifest.models])
        found = find_profile(bundle.sha256) if asked.leaves_a_choice else None
        admission = Admission(bundle, asked, returned=started.returned if started else "")
        _try_new(admission, bundle, asked, found)
        left_s = CONTEST_S - _KEEPING_S
        for entry in bundle.manifest.models:
            reference = references.get(entry.modality.name)
            student = _Student(bundle=bundle, entry=entry, asked=asked, reference=reference, admission=admission)
            engine, outcome = _open_student(student, found=found, limit_s=left_s)
            opened.append(engine)
            outcomes.append(outcome)
            left_s -= outcome.spent_s if outcome else 0.0
        engines = _told(opened, outcomes, kept=_remember(bundle, found, outcomes))
        engines = _with_verdicts(bundle, engines, admission)
    except BaseException:
        for engine in opened:
            engine.close()
        bundle.close()
        raise
    return Students(engines=engines, bundle=bundle, returned=started.returned if started else "")


def _open_slot(started: Started) -> Bundle:
    """The bundle that was installed.

    Raises:
        BundleError: it is damaged, gone or another one.
    """
    try:
        bundle = Bundle.open(started.path)
    except UsageError as error:
        raise BundleError(str(error)) from error
    if bundle.sha256 != started.sha256:
        bundle.close()
        raise BundleError(f"{bundle.path}: it is another bundle than was installed; install it again")
    return bundle


def _try_new(admission: Admission, bundle: Bundle, asked: OpeningRequest, found: FoundProfile | None) -> None:
    """A trial of all that may be opened, before anything is timed; of the first ways where a profile settles it."""
    ways = [[(entry, setup) for setup in setups(entry, asked, found)] for entry in bundle.manifest.models]
    settled = found is not None and found.profile is not None
    admission.try_new([way for of_one in ways for way in (of_one[:1] if settled else of_one)])


def _with_verdicts(bundle: Bundle, engines: Sequence[Engine], admission: Admission) -> tuple[Engine, ...]:
    """The engines, tested here where no trial has tested them, and saying what they have passed."""
    ways = [(engine.entry, _setup_of(engine)) for engine in engines]
    asked = [(engine, way) for engine, way in zip(engines, ways, strict=True) if admission.asks(way)]
    for engine, _ in asked:
        ask_quickly(bundle, engine)
    admission.keep([way for _, way in asked])
    return tuple(
        msgspec.structs.replace(engine, selftest=admission.told_selftest(way), trial=admission.told_trial(way))
        for engine, way in zip(engines, ways, strict=True)
    )


def _setup_of(engine: Engine) -> Setup:
    assert engine.setup is not None
    return engine.setup


class _Student(msgspec.Struct, frozen=True, kw_only=True):
    """One student of a bundle, and what it is opened with."""

    bundle: Bundle
    entry: ModelEntry
    asked: OpeningRequest
    reference: Reference | None
    admission: Admission

    def opened(self, setup: Setup) -> Engine:
        """Its engine, opened in one way that was tried."""
        self.admission.check((self.entry, setup))
        return open_engine(
            self.bundle,
            self.entry,
            setup,
            reference=self.reference,
            error_level=self.asked.error_level,
            unknown_level=self.asked.unknown_level,
        )


def _open_student(
    student: _Student, *, found: FoundProfile | None, limit_s: float
) -> tuple[Engine, ContestResult | None]:
    """The engine of one student in the best way that opens here, and the contest that settled it, where one did."""
    failures: list[str] = []
    ways = setups(student.entry, student.asked, found)
    for number, setup in enumerate(ways):
        begun = time.perf_counter()
        try:
            engine = student.opened(setup)
        except (UnavailableError, BackendError) as error:
            if setup is ways[-1]:
                raise
            failures.append(str(error))
            continue
        engine = _with_reason(engine, *failures)
        rivals = unsettled(student.entry, setup, ways[number + 1 :], student.asked, found)
        if not rivals:
            return engine, None
        known = _known_trial(setup, student.entry, found)
        try:
            outcome = hold_contest(
                student.bundle,
                engine,
                rivals,
                opened=student.opened,
                first_s=time.perf_counter() - begun,
                limit_s=limit_s,
                ratio=known.ratio if known else 1.0,
            )
        except BaseException:
            engine.close()
            raise
        return outcome.engine, outcome
    raise AssertionError("setups gives at least one way")


def _known_trial(setup: Setup, entry: ModelEntry, found: FoundProfile | None) -> MeasuredWay | None:
    """The stored trial of a way."""
    trials = found.profile.trials if found is not None and found.profile is not None else ()
    way = (entry.name, setup.backend, setup.precision, setup.threads)
    same = (trial for trial in trials if way == (trial.model, trial.backend, trial.precision, trial.threads))
    return next(same, None)


def _remember(bundle: Bundle, found: FoundProfile | None, outcomes: Sequence[ContestResult | None]) -> tuple[str, str]:
    """Keep what contests found beside what earlier ones did: the file, or why there is none; else two empty texts."""
    trials = [trial for outcome in outcomes if outcome for trial in outcome.trials]
    if not trials:
        return "", ""
    earlier = found.profile if found is not None else None
    ways = {(trial.model, trial.backend, trial.precision, trial.threads) for trial in trials}
    kept = [
        trial
        for trial in (earlier.trials if earlier else ())
        if (trial.model, trial.backend, trial.precision, trial.threads) not in ways
    ]
    left_out = [*(earlier.left_out if earlier else ()), *(one for each in outcomes if each for one in each.left_out)]
    backends = {trial.backend for trial in (*kept, *trials)} | {one.backend for one in left_out}
    profile = ExecutionProfile(
        origin="contest",
        bundle_sha256=bundle.sha256,
        machine=this_machine(),
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        libraries=library_versions(sorted(backends)),
        trials=(*kept, *trials),
        left_out=tuple(left_out),
    )
    try:
        return str(write_profile(profile)), ""
    except UsageError as error:  # a read-only disk, or no home: the next opening settles it again
        return "", str(error)


def _told(
    engines: Sequence[Engine], outcomes: Sequence[ContestResult | None], *, kept: tuple[str, str]
) -> tuple[Engine, ...]:
    """The engines, which say how a contest chose them."""
    told = []
    for engine, outcome in zip(engines, outcomes, strict=True):
        if outcome is not None:
            ranked = sorted(outcome.trials, key=lambda trial: trial.p50_us)
            times = ", ".join(f"{trial.backend} {trial.p50_us:.0f} us" for trial in ranked)
            left_out = [f"{one.backend!r} left out: {one.reason}" for one in outcome.left_out]
            remembered = f"not remembered: {kept[1]}" if kept[1] else f"remembered in {kept[0]}"
            settled = [f"settled by a contest: {times}", *left_out, remembered] if times else []
            engine = _with_reason(engine, *settled, *outcome.untried, profile=kept[0] if times else "")
        told.append(engine)
    return tuple(told)


def _with_reason(engine: Engine, *more: str, profile: str = "") -> Engine:
    setup = _setup_of(engine)
    reason = "; ".join((setup.reason, *more))
    return msgspec.structs.replace(
        engine, setup=msgspec.structs.replace(setup, reason=reason, profile=profile or setup.profile)
    )


def _references(
    given: Sequence[Reference | str | os.PathLike[str]], modalities: Sequence[ModalitySpec]
) -> dict[str, Reference]:
    """Which reference belongs to which modality."""
    found: dict[str, Reference] = {}
    for one in given:
        reference = one if isinstance(one, Reference) else read_reference(one)
        modality = next((known for known in modalities if known.name == reference.modality), modalities[0])
        try:
            check_reference(reference, modality)
        except UsageError as error:
            if isinstance(one, Reference):
                raise
            raise UsageError(f"{os.fspath(one)}: {error}") from error
        found[modality.name] = reference
    return found
